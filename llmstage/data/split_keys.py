"""What decides the split of a row: its content hash, its time, its group; and the thresholds that cut splits from train.

Time and group are read from the record of the file, before the columns of the task are taken from it. The task never
sees them.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import blake2b
from typing import Any, NamedTuple

from llmstage.config.data import SplitConfig
from llmstage.data.columns import list_columns
from llmstage.data.row_times import Clock, TimeError
from llmstage.data.rows import ImageLocation, Row
from llmstage.errors import DataError
from llmstage.naming import did_you_mean

ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, default=str)


class SplitKeys(NamedTuple):
    """Time and group of a row; None where the config names no such column, or where a given split lacks it."""

    time: float | None = None
    """The number that `Clock.read` returns."""
    group: Any = None


NO_KEYS = SplitKeys()


class TimeRange:
    """The first and the last time of the rows that were added."""

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None

    def add(self, keys: SplitKeys) -> None:
        if keys.time is not None:
            first, last = self.ends or (keys.time, keys.time)
            self.ends = min(first, keys.time), max(last, keys.time)


class SplitKeyReader:
    """Reads time and group from the records of one split. All splits of a run share the clock."""

    def __init__(self, split: str, cfg: SplitConfig, clock: Clock) -> None:
        self.split, self.clock = split, clock
        self.named = {"time": cfg.time, "group": cfg.group}

    def columns(self, samples: dict[str, Any], mapping: dict[str, str], file: str) -> dict[str, str]:
        """Map `time` and `group` to columns of the file. Raise DataError where train lacks a named column.

        `samples`: the columns of the file with a value each. A given validation or test split may lack the columns.
        """
        columns = {}
        for key, name in self.named.items():
            if name is None:
                continue
            # The user may name a column of the file or a column of the task.
            column = name if name in samples or not samples else mapping.get(name, name)
            if column in samples or not samples:
                columns[key] = column
            elif self.split == "train":
                raise DataError(
                    f"{file}: there is no column '{name}' (data.split.{key}={name}).{did_you_mean(name, samples)}\n"
                    f"{list_columns(samples)}"
                )
        return columns

    def read(self, record: dict[str, Any], columns: dict[str, str]) -> SplitKeys | str:
        """Return time and group of a record, or the reason why one of them is unusable."""
        if not columns:
            return NO_KEYS
        time, group = None, None
        if "time" in columns:
            try:
                time = self.clock.read(record.get(columns["time"]))
            except TimeError as error:
                return f"'{columns['time']}' (data.split.time): {error}"
        if "group" in columns:
            group = record.get(columns["group"])
            if group is None or group == "":
                # A row of an unknown group may belong to any group. A guess could put one group into two splits.
                return f"'{columns['group']}' (data.split.group) is empty"
        return SplitKeys(time, group)


def row_hash(row: Row, columns: Sequence[str], seed: int) -> int:
    """Return a number below 2**64 that depends only on the seed and on these columns, with white space normalised."""
    content = ENCODER.encode([normalize(row.get(column)) for column in columns])
    return int.from_bytes(blake2b(f"{seed}\n{content}".encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


def group_hash(group: Any, seed: int) -> int:
    """Return a number below 2**53, which a float represents exactly."""
    return row_hash({"group": group}, ("group",), seed) >> 11


def normalize(value: Any) -> Any:
    """Return the value as it is hashed: single spaces, and an image by the name that its file gives it."""
    if isinstance(value, ImageLocation):
        return value.name
    if isinstance(value, str):
        return " ".join(value.split())
    if isinstance(value, dict):
        return {str(key): normalize(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [normalize(item) for item in value]
    return value


@dataclass(slots=True, frozen=True)
class Cut:
    """Two thresholds on the content hash: validation is below `low`, test from `high` on, train between them."""

    low: int
    high: int
    seed: int

    def side(self, row: Row, columns: Sequence[str], keys: SplitKeys = NO_KEYS) -> str:
        """Return the split of a row."""
        value = row_hash(row, columns, self.seed)
        return "validation" if value < self.low else "test" if value >= self.high else "train"


@dataclass(slots=True, frozen=True)
class RankedCut:
    """Two thresholds on the time of a row, or on the hash of its group: train below `low`, then validation, then test."""

    low: float
    high: float
    seed: int
    by: str
    """time or group"""

    def side(self, row: Row, columns: Sequence[str], keys: SplitKeys = NO_KEYS) -> str:
        """Return the split of a row."""
        value = rank_of(keys, self.by, self.seed)
        return "train" if value < self.low else "validation" if value < self.high else "test"


def rank_of(keys: SplitKeys, by: str, seed: int) -> float:
    """Return the number by which a cut sorts a row: its time, or the hash of its group."""
    value = keys.time if by == "time" else None if keys.group is None else group_hash(keys.group, seed)
    if value is None:
        raise DataError(f"A row without a {by} cannot be cut by {by}: name its column with data.split.{by}=<column>.")
    return value
