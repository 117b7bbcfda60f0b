"""Exact match and F1 of answers, against values that other people's code gives."""

from __future__ import annotations

import pytest

from llmstage.evaluation.metrics.answers import (
    answer_scores,
    answer_tables,
    best_of_first_spans,
    best_threshold,
    exact_and_f1,
)

PUBLISHED = [
    # (answer, references, exact match, F1) as torchmetrics 1.9.0 (functional.text.squad, adapted from the official
    # evaluate-v1.1.py) gives them, divided by 100.
    ("Denver Broncos", ["Denver Broncos", "The Denver Broncos!"], 1.0, 1.0),
    ("the Broncos", ["Denver Broncos"], 0.0, 0.6666667),
    ("A  cat, and the dog.", ["cat and dog"], 1.0, 1.0),
    ("in 1976 or so", ["1976", "the year 1976"], 0.0, 0.4),
    ("U.S.", ["US"], 1.0, 1.0),
    ("gold gold", ["gold"], 0.0, 0.6666667),
    ("blue", ["red", "green"], 0.0, 0.0),
    ("", ["red"], 0.0, 0.0),
    ("$5–10 million", ["5–10 million"], 1.0, 1.0),
    ("theatre", ["the atre"], 0.0, 0.0),
]


@pytest.mark.parametrize(("answer", "references", "exact", "f1"), PUBLISHED)
def test_english_scores_are_those_of_the_published_metric(answer, references, exact, f1):
    assert exact_and_f1(answer, references) == (bool(exact), pytest.approx(f1))


@pytest.mark.parametrize(("answer", "references", "exact", "f1"), PUBLISHED)
def test_the_published_metric_gives_these_values(answer, references, exact, f1):
    squad = pytest.importorskip("torchmetrics.functional.text", reason="torchmetrics is not installed").squad
    result = squad(
        [{"prediction_text": answer, "id": "1"}],
        [{"answers": {"answer_start": [0] * len(references), "text": references}, "id": "1"}],
    )
    assert (float(result["exact_match"]) / 100, float(result["f1"]) / 100) == pytest.approx((exact, f1))


@pytest.mark.parametrize(
    ("answer", "references", "exact", "f1"),
    [
        ("星期三", ["星期三"], True, 1.0),
        ("“星期三”。", ["星期三"], True, 1.0),  # punctuation of any script is left out
        ("星期", ["星期三"], False, 2 * 2 / (2 + 3)),  # two of three characters
        ("136次", ["136 次"], True, 1.0),  # white space between a number and a character says nothing
        ("NFL职业", ["NFL 职业碗"], False, 2 * 3 / (3 + 4)),  # a word of another script is one word
        ("308", ["308分"], False, 2 * 1 / (1 + 2)),
        ("三期星", ["星期三"], False, 1.0),  # a bag of characters, as in SQuAD's own F1
    ],
)
def test_chinese_is_compared_by_character(answer, references, exact, f1):
    assert exact_and_f1(answer, references) == (exact, pytest.approx(f1))


def test_rows_without_a_reference_want_silence():
    scores = answer_scores(["red", "", "blue", ""], [["red"], [], [], ["green"]])
    assert scores["exact_match"].value == scores["f1"].value == 0.5
    assert scores["no_answer_accuracy"].value == 0.5 and scores["no_answer_accuracy"].count == 2
    assert scores["answerable_f1"].value == 0.5
    assert "no_answer_accuracy" not in answer_scores(["red"], [["red"]])
    assert scores["f1"].count == 4 and scores["exact_match"].low > 0


def test_the_threshold_is_the_best_of_all():
    margins = [-3.0, -1.0, 0.5, 2.0, 2.0]
    answered, silent = [1.0, 0.6, 0.9, 0.0, 0.0], [0.0, 0.0, 0.0, 1.0, 1.0]

    def score(threshold: float) -> float:
        return sum(s if m > threshold else a for m, a, s in zip(margins, answered, silent, strict=True))

    best = best_threshold(margins, answered, silent)
    assert 0.5 <= best < 2.0
    assert score(best) == max(score(step / 10) for step in range(-50, 50))
    assert best_threshold([1.0, 2.0], [1.0, 1.0], [0.0, 0.0]) > 2.0  # answering is always right
    assert best_threshold([-2.0, -1.0], [0.0, 0.0], [1.0, 1.0]) < -2.0  # silence always is
    assert best_threshold([-1.0, 1.0], [1.0, 0.0], [0.0, 1.0]) == 0.0  # 0 where it is as good as any other


def test_tables_say_which_questions_are_hard():
    tables = answer_tables(
        ["a", "b", "c"], [["a"], ["b"], ["d"]], ["who", "who", "when"], [10, 20, 30], num_ambiguous=2
    )
    assert tables[0]["rows"][0][:3] == ["who", "1.000", "1.000"] and tables[0]["rows"][1][:3] == [
        "when",
        "0.000",
        "0.000",
    ]
    assert "2 references" in tables[0]["note"]
    assert sum(int(row[-1]) for row in tables[1]["rows"]) == 3
    (first,) = best_of_first_spans([["x", "a"], ["b", "y"], ["z"]], [["a"], ["b"], []], 2)
    assert [row[1] for row in first["rows"]] == ["0.500", "1.000"]
