"""What a curve says: break, metric artefact, smooth, below resolution, seed lottery, no change, or undecided and what it
would take. Each verdict comes with its sentence and its evidence."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from scipy import stats as distributions

from llmstage.config.explore_curves import Stats
from llmstage.explore.stats import below_resolution, benjamini_hochberg
from llmstage.explore.wording import figure, say, shape_name
from llmstage.research.curve_shapes import Comparison, compare
from llmstage.research.curves import Curve, Numbers, breakthroughness, improvement, p_of_breakthroughness, told

FEWEST = 4
"""Points below which no shape is fitted."""
LOTTERY_SEEDS = 5
LOTTERY_SHARE = 0.8


@dataclass(slots=True, frozen=True)
class Rules:
    """What a claim needs; `stage.stats`."""

    delta_aicc: float = 6.0
    min_points: int = 10
    min_departure: float = 0.05
    alpha: float = 0.05
    fdr: float = 0.05
    trials: int = 1000
    seed: int = 0

    @classmethod
    def of(cls, stats: Stats, seed: int) -> Rules:
        """Those of a run."""
        return cls(
            delta_aicc=stats.delta_aicc, min_points=stats.min_points, min_departure=stats.min_departure,
            alpha=stats.alpha, fdr=stats.fdr, trials=stats.bootstrap, seed=seed,
        )  # fmt: skip

    def prefer_break(self, found: Comparison) -> bool:
        """Whether the broken shape fits so much better and lies so far from the smooth one that the curve may be called broken."""
        return found.delta_aicc > self.delta_aicc and found.departure >= self.min_departure


@dataclass(slots=True)
class Verdict:
    """One curve's outcome."""

    name: str
    text: str
    evidence: dict[str, Any] = field(default_factory=dict)


def judge(
    curve: Curve,
    rules: Rules,
    *,
    continuous: Curve | None = None,
    sharp: bool = False,
    chance: float | None = None,
    parts: tuple[float, float] | None = None,
    length: float | None = None,
    noise_of: Comparison | None = None,
) -> Verdict:
    """The verdict on one curve (EMERGENCE 2.3, step 5), in the order of that list.

    `continuous`: a continuous score of the same items, on the axis where a break is asked for (held-out loss where there
    is one); without it a `sharp` score (right or wrong) that jumps stays undecided. `chance`: the score of knowing
    nothing. `parts`: interval of the log residual over sub-skills. `length`: tokens of an answer, for the sentence.
    `noise_of`: how the curve itself was compared, where that was done already.
    """
    num = len(curve.y)
    beyond = below_chance(curve, chance, rules)
    judged = continuous if continuous is not None else curve
    if beyond is not None and (continuous is None or not improves(continuous, rules)):
        return beyond
    lottery = seed_lottery(curve)
    if num < FEWEST or len(np.unique(judged.x)) < FEWEST:
        if lottery is not None:
            return lottery
        more = rules.min_points - num
        return Verdict("undecided", say("too_few_points", num=num, least=rules.min_points, more=more), {"points": num})  # fmt: skip
    found = compare(judged)
    own = noise_of or (found if judged is curve else compare(curve))
    noise = np.sqrt(np.where(np.isfinite(curve.error), curve.error, 0.0) ** 2 + own.smooth.scatter**2)
    big = breakthroughness(curve.y)
    p_big = p_of_breakthroughness(curve, noise, trials=rules.trials, seed=rules.seed)
    evidence = evidence_of(found, judged, big, p_big)
    words = {
        "axis": judged.axis, "at": figure(found.broken.at or 0.0), "delta": f"{found.delta_aicc:.1f}", "num": len(judged.y),
        "metric": curve.metric, "B": figure(big) if math.isfinite(big) else "∞", "p": f"{p_big:.3f}" if p_big >= 0.001 else "< 0.001",
    }  # fmt: skip
    jumps = rules.prefer_break(found)
    if found.smooth.name == "flat" and not jumps and stands_still(judged, rules):
        return Verdict("no_change", say("no_change", **words), evidence)
    if lottery is not None:
        return Verdict(lottery.name, lottery.text, {**evidence, **lottery.evidence})
    if num < rules.min_points:
        text = say("too_few_points", num=num, least=rules.min_points, more=rules.min_points - num)
        return Verdict("undecided", text, evidence)
    if jumps and sharp and continuous is None:
        return Verdict("undecided", say("no_continuous", **words), {**evidence, "open": "no_continuous"})
    if jumps and parts is not None and parts[0] <= 0 <= parts[1]:
        text = say("explained_by_parts", low=figure(parts[0]), high=figure(parts[1]), **words)
        return Verdict("explained_by_parts", text, {**evidence, "parts": list(parts)})
    if jumps:
        return Verdict("break", say("break", **words), evidence)
    slight = ""
    if found.delta_aicc > rules.delta_aicc:
        slight = " " + say("slight_bend", share=f"{found.departure:.1%}", **words)
    if sharp and continuous is not None and p_big < rules.alpha:
        key = "metric_artefact" if length is None else "metric_artefact_length"
        return Verdict("metric_artefact", say(key, length=figure(length or 0), **words) + slight, evidence)
    key = "smooth_continuous" if continuous is not None or not sharp else "smooth"
    return Verdict("smooth", say(key, shape=shape_name(found.smooth.name), **words) + slight, evidence)


