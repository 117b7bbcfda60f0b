"""The rows of each split: opened, mapped to the task's words, checked, cut, limited; read lazily, again and again."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llmstage.config.data import DataConfig
from llmstage.data.chat_formats import PAIR_WORDS, to_messages
from llmstage.data.columns import check_named, map_columns
from llmstage.data.files import DataFile, NamingFile, expand
from llmstage.data.formats import detect, find_pictures, known_endings, load_reader
from llmstage.data.quarantine import BadRows, place_of
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.row_checks import check_numbers, complaint, sample_columns, shorten
from llmstage.data.row_source import PartSource, RowSource, Sides
from llmstage.data.row_times import Clock, check_form
from llmstage.data.rows import Columns, Place, Row, digest_of
from llmstage.data.split_keys import NO_MARK, Mark, Marker, Span
from llmstage.data.splits import find_cut
from llmstage.data.text_lines import check_encoding
from llmstage.errors import DataError

CheckRow = Callable[[Row], str | None]
OTHER_COLUMNS = "other columns"
"""In rows that are looked at, not learned from: columns of the file that are none of the task's words."""
PEEK = 64
"""Records looked at to learn which columns a file has."""


class CheckedSource(RowSource):
    """Records of files or tables as checked rows of a task."""

    def __init__(self, split: str, cfg: DataConfig, columns: Columns, check_row: CheckRow, bad_rows: BadRows) -> None:
        self.split, self.cfg, self.columns, self.check_row, self.bad_rows = split, cfg, columns, check_row, bad_rows
        self.identity = columns.identity
        self.mapping = {}
        self.marker = Marker(split, cfg.split, Clock(cfg.split.time_format))
        self._bad: set[tuple[str, int]] = set()

    keep_columns: bool = False
    """Whether a row also holds what its file says beside the task's words, under OTHER_COLUMNS."""

    @abstractmethod
    def opened(self) -> Iterator[tuple[str, Records]]:
        """(name as the user gave it, records) of each file."""

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        return ((row, place) for row, place, _ in self.marked())

    def show_time(self, time: float) -> str:
        return self.marker.clock.show(time)

    def marked(self) -> Iterator[tuple[Row, str, Mark]]:
        fine, span = 0, Span()
        for shown, records in self.opened():
            for row, place, mark in self._rows_of(shown, records, fine, self.folder_of(shown)):
                fine += 1
                span.add(mark)
                yield row, place, mark
        self.num_rows, self.times = fine, span.ends
        if fine == 0 and self._bad:
            where = self.bad_rows.path or "data.on_bad_row=error, which names the first"
            raise DataError(f"data.{self.split}: every one of its {len(self._bad)} rows is bad; see {where}.")
        if fine == 0:
            raise DataError(f"data.{self.split}: no row in {self.described}. Give a file with rows.")

    def folder_of(self, shown: str) -> Path | None:
        """Where a file lies, so that pictures beside it are found; None where the rows come from no file."""
        return None

    def _rows_of(self, shown: str, records: Records, fine: int, folder: Path | None) -> Iterator[tuple[Row, str, Mark]]:
        peeked = list(islice(records, PEEK))
        found = sample_columns(peeked)
        mapping = map_columns(found, self.cfg.columns, self.columns, shown) if found else {}
        self.mapping = self.mapping or mapping
        note = check_numbers(peeked, mapping, self.cfg.columns, shown)
        self.notes = (*self.notes, note) if note and note not in self.notes else self.notes
        marks = self.marker.columns(found, mapping, shown)
        last_place = ""
        for ordinal, (line, record) in enumerate(chain(peeked, records)):
            where = getattr(record, "file", "") or shown
            place = place_of(where, line)
            made = record if isinstance(record, Bad) else self._row(record, mapping, folder)
            mark = NO_MARK
            if isinstance(record, dict) and not isinstance(made, Bad):
                read = self.marker.read(record, marks)
                if isinstance(read, str):
                    made = Bad(read, shorten(record))
                else:
                    mark = read
            if isinstance(made, Bad):
                # Compact JSON has many records on one line.
                reason = f"{made.reason} (record {ordinal + 1})" if line and place == last_place else made.reason
                self.bad_rows.report(where, ordinal, line, reason, made.raw, fine)
                self._bad.add((shown, ordinal))
                self.quarantined = len(self._bad)
            else:
                fine += 1
                yield made, place, mark
            last_place = place

    def _row(self, record: dict[str, Any], mapping: dict[str, str], folder: Path | None) -> Row | Bad:
        """The record in the task's words, or what is wrong with it. `folder`: where its file lies."""
        if not mapping:  # no good record among the first ones told the columns
            mapping = map_columns(record, self.cfg.columns, self.columns, f"data.{self.split}")
        if "messages" in self.columns.required:
            named = {word: mapping[word] for word in ("messages", *PAIR_WORDS) if word in self.cfg.columns}
            made = to_messages(record, named, replies=self.columns.replies)
            if isinstance(made, str):
                return Bad(made, shorten(record))
            row: Row = made
        else:
            row = {word: record[column] for word, column in mapping.items() if column in record}
        if self.columns.images and folder is not None:
            try:
                find_images(row, self.columns.images, folder)
            except ValueError as error:
                return Bad(str(error), shorten(record))
        reason = complaint(row, mapping, self.columns, self.cfg.max_row_mb) or self.check_row(row)
        if not reason and self.keep_columns:
            used = {column for named in mapping.values() for column in named.split(" + ")}
            row[OTHER_COLUMNS] = {column: value for column, value in record.items() if column not in used}
        return Bad(reason.removesuffix("."), shorten(record)) if reason else row


