"""The input as it grows: whole lines, read by the readers that training uses, as items with a text and a time."""

from __future__ import annotations

import io
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, tzinfo
from pathlib import Path
from typing import Any, BinaryIO, cast

from llmstage.config.data import DataConfig
from llmstage.data.columns import check_named, map_columns
from llmstage.data.files import DataFile
from llmstage.data.formats import load_reader
from llmstage.data.quarantine import BadRows
from llmstage.data.readers.csv import Layout, find_layout, read_layout
from llmstage.data.records import Bad, ReadOptions, Record
from llmstage.data.row_checks import complaint, sample_columns, shorten
from llmstage.data.row_times import KEY, UNITS, TimeError, microseconds, read_text
from llmstage.data.rows import Columns, Row
from llmstage.data.text_lines import check_encoding, open_text
from llmstage.errors import DataError, UserError
from llmstage.inference.monitor.tail import Feed, Place

FUTURE = 86400.0
"""Seconds that a time may lie ahead of this machine's clock: an item of the year 2099 would close every window."""
GUESS = {"csv": ",", "tsv": "\t"}


@dataclass(slots=True)
class Item:
    """One thing that was said."""

    row: Row
    """In the words of the classifiers."""
    time: float
    """Seconds since 1970."""
    line: int


@dataclass(slots=True)
class Reading:
    """What was found out about the input when it began, and how far it was read."""

    place: Place = field(default_factory=Place)
    format: str = ""
    encoding: str = "utf-8"
    layout: Layout | None = None
    mapping: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_dict(cls, kept: dict[str, Any]) -> Reading:
        layout = kept["layout"]
        layout = Layout(**{**layout, "columns": tuple(layout["columns"])}) if layout else None
        return cls(**{**kept, "place": Place(**kept["place"]), "layout": layout})


@dataclass(slots=True, frozen=True)
class Part(DataFile):
    """Some whole lines of the input, as a file for the readers."""

    content: bytes = b""

    def open(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(io.BytesIO(self.content)))


