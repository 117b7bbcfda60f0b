"""The rows that a slice describes."""

from __future__ import annotations

import pytest

from llmstage.errors import DataError
from llmstage.explore.matching import fulfils, matching


@pytest.mark.parametrize(
    ("value", "cell", "row_value", "fits"),
    [
        (">= 6", "7", 7, True), (">=6", "5", 5, False), ("< 3", None, 2, True), ("<= 3", None, 4, False), ("> 3", None, "4", True),
        ("rev", "rev", "rev", True), ("rev", "copy", "copy", False), (6, "6", 6, True), ("a", None, ["a", "b"], True),
        (">= 10 tokens", (">= 10 tokens", ">= 20 tokens"), None, True), (">= 30 tokens", (">= 10 tokens",), None, False),
        (">= 12 tokens", (">= 10 tokens",), 12.0, True), (">= 12 tokens", (">= 10 tokens",), 11.0, False),  # borders of other rows
        ("退货", "退货", "退货", True), (">= 6", None, "six", False), (">= 6", None, None, False),
    ],
)  # fmt: skip
def test_a_value_is_met_by_a_cell_a_row_or_a_number_beyond_its_border(value, cell, row_value, fits):
    assert fulfils(value, cell, row_value) is fits


def test_all_conditions_must_hold():
    rows = [{"op": "rev", "len": 7}, {"op": "rev", "len": 5}, {"op": "copy", "len": 7}]
    assert matching({"op": "rev", "len": ">= 6"}, {}, rows).tolist() == [True, False, False]


def test_a_column_that_no_row_has_is_named_with_the_nearest():
    with pytest.raises(DataError, match=r"'lenght'.*Did you mean 'length'"):
        matching({"lenght": "x"}, {"length": ["x"]}, [{"text": "a"}])
