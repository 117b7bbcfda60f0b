"""Which rows a slice `{column: value}` means, on the rows that were scored and on those that could be learned from."""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.errors import DataError
from llmstage.explore.slices import Table
from llmstage.naming import did_you_mean

Mask = NDArray[np.bool_]

BORDER = re.compile(r"(>=|<=|>|<)\s*(-?\d+(?:\.\d+)?)")
COMPARE: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge, "<=": operator.le, ">": operator.gt, "<": operator.lt,
}  # fmt: skip


def rows_with_columns(source: RowSource) -> list[Row]:
    """The rows of a split, each with the other columns of its file."""
    base: Any = getattr(source, "base", source)
    base.keep_columns = True
    try:
        return [row for row, _ in source]
    finally:
        base.keep_columns = False


def matching(conditions: Mapping[str, Any], table: Table, rows: Sequence[Mapping[str, Any]]) -> Mask:
    """[N] rows that fulfil all conditions. `table`: columns in the words in which slices are told; `rows`: own columns.

    A value is met by a cell that says it, by a row whose own column holds it, or, where it is a border such as `>= 6` (or
    `>= 6 tokens`), by a number on the right side of it: slices of other rows, or written by hand, have borders of their own.
    Raises DataError for a column that no row has.
    """
    found = np.ones(len(rows), dtype=bool)
    for column, value in conditions.items():
        if column not in table and not any(column in row for row in rows):
            known = sorted({*table, *(name for row in rows[:50] for name in row)})
            raise DataError(
                f"A weak slice names the column '{column}', and these rows have none of that name.{did_you_mean(column, known)} "
                f"There are: {', '.join(known)}."
            )
        cells = table.get(column) or [None] * len(rows)
        found &= [fulfils(value, cell, row.get(column)) for cell, row in zip(cells, rows, strict=True)]
    return found


def fulfils(value: Any, cell: Any, own: Any) -> bool:
    """Whether a row whose cell and own value are these is one of those that `value` means."""
    told = str(value)
    if told in ((cell,) if isinstance(cell, str) else cell or ()) or (own is not None and str(own) == told):
        return True
    if isinstance(own, (list, tuple)) and told in map(str, own):
        return True
    border = BORDER.match(told.strip())
    known = own if own is not None else cell
    if border is None or known is None:
        return False
    try:
        number = float(known)
    except (TypeError, ValueError):
        return False
    return COMPARE[border[1]](number, float(border[2]))


def words_of(conditions: Mapping[str, Any]) -> str:
    return ", ".join(f"{column} {value}" for column, value in conditions.items())
