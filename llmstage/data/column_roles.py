"""Which column of a record is what: text, target, or feature."""

from __future__ import annotations

from typing import Any

from llmstage.data.rows import Columns, Row
from llmstage.data.table_columns import FeatureTable
from llmstage.errors import UserError


def columns_of(targets: tuple[str, ...], table: FeatureTable) -> Columns:
    """The words of a row; with features the text may be missing. Each column has one role."""
    words = ["text", "text_pair", *targets, *table.words]
    twice = sorted({word for word in words if words.count(word) > 1})
    if twice:
        raise UserError(
            f"{', '.join(twice)}: a column is text, a target, or a feature, and only one of them. See task.targets, "
            f"task.features.numbers and task.features.categories; data.columns.<name>=<column> gives a column another name."
        )
    if not table:
        return Columns(("text", *targets), ("text_pair",), content=("text", "text_pair"))
    content = ("text", "text_pair", *table.words)
    return Columns(targets, content, content=content, present=table.words)


def text_of(row: Row, word: str) -> str:
    value = row.get(word)
    return "" if value is None else str(value)


def is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value  # NaN is a missing text


def listed(kinds: dict[str, str]) -> str:
    return ", ".join(f"{word} ({kind})" for word, kind in kinds.items())
