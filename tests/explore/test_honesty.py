"""What a report must say in certain cases (EMERGENCE.md 4.5), each on a constructed case, in both languages."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from llmstage.config.explore_improve import ImproveConfig
from llmstage.explore.candidates import Candidate, ImprovementResult
from llmstage.explore.comparison import Metric
from llmstage.explore.guard import Scores, gain
from llmstage.explore.guard import judge as guard_of
from llmstage.explore.improve_report import findings_of
from llmstage.explore.wording import speaking
from llmstage.research.curves import Curve
from llmstage.research.verdicts import Rules, judge

RULES = Rules(trials=300)


def curve(y: np.ndarray, metric: str = "task.logp", **more: object) -> Curve:
    values = {"error": np.full(len(y), 0.01), "seed_sd": 0.01, **more}
    return Curve(metric, np.linspace(2, 1, len(y)), y, axis="lm_loss", axis_kind="plain", **values)  # type: ignore[arg-type]


def smooth_under_a_jumping_metric(_: Path) -> Iterator[str]:
    """A token's probability rises evenly; eight tokens in a row are right all of a sudden."""
    p = np.linspace(0.3, 0.98, 14)
    exact = curve(p**8, "exact match", error=np.sqrt(p**8 * (1 - p**8) / 900), items=900)
    yield judge(exact, RULES, continuous=curve(np.log(p)), sharp=True, chance=0.0, length=8).text


def none_of_two_hundred(_: Path) -> Iterator[str]:
    nothing = curve(np.zeros(12), "exact match", error=np.zeros(12), items=200)
    yield judge(nothing, RULES, sharp=True, chance=0.0).text


def six_points(_: Path) -> Iterator[str]:
    yield judge(curve(np.array([0, 0, 0.01, 0.4, 0.8, 0.9])), RULES).text


def five_seeds_of_which_two_succeed(_: Path) -> Iterator[str]:
    yield judge(curve(np.linspace(0.1, 0.5, 12), finals=(0.05, 0.06, 0.95, 0.04, 0.97)), RULES).text


def a_model_that_forgets(folder: Path) -> Iterator[str]:
    """The weak rows become right and half of the others wrong."""
    weak = np.arange(2000) < 200
    before, after = weak.astype(float), np.where(weak, 0.0, np.arange(2000) % 2)
    families = {"rest": ~weak}
    old, new = Scores(before, None), Scores(after, None)
    guard = guard_of(old, new, families, {"rest": 0.01}, delta=0.01, lm_loss=None, rest=~weak)
    candidate = Candidate("targeted", folder, 1.0, new, guard, gain(before, after, weak), None)
    result = ImprovementResult(
        Metric("accuracy"), [{"slice": {"op": "rev"}}], [weak], weak, families, old, None, candidates=[candidate]
    )
    findings = findings_of(ImproveConfig(), folder, result)
    assert findings.refused is not None
    yield from [findings.refused, *findings.sentences]


CASES: list[tuple[Callable[[Path], Iterator[str]], str, str]] = [
    (smooth_under_a_jumping_metric, "smooth under the continuous metric", "在连续指标下是平滑的"),
    (none_of_two_hundred, "below resolution (0/200, ≤ 1.5 %)", "低于分辨率（0/200, ≤ 1.5 %）"),
    (six_points, "too few points (6 < 10) to tell a break from curvature", "点太少（6 < 10），无法区分突变与弯曲"),
    (five_seeds_of_which_two_succeed, "seeds disagree: 2 of 5 succeed", "种子结果不一致：5 个中有 2 个成功"),
    (a_model_that_forgets, "not improved: guard refused", "未改进：守卫拒绝"),
]


@pytest.mark.parametrize(("case", "english", "chinese"), CASES, ids=[case.__name__ for case, *_ in CASES])
def test_the_report_says_it(case, english: str, chinese: str, tmp_path: Path) -> None:
    for language, words in (("en", english), ("zh", chinese)):
        with speaking(language):
            lines = list(case(tmp_path))
        assert any(words in text for text in lines), lines
        assert any(words in text[:1].lower() + text[1:] for text in lines[:1]) or language == "zh"
