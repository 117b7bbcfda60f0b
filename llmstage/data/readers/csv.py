"""Read comma-separated values and similar tables. The first 64 KB decide delimiter, quoting and header."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmstage.data.columns import WELL_KNOWN
from llmstage.data.files import HEAD_SIZE, DataFile
from llmstage.data.rows import Bad, ReadOptions, Records
from llmstage.data.text_lines import lines, open_text
from llmstage.errors import DataError, UserError

ENDINGS = (".csv",)
Quoting = Literal[0, 3]
NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}
ESCAPED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(slots=True, frozen=True)
class Layout:
    """Delimiter, quoting and columns of a file."""

    delimiter: str
    quoted: bool
    """Whether `"` encloses fields; in many tab-separated files it is an ordinary character."""
    columns: tuple[str, ...]
    header: bool


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records by column name, or by column number (`"0"`) without a header."""
    return read_layout(file, options, find_layout(file, options, first_guess=","))


def describe(file: DataFile, options: ReadOptions) -> str:
    """Return what was detected, for the header line."""
    return describe_layout(find_layout(file, options, first_guess=","), ",")


def describe_layout(layout: Layout, usual: str) -> str:
    separated = (
        [] if layout.delimiter == usual else [f"{NAMES.get(layout.delimiter, repr(layout.delimiter))}-separated"]
    )
    return ", ".join([*separated, *([] if layout.header else ["no header"])])


def read_layout(file: DataFile, options: ReadOptions, layout: Layout) -> Records:
    width = len(layout.columns)
    pending = layout.header
    for number, fields in records(file, options, layout):
        if pending and not isinstance(fields, Bad):
            pending = False
            continue
        if isinstance(fields, Bad):
            yield number, fields
        elif len(fields) != width:
            expected = "the header names" if layout.header else "the first row has"
            yield number, Bad(f"{len(fields)} fields, where {expected} {width}", layout.delimiter.join(fields))
        else:
            yield number, dict(zip(layout.columns, fields, strict=True))


class LineFeed:
    """Feeds lines to the CSV parser, one record at a time. Lines after a quote that never closes can be given back."""

    def __init__(self, source: Iterator[tuple[int, str | Bad]], max_bytes: int) -> None:
        self.source, self.max_bytes = source, max_bytes
        self.pending: deque[tuple[int, str | Bad]] = deque()
        self.consumed: list[tuple[int, str | Bad]] = []
        self.size = 0
        self.ended = False
        """Whether the parser needed a line after the last one, or the record grew too large."""

    def __iter__(self) -> Iterator[str]:
        self.consumed, self.size, self.ended = [], 0, False
        while not self.ended:
            item = self.pending.popleft() if self.pending else next(self.source, None)
            if item is None:
                break
            text = item[1].raw if isinstance(item[1], Bad) else item[1]
            self.consumed.append(item)
            self.size += len(text)
            if len(self.consumed) > 1 and self.size > self.max_bytes:
                break
            yield text
        self.ended = True

    def give_back(self, items: list[tuple[int, str | Bad]]) -> None:
        self.pending.extendleft(reversed(items))


def records(file: DataFile, options: ReadOptions, layout: Layout) -> Iterator[tuple[int, list[str] | Bad]]:
    """Yield (first line, fields) of each record. A quote that never closes makes only its own line bad."""
    csv.field_size_limit(1 << 30)  # the default of 128 KB refuses long documents; data.max_row_mb limits them
    feed = LineFeed(lines(file, options.encoding, options.max_bytes), options.max_bytes)
    quoting: Quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    while True:
        fields = next(csv.reader(feed, delimiter=layout.delimiter, quoting=quoting), None)
        if not feed.consumed:
            return
        number, first = feed.consumed[0]
        if feed.ended:
            yield number, first if isinstance(first, Bad) else Bad('a quote (") opens here and never closes', first)
            feed.give_back(feed.consumed[1:])
            continue
        bad = next((item for item in feed.consumed if isinstance(item[1], Bad)), None)
        if bad is not None and isinstance(bad[1], Bad):
            yield bad[0], bad[1]
        elif fields:
            yield number, fields


