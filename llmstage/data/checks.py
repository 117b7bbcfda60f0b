"""What every task refuses in a row, and how a record is shown in a complaint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from llmstage.data.lines import too_large
from llmstage.data.records import Bad
from llmstage.data.rows import Columns, Row


def complaint(row: Row, mapping: dict[str, str], columns: Columns, max_row_mb: float) -> str | None:
    """What every task refuses: a word that is missing or null, NUL characters, lone surrogates, a row too large."""
    for word in columns.required:
        value = row.get(word)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            column = mapping.get(word, word)
            named = f"'{word}'" if column == word else f"'{column}' ({word})"
            return f"{named} is null" if word in row else f"{named} is missing"
    size = 0
    for word, value in row.items():
        for text in texts_of(value):
            size += len(text)
            if "\0" in text:
                return f"a NUL character in '{mapping.get(word, word)}'"
            if not text.isascii():
                try:
                    text.encode("utf-8")
                except UnicodeEncodeError as error:
                    return f"a lone surrogate (U+{ord(text[error.start]):04X}) in '{mapping.get(word, word)}'"
    return too_large(size, int(max_row_mb * (1 << 20)), "").reason if size > max_row_mb * (1 << 20) else None


def texts_of(value: Any) -> Iterator[str]:
    """Every string inside a value."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from texts_of(item)
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from texts_of(item)


def sample_columns(peeked: list[tuple[int, dict[str, Any] | Bad]]) -> dict[str, Any]:
    """Every column that occurs, with a value that is not null where there is one."""
    found: dict[str, Any] = {}
    for _, record in peeked:
        if isinstance(record, dict):
            for column, value in record.items():
                if found.get(column) is None:
                    found[column] = value
    return found


def shorten(record: dict[str, Any]) -> str:
    return json.dumps({key: value[:500] if isinstance(value, str) else value for key, value in record.items()},
                      ensure_ascii=False, default=str)[:500]  # fmt: skip