class FileSource(CheckedSource):
    """Rows of files, each by its reader."""

    def __init__(
        self, split: str, files: Sequence[DataFile], cfg: DataConfig, columns: Columns, check_row: CheckRow,
        bad_rows: BadRows, *, trusted: bool = True,
    ) -> None:  # fmt: skip
        super().__init__(split, cfg, columns, check_row, bad_rows)
        self.options = ReadOptions(
            encoding=check_encoding(cfg.encoding), header=cfg.header, delimiter=cfg.delimiter, text_rows=cfg.text_rows,
            max_bytes=int(cfg.max_row_mb * (1 << 20)), named=tuple(sorted(cfg.columns.values())),
            words=(*columns.required, *columns.optional), sees=bool(columns.images),
        )  # fmt: skip
        self.files: list[tuple[DataFile, str]] = []
        """Each file with the name of its reader."""
        for file in files:
            with NamingFile(file.shown):
                self.files.append((file, detect(file, sees=self.options.sees) if cfg.format == "auto" else cfg.format))
        readers = {load_reader(name, trusted=trusted) for _, name in self.files}
        skip = {name for reader in readers for name in getattr(reader, "SKIP", ())}  # e.g. the schema.json beside SGD
        self.files = [(file, name) for file, name in self.files if file.path.name not in skip]
        self.trusted = trusted
        self._digest: str | None = None

    @property
    def described(self) -> str:
        names = [file.shown for file, _ in self.files]
        shown = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
        kinds = ", ".join(dict.fromkeys(self._kind(file, name) for file, name in self.files[:8]))
        return f"{shown} ({kinds}{f', {self.num_rows} rows' if self.num_rows is not None else ''})"

    def _kind(self, file: DataFile, name: str) -> str:
        describe = getattr(load_reader(name, trusted=self.trusted), "describe", None)
        told = describe(file, self.options) if describe else ""
        return f"{name}, {told}" if told else name

    def opened(self) -> Iterator[tuple[str, Records]]:
        for file, name in self.files:
            yield file.shown, guarded(file, load_reader(name, trusted=self.trusted).read(file, self.options))

    def folder_of(self, shown: str) -> Path | None:
        path = next(file.path for file, _ in self.files if file.shown == shown)
        if path.is_dir():
            return path.absolute()
        return Path(self.cfg.images).expanduser().absolute() if self.cfg.images else path.absolute().parent

    def digest(self) -> str:
        if self._digest is None:
            content = [(name, file.digest(), *self._beside(file, name)) for file, name in self.files]
            self._digest = digest_of(["files", content, options_of(self.cfg, self.columns)])
        return self._digest

    def _beside(self, file: DataFile, name: str) -> Iterator[str]:
        """A digest of the other files from which the reader takes a part of the rows; of their names too, which may be dates."""
        beside = getattr(load_reader(name, trusted=self.trusted), "beside", None)
        if beside is not None:
            whole = hashlib.sha256()
            for path in beside(file.path):
                whole.update(f"{path.name}\0".encode() + hashlib.sha256(path.read_bytes()).digest())
            yield whole.hexdigest()


