"""Cutting the splits that are missing from `train`, by a hash of what a row says; and counting texts on both sides."""

from __future__ import annotations

import json
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from llmstage.data.rows import Row
from llmstage.errors import DataError, UserError

if TYPE_CHECKING:
    from llmstage.data.source import RowSource

TOP = 1 << 64
ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str)
EXACT = 4096
"""Up to this many distinct texts, all hashes are kept and no side can come out empty."""


def row_hash(row: Row, words: Sequence[str], seed: int) -> int:
    """A number below 2**64 that depends on the row's identity (white space normalised) and the seed only."""
    said = ENCODER.encode([tidy(row.get(word)) for word in words])
    return int.from_bytes(blake2b(f"{seed}\n{said}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def tidy(value: Any) -> Any:
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, dict):
        return {str(key): tidy(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [tidy(item) for item in value]
    return value


@dataclass(slots=True, frozen=True)
class Cut:
    """Two thresholds: validation below `low`, test from `high` on, train between."""

    low: int
    high: int
    seed: int

    def side(self, row: Row, words: Sequence[str]) -> str:
        value = row_hash(row, words, self.seed)
        return "validation" if value < self.low else "test" if value >= self.high else "train"


class Census:
    """One pass over the rows: how many there are and where their hashes lie, in bounded memory."""

    def __init__(self, seed: int) -> None:
        self.seed, self.num_rows, self.smallest, self.largest = seed, 0, TOP, -1
        self.hashes: set[int] | None = set()

    def add(self, row: Row, words: Sequence[str]) -> None:
        value = row_hash(row, words, self.seed)
        self.num_rows += 1
        self.smallest, self.largest = min(value, self.smallest), max(value, self.largest)
        if self.hashes is not None:
            self.hashes.add(value)
            if len(self.hashes) > EXACT:
                self.hashes = None

    def cut(self, validation: float, test: float, max_rows: int, place: str) -> Cut:
        """Thresholds for these shares; a side with a share above 0 gets at least one text, and so does train.

        Raises DataError where there are fewer than three distinct texts, UserError where no share is left to train.
        """
        if validation + test >= 1:
            raise UserError(
                f"data.split.validation={validation:g} and data.split.test={test:g} leave no train rows. Lower one."
            )
        cap = max_rows / max(self.num_rows, 1)
        low, high = int(min(validation, cap) * TOP), TOP - int(min(test, cap) * TOP)
        if self.hashes is not None and len(self.hashes) < 3 and (validation or test):
            raise DataError(
                f"{place}: too few distinct texts to cut validation and test from: {len(self.hashes)} in "
                f"{self.num_rows} rows, and 3 are needed. Give more rows (of a text file, data.text_rows=line makes "
                f"each line a row), or cut nothing: data.split.validation=0 data.split.test=0."
            )
        if validation and self.smallest >= low:
            low = self.smallest + 1
        if test and self.largest < high:
            high = self.largest
        if self.hashes is not None and (validation or test):
            low, high = keep_train(sorted(self.hashes), low, high)
        return Cut(low, high, self.seed)


def keep_train(hashes: list[int], low: int, high: int) -> tuple[int, int]:
    """Thresholds moved so that train holds at least one of three or more distinct hashes."""
    num_low, first_high = bisect_left(hashes, low), bisect_left(hashes, high)
    if num_low < first_high:
        return low, high
    if num_low > 1:  # validation gives its largest
        return hashes[num_low - 1], max(high, hashes[num_low - 1] + 1)
    return low, hashes[first_high] + 1  # test gives its smallest


def overlap(sources: dict[str, RowSource]) -> dict[str, int]:
    """For splits that were given, not cut: how many of their rows have a text that stands in train too.

    Memory is that of the hashes of validation and test, whatever the size of train.
    """
    train = sources.get("train")
    held = {split: source for split, source in sources.items() if split != "train" and not source.cut}
    if train is None or not held:
        return {}
    counts = {split: [row_hash(row, train.identity, 0) for row in rows_of(source)] for split, source in held.items()}
    wanted = {value for hashes in counts.values() for value in hashes}
    both = {value for row in rows_of(train) if (value := row_hash(row, train.identity, 0)) in wanted}
    return {split: sum(value in both for value in hashes) for split, hashes in counts.items()}


def rows_of(source: RowSource) -> Iterator[Row]:
    for row, _ in source:
        yield row
