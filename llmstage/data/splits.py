"""Cutting the splits that are missing from `train`: by a hash of what a row says, by its group, or by its time; and
counting texts on both sides."""

from __future__ import annotations

import json
import math
import os
from array import array
from bisect import bisect_left
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

import numpy as np

from llmstage.config.data import DataConfig
from llmstage.data.rows import Place, Row, digest_of
from llmstage.data.split_keys import NO_MARK, Mark, Span
from llmstage.errors import DataError, UserError
from llmstage.paths import cache_dir

if TYPE_CHECKING:
    from llmstage.data.row_source import RowSource

TOP = 1 << 64
ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str)
EXACT = 4096
"""Up to this many distinct texts, all hashes are kept and no side can come out empty."""


def row_hash(row: Row, words: Sequence[str], seed: int) -> int:
    """A number below 2**64 that depends on the row's identity (white space normalised) and the seed only."""
    said = ENCODER.encode([tidy(row.get(word)) for word in words])
    return int.from_bytes(blake2b(f"{seed}\n{said}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def group_hash(group: Any, seed: int) -> int:
    """A number below 2**53, so that a float holds it exactly."""
    return row_hash({"group": group}, ("group",), seed) >> 11


def tidy(value: Any) -> Any:
    if isinstance(value, Place):
        return value.name
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

    def side(self, row: Row, words: Sequence[str], mark: Mark = NO_MARK) -> str:
        value = row_hash(row, words, self.seed)
        return "validation" if value < self.low else "test" if value >= self.high else "train"


@dataclass(slots=True, frozen=True)
class RankedCut:
    """Two thresholds on a row's time, or on the hash of its group: train below `low`, validation below `high`, then test."""

    low: float
    high: float
    seed: int
    by: str
    """time or group"""

    def side(self, row: Row, words: Sequence[str], mark: Mark = NO_MARK) -> str:
        value = rank_of(mark, self.by, self.seed)
        return "train" if value < self.low else "validation" if value < self.high else "test"


def rank_of(mark: Mark, by: str, seed: int) -> float:
    value = mark.time if by == "time" else None if mark.group is None else group_hash(mark.group, seed)
    if value is None:
        raise DataError(f"A row without a {by} cannot be cut by {by}: name its column with data.split.{by}=<column>.")
    return value


class Census:
    """One pass over the rows: how many there are and where their hashes lie, in bounded memory."""

    def __init__(self, seed: int) -> None:
        self.seed, self.num_rows, self.smallest, self.largest = seed, 0, TOP, -1
        self.hashes: set[int] | None = set()

    def add(self, row: Row, words: Sequence[str], mark: Mark = NO_MARK) -> None:
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
        check_shares(validation, test)
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


class Ranking:
    """One pass over the rows: the time or the hashed group of each, 8 bytes a row."""

    def __init__(self, by: str, column: str, seed: int) -> None:
        self.by, self.column, self.seed = by, column, seed
        self.values = array("d")

    @property
    def num_rows(self) -> int:
        return len(self.values)

    def add(self, row: Row, words: Sequence[str], mark: Mark = NO_MARK) -> None:
        self.values.append(rank_of(mark, self.by, self.seed))

    def cut(self, validation: float, test: float, max_rows: int, place: str) -> RankedCut:
        """Thresholds between two distinct values, where the sides' rows come nearest to what the shares ask for.

        Each side with a share gets at least one distinct value, and so does train; DataError where there are too few.
        """
        check_shares(validation, test)
        values, counts = np.unique(np.frombuffer(self.values, dtype=np.float64), return_counts=True)
        sides = 1 + (validation > 0) + (test > 0)
        if len(values) < sides:
            raise DataError(
                f"{place}: data.split.{self.by}={self.column} has too few distinct values to cut by: {len(values)} in "
                f"{self.num_rows} rows, and {sides} are needed, as rows of one {self.by} stay together. Name another "
                f"column, give more rows, or cut less: data.split.validation=0, data.split.test=0."
            )
        before = np.concatenate([[0], np.cumsum(counts)])  # rows below each distinct value, and all of them
        high = low = len(values)
        if test:
            high = low = nearest(before, self.num_rows - min(test * self.num_rows, max_rows), sides - 1, high - 1)
        if validation:
            low = nearest(before, before[high] - min(validation * self.num_rows, max_rows), 1, high - 1)
        edges = [*values.tolist(), math.inf]
        return RankedCut(edges[low], edges[high], self.seed, self.by)


def nearest(before: np.ndarray[Any, Any], wanted: float, first: int, last: int) -> int:
    """The index from `first` to `last` at which `before` comes nearest to `wanted`; of two, the one that leaves train more."""
    off = np.abs(before[first : last + 1] - wanted)
    return last - int(np.argmin(off[::-1]))


def find_cut(train: RowSource, shares: dict[str, float], rule: list[Any], cfg: DataConfig, by: str) -> Cut | RankedCut:
    """The thresholds of a cut: a whole pass over train, remembered by its content, so that a large file is counted once."""
    # A quarantined row must be noted in each run's own folder, so its file is read again.
    cache = cache_dir(cfg.cache) if cfg.on_bad_row == "error" else None
    known = cache / "cuts" / f"{digest_of([train.digest(), rule])}.json" if cache else None
    if known and known.is_file():
        told = json.loads(known.read_text(encoding="utf-8"))
        train.num_rows = told["rows"]
        ends = told["low"], told["high"], cfg.split.seed
        return Cut(*ends) if by == "content" else RankedCut(*ends, by)
    seed = cfg.split.seed
    census = Census(seed) if by == "content" else Ranking(by, str(getattr(cfg.split, by)), seed)
    for row, _, mark in train.marked():
        census.add(row, train.identity, mark)
    cut = census.cut(shares["validation"], shares["test"], cfg.split.max_rows, "data.train")
    if known:
        known.parent.mkdir(parents=True, exist_ok=True)
        draft = known.with_name(f".tmp-{os.getpid()}-{known.name}")
        draft.write_text(json.dumps({"low": cut.low, "high": cut.high, "rows": census.num_rows}), encoding="utf-8")
        draft.replace(known)
    return cut


def check_shares(validation: float, test: float) -> None:
    if validation + test >= 1:
        raise UserError(
            f"data.split.validation={validation:g} and data.split.test={test:g} leave no train rows. Lower one."
        )


def overlap(sources: Mapping[str, RowSource]) -> dict[str, int]:
    """For splits that were given, or cut by time or group: how many of their rows have a text that stands in train too."""
    train = sources.get("train")
    words = train.identity if train is not None else ()

    def key(row: Row, mark: Mark) -> int:
        # A picture of the same name in another folder is another picture.
        whole = {word: str(value) if isinstance(value, Place) else value for word, value in row.items()}
        return row_hash(whole, words, 0)

    return count_shared(sources, lambda source: source.cut_by != "content", key)


def count_shared(
    sources: Mapping[str, RowSource], counts: Callable[[RowSource], bool], key: Callable[[Row, Mark], int | None]
) -> dict[str, int]:
    """Rows of each split but train, where it `counts`, whose key stands in train too; a key of None never does.

    Memory is that of the keys of validation and test, whatever the size of train.
    """
    train = sources.get("train")
    held = {split: source for split, source in sources.items() if split != "train" and counts(source)}
    if train is None or not held:
        return {}
    keys: dict[str, list[int | None]] = {split: [] for split in held}
    for split, row, mark in side_by_side(held):
        keys[split].append(key(row, mark))
    wanted = {value for found in keys.values() for value in found if value is not None}
    both = {value for row, _, mark in train.marked() if (value := key(row, mark)) in wanted}
    return {split: sum(value in both for value in found) for split, found in keys.items()}


def side_by_side(sources: Mapping[str, RowSource]) -> Iterator[tuple[str, Row, Mark]]:
    """The rows of several splits, each with its split; those that were cut from one source come in one pass over it."""
    parts = {split: source for split, source in sources.items() if source.whole is not None}
    for split, source in sources.items():
        if split not in parts:
            for row, _, mark in source.marked():
                yield split, row, mark
    if not parts:
        return
    base, cut = next(source.whole for source in parts.values() if source.whole is not None)
    spans = {split: Span() for split in parts}
    for row, _, mark in base.marked():
        side = cut.side(row, base.identity, mark)
        if side in parts:
            spans[side].add(mark)
            yield side, row, mark
    for split, span in spans.items():
        parts[split].times = span.ends
