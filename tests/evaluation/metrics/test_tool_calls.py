"""Scores of tool calls, computed by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from llmstage.evaluation.metrics.score import wilson
from llmstage.evaluation.metrics.tool_calls import CalledTurn, json_equal, tool_call_scores


def test_json_values_not_python_values() -> None:
    assert json_equal({"a": 1, "b": [1.0, {"c": None}]}, {"b": [1, {"c": None}], "a": 1.0})
    for first, second in (
        (True, 1),
        (False, 0),
        ("1", 1),
        ([1, 2], [2, 1]),
        ({"a": 1}, {}),
        ({"a": None}, {}),
        (None, False),
    ):
        assert not json_equal(first, second) and not json_equal(second, first)


def test_scores_by_hand() -> None:
    weather, time = ("weather", {"city": "Rome", "days": 2}), ("time", {})
    turns = [
        CalledTurn([weather], [("weather", {"days": 2.0, "city": "Rome"})], 0),  # equal
        CalledTurn([("weather", {"city": "Rom", "days": 2})], [weather], 0),  # the name alone
        CalledTurn([time, weather], [weather, time], 0),  # two, in another order
        CalledTurn([weather, weather], [weather], 0),  # one of the two is a call too many
        CalledTurn([weather], [weather, weather], 0),  # one call does not answer two
        CalledTurn([], [time], 1),  # no JSON
        CalledTurn([], [], 0),
        CalledTurn([time], [], 0),  # needless
    ]
    scores = tool_call_scores(turns)
    # Reference calls: 1 + 1 + 2 + 1 + 2 + 1 = 8. Exact: 1 + 0 + 2 + 1 + 1 + 0 = 5. Named: one more.
    assert (scores["tool_calls_exact"].value, scores["tool_calls_exact"].count) == (5 / 8, 8)
    assert (scores["tool_calls_exact"].low, scores["tool_calls_exact"].high) == wilson(5 / 8, 8)
    assert scores["tool_calls_named"].value == 6 / 8
    # Calls begun: 1 + 1 + 2 + 2 + 1 + 1 (no JSON) + 1 = 9.
    assert (scores["tool_calls_json"].value, scores["tool_calls_json"].count) == (pytest.approx(8 / 9), 9)
    assert (scores["tool_calls_needless"].value, scores["tool_calls_needless"].higher_is_better) == (1 / 2, False)
    assert tool_call_scores([]) == {}
    assert not any(math.isnan(score.value) for score in tool_call_scores([CalledTurn([], [time], 0)]).values())


DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"


@pytest.mark.skipif(not DATA.exists(), reason="the material of the project is not here")
def test_calls_of_a_published_benchmark_equal_themselves_and_no_changed_ones() -> None:
    """BFCL v4, simple_python: 400 questions with one call each; the first allowed value of each argument."""
    path = DATA / "bfcl" / "possible_answer" / "BFCL_v4_simple_python.json"
    answers = [json.loads(line)["ground_truth"] for line in path.read_text(encoding="utf-8").splitlines()]
    calls = [
        [
            (name, {key: values[0] for key, values in arguments.items()})
            for call in answer
            for name, arguments in call.items()
        ]
        for answer in answers
    ]
    assert len(calls) == 400
    equal = tool_call_scores(
        [CalledTurn([(name, json.loads(json.dumps(arguments))) for name, arguments in turn], turn, 0) for turn in calls]
    )
    assert equal["tool_calls_exact"].value == equal["tool_calls_named"].value == 1
    changed = [[(name, {**arguments, "zzz": 1}) for name, arguments in turn] for turn in calls]
    unlike = tool_call_scores([CalledTurn(turn, reference, 0) for turn, reference in zip(changed, calls, strict=True)])
    assert (unlike["tool_calls_exact"].value, unlike["tool_calls_named"].value) == (0, 1)
