"""Write the results of a run so that a killed run can be resumed.

Results are appended to a draft of JSON lines, next to a file with the progress. The finished draft is converted to the format
of the output file and renamed.
"""

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

SAVE_SECONDS = 1.0
"""Seconds between two records of the progress, from which a killed run is resumed."""
CHUNK_ROWS = 5000
"""Rows of a table in memory."""


class ResumableOutput:
    """The output file of one run. `key`: everything that decides its content; a draft with another key is discarded."""

    def __init__(self, path: Path, key: str) -> None:
        self.path, self.key = path, key
        self.draft = path.with_name(f".{path.name}.draft")
        self.progress = path.with_name(f".{path.name}.draft.json")
        self.rows = self.lines = 0
        """Rows of the input that are done, and lines of output."""
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self.file: IO[bytes] = self.draft.open("ab")
        except OSError as error:
            raise DiskError(f"stage.output={path} cannot be written ({error.strerror}). Name another path.") from None
        try:
            fcntl.lockf(self.file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            self.file.close()
            raise UserError(
                f"stage.output={path} is being written by another process. Wait for it, or name another file."
            ) from None
        self.saved = -SAVE_SECONDS
        self.file.truncate(self.resume())

    def resume(self) -> int:
        """Return the bytes of the draft that are valid, and restore the counts."""
        try:
            progress = json.loads(self.progress.read_text(encoding="utf-8"))
            size = int(progress["bytes"])
            if progress["key"] == self.key and self.draft.stat().st_size >= size:
                self.rows, self.lines = int(progress["rows"]), int(progress["lines"])
                return size
        except (OSError, ValueError, KeyError, TypeError):
            pass
        return 0

    def add(self, lines: Iterable[dict[str, Any]], rows: int) -> None:
        """Append lines; with them, `rows` rows of the input are done. Raise DiskError where the disk is full."""
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
        if time.monotonic() - self.saved > SAVE_SECONDS:
            self.save()

    def save(self) -> None:
        """Record how many bytes of the draft are valid, also after a power failure."""
        os.fsync(self.file.fileno())
        write_json(self.progress, {"key": self.key, "rows": self.rows, "lines": self.lines, "bytes": self.file.tell()})
        self.saved = time.monotonic()

    def drop(self) -> None:
        """Delete the draft."""
        self.file.close()
        self.draft.unlink(missing_ok=True)
        self.progress.unlink(missing_ok=True)

    def finish(self) -> None:
        """Convert the draft to the output file, which replaces an earlier one."""
        ending = self.path.suffix.lower()
        complete = self.path.with_name(f".{self.path.name}.whole")
        try:
            if ending == ".parquet":
                write_parquet(self.draft, complete)
            elif ending in (".csv", ".tsv"):
                write_csv(self.draft, complete, "\t" if ending == ".tsv" else ",")
            else:
                complete = self.draft
            os.replace(complete, self.path)
        except OSError as error:
            raise DiskError(
                f"{self.path} cannot be written ({error.strerror or error}). Free space; the same command goes on."
            ) from None
        self.drop()

    def close(self) -> None:
        self.save()
        self.file.close()


class StdoutOutput:
    """Standard output: lines are written at once."""

    def __init__(self) -> None:
        self.rows = self.lines = 0

    def add(self, lines: Iterable[dict[str, Any]], rows: int) -> None:
        try:
            for line in lines:
                sys.stdout.buffer.write(encoded(line))
                self.lines += 1
            sys.stdout.buffer.flush()
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # Python flushes its buffer at exit, which must not fail
            raise Interrupted("The reader of standard output has closed it, so the rest was not predicted.") from None
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
    """Write a table with the columns in the order in which they first occur; lists and objects as JSON."""
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
    """Write each column with the widest type that occurs in it; a column of incompatible types becomes JSON text."""
    import pyarrow
    import pyarrow.parquet

    types: dict[str, Any] = {}
    for lines in chunks_of(draft):
        for name in dict.fromkeys(name for line in lines for name in line):
            try:
                chunk_type = pyarrow.array([line.get(name) for line in lines]).type
                known_type = types.get(name, chunk_type)
                fields = [pyarrow.schema([(name, column_type)]) for column_type in (known_type, chunk_type)]
                types[name] = pyarrow.unify_schemas(fields, promote_options="permissive").field(name).type
            except pyarrow.ArrowException:
                types[name] = None
    schema = pyarrow.schema([(name, column_type or pyarrow.string()) for name, column_type in types.items()])
    with pyarrow.parquet.ParquetWriter(path, schema) as writer:
        for lines in chunks_of(draft):
            columns = [
                pyarrow.array(
                    [as_text(line.get(name)) if column_type is None else line.get(name) for line in lines],
                    schema.field(name).type,
                )
                for name, column_type in types.items()
            ]
            writer.write_table(pyarrow.table(columns, schema=schema))


def as_text(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def chunks_of(draft: Path) -> Iterator[list[dict[str, Any]]]:
    lines: list[dict[str, Any]] = []
    for line in lines_of(draft):
        lines.append(line)
        if len(lines) == CHUNK_ROWS:
            yield lines
            lines = []
    if lines:
        yield lines