def find_layout(file: DataFile, options: ReadOptions, first_guess: str) -> Layout:
    """Detect delimiter, quoting, header and column names. Raise DataError for a file without a line."""
    stream, encoding = open_text(file, options.encoding)
    with stream:
        raw = stream.read(HEAD_SIZE)
        is_complete = not stream.read(1)
    text = raw.decode(encoding, "replace")
    if not is_complete:
        text = text[: text.rfind("\n") + 1] or text
    if not text.strip():
        raise DataError(f"{file.display_name}: the file has no line with content.")
    delimiter = ESCAPED.get(options.delimiter, options.delimiter)
    if delimiter == "auto":
        delimiter = sniff_delimiter(text, first_guess, is_complete)
    elif len(delimiter) != 1 or delimiter in '\r\n"':
        raise UserError(f"data.delimiter={options.delimiter!r} must be one character, `tab`, or `auto`.")
    quoted = delimiter in ",;" or properly_quoted(text, delimiter, is_complete)
    rows = head_rows(text, delimiter, quoted, is_complete)
    if not rows:
        raise DataError(
            f'{file.display_name}:1: a quote (") opens here and never closes in {HEAD_SIZE >> 10} KB. Repair the file.'
        )
    header = has_header(rows, options.named) if options.header == "auto" else bool(options.header)
    names = [name.strip() for name in rows[0]] if header else [str(index) for index in range(len(rows[0]))]
    repeated = [name for name, count in Counter(names).items() if count > 1 and name]
    if repeated:
        raise DataError(
            f"{file.display_name}:1: the header names '{repeated[0]}' {names.count(repeated[0])} times. "
            f"Rename one, or set data.header=false."
        )
    columns = tuple(name or f"column {index}" for index, name in enumerate(names))
    return Layout(delimiter, quoted, columns, header)


def head_rows(text: str, delimiter: str, quoted: bool, is_complete: bool) -> list[list[str]]:
    """Return the complete records at the beginning, at most 200."""
    csv.field_size_limit(1 << 30)
    raw_lines = text.splitlines(keepends=True) if "\x0b" not in text and "\x0c" not in text else text.split("\n")
    quoting: Quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        rows = [row for row in csv.reader(raw_lines, delimiter=delimiter, quoting=quoting) if row]
    except csv.Error:  # a carriage return inside a field: the file has another delimiter
        return []
    return (rows if is_complete or len(rows) < 2 else rows[:-1])[:200]  # the last record may be incomplete


def sniff_delimiter(text: str, first_guess: str, is_complete: bool) -> str:
    """Return the delimiter with which most records have the same number of fields, two or more."""
    best, best_share = first_guess, 0.0
    for delimiter in dict.fromkeys((first_guess, ",", "\t", ";", "|")):
        rows = head_rows(text, delimiter, delimiter in ",;", is_complete)
        width, count = Counter(len(row) for row in rows).most_common(1)[0] if rows else (0, 0)
        share = count / max(len(rows), 1)
        if width >= 2 and share > best_share + 1e-9:
            best, best_share = delimiter, share
    return best


def properly_quoted(text: str, delimiter: str, is_complete: bool) -> bool:
    """Return whether the beginning has quoted fields and follows the rules of quoting throughout."""
    if f'{delimiter}"' not in text and '\n"' not in text and not text.startswith('"'):
        return False
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True) if row]
    except csv.Error:
        return False
    return len({len(row) for row in (rows if is_complete else rows[:-1])}) <= 1


def has_header(rows: list[list[str]], named: tuple[str, ...]) -> bool:
    """Return whether the first record names the columns: a named or well-known column, or text above numbers."""
    if named and all(name.isdigit() for name in named):
        return False
    first = [cell.strip() for cell in rows[0]]
    if any(name in first for name in named):
        return True
    if any(is_number(cell) or len(cell) > 80 for cell in first):
        return False
    if any(cell.casefold() in WELL_KNOWN for cell in first):
        return True
    if len(set(first)) < len(first):
        return False
    below = [row for row in rows[1:] if len(row) == len(first)]
    return bool(below) and any(all(is_number(row[index]) for row in below) for index in range(len(first)))


def is_number(cell: str) -> bool:
    try:
        float(cell)
    except ValueError:
        return False
    return True
