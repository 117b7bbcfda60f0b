"""Describe rows by features that a person understands: columns, length, language, rare words, type of answer.

The borders of numbers come from the scored rows. The same borders then describe the training pool, so that the report can
give the share of the pool that is like a slice.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from llmstage.data.file_source import OTHER_COLUMNS
from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import references_of
from llmstage.explore.slices import CellValue
from llmstage.explore.term_statistics import script_of, terms_of

UPPER, LOWER = (0.5, 0.7, 0.8, 0.9, 0.95), (0.1, 0.25)
"""Quantiles from which on, and below which, a number counts as large or small."""
MANY = 10
"""Number of different values above which a column of numbers is cut at quantiles."""
ANSWERS = ("answer", "answers", "target", "summary", "caption")
"""Keys of tasks whose value is the answer."""
SKIPPED = (
    "image",
    "spans",
    "tags",
    "tokens",
    "id",
    "answer_start",
    "first_line",
    "recalls",
    "seen",
    "user",
    "item",
    "time",
)
"""Keys whose value identifies a row or a position in it."""
UNSEEN = "words unseen in training"
TOPIC = "topic"
"""Column with the cluster of the model's hidden states."""
YES_NO = {"yes", "no", "true", "false", "是", "否", "对", "错", "不是", "有", "没有"}
NUMBER = re.compile(r"[-+]?[\d.,]+\s*%?")
SENTENCE = 60
"""Characters above which a value is a text and not a name."""


class RowFeatures:
    """Feature columns of rows. `pool_words`: frequency of each word in the training pool; None where there is no pool."""

    def __init__(
        self, texts: Callable[[Row], list[str]], num_tokens: Callable[[list[str]], list[int]],
        pool_words: Counter[str] | None,
    ) -> None:  # fmt: skip
        self.texts, self.num_tokens, self.pool_words = texts, num_tokens, pool_words
        self.borders: dict[str, tuple[list[float], list[float]]] = {}
        """Of each number: (borders from which on it is large, below which it is small); the first call of table() sets them."""
        self.names: list[str] = []
        """Columns whose values are names."""
        self.topics: Callable[[Sequence[Row]], Sequence[CellValue]] | None = None
        """Returns the cluster of each row, where clusters are requested."""

    def table(
        self, rows: Sequence[Row], counted: dict[str, list[float | None]] | None = None
    ) -> dict[str, list[CellValue]]:
        """Return each column with a cell for each row. The first call decides columns and borders; later calls use the same.

        `counted`: the result of counted() for these rows, where it is known.
        """
        flat_rows = [flat(row) for row in rows]
        joined = ["\n".join(self.texts(row)) for row in rows]
        numbers = dict(self.counted(rows) if counted is None else counted)
        fits = not self.borders
        if fits:
            self.names, numeric = name_and_number_columns(flat_rows, joined)
            self.borders = dict.fromkeys(numeric, ([], []))
        numbers |= {
            name: [as_number(row.get(name)) for row in flat_rows] for name in self.borders if name not in numbers
        }
        if fits:
            self.borders = {name: borders_of(values) for name, values in numbers.items()}
        table: dict[str, list[CellValue]] = {name: [cell_of(row.get(name)) for row in flat_rows] for name in self.names}
        # A number is described by the borders that it reaches, not by its value.
        for name, values in numbers.items():
            unit = {"length": " tokens", "turns": " turns", "answer length": " words"}.get(name, "")
            table[name] = [border_cell(value, *self.borders[name], unit) for value in values]
        table["script"] = [script_of(text) for text in joined]
        table["numbers"] = ["digits in the text" if re.search(r"\d", text) else "no digits" for text in joined]
        answers = [answer_of(row) for row in rows]
        if any(answer is not None for answer in answers):
            table["answer type"] = [None if answer is None else answer_type(answer) for answer in answers]
        if self.pool_words is not None:
            table[UNSEEN] = [self.unseen(text) for text in joined]
        if self.topics is not None:
            table[TOPIC] = list(self.topics(rows))
        return table

    def counted(self, rows: Sequence[Row]) -> dict[str, list[float | None]]:
        """Return the numbers that are no column: tokens, turns of a conversation, words of an answer."""
        tokens = self.num_tokens(["\n".join(self.texts(row)) for row in rows])
        numbers: dict[str, list[float | None]] = {"length": [float(n) for n in tokens]}
        if any("messages" in row for row in rows):
            numbers["turns"] = [float(len(row.get("messages") or [])) for row in rows]
        answers = [answer_of(row) for row in rows]
        if any(answer is not None for answer in answers):
            numbers["answer length"] = [None if answer is None else float(len(terms_of(answer))) for answer in answers]
        return numbers

    def unseen(self, text: str) -> CellValue:
        """Return how many words of a text are in no training row, as borders."""
        assert self.pool_words is not None
        new = sum(term not in self.pool_words for term in set(terms_of(text)))
        return tuple(f"at least {least}" for least in (1, 2, 3) if new >= least)


