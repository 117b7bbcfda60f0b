"""Seen against unseen: Newcombe's published intervals, sentences that claim no more than the rows can tell."""

from __future__ import annotations

import math

import numpy as np
import pytest

from llmstage.evaluation.metrics.composition import (
    composition_item,
    gap_score,
    group_scores,
    newcombe,
    question_type_items,
)
from llmstage.report.charts import bar_chart


def answers(right: int, wrong: int) -> list[float]:
    return [1.0] * right + [0.0] * wrong


@pytest.mark.parametrize(
    ("first", "second", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17:873-890, table II, method 10; statsmodels 0.15 prints the same with
        # confint_proportions_2indep(..., method="newcomb", compare="diff")
        ((56, 70), (48, 80), 0.0524, 0.3339),
        ((9, 10), (3, 10), 0.1705, 0.8090),
        ((6, 7), (2, 7), 0.0582, 0.8062),
        ((5, 56), (0, 29), -0.0381, 0.1926),
        ((0, 10), (0, 20), -0.1611, 0.2775),
        ((0, 10), (0, 10), -0.2775, 0.2775),
        ((10, 10), (0, 20), 0.6791, 1.0000),
        ((10, 10), (0, 10), 0.6075, 1.0000),
    ],
)
def test_newcombe_gives_the_published_intervals(
    first: tuple[int, int], second: tuple[int, int], low: float, high: float
) -> None:
    found = newcombe(first[0] / first[1], first[1], second[0] / second[1], second[1])
    assert tuple(round(end, 4) for end in found) == (low, high)


def test_the_gap_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(0), {"newcombe": 0, "bootstrap": 0}
    for _ in range(300):
        # 0.9 against 0.7, once as rights and wrongs, once as shares of three captions each
        for draws, method in ((1, "newcombe"), (3, "bootstrap")):
            seen, unseen = (rng.binomial(draws, p, size=120) / draws for p in (0.9, 0.7))
            score = gap_score(list(seen), list(unseen))
            assert score.method == method
            held[method] += (score.low or 0) <= 0.2 <= (score.high or 0)
    assert all(0.90 <= count / 300 <= 0.99 for count in held.values())


def test_a_gap_that_chance_does_not_explain_is_told() -> None:
    correct, groups = answers(93, 7) + answers(61, 39), ["seen"] * 100 + ["unseen"] * 100
    (chart,) = composition_item("exact_match", correct, groups)
    assert chart["title"] == "exact match: seen against unseen pairs"
    assert chart["kind"] == "bars" and chart["values"] == [0.93, 0.61]
    assert chart["labels"] == ["seen (100 rows)", "unseen (100 rows)"]
    assert "the gap of 0.320 (95 % interval 0.208 to 0.424) is larger than chance explains" in chart["note"]
    assert "Unseen pairs 0.610 [0.512, 0.700] against seen 0.930 [0.863, 0.966]" in chart["note"]
    assert "0.9300" in bar_chart(chart) and "marks" not in chart


@pytest.mark.parametrize(
    ("seen", "unseen", "chance", "sentence"),
    [
        ((19, 1), (18, 2), None, "no gap that this number of rows can show"),
        ((19, 1), (18, 2), 0.25, "The scores give no evidence against compositional generalisation"),
        (
            (50, 150),
            (50, 150),
            0.25,
            "not above guessing (0.250): there is no evidence of compositional generalisation",
        ),
        ((180, 20), (52, 148), 0.25, "not above guessing"),
        ((180, 20), (120, 80), 0.25, "The model generalises to new combinations only in part"),
        ((0, 20), (0, 20), None, "never correct on either"),
        ((50, 50), (90, 10), 0.25, "unseen pairs are better by 0.400"),
        ((3, 0), (0, 0), None, None),
    ],
)
def test_the_sentence_claims_no_more_than_the_rows_tell(
    seen: tuple[int, int], unseen: tuple[int, int], chance: float | None, sentence: str | None
) -> None:
    groups = ["seen"] * sum(seen) + ["unseen"] * sum(unseen)
    found = composition_item("accuracy", answers(*seen) + answers(*unseen), groups, chance)
    assert (sentence is None and found == []) or sentence in found[0]["note"]


def test_rows_too_much_alike_tell_no_gap() -> None:
    groups = ["seen"] * 3 + ["unseen"] * 3
    (chart,) = composition_item("overlap", [0.5] * 6, groups)
    assert "to measure a gap" in chart["note"] and chart["lows"] == [None, None]
    assert math.isnan(gap_score([], [1.0]).value)


def test_scores_by_group_carry_intervals_and_leave_out_rows_without_a_group() -> None:
    scores = group_scores("accuracy", [*answers(8, 2), *answers(5, 5), 1.0], ["seen"] * 10 + ["unseen"] * 10 + [None])
    assert {name: score.value for name, score in scores.items()} == pytest.approx(
        {"accuracy_seen": 0.8, "accuracy_unseen": 0.5, "accuracy_gap": 0.3}
    )
    assert [score.method for score in scores.values()] == ["wilson", "wilson", "newcombe"]
    assert [score.count for score in scores.values()] == [10, 10, 20] and not scores["accuracy_gap"].higher_is_better
    assert group_scores("accuracy", [1.0, 0.0], ["seen", "seen"]) == {}


def test_kinds_stand_beside_their_blind_baseline() -> None:
    correct, kinds = answers(9, 1) + answers(4, 6) + [1.0], ["计数"] * 10 + ["negation"] * 10 + ["attribute"]
    chart, table = question_type_items("accuracy", correct, kinds, {"计数": 0.5, "negation": 0.45, "no such kind": 1.0})
    assert chart["labels"] == ["attribute (1 row)", "计数 (10 rows)", "negation (10 rows)"]
    assert chart["marks"] == [None, 0.5, 0.45] and chart["mark_name"].startswith("blind")
    assert table["columns"][-2:] == ["blind", "gain"]
    assert [row[-2:] for row in table["rows"]] == [["–", "–"], ["0.500", "+0.400"], ["0.450", "-0.050"]]
    drawn = bar_chart(chart)
    assert drawn.count("<title>blind (without the image)") == 2 and "0.4500" in drawn
    assert question_type_items("accuracy", correct, kinds)[1]["columns"] == [
        "question type",
        "accuracy",
        "95 % interval",
        "rows",
    ]
    assert question_type_items("accuracy", [1.0], [None]) == []
