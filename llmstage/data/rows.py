"""Rows, from the file to the task: what a reader gets and returns, the columns of a task, and what happens to bad rows."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstage.errors import DataError, DiskError

Row = dict[str, Any]
"""One raw example under the column names of its task, e.g. `{"text": ..., "label": ...}` or `{"messages": [...]}`."""


class ImageLocation(str):
    """The location of an image. Rows are hashed by `name`, the name in their file, so that a data set in another folder
    is cut into the same splits."""

    name: str = ""

    @classmethod
    def of(cls, location: str, name: str) -> ImageLocation:
        instance = cls(location)
        instance.name = name
        return instance


@dataclass(slots=True, frozen=True)
class Columns:
    """The columns of the rows of a task: required ones, optional ones, and those that identify a row."""

    required: tuple[str, ...]
    optional: tuple[str, ...] = ()
    content: tuple[str, ...] = ()
    """Columns that identify the text of a row: rows equal in these get the same split. Empty: the required columns."""
    either: tuple[tuple[str, ...], ...] = ()
    """Groups of optional columns, alternative forms of the same content. At least one group must be complete."""
    images: tuple[str, ...] = ()
    """Columns whose value is the location of an image, relative to the file of the row."""
    present: tuple[str, ...] = ()
    """Optional columns that the file must have all the same: a value may be missing, the column may not."""

    replies: bool = True
    """Whether a conversation must contain its last reply; False where the model generates that reply."""

    def without(self, targets: tuple[str, ...]) -> Columns:
        """Return the columns of unlabeled rows: `targets` are neither required nor read."""
        remaining = {
            name: tuple(column for column in getattr(self, name) if column not in targets)
            for name in ("required", "optional", "content", "images", "present")
        }
        either = tuple(tuple(column for column in group if column not in targets) for group in self.either)
        return Columns(**remaining, either=either, replies=False)

    @property
    def identity(self) -> tuple[str, ...]:
        return self.content or self.required


def digest_of(value: Any) -> str:
    """Return the sha256 of a value as JSON with sorted keys."""
    return hashlib.sha256(json.dumps(value, ensure_ascii=True, sort_keys=True, default=str).encode()).hexdigest()


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


@dataclass(slots=True, frozen=True)
class LeftOut:
    """A record that is fine and that says itself that it is not to be used: the reason."""

    reason: str


class FileRecord(dict[str, Any]):
    """A record from a file of its own, e.g. an image of a folder. Complaints name that file."""

    def __init__(self, file: str, values: dict[str, Any]) -> None:
        super().__init__(values)
        self.file = file


Record = tuple[int, dict[str, Any] | Bad]
"""(line in the file counted from 1, the record under the column names of the file); line 0: the file is one record."""
Records = Iterator[Record]


REMEDY = "Fix the row, or set data.on_bad_row=quarantine."


def format_location(file: str, line: int) -> str:
    """Return `file:line`, or only the file where it is one row, as an image is."""
    return f"{file}:{line}" if line else file


def parse_location(location: str) -> tuple[str, int]:
    """Return file and line of a location; line 0 where it names none."""
    file, _, line = location.rpartition(":")
    return (file, int(line)) if file and line.isdecimal() else (location, 0)


class BadRows:
    """The bad rows of a run, shared by its splits. `quarantine.jsonl` gets each row once, however often it is read."""

    def __init__(self, policy: str, out_dir: Path | None, *, append: bool = False) -> None:
        """`append`: add to the file of an earlier part of the run, whose bad rows are not read again."""
        self.policy, self.append = policy, append
        self.path = out_dir / "quarantine.jsonl" if out_dir is not None else None
        self.seen: set[tuple[str, Any]] = set()

    def report(self, file: str, ordinal: Any, line: int, reason: str, raw: str, num_good: int) -> None:
        """Report the `ordinal`-th record of a file as bad. Raise DataError under `error`.

        `num_good`: good rows before it.
        """
        if self.policy == "error":
            raise DataError(
                f"{format_location(file, line)}: {reason}. {REMEDY} Rows checked and fine before it: {num_good}."
            )
        if (file, ordinal) in self.seen:
            return
        if self.path is not None:
            entry = {"file": file, "line": line, "reason": reason, "row": raw[:500]}
            # A resumed run meets its bad rows again, so the first one of a process starts the file anew.
            mode = "a" if self.seen or self.append else "w"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open(mode, encoding="utf-8", errors="backslashreplace") as target:
                    target.write(json.dumps(entry, ensure_ascii=False) + "\n")
            except OSError as error:
                raise DiskError(f"{self.path} cannot be written ({error}). Free space, or run elsewhere.") from None
        self.seen.add((file, ordinal))
