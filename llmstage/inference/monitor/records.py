"""Reads the growing input of a monitor as items with a text and a time, by the file readers that training uses."""

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
from llmstage.data.readers.csv import Layout, find_layout, read_layout
from llmstage.data.row_checks import complaint, sample_columns, shorten
from llmstage.data.row_times import KEY, UNITS, TimeError, microseconds, parse_date_text
from llmstage.data.rows import Bad, BadRows, Columns, ReadOptions, Record, Row
from llmstage.data.text_lines import check_encoding, open_text
from llmstage.errors import DataError, UserError
from llmstage.inference.monitor.tail import LineTail, Position

MAX_FUTURE_SECONDS = 86400.0
"""How far a time may be ahead of this machine's clock: an item of the year 2099 would close every window."""
DELIMITERS = {"csv": ",", "tsv": "\t"}
"""The delimiter that the layout detection tries first."""


@dataclass(slots=True)
class MonitorItem:
    """One row of the input, with its time."""

    row: Row
    """With the columns of the classifiers."""
    time: float
    """Seconds since 1970."""
    line: int


@dataclass(slots=True)
class InputState:
    """The read position, and what the first lines of the input determined: format, encoding, layout, columns."""

    position: Position = field(default_factory=Position)
    format: str = ""
    encoding: str = "utf-8"
    layout: Layout | None = None
    mapping: dict[str, str] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """Return the state as JSON data for the store."""
        state = asdict(self)
        return {"place": state.pop("position"), **state}

    @classmethod
    def from_dict(cls, state: dict[str, Any]) -> InputState:
        layout = state["layout"]
        layout = Layout(**{**layout, "columns": tuple(layout["columns"])}) if layout else None
        fields = {key: value for key, value in state.items() if key != "place"}
        return cls(**{**fields, "position": Position(**state["place"]), "layout": layout})


@dataclass(slots=True, frozen=True)
class LineFile(DataFile):
    """Complete lines of the input, as a file for the readers."""

    content: bytes = b""

    def open(self) -> BinaryIO:
        return cast(BinaryIO, io.BufferedReader(io.BytesIO(self.content)))


class RecordReader:
    """Reads items from the lines of `tail`. `columns`: the columns that the classifiers need, and `time`."""

    def __init__(
        self,
        tail: LineTail,
        state: InputState,
        cfg: DataConfig,
        columns: Columns,
        time_format: str | None,
        zone: tzinfo,
        bad_rows: BadRows,
    ) -> None:
        self.tail, self.state, self.cfg, self.columns = tail, state, cfg, columns
        self.time_format, self.zone = time_format, zone
        self.bad_rows, self.num_bad, self.num_good = bad_rows, 0, 0
        check_named(cfg.columns, columns)
        self.options = ReadOptions(
            encoding=check_encoding(cfg.encoding), header=cfg.header, delimiter=cfg.delimiter,
            max_bytes=int(cfg.max_row_mb * (1 << 20)), named=tuple(sorted(cfg.columns.values())),
            task_columns=(*columns.required, *columns.optional),
        )  # fmt: skip
        if "\n".encode(self.options.encoding) != b"\n":
            raise UserError(
                f"data.encoding={cfg.encoding}: an input that grows is read line by line, and in this encoding a line end is "
                f"not one byte. Recode it: iconv -f {cfg.encoding} -t utf-8 <file> | llmstage … stage.input=-"
            )

    @property
    def ended(self) -> bool:
        return self.tail.ended

    def take(self, limit: int) -> list[MonitorItem]:
        """Return the items that are there now, at most `limit`. Raises DataError for a bad row where data.on_bad_row is error."""
        if not self.state.format:
            head = self.tail.head()
            if head:
                self.detect_format(LineFile(Path(self.tail.name), self.tail.name, head))
        lines = self.tail.take(limit, quoted=bool(self.state.layout and self.state.layout.quoted))
        if not lines:
            return []
        num_before = self.tail.position.line - len(lines)
        file = LineFile(Path(self.tail.name), self.tail.name, b"".join(lines))
        self.state.position = self.tail.position
        items = [
            self.checked_item(line + num_before, record) for line, record in self.records(file, first=num_before == 0)
        ]
        return [item for item in items if item is not None]

    def detect_format(self, file: LineFile) -> None:
        """Detect format, encoding and layout from the first lines. They stay the same for the rest of the run."""
        content = file.content
        if content.startswith(b"\x1f\x8b"):
            raise DataError(
                f"{file.display_name} is gzip, which does not grow by lines: zcat {file.display_name} | llmstage … stage.input=-"
            )
        _, encoding = open_text(file, self.options.encoding)
        if content[:2] in (b"\xff\xfe", b"\xfe\xff"):
            raise DataError(
                f"{file.display_name} is UTF-16; an input that grows is read as UTF-8 (or data.encoding=…). Recode it."
            )
        self.state.encoding = encoding
        self.options = replace(self.options, encoding=encoding)
        self.state.format = format_of(file, self.cfg.format)
        if self.state.format in DELIMITERS:
            self.state.layout = find_layout(file, self.options, first_guess=DELIMITERS[self.state.format])

    def records(self, file: LineFile, *, first: bool) -> Iterator[Record]:
        """Read the records of some lines. `first`: the lines include the header of a table."""
        options, layout = replace(self.options, encoding=self.state.encoding), self.state.layout
        if layout is not None:
            return read_layout(file, options, layout if first else replace(layout, header=False))
        return load_reader("jsonl").read(file, options)  # type: ignore[no-any-return]

    def checked_item(self, line: int, record: dict[str, Any] | Bad) -> MonitorItem | None:
        """Return the item of a record; None after a bad row was reported."""
        item = record if isinstance(record, Bad) else self.to_item(record, line)
        if isinstance(item, Bad):
            self.report_bad_row(line, item.reason, item.raw)
            return None
        self.num_good += 1
        return item

    def report_bad_row(self, line: int, reason: str, raw: str) -> None:
        """Report a bad row. Raises DataError where data.on_bad_row is error."""
        # The key has the number of the bad row, since a file that was replaced begins at line 1 again.
        self.bad_rows.report(self.tail.name, (self.num_bad, line), line, reason, raw, self.num_good)
        self.num_bad += 1

    def to_item(self, record: dict[str, Any], line: int) -> MonitorItem | Bad:
        """Map the columns of a record, check its values and parse its time."""
        if not self.state.mapping:
            present = sample_columns([(line, record)])
            self.state.mapping = map_columns(present, self.cfg.columns, self.columns, f"{self.tail.name}:{line}")
        mapping = self.state.mapping
        row = {name: record[column] for name, column in mapping.items() if column in record}
        reason = complaint(row, mapping, self.columns, self.cfg.max_row_mb)
        try:
            timestamp = seconds_of(row.pop("time"), self.time_format, self.zone) if not reason else 0.0
        except TimeError as error:
            reason = f"'{mapping['time']}': {error}".replace(KEY, "stage.time_format")
        if not reason and timestamp > time.time() + MAX_FUTURE_SECONDS:
            reason = f"'{mapping['time']}' lies {(timestamp - time.time()) / 86400:,.0f} days in the future"
        return Bad(reason, shorten(record)) if reason else MonitorItem(row, timestamp, line)


