"""What readers get and return: options, the beginning of a file, records, bad records."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(slots=True, frozen=True)
class ReadOptions:
    """The `data.*` options that change what a reader returns. All of them are part of the digest of a source."""

    encoding: str = "utf-8"
    header: str | bool = "auto"
    delimiter: str = "auto"
    text_rows: str = "block"
    max_bytes: int = 8 << 20
    """Size limit of a line or record, in bytes."""
    named: tuple[str, ...] = ()
    """Columns that the user named; they decide whether a first line is a header."""
    task_columns: tuple[str, ...] = ()
    """Columns of the task, for a data set whose rows depend on the task."""
    with_images: bool = False
    """Whether the task reads images: a column of bytes then contains images, which stay in the file."""


@dataclass(slots=True, frozen=True)
class FileHead:
    """The beginning of a file, from which its reader is detected."""

    path: Path
    text: str = ""
    """The first 64 KB, decoded; empty for a folder."""
    is_complete: bool = False
    """Whether `text` is the full file."""
    ending_format: str | None = None
    """The reader of general formats that the ending of the file suggests."""
    with_images: bool = False
    """Whether the task reads images."""


@dataclass(slots=True, frozen=True)
class Bad:
    """A record that could not be read: the reason, and its text."""

    reason: str
    raw: str
    file: str = ""
    """The file of the record, if it is not the file that is read."""


class FileRecord(dict[str, Any]):
    """A record from a file of its own, e.g. an image of a folder. Complaints name that file."""

    def __init__(self, file: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.file = file


Record = tuple[int, dict[str, Any] | Bad]
"""(line in the file counted from 1, the record under the column names of the file); line 0: the file is one record."""
Records = Iterator[Record]
