"""A file of results that grows while it is made: JSON lines beside their place, so that a killed run can go on, and the
finished file, in the form that its ending names, put in place as a whole."""

from __future__ import annotations

import csv
import fcntl
import json
import os
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any

from llmstage.errors import DiskError, Interrupted, UserError
from llmstage.report.files import plain, write_json

SAVE_EVERY = 1.0
"""Seconds between the places from which a killed run can go on."""
AT_ONCE = 5000
"""Rows of a table in memory."""


class Growing:
    """The output of one run. `key`: everything that decides what is in it; a draft made under another one is begun anew."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.draft = path.with_name(f".{path.name}.draft")
        self.place = path.with_name(f".{path.name}.draft.json")
        self.rows = self.lines = 0
        """Rows of the input that are done, and the lines that were made of them."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: IO[bytes] = self.draft.open("ab")
        except OSError as error:
            raise DiskError(f"stage.output={path} cannot be written ({error.strerror}). Name another place.") from None
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise UserError(
                f"stage.output={path} is being written by another process. Wait for it, or name another file."
            ) from None
        self.saved = -SAVE_EVERY
        self.file.truncate(self.resume())

    def resume(self) -> int:
        """Bytes of the draft that can be kept."""
        try:
            told = json.loads(self.place.read_text(encoding="utf-8"))
            size = int(told["bytes"])
            if told["key"] == self.key and self.draft.stat().st_size >= size:
                self.rows, self.lines = int(told["rows"]), int(told["lines"])
                return size
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0

    def add(self, lines: Iterable[dict[str, Any]], rows: int) -> None:
        """Append lines; `rows` of the input are done with them. Raises DiskError where the disk is full."""
        try:
            for line in lines:
                self.file.write(encoded(line))
                self.lines += 1
            self.file.flush()
        except OSError as error:
            raise DiskError(
                f"{self.draft} cannot be written ({error.strerror}). Free space; the same command goes on."
            ) from None
        self.rows = rows
        if time.monotonic() - self.saved > SAVE_EVERY:
            self.save()

    def save(self) -> None:
        """Note how far the draft can be trusted, also after a power cut."""
        os.fsync(self.file.fileno())
        write_json(self.place, {"key": self.key, "rows": self.rows, "lines": self.lines, "bytes": self.file.tell()})
        self.saved = time.monotonic()

    def drop(self) -> None:
        """The draft is of no use."""
        self.file.close()
        self.draft.unlink(missing_ok=True)
        self.place.unlink(missing_ok=True)

    def finish(self) -> None:
        """Put the whole in place of what stood there before."""
        ending = self.path.suffix.lower()
        whole = self.path.with_name(f".{self.path.name}.whole")
        try:
            if ending == ".parquet":
                write_parquet(self.draft, whole)
            elif ending in (".csv", ".tsv"):
                write_csv(self.draft, whole, "\t" if ending == ".tsv" else ",")
            else:
                whole = self.draft
            os.replace(whole, self.path)
        except OSError as error:
            raise DiskError(
                f"{self.path} cannot be written ({error.strerror or error}). Free space; the same command goes on."
            ) from None
        self.drop()

    def close(self) -> None:
        self.save()
        self.file.close()


class Pipe:
    """Standard output: lines leave as they are made."""

    def __init__(self) -> None:
        self.rows = self.lines = 0

    def add(self, lines: Iterable[dict[str, Any]], rows: int) -> None:
        try:
            for line in lines:
                sys.stdout.buffer.write(encoded(line))
                self.lines += 1
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what Python still holds back must not fail at its exit
            raise Interrupted("Whoever read standard output has left, so the rest was not predicted.") from None
        self.rows = rows

    def drop(self) -> None:
        pass

    def finish(self) -> None:
        pass

    def close(self) -> None:
        pass


def encoded(line: dict[str, Any]) -> bytes:
    return json.dumps(plain(line), ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"


def lines_of(draft: Path) -> Iterator[dict[str, Any]]:
    with draft.open(encoding="utf-8") as file:
        for line in file:
            yield json.loads(line)


def write_csv(draft: Path, path: Path, delimiter: str) -> None:
    """Columns in the order in which they first occur; lists and objects as JSON."""
    names = list(dict.fromkeys(name for line in lines_of(draft) for name in line))
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, names, restval="", delimiter=delimiter, lineterminator="\n")
        writer.writeheader()
        writer.writerows({name: cell(value) for name, value in line.items()} for line in lines_of(draft))


def cell(value: Any) -> Any:
    if isinstance(value, (list, dict, bool)):
        return json.dumps(value, ensure_ascii=False)
    return "" if value is None else value


def write_parquet(draft: Path, path: Path) -> None:
    """One type a column, the widest that occurs; a column in which types do not fit together is written as JSON text."""
    import pyarrow
    import pyarrow.parquet

    types: dict[str, Any] = {}
    for lines in parts(draft):
        for name in dict.fromkeys(name for line in lines for name in line):
            try:
                found = pyarrow.array([line.get(name) for line in lines]).type
                known = types.get(name, found)
                fields = [pyarrow.schema([(name, kind)]) for kind in (known, found)]
                types[name] = pyarrow.unify_schemas(fields, promote_options="permissive").field(name).type
            except pyarrow.ArrowException:
                types[name] = None
    schema = pyarrow.schema([(name, kind or pyarrow.string()) for name, kind in types.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for lines in parts(draft):
            columns = [
                pyarrow.array(
                    [as_text(line.get(name)) if kind is None else line.get(name) for line in lines],
                    schema.field(name).type,
                )
                for name, kind in types.items()
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def parts(draft: Path) -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    for line in lines_of(draft):
        lines.append(line)
        if len(lines) == AT_ONCE:
            yield lines
            lines = []
    if lines:
        yield lines
