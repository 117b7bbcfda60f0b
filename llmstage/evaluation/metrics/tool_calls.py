"""Scores of tool calls against the calls of a reference."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from llmstage.evaluation.metrics.score import Score, proportion

Call = tuple[str, dict[str, Any]]
"""The name of a function and its arguments."""


@dataclass(slots=True)
class CalledTurn:
    """The calls of one reply where tools were offered."""

    calls: list[Call]
    references: list[Call]
    malformed: int
    """Calls that were begun and are no JSON."""


def tool_call_scores(turns: list[CalledTurn]) -> dict[str, Score]:
    """Return the scores of the calls, each with a Wilson interval; those without items are left out.

    - `tool_calls_exact`: of the calls of the references, the share that was written with the same name and arguments. Arguments
      are compared as JSON values; calls of one reply have no order.
    - `tool_calls_named`: the same by the name alone.
    - `tool_calls_json`: of the calls that were begun, the share that is JSON with a name and arguments.
    - `tool_calls_needless`: of the replies whose reference calls nothing, the share that calls something.
    """
    exact: list[bool] = []
    named: list[bool] = []
    for turn in turns:
        exact += matched(turn, arguments=True)
        named += matched(turn, arguments=False)
    formed = [is_formed for turn in turns for is_formed in [True] * len(turn.calls) + [False] * turn.malformed]
    needless = [bool(turn.calls) for turn in turns if not turn.references]
    scores = {"tool_calls_exact": exact, "tool_calls_named": named, "tool_calls_json": formed}
    result = {name: proportion(hits) for name, hits in scores.items() if hits}
    if needless:
        result["tool_calls_needless"] = replace(proportion(needless), higher_is_better=False)
    return result


def matched(turn: CalledTurn, *, arguments: bool) -> list[bool]:
    """Return for each call of the reference whether a call of the reply equals it; each call counts once."""
    left = list(turn.calls)
    hits = []
    for name, expected in turn.references:
        index = next(
            (
                number
                for number, (called, values) in enumerate(left)
                if called == name and (not arguments or json_equal(values, expected))
            ),
            None,
        )
        hits.append(index is not None)
        if index is not None:
            del left[index]
    return hits


def json_equal(first: Any, second: Any) -> bool:
    """Return whether two JSON values are equal: 1 equals 1.0, and true does not equal 1, as it does in Python."""
    if isinstance(first, bool) or isinstance(second, bool):
        return first is second
    if isinstance(first, dict) and isinstance(second, dict):
        return first.keys() == second.keys() and all(json_equal(value, second[key]) for key, value in first.items())
    if isinstance(first, list) and isinstance(second, list):
        return len(first) == len(second) and all(map(json_equal, first, second))
    return bool(first == second)