def flat(row: Row) -> dict[str, Any]:
    """Return the row with the other columns of its file at the same level."""
    return {**(row.get(OTHER_COLUMNS) or {}), **{name: value for name, value in row.items() if name != OTHER_COLUMNS}}


def name_and_number_columns(rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return (columns of names, columns of numbers). Texts, and columns that differ in every row, are neither."""
    names: list[str] = []
    numeric: list[str] = []
    for name in dict.fromkeys(name for row in rows for name in row if name not in (*SKIPPED, *ANSWERS, "messages")):
        values = [row.get(name) for row in rows if row.get(name) not in (None, "")]
        numbers = [as_number(value) for value in values]
        if not values:
            continue
        if None not in numbers and len(set(numbers)) > MANY:
            numeric.append(name)
            continue
        cells = [cell_of(value) for value in values]
        parts = [part for cell in cells for part in ((cell,) if isinstance(cell, str) else cell or ())]
        inside = sum(
            isinstance(row.get(name), str) and row[name] in text for row, text in zip(rows, texts, strict=True)
        )
        is_text = not parts or max(map(len, parts)) > SENTENCE or (inside > 0.9 * len(values) and len(set(parts)) > 0.3 * len(values))  # fmt: skip
        if not is_text and len(set(parts)) <= len(values) / 2:
            names.append(name)
    return names, numeric


def cell_of(value: Any) -> CellValue:
    """Return a value as a name for the reader; several for a list of names."""
    if value is None or value == "" or isinstance(value, dict):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(str(part) for part in value if isinstance(part, (str, int)))) or None
    return " ".join(str(value).split()) or None


def as_number(value: Any) -> float | None:
    """Return a number, also one written as text; None for true, false and other values."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def borders_of(values: Iterable[float | None]) -> tuple[list[float], list[float]]:
    """Return (borders from which on a number is large, borders below which it is small), at quantiles of the known values."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return [], []
    upper, lower = (np.quantile(known, share, method="higher") for share in (UPPER, LOWER))
    lowest = known.min()
    large = sorted({float(border) for border in upper if border > lowest})
    return large, sorted({float(border) for border in lower if border > lowest})


def border_cell(value: float | None, upper: Sequence[float], lower: Sequence[float], unit: str) -> CellValue:
    """Return `>= 42 tokens` for every border that the number reaches, and `< 7 tokens` for each that it is below."""
    if value is None:
        return None
    large = [f">= {border:g}{unit}" for border in upper if value >= border]
    return (*large, *(f"< {border:g}{unit}" for border in lower if value < border))


def answer_of(row: Row) -> str | None:
    """Return the answer of a row, where it is text; the first of several."""
    for key in ANSWERS:
        if key in row:
            value = row[key]
            if isinstance(value, dict):  # SQuAD: {"text": [...]}
                value = value.get("text", "")
            texts = references_of(value) if isinstance(value, (str, list)) else [str(value)]
            first = texts[0] if texts else ""
            return str(first.get("text", "")) if isinstance(first, dict) else str(first)
    return None


def answer_type(answer: str) -> str:
    """Return the type of an answer: no answer, yes or no, number, with a number, one word, several words."""
    normalised = answer.strip().lower()
    if not normalised:
        return "no answer"
    if normalised in YES_NO:
        return "yes or no"
    if NUMBER.fullmatch(normalised):
        return "number"
    if re.search(r"\d", normalised):
        return "with a number"
    return "one word" if len(terms_of(normalised)) <= 1 else "several words"
