"""What readers and the row sources above them hand each other."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class ReadOptions:
    """The `data.*` options that change what a reader gives; all of them are part of a source's digest."""

    encoding: str = "utf-8"
    header: str | bool = "auto"
    delimiter: str = "auto"
    text_rows: str = "block"
    max_bytes: int = 8 << 20
    """Largest line or record, in bytes."""
    named: tuple[str, ...] = ()
    """Columns that the user named; they decide whether a first line is a header."""
    words: tuple[str, ...] = ()
    """The task's words, for a set whose rows depend on what is asked of them."""
    sees: bool = False
    """Whether the task looks at pictures: a column of bytes is then one of pictures, and stays where it is."""


@dataclass(slots=True, frozen=True)
class Bad:
    """A record that could not be read: why, and what stood there."""

    reason: str
    raw: str
    file: str = ""
    """Where it stands, if that is another file than the one that is read."""


class Found(dict[str, Any]):
    """A record that stands in a file of its own, e.g. an image of a folder; complaints name that file."""

    def __init__(self, file: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.file = file


Record = tuple[int, dict[str, Any] | Bad]
"""(line in the file counted from 1, the record by the file's own column names); line 0: the whole file is one record."""
Records = Iterator[Record]
