"""Plain data to typed dataclasses: what is taken, and what each complaint says."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

import pytest

from llmstage.config.typed import AT_LEAST_1, MISFIT, POSITIVE, Range, build, convert, leaf_keys


@dataclass(slots=True)
class Inner:
    depth: Annotated[int, AT_LEAST_1] = 1


@dataclass(slots=True)
class Outer:
    rate: Annotated[Literal["auto"] | float, POSITIVE] = "auto"
    names: list[str] = field(default_factory=list)
    words: dict[str, str] = field(default_factory=dict)
    on: bool = False
    inner: Inner = field(default_factory=Inner)


@pytest.mark.parametrize(
    ("kind", "value", "made"),
    [
        (float, 1, 1.0),
        (int, 1e6, 1_000_000),
        (str, 2024, "2024"),
        (list[str], ["a", 1], ["a", "1"]),
        (str | list[str] | None, None, None),
        (str | list[str] | None, ["甲"], ["甲"]),
        (Literal["auto"] | int, "auto", "auto"),
        (Literal["auto"] | bool, False, False),
        (dict[str, str], {"text": 0}, {"text": "0"}),
    ],
)
def test_values_that_fit(kind, value, made):
    wrong: list[str] = []
    result = convert(kind, value, "k", wrong)
    assert result == made and type(result) is type(made) and not wrong


@pytest.mark.parametrize(
    ("kind", "value"),
    [
        (int, 1.5), (int, True), (float, True), (bool, 1), (bool, "yes"), (str, None), (str, True), (list[str], "a"),
        (int, "7"), (float, "nan"), (Literal["a", "b"], "c"), (Literal["auto"] | int, 1.5), (dict[str, str], ["a"]),
    ],
)  # fmt: skip
def test_values_that_do_not_fit_are_named_with_their_key(kind, value):
    wrong: list[str] = []
    assert convert(kind, value, "group.key", wrong) is not MISFIT
    assert len(wrong) == 1 and wrong[0].startswith("group.key=")


def test_ranges_hold_their_ends_and_never_nan():
    closed, opened = Range(0, 1), Range(0, 1, open_low=True, open_high=True)
    assert closed.complaint(0) is None and closed.complaint(1) is None
    assert opened.complaint(0) == "must be above 0 and below 1" == opened.complaint(1)
    for bounds in (closed, opened, Range()):
        assert bounds.complaint(float("nan"))
    assert POSITIVE.complaint(float("inf"))


def test_a_whole_tree_with_every_complaint():
    wrong: list[str] = []
    made = build(Outer, {"rate": 0.5, "inner": {"depth": 3}, "names": ["a"]}, "", wrong)
    assert made == Outer(rate=0.5, names=["a"], inner=Inner(3)) and not wrong
    build(Outer, {"rat": 1, "rate": -1, "inner": {"depth": 0, "depht": 2}, "on": "maybe"}, "g", wrong)
    assert len(wrong) == 5
    text = "\n".join(wrong)
    assert "Unknown key 'g.rat'. Did you mean 'g.rate'?" in text and "Did you mean 'g.inner.depth'?" in text
    assert "g.rate=-1 must be above 0" in text and "g.inner.depth=0 must be at least 1" in text
    assert leaf_keys(Outer) == ["rate", "names", "words", "on", "inner.depth"]


def test_a_value_where_a_group_must_stand():
    wrong: list[str] = []
    assert build(Outer, {"inner": 3}, "", wrong) == Outer()
    assert wrong == ["inner=3 must be a group of keys: depth."]
