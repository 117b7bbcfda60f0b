"""The grading and workshop worlds: seeded, distinct, balanced, and learnable from what a model sees."""

from __future__ import annotations

from collections import Counter

import pytest
from sklearn.metrics import cohen_kappa_score, f1_score

from llmstage.demo.grading import QUESTIONS, grading_rows
from llmstage.demo.machines import FACTS, FAULTS, LIMIT, machine_rows, rows_for
from llmstage.evaluation.metrics.sklearn_baselines import logistic, mostly_chinese, tfidf


@pytest.mark.parametrize("make", [grading_rows, machine_rows])
def test_rows_are_seeded_and_distinct_and_a_longer_list_begins_with_the_shorter(make):
    rows = make(300, 3)
    assert rows == make(300, 3) and make(100, 3) == rows[:100] and make(100, 4) != rows[:100]
    assert len({str(row) for row in rows}) == 300
    chinese = sum(mostly_chinese([row["text"]]) for row in rows)
    assert 140 <= chinese <= 160


def test_a_grade_is_the_number_of_key_points_in_the_answer():
    rows = grading_rows(250, 0)
    assert set(Counter(row["label"] for row in rows).values()) == {50}
    points = {question: ways for language in QUESTIONS.values() for question, ways, _ in language}
    for row in rows:
        held = sum(any(way in row["text_pair"] for way in ways) for ways in points[row["text"]])
        assert held == row["label"]


def test_the_length_of_an_answer_does_not_give_its_grade_away():
    rows = [row for row in grading_rows(1000, 1) if not mostly_chinese([row["text"]])]
    by_length = sorted(rows, key=lambda row: len(row["text_pair"]))
    guess = {id(row): place * 5 // len(rows) for place, row in enumerate(by_length)}
    kappa = cohen_kappa_score([row["label"] for row in rows], [guess[id(row)] for row in rows], weights="quadratic")
    assert kappa < 0.8


def test_the_facts_of_the_workshop_follow_from_note_and_sensors():
    for row in machine_rows(200, 2):
        assert row["hours"] == sum(FAULTS[fault][0] for fault in row["faults"]) and row["fault"] in row["faults"]
        for fault, (_, said) in FAULTS.items():
            assert (fault in row["faults"]) == any(way in row["text"] for ways in said.values() for way in ways)
        if row["temperature"] > LIMIT[row["machine"]]:
            assert row["failed"] == "yes"


def test_rows_hold_what_targets_and_features_ask_for():
    (row,) = rows_for(1, 0, {"label": "label"}, ("load",), is_single_target=True)
    assert set(row) == {"text", "load", "label"} and row["label"] in ("yes", "no")
    (row,) = rows_for(1, 0, {kind: kind for kind in FACTS}, (), is_single_target=False)
    assert set(row) == {"text", *FACTS}


def test_a_linear_model_finds_faults_in_the_notes():
    train, test = machine_rows(800, 0), machine_rows(100, 1)
    known, asked = tfidf([row["text"] for row in train], [row["text"] for row in test])
    classes, shares = logistic(known, ["leak" if "leak" in row["faults"] else "no" for row in train], asked)
    said = [classes[place] for place in shares.argmax(axis=1)]
    assert f1_score(["leak" if "leak" in row["faults"] else "no" for row in test], said, pos_label="leak") > 0.8