def evidence_of(found: Comparison, judged: Curve, big: float, p_big: float) -> dict[str, Any]:
    """The numbers behind a verdict."""
    spare = max(1, found.broken.num_parameters - found.smooth.num_parameters)
    ratio = max(0.0, found.smooth.loss - found.broken.loss)
    return {
        "points": len(judged.y), "axis": judged.axis, "delta_aicc": told(found.delta_aicc), "smooth": found.smooth.name,
        "broken": found.broken.name, "break_at": found.broken.at, "departure": found.departure, "scatter": found.smooth.scatter,
        # A free place of the break counts as one more parameter.
        "p_break": float(distributions.chi2.sf(ratio, spare + 1)), "B": told(big), "B_p": p_big,
    }  # fmt: skip


def below_chance(curve: Curve, chance: float | None, rules: Rules) -> Verdict | None:
    """`below_resolution` where no point is clearly above chance; None where one is, or chance or errors are unknown."""
    if chance is None or not np.isfinite(curve.error).all() or not len(curve.y):
        return None
    best = int(np.argmax(curve.y))
    if chance == 0:
        if curve.items is None or curve.y[best] >= 3 / curve.items:
            return None
        hits = round(float(curve.y[best]) * curve.items)
        seen = below_resolution(hits, curve.items)
        text = say("below_resolution", seen=seen, items=curve.items, chance=0)
        return Verdict("below_resolution", text, {"points": len(curve.y), "hits": hits, "items": curve.items, "chance": 0.0})  # fmt: skip
    z = (curve.y - chance) / np.maximum(curve.error, 1e-12)
    # The best of n points is above chance by luck more often than one point is.
    if z.max() >= distributions.norm.isf(rules.alpha / len(z)):
        return None
    text = say(
        "below_resolution_unknown", chance=figure(chance), best=figure(curve.y[best]), z=f"{z[best]:+.1f}"
    )  # fmt: skip
    return Verdict("below_resolution", text, {"points": len(curve.y), "best_z": float(z.max()), "chance": chance})


def stands_still(curve: Curve, rules: Rules) -> bool:
    """Whether a constant may be claimed. AICc prefers one on few points whatever they do, so there the errors decide, and
    without errors nothing does."""
    if len(curve.y) >= rules.min_points:
        return True
    if not np.isfinite(curve.error).all() or (curve.error <= 0).any():
        return False
    variance = curve.error**2 + (curve.seed_sd or 0.0) ** 2
    middle = np.average(curve.y, weights=1 / variance)
    return bool(distributions.chi2.sf(((curve.y - middle) ** 2 / variance).sum(), len(curve.y) - 1) >= rules.alpha)


def improves(curve: Curve, rules: Rules) -> bool:
    """Whether a continuous score changes at all."""
    if len(np.unique(curve.x)) < FEWEST:
        return improvement(curve.y) != 0
    found = compare(curve)
    return found.smooth.name != "flat" or rules.prefer_break(found)


def seed_lottery(curve: Curve) -> Verdict | None:
    """Final scores in two clusters of two seeds or more that explain over 80 % of the variance (arXiv 2502.17356)."""
    if len(curve.finals) < LOTTERY_SEEDS:
        return None
    ordered = np.sort(np.asarray(curve.finals, dtype=np.float64))
    whole = float(((ordered - ordered.mean()) ** 2).sum())
    if whole == 0:
        return None
    shares = {cut: 1 - within(ordered[:cut], ordered[cut:]) / whole for cut in range(2, len(ordered) - 1)}
    cut = max(shares, key=lambda place: shares[place])
    # The best split of a bell explains 64 % and of a few draws often more: a gap of half the range is needed too.
    gap, error = ordered[cut] - ordered[cut - 1], float(np.nan_to_num(curve.error[-1:]).sum())
    if shares[cut] <= LOTTERY_SHARE or gap <= 2 * error or gap <= 0.5 * float(np.ptp(ordered)):
        return None
    high = len(ordered) - cut
    evidence = {"seeds": len(ordered), "succeed": high, "share_between": shares[cut], "finals": ordered.tolist()}
    return Verdict("seed_lottery", say("seed_lottery", high=high, num=len(ordered)), evidence)


def within(low: Numbers, high: Numbers) -> float:
    return float(((low - low.mean()) ** 2).sum() + ((high - high.mean()) ** 2).sum())


def correct(verdicts: Sequence[Verdict], rules: Rules) -> None:
    """Breaks that do not survive Benjamini-Hochberg over all curves of a report become undecided, in place."""
    tested = [one for one in verdicts if "p_break" in one.evidence]
    for one, q in zip(tested, benjamini_hochberg([one.evidence["p_break"] for one in tested]), strict=True):
        one.evidence["q_break"] = float(q)
        if one.name == "break" and q >= rules.fdr:
            delta = one.evidence["delta_aicc"]
            one.name = "undecided"
            one.text = say(
                "not_replicated", axis=one.evidence["axis"], at=figure(one.evidence["break_at"]),
                delta=f"{float(delta):.1f}", families=len(tested), q=f"{q:.2f}",
            )  # fmt: skip


def agree(verdicts: Sequence[Verdict], directions: Sequence[float], rules: Rules) -> None:
    """A break that fewer than two thirds of the models or seeds of a score share, in the same direction, is undecided."""
    broken = [sign for one, sign in zip(verdicts, directions, strict=True) if one.name == "break"]
    if len(verdicts) < 3 or not broken:
        return
    same = max(sum(sign > 0 for sign in broken), sum(sign < 0 for sign in broken))
    if 3 * same >= 2 * len(verdicts):
        return
    for one in verdicts:
        if one.name == "break":
            delta = one.evidence["delta_aicc"]
            one.name = "undecided"
            one.text = say(
                "not_agreed", axis=one.evidence["axis"], at=figure(one.evidence["break_at"]),
                delta=f"{float(delta):.1f}", same=same, models=len(verdicts),
            )  # fmt: skip