def open_splits(
    cfg: DataConfig, columns: Columns, check_row: CheckRow, out_dir: Path | None, *, trusted: bool = True,
    bad_rows: BadRows | None = None,
) -> dict[str, RowSource]:  # fmt: skip
    """The splits of `cfg`, in the order train, validation, test. Missing ones are cut from train.

    `check_row`: the task's own check, None or the reason. `out_dir`: where quarantine.jsonl goes. `trusted=False`: the
    config came from a file, so a dotted `data.format` is refused. `bad_rows`: shared with other tables of the run. Raises DataError for anything that gives no rows.
    """
    check_named(cfg.columns, columns)
    check_encoding(cfg.encoding)
    check_form(cfg.split.time_format)
    if cfg.format != "auto":
        load_reader(cfg.format, trusted=trusted)
    bad_rows = bad_rows or BadRows(cfg.on_bad_row, out_dir)
    given: dict[str, RowSource] = {}
    if cfg.path:
        from llmstage.data.hf_datasets import open_tables

        given.update(open_tables(cfg, columns, check_row, bad_rows))
    endings = known_endings(cfg.format if "." not in cfg.format else "auto", sees=bool(columns.images))
    if cfg.format == "auto":
        find = find_pictures if columns.images else None
    else:
        find = getattr(load_reader(cfg.format, trusted=trusted), "find", None)
    for split, paths in cfg.sources().items():
        files = expand(paths, f"data.{split}", endings, find)
        given[split] = FileSource(split, files, cfg, columns, check_row, bad_rows, trusted=trusted)
    given = {split: given[split] for split in ("train", "validation", "test") if split in given}
    clock = Clock(cfg.split.time_format)
    for source in given.values():
        if isinstance(source, CheckedSource):
            source.marker.clock = clock  # one for all, so that numbers here and dates there are noticed
    sources = cut_missing(given, cfg) if "train" in given else dict(given)
    for source in given.values():
        if source.num_rows is None:
            next(iter(source))  # the first row, or the DataError that says why there is none
    if cfg.limit is not None:
        for split, source in sources.items():
            if isinstance(source, PartSource):
                source.limit = cfg.limit
            else:
                sources[split] = PartSource(source, split, None, cfg.limit, None)
    return sources


def cut_missing(given: dict[str, RowSource], cfg: DataConfig) -> dict[str, RowSource]:
    """`given` with validation and test cut from train where they are missing and their share is not 0."""
    shares = {split: 0.0 if split in given else getattr(cfg.split, split) for split in ("validation", "test")}
    if not any(shares.values()):
        return dict(given)
    train = given["train"]
    by = "time" if cfg.split.by == "time" else "group" if cfg.split.group else "content"
    rule = [shares, cfg.split.max_rows, cfg.split.seed, list(train.identity), by]
    cut = find_cut(train, shares, rule, cfg, by)
    told = Sides()
    sides = {
        split: PartSource(train, split, cut, None, rule, told) for split in ("train", *(s for s in shares if shares[s]))
    }
    merged: dict[str, RowSource] = {**given, **sides}
    return {split: merged[split] for split in ("train", "validation", "test") if split in merged}


def find_images(row: Row, words: Sequence[str], folder: Path) -> None:
    """Names of pictures as places that can be opened from anywhere. Raises BadImage. A reader whose pictures stand in a
    container gives places already."""
    from llmstage.data.images import BadImage, place_in  # Pillow is loaded for rows with pictures only

    for word in words:
        name = row.get(word)
        if isinstance(name, str) and not isinstance(name, Place):
            row[word] = Place.of(place_in(folder, name), name)
        elif name is not None and not isinstance(name, str):
            raise BadImage(f"'{word}' holds {type(name).__name__}, where an image is named by a text: a path or base64")


def guarded(file: DataFile, records: Records) -> Records:
    with NamingFile(file.shown) as guard:
        for guard.line, record in records:
            yield guard.line, record


def options_of(cfg: DataConfig, columns: Columns) -> dict[str, Any]:
    """The options that change which rows come out of the same bytes."""
    return {
        "columns": cfg.columns, "header": cfg.header, "delimiter": cfg.delimiter, "encoding": cfg.encoding,
        "text_rows": cfg.text_rows, "on_bad_row": cfg.on_bad_row, "max_row_mb": cfg.max_row_mb,
        "marks": [cfg.split.time, cfg.split.time_format, cfg.split.group],
        "words": [columns.required, columns.optional, columns.identity],
    }  # fmt: skip