def format_of(file: LineFile, requested: str) -> str:
    """Return `csv`, `tsv` or `jsonl`, from data.format, the name of the file, or its first character."""
    if requested != "auto":
        return requested
    ending, start = file.ending(), file.content.lstrip(b"\xef\xbb\xbf \t\r\n")[:1]
    if ending in (".csv", ".tsv", ".tab"):
        return "csv" if ending == ".csv" else "tsv"
    if start == b"[":
        raise DataError(
            f"{file.display_name} is a JSON array, which cannot grow by lines. Give JSON lines: one object a line."
        )
    return "jsonl" if start == b"{" or ending in (".jsonl", ".ndjson", ".json") else "csv"


def seconds_of(value: Any, time_format: str | None, zone: tzinfo) -> float:
    """Return a time as seconds since 1970. A time without a zone is in `zone`. Raises TimeError."""
    if isinstance(value, str):
        value = value.strip()
    if time_format is not None:
        try:
            return to_seconds(datetime.strptime(str(value), time_format), zone)
        except ValueError:
            raise TimeError(f"{value!r} does not fit {KEY}={time_format}") from None
    if isinstance(value, str) and not is_plain_number(value):
        return to_seconds(parse_date_text(value), zone)
    if isinstance(value, bool) or not isinstance(value, (str, int, float)):
        raise TimeError(f"{value!r} is no time")
    number = float(value)
    # Eight digits are a date as 20260302; larger numbers are seconds, milli-, micro- or nanoseconds since 1970.
    if 1e7 <= number < 1e8 and number.is_integer():
        return to_seconds(datetime.strptime(str(int(number)), "%Y%m%d"), zone)
    unit = next((unit for size, unit in UNITS if number >= size), None)
    if unit is None:
        raise TimeError(f"{value!r} is no time (seconds since 1970, or a date)")
    return number / unit


def is_plain_number(text: str) -> bool:
    """Return whether a text consists of digits with at most one point."""
    return text.replace(".", "", 1).isdecimal()


def to_seconds(moment: datetime, zone: tzinfo) -> float:
    return microseconds(moment if moment.tzinfo else moment.replace(tzinfo=zone)) / 1e6


def iso(seconds: float, zone: tzinfo) -> str:
    """Return seconds since 1970 as an ISO 8601 time in `zone`."""
    return datetime.fromtimestamp(seconds, UTC).astimezone(zone).isoformat(timespec="seconds")
