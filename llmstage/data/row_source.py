"""Sources of rows: the interface of a split, rows in memory, and a part of another source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from types import MappingProxyType
from typing import Any

from llmstage.data.rows import Row, digest_of
from llmstage.data.split_keys import NO_KEYS, Cut, RankedCut, SplitKeys, TimeRange, row_hash
from llmstage.errors import DataError

SAMPLED_ROWS = 20_000
"""A limited split samples its rows from so many: a file is often sorted by label, and its first rows share one label."""


class RowSource(ABC):
    """The rows of one split. It can be iterated any number of times."""

    split: str
    mapping: dict[str, str]
    """Column of the task to the column of the file that was used; empty before the first row was read."""
    identity: tuple[str, ...]
    """Columns that identify a row: rows equal in these are the same row."""
    cut: bool = False
    """Whether this split was cut from train rather than given."""
    cut_by: str = ""
    """What it was cut by: content, time, group; empty for a split that was given."""
    num_rows: int | None = None
    """Number of rows, known after a full pass."""
    quarantined: int = 0
    """Distinct bad rows so far; those of a file that was cut count under train."""

    times: tuple[float, float] | None = None
    """First and last time, known after a full pass, where data.split.time is set."""
    cut_from: tuple[RowSource, Cut | RankedCut] | None = None
    """For a split that is exactly one side of a cut: the source that was cut, and the thresholds."""
    notes: tuple[str, ...] = ()
    """Sentences for the report about unusual content."""
    unread: Mapping[str, int] = MappingProxyType({})
    """Keys of conversations (and `messages[].key`) that are not read, with the number of times they occur; known after a
    full pass."""
    left_out: Mapping[str, int] = MappingProxyType({})
    """Number of rows that are left out though they are not bad, by the reason; known after a full pass."""

    @property
    @abstractmethod
    def description(self) -> str: ...

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Row, str]]:
        """Yield (row with the columns of the task, location `file:line`)."""

    def with_keys(self) -> Iterator[tuple[Row, str, SplitKeys]]:
        """Yield each row with its location and with the keys by which it may be cut."""
        for row, location in self:
            yield row, location, NO_KEYS

    def unlimited(self) -> RowSource:
        """Return the same rows without data.limit: a small sample must not lack labels that the data has."""
        return self

    def format_time(self, time: float) -> str:
        return str(time)

    def reading(self) -> dict[str, Any]:
        """Return what a full pass has shown, as JSON data: it is stored beside cached examples, whose rows are not read again."""
        return {"num_rows": self.num_rows}

    def restore_reading(self, saved: dict[str, Any]) -> None:
        """Take over reading() of an earlier run with the same rows."""
        self.num_rows = self.num_rows or saved.get("num_rows")

    @abstractmethod
    def digest(self) -> str:
        """Return the sha256 of all content and of every option that changes the rows."""


class ListSource(RowSource):
    """Rows in memory: the demo world, tests."""

    def __init__(self, split: str, rows: Sequence[Row], digest_text: str, identity: tuple[str, ...] = ()) -> None:
        self.split, self.rows, self.digest_text = split, rows, digest_text
        self.identity = identity or tuple(rows[0] if rows else ())
        self.mapping = {column: column for column in (rows[0] if rows else ())}
        self.num_rows = len(rows)

    @property
    def description(self) -> str:
        return f"{self.digest_text} ({len(self.rows)} rows)"

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        for number, row in enumerate(self.rows, start=1):
            yield row, f"{self.split}:{number}"

    def digest(self) -> str:
        return digest_of(["list", self.split, self.digest_text, list(self.rows)])


class Sides:
    """The side of a cut of each row of a source, one byte a row. The first full pass records it for all sides."""

    NAMES = ("train", "validation", "test")

    def __init__(self) -> None:
        self.recorded: bytes | None = None

    def __call__(self, base: RowSource, cut: Cut | RankedCut, split: str) -> Iterator[tuple[Row, str, SplitKeys]]:
        """Yield the rows of `base` on the side `split`."""
        side = self.NAMES.index(split)
        if self.recorded is not None:
            number = -1
            for number, keyed_row in enumerate(base.with_keys()):
                if number < len(self.recorded) and self.recorded[number] == side:
                    yield keyed_row
            if number + 1 != len(self.recorded):
                raise DataError(
                    f"{base.description} changed while it was read: {len(self.recorded)} rows, then {number + 1}. Start again."
                )
            return
        sides = bytearray()
        for row, location, keys in base.with_keys():
            sides.append(self.NAMES.index(cut.side(row, base.identity, keys)))
            if sides[-1] == side:
                yield row, location, keys
        self.recorded = bytes(sides)


class PartSource(RowSource):
    """Some rows of another source: one side of a cut, the first rows under a limit, or both.

    The parts of one cut share `sides`.
    """

    def __init__(
        self, base: RowSource, split: str, cut: Cut | RankedCut | None, limit: int | None, rule: Any,
        sides: Sides | None = None,
    ) -> None:  # fmt: skip
        self.base, self.split, self.thresholds, self.limit, self.rule = base, split, cut, limit, rule
        self.sides = sides or Sides()
        self.identity = base.identity
        self._sample: set[int] | None = None
        self.cut = cut is not None and split != "train"
        self.cut_by = (cut.by if isinstance(cut, RankedCut) else "content") if cut is not None and self.cut else ""

    def unlimited(self) -> RowSource:
        if self.limit is None:
            return self
        return (
            self.base
            if self.thresholds is None
            else PartSource(self.base, self.split, self.thresholds, None, self.rule, self.sides)
        )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.base.notes

    @property
    def unread(self) -> Mapping[str, int]:  # type: ignore[override]
        return self.base.unread

    @property
    def left_out(self) -> Mapping[str, int]:  # type: ignore[override]
        return self.base.left_out

    @property
    def cut_from(self) -> tuple[RowSource, Cut | RankedCut] | None:  # type: ignore[override]
        return (self.base, self.thresholds) if self.thresholds is not None and self.limit is None else None

    def format_time(self, time: float) -> str:
        return self.base.format_time(time)

    @property
    def mapping(self) -> dict[str, str]:  # type: ignore[override]
        return self.base.mapping

    def reading(self) -> dict[str, Any]:
        return {"num_rows": self.num_rows, "base": self.base.reading()}

    def restore_reading(self, saved: dict[str, Any]) -> None:
        super().restore_reading(saved)
        self.base.restore_reading(saved.get("base", {}))

    @property
    def quarantined(self) -> int:  # type: ignore[override]
        return 0 if self.cut else self.base.quarantined

    @property
    def description(self) -> str:
        text = self.base.description
        if self.thresholds is not None:
            text += ", cut" if self.cut else ", less what was cut"
        return text if self.num_rows is None else f"{text}, {self.num_rows} rows used"

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        return ((row, location) for row, location, _ in self.with_keys())

    def with_keys(self) -> Iterator[tuple[Row, str, SplitKeys]]:
        count, time_range, sample = 0, TimeRange(), self._sampled()
        for ordinal, (row, location, keys) in enumerate(self._side()):
            if sample is not None and ordinal not in sample:
                continue
            time_range.add(keys)
            yield row, location, keys
            count += 1
            if count == self.limit:
                break
        self.num_rows, self.times = count, time_range.ends

    def _side(self) -> Iterator[tuple[Row, str, SplitKeys]]:
        if self.thresholds is None:
            return self.base.with_keys()
        return self.sides(self.base, self.thresholds, self.split)

    def _sampled(self) -> set[int] | None:
        """Under a limit, return which of the first SAMPLED_ROWS rows are used, by a hash of their content.

        None: the first rows are used as they come.
        """
        if self.limit is None or self.limit >= SAMPLED_ROWS:
            return None
        if self._sample is None:
            hashes = [row_hash(row, self.identity, 0) for row, _, _ in islice(self._side(), SAMPLED_ROWS)]
            self._sample = set(sorted(range(len(hashes)), key=hashes.__getitem__)[: self.limit])
        return self._sample

    def digest(self) -> str:
        side = self.split if self.thresholds else ""
        return digest_of(["part", self.base.digest(), side, self.rule, self.limit, SAMPLED_ROWS])
