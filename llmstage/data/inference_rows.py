"""Rows that are only predicted: what is asked for need not be there, and everything else a file says of a row is kept."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmstage.config.data import DataConfig
from llmstage.data.columns import check_named
from llmstage.data.file_source import FileSource
from llmstage.data.files import DataFile, expand
from llmstage.data.formats import find_pictures, known_endings, load_reader
from llmstage.data.quarantine import BadRows
from llmstage.data.records import Bad, Records
from llmstage.data.rows import Columns, Row
from llmstage.data.split_keys import Mark
from llmstage.errors import DataError

STREAMED = ("auto", "jsonl")
"""Formats of standard input whose rows are given out while it is still written; others are read to the end first."""


class Asked(dict[str, Any]):
    """A row in the task's words, with its record as the file has it."""

    record: dict[str, Any]
    number: int
    """Which record of the input it is, from 0; bad ones count."""


class Numbered(dict[str, Any]):
    """A record that knows its number."""

    number: int
    file: str


class StandardInput(DataFile):
    """Standard input, read once, as it comes."""

    __slots__ = ()

    def open(self) -> BinaryIO:
        return cast(BinaryIO, sys.stdin.buffer)


class AskedSource(FileSource):
    """Files whose rows are `Asked`. Raises DataError where a file is changed while it is read."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.count = 0
        self.seen = self.stamps()

    def stamps(self) -> dict[str, tuple[int, int, int]]:
        """What tells of each file that it was changed: size, time, place on the disk."""
        files = [file for file, _ in self.files if not isinstance(file, StandardInput) and file.path.is_file()]
        found = [(file.shown, os.stat(file.path)) for file in files]
        return {shown: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for shown, stat in found}

    def check_unchanged(self) -> None:
        try:
            now = self.stamps()
        except OSError:
            now = {}
        changed = [shown for shown, stamp in self.seen.items() if now.get(shown) != stamp]
        if changed:
            raise DataError(
                f"{changed[0]} was changed while it was read, so its rows cannot be trusted to be of one state. Predict "
                f"from a copy that nobody writes to; what was predicted so far is not kept."
            )

    def marked(self) -> Iterator[tuple[Row, str, Mark]]:
        self.count = 0
        yield from super().marked()

    def opened(self) -> Iterator[tuple[str, Records]]:
        for shown, records in super().opened():
            yield shown, self.numbered(records)

    def numbered(self, records: Records) -> Records:
        for line, record in records:
            if not isinstance(record, Bad):
                named = Numbered(record)
                named.number, named.file = self.count, getattr(record, "file", "")
                record = named
            self.count += 1
            yield line, record

    def _row(self, record: dict[str, Any], mapping: dict[str, str], folder: Path | None) -> Row | Bad:
        made = super()._row(record, mapping, folder)
        if isinstance(made, Bad):
            return made
        asked = Asked(made)
        asked.record, asked.number = dict(record), cast(Numbered, record).number
        return asked


def open_asked(
    cfg: DataConfig,
    columns: Columns,
    target_columns: tuple[str, ...],
    check_row: Callable[[Row], str | None],
    bad_rows: BadRows,
) -> AskedSource:
    """The rows of data.test. `asked_for`: words of the task that need not be there."""
    paths = cfg.test
    assert paths is not None
    check_named(cfg.columns, columns)
    own = columns.without(target_columns)
    named = {word: column for word, column in cfg.columns.items() if word not in target_columns}
    if "messages" in own.required:
        named.pop("completion", None)
    cfg = replace(cfg, columns=named)
    if paths == "-" and cfg.format in STREAMED:
        files: list[DataFile] = [StandardInput(Path("-"), "-")]
        cfg = replace(cfg, format="jsonl")
    else:
        endings = known_endings(cfg.format if "." not in cfg.format else "auto", sees=bool(columns.images))
        plain = find_pictures if columns.images else None
        find = plain if cfg.format == "auto" else getattr(load_reader(cfg.format), "find", None)
        files = expand(paths, "data.test", endings, find)
    return AskedSource("test", files, cfg, own, check_row, bad_rows)
