"""Rows of files: read by a reader, mapped to the columns of the task, checked. Rows are read lazily, as often as needed."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain, islice
from pathlib import Path
from types import ModuleType
from typing import Any

from llmstage.config.data import DataConfig, Paths
from llmstage.data.chat_formats import PAIR_COLUMNS, has_target, to_messages, to_rendered
from llmstage.data.columns import check_named, map_columns, map_rendered
from llmstage.data.files import DataFile, NamingFile, expand
from llmstage.data.formats import detect, known_endings, load_reader
from llmstage.data.row_checks import check_numbers, complaint, sample_columns, shorten
from llmstage.data.row_source import RowSource
from llmstage.data.row_times import Clock
from llmstage.data.rows import (
    Bad,
    BadRows,
    Columns,
    ImageLocation,
    LeftOut,
    ReadOptions,
    Records,
    Row,
    digest_of,
    format_location,
)
from llmstage.data.split_keys import NO_KEYS, SplitKeyReader, SplitKeys, TimeRange
from llmstage.data.text_lines import check_encoding
from llmstage.errors import DataError, OwnCodeError

CheckRow = Callable[[Row], str | None]
CheckTableRow = Callable[[str, Row], str | None]
OTHER_COLUMNS = "other columns"
"""Key under which a row keeps the columns of its file that are not columns of the task."""
CHAT_LAYOUTS = 2
"""Version of what chat_formats.py reads of a row; it is part of the digest, so that older cached examples are not used."""
NUM_PEEKED = 64
"""Records that are read ahead to find the columns of a file."""


class CheckedSource(RowSource):
    """Records of files or tables as checked rows of a task."""

    def __init__(self, split: str, cfg: DataConfig, columns: Columns, check_row: CheckRow, bad_rows: BadRows) -> None:
        self.split, self.cfg, self.columns, self.check_row, self.bad_rows = split, cfg, columns, check_row, bad_rows
        self.identity = columns.identity
        self.mapping = {}
        self.key_reader = SplitKeyReader(split, cfg.split, Clock(cfg.split.time_format))
        self._bad: set[tuple[str, int]] = set()
        self._unread: Counter[str] = Counter()
        self._left_out: Counter[str] = Counter()

    keep_columns: bool = False
    """Whether a row also gets the other columns of its file, under OTHER_COLUMNS."""

    @abstractmethod
    def opened(self) -> Iterator[tuple[str, Records]]:
        """Yield (file name as the user gave it, records) of each file."""

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        return ((row, location) for row, location, _ in self.with_keys())

    def format_time(self, time: float) -> str:
        return self.key_reader.clock.show(time)

    def with_keys(self) -> Iterator[tuple[Row, str, SplitKeys]]:
        num_good, time_range = 0, TimeRange()
        self._unread, self._left_out = Counter(), Counter()
        for name, records in self.opened():
            for row, location, keys in self._rows_of(name, records, num_good, self.folder_of(name)):
                num_good += 1
                time_range.add(keys)
                yield row, location, keys
        self.num_rows, self.times = num_good, time_range.ends
        self.unread, self.left_out = dict(self._unread), dict(self._left_out)
        if num_good == 0 and self._left_out:
            reasons = ", ".join(f"{reason} ({count})" for reason, count in self._left_out.items())
            raise DataError(
                f"data.{self.split}: every row is left out or bad: {reasons}. Give rows that can be learned."
            )
        if num_good == 0 and self._bad:
            where = self.bad_rows.path or "data.on_bad_row=error, which names the first"
            raise DataError(f"data.{self.split}: every one of its {len(self._bad)} rows is bad; see {where}.")
        if num_good == 0:
            raise DataError(f"data.{self.split}: no row in {self.description}. Give a file with rows.")

    def _map(self, samples: dict[str, Any], name: str) -> dict[str, str]:
        """Return the column of the file for each column of the task. `samples`: a value of each column of the file."""
        mapped = map_rendered if self.cfg.rendered else map_columns
        return mapped(samples, self.cfg.columns, self.columns, name)

    def _read_elsewhere(self) -> set[str]:
        """Return the columns beside a conversation that are read: those of the task, and those that cut the splits."""
        split = self.cfg.split
        return {*self.columns.optional, *self.columns.images, "id", *filter(None, (split.time, split.group))}

    def folder_of(self, name: str) -> Path | None:
        """Return the folder from which the images of a file are named; None where the rows come from no file."""
        return None

    def reading(self) -> dict[str, Any]:
        return {
            "num_rows": self.num_rows, "mapping": self.mapping, "notes": self.notes, "unread": dict(self.unread),
            "left_out": dict(self.left_out),
        }  # fmt: skip

    def restore_reading(self, saved: dict[str, Any]) -> None:
        super().restore_reading(saved)
        self.mapping = self.mapping or dict(saved.get("mapping", {}))
        self.notes = self.notes or tuple(saved.get("notes", ()))
        self.unread = self.unread or dict(saved.get("unread", {}))
        self.left_out = self.left_out or dict(saved.get("left_out", {}))

    def _rows_of(
        self, name: str, records: Records, num_good: int, folder: Path | None
    ) -> Iterator[tuple[Row, str, SplitKeys]]:
        """Yield the good rows of one file and report the bad ones. `num_good`: good rows of the files before it."""
        # The first records show which columns the file has, and what they contain.
        peeked = list(islice(records, NUM_PEEKED))
        samples = sample_columns(peeked)
        mapping = self._map(samples, name) if samples else {}
        self.mapping = self.mapping or mapping
        note = check_numbers(peeked, mapping, self.cfg.columns, name)
        self.notes = (*self.notes, note) if note and note not in self.notes else self.notes
        key_columns = self.key_reader.columns(samples, mapping, name)

        last_location = ""
        for ordinal, (line, record) in enumerate(chain(peeked, records)):
            file = getattr(record, "file", "") or name
            location = format_location(file, line)
            row = record if isinstance(record, Bad) else self._row(record, mapping, folder)
            keys = NO_KEYS
            if isinstance(row, LeftOut):
                self._left_out[row.reason] += 1
                last_location = location
                continue
            if isinstance(record, dict) and not isinstance(row, Bad):
                keys_or_reason = self.key_reader.read(record, key_columns)
                if isinstance(keys_or_reason, str):
                    row = Bad(keys_or_reason, shorten(record))
                else:
                    keys = keys_or_reason
            if isinstance(row, Bad):
                # Compact JSON has many records on one line.
                reason = f"{row.reason} (record {ordinal + 1})" if line and location == last_location else row.reason
                self.bad_rows.report(file, ordinal, line, reason, row.raw, num_good)
                self._bad.add((name, ordinal))
                self.quarantined = len(self._bad)
            else:
                num_good += 1
                yield row, location, keys
            last_location = location

    def _row(self, record: dict[str, Any], mapping: dict[str, str], folder: Path | None) -> Row | Bad | LeftOut:
        """Return the record with the columns of the task, or what is wrong with it. `folder`: the folder of its images."""
        if not mapping:  # all of the first records were bad, so the columns are not known yet
            mapping = self._map(record, f"data.{self.split}")
        if "messages" in self.columns.required:
            named = {column: mapping[column] for column in ("messages", *PAIR_COLUMNS) if column in self.cfg.columns}
            unread: Counter[str] = Counter()
            if self.cfg.rendered:
                chat = to_rendered(record, mapping["messages"], replies=self.columns.replies, unread=unread)
            else:
                chat = to_messages(record, named, replies=self.columns.replies, unread=unread)
            if isinstance(chat, str):
                return Bad(chat, shorten(record))
            if self.columns.replies and not has_target(chat):
                return LeftOut("no answer is to be learned (label, weight or train)")
            self._unread.update({key: count for key, count in unread.items() if key not in self._read_elsewhere()})
            row: Row = chat
        else:
            row = {name: record[column] for name, column in mapping.items() if column in record}
        if self.columns.images and folder is not None:
            try:
                resolve_image_paths(row, self.columns.images, folder)
            except ValueError as error:
                return Bad(str(error), shorten(record))
        reason = complaint(row, mapping, self.columns, self.cfg.max_row_mb) or self.check_row(row)
        if not isinstance(reason, str | None):
            owner = getattr(self.check_row, "__self__", None)
            name = f"{type(owner).__module__}." if owner is not None else ""
            raise OwnCodeError(
                f"{name}check_row() returned {reason!r}; it must return None for a good row, else the reason."
            )
        if not reason and self.keep_columns:
            used = {column for named in mapping.values() for column in named.split(" + ")}
            row[OTHER_COLUMNS] = {column: value for column, value in record.items() if column not in used}
        return Bad(reason.removesuffix("."), shorten(record)) if reason else row


class FileSource(CheckedSource):
    """Rows of files, each file read by its reader."""

    def __init__(
        self, split: str, files: Sequence[DataFile], cfg: DataConfig, columns: Columns, check_row: CheckRow,
        bad_rows: BadRows, *, trusted: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(split, cfg, columns, check_row, bad_rows)
        self.options = ReadOptions(
            encoding=check_encoding(cfg.encoding), header=cfg.header, delimiter=cfg.delimiter, text_rows=cfg.text_rows,
            max_bytes=int(cfg.max_row_mb * (1 << 20)), named=tuple(sorted(cfg.columns.values())),
            task_columns=(*columns.required, *columns.optional), with_images=bool(columns.images),
        )  # fmt: skip
        self.files: list[tuple[DataFile, str]] = []
        """Each file with the name of its reader."""
        for file in files:
            with NamingFile(file.display_name):
                reader = detect(file, with_images=self.options.with_images) if cfg.format == "auto" else cfg.format
            self.files.append((file, reader))
        readers = {load_reader(name, trusted=trusted) for _, name in self.files}
        skip = {name for reader in readers for name in getattr(reader, "SKIP", ())}  # e.g. the schema.json beside SGD
        self.files = [(file, name) for file, name in self.files if file.path.name not in skip]
        self.trusted = trusted
        self._digest: str | None = None

    @property
    def description(self) -> str:
        names = [file.display_name for file, _ in self.files]
        listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        formats = ", ".join(dict.fromkeys(self._format_of(file, name) for file, name in self.files[:8]))
        return f"{listed} ({formats}{f', {self.num_rows} rows' if self.num_rows is not None else ''})"

    def _format_of(self, file: DataFile, name: str) -> str:
        """Return the name of the reader with what it detected, e.g. `csv, no header`."""
        describe = getattr(load_reader(name, trusted=self.trusted), "describe", None)
        details = describe(file, self.options) if describe else ""
        return f"{name}, {details}" if details else name

    def opened(self) -> Iterator[tuple[str, Records]]:
        for file, name in self.files:
            yield file.display_name, guarded(file, load_reader(name, trusted=self.trusted), self.options)

    def folder_of(self, name: str) -> Path | None:
        path = next(file.path for file, _ in self.files if file.display_name == name)
        if path.is_dir():
            return path.absolute()
        return Path(self.cfg.images).expanduser().absolute() if self.cfg.images else path.absolute().parent

    def digest(self) -> str:
        if self._digest is None:
            content = [(name, file.digest(), *self._companion_digest(file, name)) for file, name in self.files]
            self._digest = digest_of(["files", content, options_of(self.cfg, self.columns)])
        return self._digest

    def _companion_digest(self, file: DataFile, name: str) -> Iterator[str]:
        """Yield a digest of the further files from which the reader makes rows: content and names, which may be dates."""
        beside = getattr(load_reader(name, trusted=self.trusted), "beside", None)
        if beside is not None:
            sha = hashlib.sha256()
            for path in beside(file.path):
                sha.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
            yield sha.hexdigest()


def open_side_tables(
    cfg: DataConfig, columns: Columns, tables: Mapping[str, Columns], check: CheckTableRow, bad_rows: BadRows
) -> tuple[DataConfig, dict[str, RowSource]]:
    """Open the side tables of a task: rows that belong to the examples without being examples, e.g. items to recommend.

    Return (the config with the columns of the examples alone, each table by the `data` key that names it).
    `data.columns` names columns of both; a column that both have, the key of the join, is mapped in both.
    """
    if not tables:
        return cfg, {}
    table_columns = [name for table in tables.values() for name in (*table.required, *table.optional)]
    check_named(cfg.columns, Columns(columns.required, (*columns.optional, *table_columns)))
    sources: dict[str, RowSource] = {}
    for key, table in tables.items():
        paths = getattr(cfg, key) or usual_table_file(cfg, key)
        if not paths:
            continue
        table_cfg = replace(cfg, format="auto", columns=select_columns(cfg.columns, table))
        files = expand(paths, f"data.{key}", known_endings())
        sources[key] = FileSource(key, files, table_cfg, table, partial(check, key), bad_rows)
        next(iter(sources[key]))  # the first row, or the DataError that says why there is none
    return replace(cfg, columns=select_columns(cfg.columns, columns)), sources


def select_columns(named: dict[str, str], columns: Columns) -> dict[str, str]:
    return {name: column for name, column in named.items() if name in (*columns.required, *columns.optional)}


def usual_table_file(cfg: DataConfig, key: str) -> Paths:
    """Return the file of a side table in the folder of the training rows, where the named reader knows its usual name."""
    if cfg.format == "auto" or "." in cfg.format or not isinstance(cfg.train, str):
        return None
    name = getattr(load_reader(cfg.format), "TABLES", {}).get(key)
    path = Path(cfg.train).expanduser()
    path = (path if path.is_dir() else path.parent) / str(name)
    return str(path) if name and path.is_file() else None


def resolve_image_paths(row: Row, columns: Sequence[str], folder: Path) -> None:
    """Replace names of images by locations that open from any working directory. Raise BadImage.

    A reader whose images are inside a container gives locations already.
    """
    from llmstage.data.images import BadImage, locate_image  # loads Pillow, which only rows with images need

    for column in columns:
        name = row.get(column)
        if isinstance(name, str) and not isinstance(name, ImageLocation):
            row[column] = ImageLocation.of(locate_image(folder, name), name)
        elif name is not None and not isinstance(name, str):
            raise BadImage(
                f"'{column}' holds {type(name).__name__}, where an image is named by a text: a path or base64"
            )


def guarded(file: DataFile, reader: ModuleType, options: ReadOptions) -> Records:
    """Yield the records of a reader; errors of reading become a DataError with the file and the last line."""
    with NamingFile(file.display_name) as guard:
        records = reader.read(file, options)
        if not isinstance(records, Iterable):
            raise OwnCodeError(f"{reader.__name__}.read() returned {records!r}; it must yield (line number, record).")
        for item in records:
            if not (isinstance(item, tuple) and len(item) == 2 and isinstance(item[1], (dict, Bad))):
                raise OwnCodeError(
                    f"{reader.__name__}.read() yielded {item!r:.80}; it must yield (line number, record), where a record is a "
                    f"dict, or Bad(reason, text) for one that cannot be read."
                )
            guard.line, record = item
            yield guard.line, record


def options_of(cfg: DataConfig, columns: Columns) -> dict[str, Any]:
    """Return the options that change which rows are read from the same bytes. They are part of every digest."""
    return {
        "columns": cfg.columns, "header": cfg.header, "delimiter": cfg.delimiter, "encoding": cfg.encoding,
        "text_rows": cfg.text_rows, "on_bad_row": cfg.on_bad_row, "max_row_mb": cfg.max_row_mb,
        "marks": [cfg.split.time, cfg.split.time_format, cfg.split.group],
        "words": [columns.required, columns.optional, columns.identity],
        **({"chat_layouts": [CHAT_LAYOUTS, cfg.rendered]} if "messages" in columns.required else {}),
    }  # fmt: skip
