"""What rows come from: any source of a split, rows in memory, and some rows of another source."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

from llmstage.data.rows import Row, digest_of
from llmstage.data.split_keys import NO_MARK, Mark, Span
from llmstage.data.splits import Cut, RankedCut, row_hash
from llmstage.errors import DataError

DRAWN_FROM = 20_000
"""A limited split draws its rows from so many: a file is often sorted by label, and its first rows are all alike."""


class RowSource(ABC):
    """The rows of one split: iterate as often as you like."""

    split: str
    mapping: dict[str, str]
    """Task word to the column that was used; empty before the first row was read."""
    identity: tuple[str, ...]
    """Words that say what a row is."""
    cut: bool = False
    """Whether this split was cut from train rather than given."""
    cut_by: str = ""
    """What it was cut by: content, time, group; empty for a split that was given."""
    num_rows: int | None = None
    """Rows, once a whole pass has counted them."""
    quarantined: int = 0
    """Distinct bad rows met so far; those of a file that was cut count under train."""

    times: tuple[float, float] | None = None
    """First and last time, once a whole pass has seen them, where data.split.time is set."""
    whole: tuple[RowSource, Cut | RankedCut] | None = None
    """Of a split that is exactly one side of a cut: what was cut, and how."""
    notes: tuple[str, ...] = ()
    """Sentences for the report about odd content."""

    @property
    @abstractmethod
    def described(self) -> str: ...

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Row, str]]:
        """(row in the task's words, place `file:line`)"""

    def marked(self) -> Iterator[tuple[Row, str, Mark]]:
        """Each row with its place and with what a cut may need to know of it."""
        for row, place in self:
            yield row, place, NO_MARK

    def unlimited(self) -> RowSource:
        """The same rows before data.limit: a few rows drawn for a quick look must not lack labels that the data has."""
        return self

    def show_time(self, time: float) -> str:
        return str(time)

    @abstractmethod
    def digest(self) -> str:
        """sha256 of all content and of every option that changes the rows."""


class ListSource(RowSource):
    """Rows that are in memory: the demo worlds, tests."""

    def __init__(self, split: str, rows: Sequence[Row], digest_text: str, identity: tuple[str, ...] = ()) -> None:
        self.split, self.rows, self.digest_text = split, rows, digest_text
        self.identity = identity or tuple(rows[0] if rows else ())
        self.mapping = {word: word for word in (rows[0] if rows else ())}
        self.num_rows = len(rows)

    @property
    def described(self) -> str:
        return f"{self.digest_text} ({len(self.rows)} rows)"

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        for number, row in enumerate(self.rows, start=1):
            yield row, f"{self.split}:{number}"

    def digest(self) -> str:
        return digest_of(["list", self.split, self.digest_text, list(self.rows)])


class Sides:
    """On which side of a cut each row of a source stands: told by the first whole pass, for all sides; a byte a row."""

    NAMES = ("train", "validation", "test")

    def __init__(self) -> None:
        self.known: bytes | None = None

    def __call__(self, base: RowSource, cut: Cut | RankedCut, split: str) -> Iterator[tuple[Row, str, Mark]]:
        """The rows of `base` that stand on the side `split`."""
        wanted = self.NAMES.index(split)
        if self.known is not None:
            number = -1
            for number, marked in enumerate(base.marked()):
                if number < len(self.known) and self.known[number] == wanted:
                    yield marked
            if number + 1 != len(self.known):
                raise DataError(
                    f"{base.described} changed while it was read: {len(self.known)} rows, then {number + 1}. Start again."
                )
            return
        found = bytearray()
        for row, place, mark in base.marked():
            found.append(self.NAMES.index(cut.side(row, base.identity, mark)))
            if found[-1] == wanted:
                yield row, place, mark
        self.known = bytes(found)


class PartSource(RowSource):
    """Some rows of another source: one side of a cut, the first rows under a limit, or both. `sides`: shared by the parts of
    one cut."""

    def __init__(
        self, base: RowSource, split: str, cut: Cut | RankedCut | None, limit: int | None, rule: Any,
        sides: Sides | None = None,
    ) -> None:  # fmt: skip
        self.base, self.split, self.side_of, self.limit, self.rule = base, split, cut, limit, rule
        self.sides = sides or Sides()
        self.identity = base.identity
        self._kept: set[int] | None = None
        self.cut = cut is not None and split != "train"
        self.cut_by = (cut.by if isinstance(cut, RankedCut) else "content") if cut is not None and self.cut else ""

    def unlimited(self) -> RowSource:
        if self.limit is None:
            return self
        return (
            self.base
            if self.side_of is None
            else PartSource(self.base, self.split, self.side_of, None, self.rule, self.sides)
        )

    @property
    def notes(self) -> tuple[str, ...]:  # type: ignore[override]
        return self.base.notes

    @property
    def whole(self) -> tuple[RowSource, Cut | RankedCut] | None:  # type: ignore[override]
        return (self.base, self.side_of) if self.side_of is not None and self.limit is None else None

    def show_time(self, time: float) -> str:
        return self.base.show_time(time)

    @property
    def mapping(self) -> dict[str, str]:  # type: ignore[override]
        return self.base.mapping

    @property
    def quarantined(self) -> int:  # type: ignore[override]
        return 0 if self.cut else self.base.quarantined

    @property
    def described(self) -> str:
        told = self.base.described
        if self.side_of is not None:
            told += ", cut" if self.cut else ", less what was cut"
        return told if self.num_rows is None else f"{told}, {self.num_rows} rows used"

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        return ((row, place) for row, place, _ in self.marked())

    def marked(self) -> Iterator[tuple[Row, str, Mark]]:
        count, span, kept = 0, Span(), self._drawn()
        for ordinal, (row, place, mark) in enumerate(self._side()):
            if kept is not None and ordinal not in kept:
                continue
            span.add(mark)
            yield row, place, mark
            count += 1
            if count == self.limit:
                break
        self.num_rows, self.times = count, span.ends

    def _side(self) -> Iterator[tuple[Row, str, Mark]]:
        if self.side_of is None:
            return self.base.marked()
        return self.sides(self.base, self.side_of, self.split)

    def _drawn(self) -> set[int] | None:
        """Under a limit: which of the first DRAWN_FROM rows are kept, by a hash of what they say; None: the first ones."""
        if self.limit is None or self.limit >= DRAWN_FROM:
            return None
        if self._kept is None:
            hashes = [row_hash(row, self.identity, 0) for row, _, _ in islice(self._side(), DRAWN_FROM)]
            self._kept = set(sorted(range(len(hashes)), key=hashes.__getitem__)[: self.limit])
        return self._kept

    def digest(self) -> str:
        side = self.split if self.side_of else ""
        return digest_of(["part", self.base.digest(), side, self.rule, self.limit, DRAWN_FROM])
