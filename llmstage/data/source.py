"""The rows of each split: opened, mapped to the task's words, checked, cut, limited; read lazily, again and again."""

from __future__ import annotations

import hashlib
import json
import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from llmstage.data.chat import PAIR_WORDS, to_messages
from llmstage.data.checks import complaint, sample_columns, shorten
from llmstage.data.columns import check_named, map_columns
from llmstage.data.files import DataFile, NamingFile, expand
from llmstage.data.formats import detect, known_endings, load_reader
from llmstage.data.lines import check_encoding
from llmstage.data.quarantine import BadRows
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.rows import Columns, Row
from llmstage.data.splits import Census, Cut
from llmstage.errors import DataError
from llmstage.places import cache_dir
from llmstage.schema.data import DataConfig

CheckRow = Callable[[Row], str | None]
PEEK = 64
"""Records looked at to learn which columns a file has."""


class RowSource(ABC):
    """The rows of one split: iterate as often as you like."""

    split: str
    mapping: dict[str, str]
    """Task word to the column that was used; empty before the first row was read."""
    identity: tuple[str, ...]
    """Words that say what a row is."""
    cut: bool = False
    """Whether this split was cut from train rather than given."""
    num_rows: int | None = None
    """Rows, once a whole pass has counted them."""
    quarantined: int = 0
    """Distinct bad rows met so far; those of a file that was cut count under train."""

    @property
    @abstractmethod
    def described(self) -> str: ...

    @abstractmethod
    def __iter__(self) -> Iterator[tuple[Row, str]]:
        """(row in the task's words, place `file:line`)"""

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


class CheckedSource(RowSource):
    """Records of files or tables as checked rows of a task."""

    def __init__(self, split: str, cfg: DataConfig, columns: Columns, check_row: CheckRow, bad_rows: BadRows) -> None:
        self.split, self.cfg, self.columns, self.check_row, self.bad_rows = split, cfg, columns, check_row, bad_rows
        self.identity = columns.identity
        self.mapping = {}
        self._bad: set[tuple[str, int]] = set()

    @abstractmethod
    def opened(self) -> Iterator[tuple[str, Records]]:
        """(name as the user gave it, records) of each file."""

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        fine = 0
        for shown, records in self.opened():
            for row, place in self._rows_of(shown, records, fine):
                fine += 1
                yield row, place
        self.num_rows = fine
        if fine == 0 and self._bad:
            where = self.bad_rows.path or "data.on_bad_row=error, which names the first"
            raise DataError(f"data.{self.split}: every one of its {len(self._bad)} rows is bad; see {where}.")
        if fine == 0:
            raise DataError(f"data.{self.split}: no row in {self.described}. Give a file with rows.")

    def _rows_of(self, shown: str, records: Records, fine: int) -> Iterator[tuple[Row, str]]:
        peeked = list(islice(records, PEEK))
        found = sample_columns(peeked)
        mapping = map_columns(found, self.cfg.columns, self.columns, shown) if found else {}
        self.mapping = self.mapping or mapping
        last_line = 0
        for ordinal, (line, record) in enumerate(chain(peeked, records)):
            made = record if isinstance(record, Bad) else self._row(record, mapping)
            if isinstance(made, Bad):
                # Compact JSON has many records on one line.
                reason = f"{made.reason} (record {ordinal + 1})" if line == last_line else made.reason
                self.bad_rows.report(shown, ordinal, line, reason, made.raw, fine)
                self._bad.add((shown, ordinal))
                self.quarantined = len(self._bad)
            else:
                fine += 1
                yield made, f"{shown}:{line}"
            last_line = line

    def _row(self, record: dict[str, Any], mapping: dict[str, str]) -> Row | Bad:
        """The record in the task's words, or what is wrong with it."""
        if not mapping:  # no good record among the first ones told the columns
            mapping = map_columns(record, self.cfg.columns, self.columns, f"data.{self.split}")
        if "messages" in self.columns.required:
            named = {word: mapping[word] for word in ("messages", *PAIR_WORDS) if word in self.cfg.columns}
            made = to_messages(record, named)
            if isinstance(made, str):
                return Bad(made, shorten(record))
            row: Row = made
        else:
            row = {word: record[column] for word, column in mapping.items() if column in record}
        reason = complaint(row, mapping, self.columns, self.cfg.max_row_mb) or self.check_row(row)
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
        )  # fmt: skip
        self.files: list[tuple[DataFile, str]] = []
        """Each file with the name of its reader."""
        for file in files:
            with NamingFile(file.shown):
                self.files.append((file, detect(file) if cfg.format == "auto" else cfg.format))
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

    def digest(self) -> str:
        if self._digest is None:
            content = [(name, file.digest()) for file, name in self.files]
            self._digest = digest_of(["files", content, options_of(self.cfg, self.columns)])
        return self._digest


