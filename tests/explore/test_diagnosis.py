"""The table of diagnoses: from evidence to one action, and the sentences of the evidence."""

from __future__ import annotations

import json

import numpy as np
import pytest

from llmstage.explore.diagnosis import Evidence, action_of, advice, pool_mask, sentences_of, slope_of, token_ratio
from llmstage.explore.slices import find_slices
from llmstage.explore.wording import sentence

LABEL, LONG = {"label": "a"}, {"length": ">= 40 tokens"}
CASES = [
    ("data", LABEL, {"coverage": 0.001, "expected": 0.1, "elicited": {64: 0.1}}),
    ("data", LABEL, {"coverage": 0.001, "expected": 0.1}),
    ("data", LABEL, {"coverage": 0.03, "expected": 0.1, "elicited": {64: 0.3}}),
    ("data", LONG, {"coverage": 0.001, "expected": 0.1, "elicited": {64: 0.79}}),
    ("data", LONG, {"coverage": 0.025, "expected": 0.1, "elicited": {64: 0.79}}),
    ("structure", LONG, {"coverage": 0.0, "expected": 0.1, "elicited": {64: 0.79}}),
    ("structure", LABEL, {"coverage": 0.001, "expected": 0.1, "elicited": {64: 0.79}, "bigger": {"m": 0.1}}),
    ("structure", LABEL, {"coverage": 0.1, "expected": 0.1, "elicited": {64: 0.79}, "bigger": {"m": 0.1}}),
    ("undecided", LABEL, {"coverage": 0.1, "expected": 0.1, "elicited": {64: 0.79}, "bigger": {"m": 0.7}}),
    ("data", LABEL, {"coverage": 0.1, "expected": 0.1, "elicited": {64: 0.79, 256: 0.2}}),
    ("train", LABEL, {"coverage": 0.1, "expected": 0.1, "elicited": {64: 0.79}, "slope": 0.02}),
    ("undecided", LABEL, {"coverage": 0.1, "expected": 0.1, "elicited": {64: 0.79}, "slope": -0.02}),
    ("tokenizer", LABEL, {"coverage": 0.1, "expected": 0.1, "elicited": {64: 0.79}, "token_ratio": 2.0}),
    ("decode", LABEL, {"coverage": 0.1, "expected": 0.1, "nats": 0.01}),
    ("undecided", LABEL, {}),
]


@pytest.mark.parametrize(("action", "conditions", "values"), CASES)
def test_evidence_decides_the_action(action, conditions, values):
    evidence = Evidence(error=0.8, rest=0.1, **values)
    assert action_of(evidence, conditions) == action
    assert len(advice(evidence, action)) > 20 and sentence(f"action_{action}")
    lines = sentences_of(evidence, lambda error: 1 - error)
    assert ("coverage" in values) == any(line.startswith("coverage:") for line in lines)
    assert sum("elicit" in line for line in lines) == len(values.get("elicited", {}))


def test_sentences_name_what_was_measured():
    evidence = Evidence(
        0.002, 0.1, {64: 0.2, 256: 0.7}, 0.8, 0.1, "note", {"runs/big": 0.3}, 0.03, 1.8, 0.95, (0.4, 0.1), 0.5
    )
    lines = "\n".join(sentences_of(evidence, lambda error: 1 - error))
    for words in ("0.20% of training rows", "elicits: 64 examples → 0.80 (from 0.20", "does not elicit: 256", "note",
                  "runs/big scores 0.70", "still learning: +0.030", "1.8 times", "confidence 0.95", "+0.50 nats", "40% of its rows have a word"):  # fmt: skip
        assert words in lines


def test_rows_of_the_pool_that_match_all_conditions():
    pool = {"label": ["a", "a", "b"], "length": [(">= 4 tokens",), (), (">= 4 tokens",)]}
    assert pool_mask({"label": "a", "length": ">= 4 tokens"}, pool).tolist() == [True, False, False]
    assert pool_mask({"colour": "red"}, pool) is None


def test_the_slope_at_the_end_of_training(tmp_path):
    def run(values: list[float]) -> float | None:
        lines = [{"step": 100 * at, "kind": "eval", "accuracy": value} for at, value in enumerate(values, 1)]
        (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
        return slope_of(tmp_path, "accuracy", True)

    assert run([0.1] * 8 + [0.50, 0.53, 0.55, 0.58, 0.61]) == pytest.approx(0.027, abs=0.003)
    assert run([0.1] * 8 + [0.50, 0.55, 0.49, 0.54, 0.50]) is None  # noise
    assert run([0.1, 0.2]) is None and slope_of(None, "accuracy", True) is None
    falling = [{"step": 100 * at, "kind": "eval", "loss": 2 - 0.1 * at} for at in range(1, 13)]
    (tmp_path / "metrics.jsonl").write_text("\n".join(map(json.dumps, falling)), encoding="utf-8")
    assert slope_of(tmp_path, "loss", False) == pytest.approx(0.1)


def test_tokens_per_character_against_the_rest():
    values = ["a", "b"] * 200
    errors = np.array([0.9 if value == "a" else 0.0 for value in values])
    weak_slice = find_slices({"kind": values}, errors).confirmed[0]
    assert token_ratio(weak_slice, ["abcd"] * 400, [4, 2] * 200) == pytest.approx(2.0)
