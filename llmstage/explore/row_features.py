"""What can be said of a row in words that a person would use: its columns, length, language, rare words, kind of answer.

The borders are drawn on the rows that are scored, and the same sentences are then asked of the training pool, so that
it can be told how much of the pool is like a slice.
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
from llmstage.explore.slices import Cell
from llmstage.explore.term_statistics import script_of, terms_of

UPPER, LOWER = (0.5, 0.7, 0.8, 0.9, 0.95), (0.1, 0.25)
"""Quantiles from which on, and below which, a number is called large or small."""
MANY = 10
"""Different numbers above which a column of numbers is cut at quantiles."""
ANSWERS = ("answer", "answers", "target", "summary", "caption")
"""Words of tasks whose value is what the model is to say."""
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
"""Words whose value names a row or marks a place in it."""
UNSEEN = "words unseen in training"
TOPIC = "topic"
"""Column of the groups of the model's own hidden states."""
YES_NO = {"yes", "no", "true", "false", "是", "否", "对", "错", "不是", "有", "没有"}
NUMBER = re.compile(r"[-+]?[\d.,]+\s*%?")
SENTENCE = 60
"""Characters above which a value is a text and no name."""


class RowFeatures:
    """Columns of rows. `pool_words`: how often each word stands in the training pool; None where there is no pool."""

    def __init__(
        self, texts: Callable[[Row], list[str]], num_tokens: Callable[[list[str]], list[int]],
        pool_words: Counter[str] | None,
    ) -> None:  # fmt: skip
        self.texts, self.num_tokens, self.pool_words = texts, num_tokens, pool_words
        self.borders: dict[str, tuple[list[float], list[float]]] = {}
        """Of each number: (from which on it is large, below which it is small), fitted by the first call of table()."""
        self.names: list[str] = []
        """Columns whose values are names."""
        self.topics: Callable[[Sequence[Row]], Sequence[Cell]] | None = None
        """The group of hidden states of each row, where groups are asked for."""

    def table(self, rows: Sequence[Row], counted: dict[str, list[float | None]] | None = None) -> dict[str, list[Cell]]:
        """Column to a cell a row. The first call decides columns and borders; later ones answer in the same words.
        `counted`: what counted() says of these rows, where it is known."""
        own = [flat(row) for row in rows]
        joined = ["\n".join(self.texts(row)) for row in rows]
        numbers = dict(self.counted(rows) if counted is None else counted)
        fits = not self.borders
        if fits:
            self.names, numeric = own_columns(own, joined)
            self.borders = dict.fromkeys(numeric, ([], []))
        numbers |= {name: [as_number(row.get(name)) for row in own] for name in self.borders if name not in numbers}
        if fits:
            self.borders = {name: borders_of(values) for name, values in numbers.items()}
        table: dict[str, list[Cell]] = {name: [cell_of(row.get(name)) for row in own] for name in self.names}
        for name, values in numbers.items():
            unit = {"length": " tokens", "turns": " turns", "answer length": " words"}.get(name, "")
            table[name] = [said(value, *self.borders[name], unit) for value in values]
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
        """Numbers that are no column: tokens, turns of a conversation, words of an answer."""
        tokens = self.num_tokens(["\n".join(self.texts(row)) for row in rows])
        found: dict[str, list[float | None]] = {"length": [float(n) for n in tokens]}
        if any("messages" in row for row in rows):
            found["turns"] = [float(len(row.get("messages") or [])) for row in rows]
        answers = [answer_of(row) for row in rows]
        if any(answer is not None for answer in answers):
            found["answer length"] = [None if one is None else float(len(terms_of(one))) for one in answers]
        return found

    def unseen(self, text: str) -> Cell:
        """Words that stand in no training row."""
        assert self.pool_words is not None
        new = sum(term not in self.pool_words for term in set(terms_of(text)))
        return tuple(f"at least {least}" for least in (1, 2, 3) if new >= least)


def flat(row: Row) -> dict[str, Any]:
    """The row's words and, beside them, the other columns of its file."""
    return {**(row.get(OTHER_COLUMNS) or {}), **{name: value for name, value in row.items() if name != OTHER_COLUMNS}}


def own_columns(rows: Sequence[dict[str, Any]], texts: Sequence[str]) -> tuple[list[str], list[str]]:
    """(columns of names, columns of numbers) among the rows' own; texts and what is different in every row are neither."""
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


def cell_of(value: Any) -> Cell:
    """A value as the name that a reader sees; several for a list of names."""
    if value is None or value == "" or isinstance(value, dict):
        return None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (list, tuple)):
        return tuple(dict.fromkeys(str(part) for part in value if isinstance(part, (str, int)))) or None
    return " ".join(str(value).split()) or None


def as_number(value: Any) -> float | None:
    """Numbers, also those that a table writes as text; not true and false."""
    if isinstance(value, bool) or not isinstance(value, (int, float, str)):
        return None
    try:
        number = float(value)
    except ValueError:
        return None
    return number if np.isfinite(number) else None


def borders_of(values: Iterable[float | None]) -> tuple[list[float], list[float]]:
    """(borders from which on a number is large, borders below which it is small), at quantiles of those that are there."""
    known = np.array([value for value in values if value is not None], dtype=np.float64)
    if not len(known):
        return [], []
    upper, lower = (np.quantile(known, share, method="higher") for share in (UPPER, LOWER))
    lowest = known.min()
    return sorted({float(one) for one in upper if one > lowest}), sorted({float(one) for one in lower if one > lowest})


def said(value: float | None, upper: Sequence[float], lower: Sequence[float], unit: str) -> Cell:
    """`>= 42 tokens`: every border that the number reaches, or stays below."""
    if value is None:
        return None
    large = [f">= {border:g}{unit}" for border in upper if value >= border]
    return (*large, *(f"< {border:g}{unit}" for border in lower if value < border))


def answer_of(row: Row) -> str | None:
    """What the model is to say, where the row holds it as text; the first of several."""
    for word in ANSWERS:
        if word in row:
            value = row[word]
            if isinstance(value, dict):  # SQuAD: {"text": [...]}
                value = value.get("text", "")
            texts = references_of(value) if isinstance(value, (str, list)) else [str(value)]
            first = texts[0] if texts else ""
            return str(first.get("text", "")) if isinstance(first, dict) else str(first)
    return None


def answer_type(answer: str) -> str:
    told = answer.strip().lower()
    if not told:
        return "no answer"
    if told in YES_NO:
        return "yes or no"
    if NUMBER.fullmatch(told):
        return "number"
    if re.search(r"\d", told):
        return "with a number"
    return "one word" if len(terms_of(told)) <= 1 else "several words"