class Items:
    """The items of `feed`. `columns`: what the classifiers need of a row, and `time`."""

    def __init__(
        self,
        feed: Feed,
        reading: Reading,
        cfg: DataConfig,
        columns: Columns,
        form: str | None,
        zone: tzinfo,
        bad: BadRows,
    ) -> None:
        self.feed, self.reading, self.cfg, self.columns, self.form, self.zone = feed, reading, cfg, columns, form, zone
        self.bad_rows, self.num_bad, self.fine = bad, 0, 0
        check_named(cfg.columns, columns)
        self.options = ReadOptions(
            encoding=check_encoding(cfg.encoding), header=cfg.header, delimiter=cfg.delimiter,
            max_bytes=int(cfg.max_row_mb * (1 << 20)), named=tuple(sorted(cfg.columns.values())),
            words=(*columns.required, *columns.optional),
        )  # fmt: skip
        if "\n".encode(self.options.encoding) != b"\n":
            raise UserError(
                f"data.encoding={cfg.encoding}: an input that grows is read line by line, and in this encoding a line end is "
                f"not one byte. Recode it: iconv -f {cfg.encoding} -t utf-8 <file> | llmstage … stage.input=-"
            )

    @property
    def ended(self) -> bool:
        return self.feed.ended

    def take(self, most: int) -> list[Item]:
        """What is there now, at most so many; empty where nothing is. Raises DataError for a bad row where data.on_bad_row
        says so."""
        if not self.reading.format:
            head = self.feed.head()
            if head:
                self.begin(Part(Path(self.feed.shown), self.feed.shown, head))
        lines = self.feed.take(most, quoted=bool(self.reading.layout and self.reading.layout.quoted))
        if not lines:
            return []
        before = self.feed.place.line - len(lines)
        part = Part(Path(self.feed.shown), self.feed.shown, b"".join(lines))
        self.reading.place = self.feed.place
        found = [self.item(line + before, record) for line, record in self.records(part, first=before == 0)]
        return [item for item in found if item is not None]

    def begin(self, part: Part) -> None:
        """Format, encoding, layout: told by the first lines, and then kept."""
        content = part.content
        if content.startswith(b"\x1f\x8b"):
            raise DataError(
                f"{part.shown} is gzip, which does not grow by lines: zcat {part.shown} | llmstage … stage.input=-"
            )
        _, encoding = open_text(part, self.options.encoding)
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(
                f"{part.shown} is UTF-16; an input that grows is read as UTF-8 (or data.encoding=…). Recode it."
            )
        self.reading.encoding = encoding
        self.options = replace(self.options, encoding=encoding)
        self.reading.format = format_of(part, self.cfg.format)
        if self.reading.format in GUESS:
            self.reading.layout = find_layout(part, self.options, first_guess=GUESS[self.reading.format])

    def records(self, part: Part, *, first: bool) -> Iterator[Record]:
        options, layout = replace(self.options, encoding=self.reading.encoding), self.reading.layout
        if layout is not None:
            return read_layout(part, options, layout if first else replace(layout, header=False))
        return load_reader("jsonl").read(part, options)  # type: ignore[no-any-return]

    def item(self, line: int, record: dict[str, Any] | Bad) -> Item | None:
        made = record if isinstance(record, Bad) else self.made(record, line)
        if isinstance(made, Bad):
            self.refuse(line, made.reason, made.raw)
            return None
        self.fine += 1
        return made

    def refuse(self, line: int, reason: str, raw: str) -> None:
        """A bad row. Raises DataError where data.on_bad_row says so."""
        # Numbered as they come: a file that was replaced begins again at line 1.
        self.bad_rows.report(self.feed.shown, (self.num_bad, line), line, reason, raw, self.fine)
        self.num_bad += 1

    def made(self, record: dict[str, Any], line: int) -> Item | Bad:
        if not self.reading.mapping:
            found = sample_columns([(line, record)])
            self.reading.mapping = map_columns(found, self.cfg.columns, self.columns, f"{self.feed.shown}:{line}")
        mapping = self.reading.mapping
        row = {word: record[column] for word, column in mapping.items() if column in record}
        reason = complaint(row, mapping, self.columns, self.cfg.max_row_mb)
        try:
            moment = seconds_of(row.pop("time"), self.form, self.zone) if not reason else 0.0
        except TimeError as error:
            reason = f"'{mapping['time']}': {error}".replace(KEY, "stage.time_format")
        if not reason and moment > time.time() + FUTURE:
            reason = f"'{mapping['time']}' lies {(moment - time.time()) / 86400:,.0f} days in the future"
        return Bad(reason, shorten(record)) if reason else Item(row, moment, line)


def format_of(part: Part, asked: str) -> str:
    if asked != "auto":
        return asked
    ending, start = part.ending(), part.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if ending in (".csv", ".tsv", ".tab"):
        return "csv" if ending == ".csv" else "tsv"
    if start == b"[":
        raise DataError(
            f"{part.shown} is a JSON array, which cannot grow by lines. Give JSON lines: one object a line."
        )
    return "jsonl" if start == b"{" or ending in (".jsonl", ".ndjson", ".json") else "csv"


def seconds_of(value: Any, form: str | None, zone: tzinfo) -> float:
    """A time as seconds since 1970; one without a zone is of `zone`. Raises TimeError."""
    if isinstance(value, str):
        value = value.strip()
    if form is not None:
        try:
            return local(datetime.strptime(str(value), form), zone)
        except ValueError:
            raise TimeError(f"{value!r} does not fit {KEY}={form}") from None
    if isinstance(value, str) and not is_plain_number(value):
        return local(read_text(value), zone)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TimeError(f"{value!r} is no time")
    number = float(value)
    if 1e7 <= number < 1e8 and number.is_integer():
        return local(datetime.strptime(str(int(number)), "%Y%m%d"), zone)
    unit = next((unit for size, unit in UNITS if number >= size), None)
    if unit is None:
        raise TimeError(f"{value!r} is no time (seconds since 1970, or a date)")
    return number / unit


def is_plain_number(text: str) -> bool:
    return text.replace(".", "", 1).isdecimal()


def local(moment: datetime, zone: tzinfo) -> float:
    return microseconds(moment if moment.tzinfo else moment.replace(tzinfo=zone)) / 1e6


def iso(seconds: float, zone: tzinfo) -> str:
    return datetime.fromtimestamp(seconds, UTC).astimezone(zone).isoformat(timespec="seconds")