class PartSource(RowSource):
    """Some rows of another source: one side of a cut, the first rows under a limit, or both."""

    def __init__(self, base: RowSource, split: str, cut: Cut | None, limit: int | None, rule: Any) -> None:
        self.base, self.split, self.side_of, self.limit, self.rule = base, split, cut, limit, rule
        self.identity = base.identity
        self.cut = cut is not None and split != "train"

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
        count = 0
        for row, place in self.base:
            if self.side_of is not None and self.side_of.side(row, self.identity) != self.split:
                continue
            yield row, place
            count += 1
            if count == self.limit:
                break
        self.num_rows = count

    def digest(self) -> str:
        return digest_of(["part", self.base.digest(), self.split if self.side_of else "", self.rule, self.limit])


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
    if cfg.format != "auto":
        load_reader(cfg.format, trusted=trusted)
    bad_rows = bad_rows or BadRows(cfg.on_bad_row, out_dir)
    given: dict[str, RowSource] = {}
    if cfg.path:
        from llmstage.data.saved import open_tables

        given.update(open_tables(cfg, columns, check_row, bad_rows))
    endings = known_endings(cfg.format if "." not in cfg.format else "auto")
    for split, paths in cfg.sources().items():
        files = expand(paths, f"data.{split}", endings)
        given[split] = FileSource(split, files, cfg, columns, check_row, bad_rows, trusted=trusted)
    given = {split: given[split] for split in ("train", "validation", "test") if split in given}
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
    rule = [shares, cfg.split.max_rows, cfg.split.seed, list(train.identity)]
    cut = find_cut(train, shares, rule, cfg)
    sides = {split: PartSource(train, split, cut, None, rule) for split in ("train", *(s for s in shares if shares[s]))}
    merged: dict[str, RowSource] = {**given, **sides}
    return {split: merged[split] for split in ("train", "validation", "test") if split in merged}


def find_cut(train: RowSource, shares: dict[str, float], rule: list[Any], cfg: DataConfig) -> Cut:
    """The thresholds of a cut: a whole pass over train, remembered by its content, so that a large file is counted once."""
    # A quarantined row must be noted in each run's own folder, so its file is read again.
    cache = cache_dir(cfg.cache) if cfg.on_bad_row == "error" else None
    known = cache / "cuts" / f"{digest_of([train.digest(), rule])}.json" if cache else None
    if known and known.is_file():
        told = json.loads(known.read_text(encoding="utf-8"))
        train.num_rows = told["rows"]
        return Cut(told["low"], told["high"], cfg.split.seed)
    census = Census(cfg.split.seed)
    for row, _ in train:
        census.add(row, train.identity)
    cut = census.cut(shares["validation"], shares["test"], cfg.split.max_rows, "data.train")
    if known:
        known.parent.mkdir(parents=True, exist_ok=True)
        draft = known.with_name(f".tmp-{os.getpid()}-{known.name}")
        draft.write_text(json.dumps({"low": cut.low, "high": cut.high, "rows": census.num_rows}), encoding="utf-8")
        draft.replace(known)
    return cut


def guarded(file: DataFile, records: Records) -> Records:
    with NamingFile(file.shown) as guard:
        for guard.line, record in records:
            yield guard.line, record


def options_of(cfg: DataConfig, columns: Columns) -> dict[str, Any]:
    """The options that change which rows come out of the same bytes."""
    return {
        "columns": cfg.columns, "header": cfg.header, "delimiter": cfg.delimiter, "encoding": cfg.encoding,
        "text_rows": cfg.text_rows, "on_bad_row": cfg.on_bad_row, "max_row_mb": cfg.max_row_mb,
        "words": [columns.required, columns.optional, columns.identity],
    }  # fmt: skip


def digest_of(parts: Any) -> str:
    return hashlib.sha256(json.dumps(parts, ensure_ascii=True, sort_keys=True, default=str).encode()).hexdigest()
