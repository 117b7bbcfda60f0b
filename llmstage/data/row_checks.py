"""Checks of a row that hold for every task, and the text of a record for a complaint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from llmstage.data.columns import list_columns
from llmstage.data.rows import Bad, Columns, Row
from llmstage.data.text_lines import too_large
from llmstage.errors import DataError

TEXT_COLUMNS = ("text", "text_pair", "question", "context", "source", "document", "summary")
"""Columns that contain prose in every task that has them."""
MIN_NUMBERS = 8
"""A text column with at least so many values, all of them numbers, is the wrong column."""


def complaint(row: Row, mapping: dict[str, str], columns: Columns, max_row_mb: float) -> str | None:
    """Return why a row is unusable for any task: a column missing or null, NUL, a lone surrogate, a row too large."""
    for name in columns.required:
        value = row.get(name)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            column = mapping.get(name, name)
            label = f"'{name}'" if column == name else f"'{column}' ({name})"
            return f"{label} is null" if name in row else f"{label} is missing"
    if columns.images and "caption" in row and not has_text(row["caption"]):
        return f"'{mapping.get('caption', 'caption')}' is empty"
    size = 0
    for name, value in row.items():
        if name in TEXT_COLUMNS and isinstance(value, (int, float)) and not isinstance(value, bool):
            label = f"'{mapping.get(name, name)}'"
            return f"{label} holds the number {value!r}, where {name} is text; name a column of text: data.columns.{name}=<column>"
        for text in texts_of(value):
            size += len(text)
            if "\0" in text:
                return f"a NUL character in '{mapping.get(name, name)}'"
            if surrogate := lone_surrogate(text):
                return f"{surrogate} in '{mapping.get(name, name)}'"
    return too_large(size, int(max_row_mb * (1 << 20)), "").reason if size > max_row_mb * (1 << 20) else None


def lone_surrogate(text: str) -> str | None:
    """Return a description of the first lone surrogate in a text, or None. JSON such as "\\ud83d" may contain one.

    No tokenizer accepts a lone surrogate, and UTF-8 cannot encode it.
    """
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"a lone surrogate (U+{ord(text[error.start]):04X})"
    return None


def has_text(value: Any) -> bool:
    """Return whether no caption of a text or list of texts is empty. None, a missing caption, counts as text."""
    return value is None or (all(text.strip() for text in texts_of(value)) and value != [])


def texts_of(value: Any) -> Iterator[str]:
    """Yield every string inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def sample_columns(peeked: list[tuple[int, dict[str, Any] | Bad]]) -> dict[str, Any]:
    """Return every column of the records, each with a value that is not null where there is one."""
    samples: dict[str, Any] = {}
    for _, record in peeked:
        if isinstance(record, dict):
            for column, value in record.items():
                if samples.get(column) is None:
                    samples[column] = value
    return samples


def shorten(record: dict[str, Any]) -> str:
    """Return a record as at most 500 characters of JSON, for a complaint."""
    return json.dumps({key: value[:500] if isinstance(value, str) else value for key, value in record.items()},
                      ensure_ascii=False, default=str)[:500]  # fmt: skip


def check_numbers(
    peeked: list[tuple[int, dict[str, Any] | Bad]], mapping: dict[str, str], named: dict[str, str], file: str
) -> str | None:
    """Return a sentence for the report where a text column contains only numbers.

    Raise DataError where the column was found by a synonym only: a `title` or `rating` of numbers is no text.
    """
    records = [record for _, record in peeked if isinstance(record, dict)]
    for name, column in mapping.items():
        values = [value for record in records if (value := record.get(column)) not in (None, "")]
        if name not in TEXT_COLUMNS or len(values) < MIN_NUMBERS or not all(is_number(value) for value in values):
            continue
        if name in named or column.casefold() == name:
            return f"{file}: '{column}' is read as {name}, but all of its first {len(values)} values are bare numbers."
        raise DataError(
            f"{file}: '{column}' would be read as {name}, but all of its first {len(values)} values are bare numbers. "
            f"Name the column of text: data.columns.{name}=<column>\n"
            f"{list_columns(sample_columns(peeked))}"
        )
    return None


def is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)
