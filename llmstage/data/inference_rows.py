"""Open the rows of stage=predict: their targets may be missing, and each row keeps the full record of its file."""

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
from llmstage.data.formats import find_images, known_endings, load_reader
from llmstage.data.rows import Bad, BadRows, Columns, LeftOut, Records, Row
from llmstage.data.split_keys import SplitKeys
from llmstage.errors import DataError

STREAMED = ("auto", "jsonl")
"""Formats of standard input whose rows are predicted while it is still written; others are read to the end first."""


class InferenceRow(dict[str, Any]):
    """A row with the columns of the task, and with its record from the file."""

    record: dict[str, Any]
    number: int
    """Index of the record in the input; bad records count."""


class NumberedRecord(dict[str, Any]):
    """A record with its index in the input."""

    number: int
    file: str


class StandardInput(DataFile):
    """Standard input, read once, as it arrives."""

    __slots__ = ()

    def open(self) -> BinaryIO:
        return cast(BinaryIO, sys.stdin.buffer)


class InferenceSource(FileSource):
    """Files whose rows are `InferenceRow`. check_unchanged() raises DataError where a file changed since it was opened."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        self.count = 0
        self.seen = self.stamps()

    def stamps(self) -> dict[str, tuple[int, int, int]]:
        """Return size, time and inode of each file: one of them changes with the file."""
        files = [file for file, _ in self.files if not isinstance(file, StandardInput) and file.path.is_file()]
        status = [(file.display_name, os.stat(file.path)) for file in files]
        return {name: (stat.st_size, stat.st_mtime_ns, stat.st_ino) for name, stat in status}

    def check_unchanged(self) -> None:
        try:
            now = self.stamps()
        except OSError:
            now = {}
        changed = [name for name, stamp in self.seen.items() if now.get(name) != stamp]
        if changed:
            raise DataError(
                f"{changed[0]} was changed while it was read, so its rows may be of different states. Predict "
                f"from a copy that nobody writes to; what was predicted so far is not kept."
            )

    def with_keys(self) -> Iterator[tuple[Row, str, SplitKeys]]:
        self.count = 0
        yield from super().with_keys()

    def opened(self) -> Iterator[tuple[str, Records]]:
        for name, records in super().opened():
            yield name, self.numbered(records)

    def numbered(self, records: Records) -> Records:
        for line, record in records:
            if not isinstance(record, Bad):
                numbered = NumberedRecord(record)
                numbered.number, numbered.file = self.count, getattr(record, "file", "")
                record = numbered
            self.count += 1
            yield line, record

    def _row(self, record: dict[str, Any], mapping: dict[str, str], folder: Path | None) -> Row | Bad | LeftOut:
        checked = super()._row(record, mapping, folder)
        if isinstance(checked, (Bad, LeftOut)):
            return checked
        row = InferenceRow(checked)
        row.record, row.number = dict(record), cast(NumberedRecord, record).number
        return row


def open_inference_source(
    cfg: DataConfig,
    columns: Columns,
    target_columns: tuple[str, ...],
    check_row: Callable[[Row], str | None],
    bad_rows: BadRows,
) -> InferenceSource:
    """Return the rows of data.test. `target_columns`: columns of the task that may be missing."""
    paths = cfg.test
    assert paths is not None
    check_named(cfg.columns, columns)
    input_columns = columns.without(target_columns)
    named = {name: column for name, column in cfg.columns.items() if name not in target_columns}
    if "messages" in input_columns.required:
        named.pop("completion", None)
    cfg = replace(cfg, columns=named)
    if paths == "-" and cfg.format in STREAMED:
        files: list[DataFile] = [StandardInput(Path("-"), "-")]
        cfg = replace(cfg, format="jsonl")
    else:
        endings = known_endings(cfg.format if "." not in cfg.format else "auto", with_images=bool(columns.images))
        find_if_images = find_images if columns.images else None
        find = find_if_images if cfg.format == "auto" else getattr(load_reader(cfg.format), "find", None)
        files = expand(paths, "data.test", endings, find)
    return InferenceSource("test", files, cfg, input_columns, check_row, bad_rows)
