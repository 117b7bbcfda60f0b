"""Find the rows that a slice `{column: value}` describes, among scored rows and among training rows."""

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
    """Return the rows of a split with all columns of their file."""
    base: Any = getattr(source, "base", source)
    base.keep_columns = True
    try:
        return [row for row, _ in source]
    finally:
        base.keep_columns = False


def matching(conditions: Mapping[str, Any], table: Table, rows: Sequence[Mapping[str, Any]]) -> Mask:
    """Return the mask [N] of the rows that meet all conditions.

    `table`: columns as slices name them; `rows`: the columns of the file. A value is met by an equal cell of the table, by
    an equal value in the row's own column, or, for a border such as `>= 6` (or `>= 6 tokens`), by a number on that side:
    slices of other rows, or written by hand, have other borders. Raises DataError for a column that no row has.
    """
    mask = np.ones(len(rows), dtype=bool)
    for column, value in conditions.items():
        if column not in table and not any(column in row for row in rows):
            known = sorted({*table, *(name for row in rows[:50] for name in row)})
            raise DataError(
                f"A weak slice names the column '{column}', and these rows have none of that name.{did_you_mean(column, known)} "
                f"There are: {', '.join(known)}."
            )
        cells = table.get(column) or [None] * len(rows)
        mask &= [fulfils(value, cell, row.get(column)) for cell, row in zip(cells, rows, strict=True)]
    return mask


def fulfils(value: Any, cell: Any, row_value: Any) -> bool:
    """Whether a row with this cell in the table and this value in its own column meets the condition `value`."""
    condition = str(value)
    cells = (cell,) if isinstance(cell, str) else cell or ()
    if condition in cells or (row_value is not None and str(row_value) == condition):
        return True
    if isinstance(row_value, (list, tuple)) and condition in map(str, row_value):
        return True
    border = BORDER.match(condition.strip())
    known = row_value if row_value is not None else cell
    if border is None or known is None:
        return False
    try:
        number = float(known)
    except (TypeError, ValueError):
        return False
    return COMPARE[border[1]](number, float(border[2]))


def words_of(conditions: Mapping[str, Any]) -> str:
    """Return the conditions as `column value, column value`."""
    return ", ".join(f"{column} {value}" for column, value in conditions.items())
