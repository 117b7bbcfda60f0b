"""What every task refuses in a row, and how a record is shown in a complaint."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from typing import Any

from llmstage.data.columns import list_columns
from llmstage.data.records import Bad
from llmstage.data.rows import Columns, Row
from llmstage.data.text_lines import too_large
from llmstage.errors import DataError

TEXT_WORDS = ("text", "text_pair", "question", "context", "source", "document", "summary")
"""Words that hold prose in every task that has them."""
MANY = 8
"""So many numbers in a row of texts are no accident."""


def complaint(row: Row, mapping: dict[str, str], columns: Columns, max_row_mb: float) -> str | None:
    """What every task refuses: a word that is missing or null, NUL characters, lone surrogates, a row too large."""
    for word in columns.required:
        value = row.get(word)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            column = mapping.get(word, word)
            named = f"'{word}'" if column == word else f"'{column}' ({word})"
            return f"{named} is null" if word in row else f"{named} is missing"
    if columns.images and "caption" in row and not has_text(row["caption"]):
        return f"'{mapping.get('caption', 'caption')}' is empty"
    size = 0
    for word, value in row.items():
        if word in TEXT_WORDS and isinstance(value, (int, float)) and not isinstance(value, bool):
            named = f"'{mapping.get(word, word)}'"
            return f"{named} holds the number {value!r}, where {word} is text; name a column of text: data.columns.{word}=<column>"
        for text in texts_of(value):
            size += len(text)
            if "\0" in text:
                return f"a NUL character in '{mapping.get(word, word)}'"
            if half := half_character(text):
                return f"{half} in '{mapping.get(word, word)}'"
    return too_large(size, int(max_row_mb * (1 << 20)), "").reason if size > max_row_mb * (1 << 20) else None


def half_character(text: str) -> str | None:
    """What is wrong with a text that holds half of a character, as JSON's \\ud83d without its other half is: no tokenizer takes it,
    and no file in UTF-8."""
    if text.isascii():
        return None
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        return f"a lone surrogate (U+{ord(text[error.start]):04X})"
    return None


def has_text(value: Any) -> bool:
    """Whether every text of a caption, or of a list of them, says something; None is a caption that is not there."""
    return value is None or (all(text.strip() for text in texts_of(value)) and value != [])


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


def check_numbers(
    peeked: list[tuple[int, dict[str, Any] | Bad]], mapping: dict[str, str], named: dict[str, str], place: str
) -> str | None:
    """A sentence for the report where a text column that the user or its own name points at holds bare numbers only.

    DataError where it was merely guessed by a synonym: a `title` or `rating` of numbers is not what the task reads.
    """
    records = [record for _, record in peeked if isinstance(record, dict)]
    for word, column in mapping.items():
        values = [value for record in records if (value := record.get(column)) not in (None, "")]
        if word not in TEXT_WORDS or len(values) < MANY or not all(is_number(value) for value in values):
            continue
        if word in named or column.casefold() == word:
            return f"{place}: '{column}' is read as {word}, but all of its first {len(values)} values are bare numbers."
        raise DataError(
            f"{place}: '{column}' would be read as {word}, but all of its first {len(values)} values are bare numbers. "
            f"Name the column of text: data.columns.{word}=<column>\n"
            f"{list_columns(sample_columns(peeked))}"
        )
    return None


def is_number(value: Any) -> bool:
    try:
        float(value)
    except (TypeError, ValueError):
        return False
    return not isinstance(value, bool)
