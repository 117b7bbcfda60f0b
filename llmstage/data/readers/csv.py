"""Comma-separated values and their kin: delimiter, quoting and header are sniffed on the first 64 KB and then kept."""

from __future__ import annotations

import csv
from collections import Counter, deque
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from llmstage.data.columns import WELL_KNOWN
from llmstage.data.files import DataFile
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.text_lines import lines, open_text
from llmstage.errors import DataError, UserError

ENDINGS = (".csv",)
HEAD = 1 << 16
Quoting = Literal[0, 3]
NAMES = {",": "comma", "\t": "tab", ";": "semicolon", "|": "pipe"}
ESCAPED = {"tab": "\t", "\\t": "\t", "comma": ",", "semicolon": ";", "pipe": "|", "space": " "}


@dataclass(slots=True, frozen=True)
class Layout:
    """How a file is to be read."""

    delimiter: str
    quoted: bool
    """Whether `"` encloses fields; in many tab-separated files it is a mere character."""
    columns: tuple[str, ...]
    header: bool


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records by column name, or by number (`"0"`) without a header."""
    return read_layout(file, options, find_layout(file, options, first_guess=","))


def describe(file: DataFile, options: ReadOptions) -> str:
    """What was sniffed, for the header line."""
    return describe_layout(find_layout(file, options, first_guess=","), ",")


def describe_layout(layout: Layout, usual: str) -> str:
    words = [] if layout.delimiter == usual else [f"{NAMES.get(layout.delimiter, repr(layout.delimiter))}-separated"]
    return ", ".join([*words, *([] if layout.header else ["no header"])])


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
            told = "the header names" if layout.header else "the first row has"
            yield number, Bad(f"{len(fields)} fields, where {told} {width}", layout.delimiter.join(fields))
        else:
            yield number, dict(zip(layout.columns, fields, strict=True))


class Feed:
    """Lines for one record at a time, remembered, so that those behind a quote that never closes can be given back."""

    def __init__(self, source: Iterator[tuple[int, str | Bad]], max_bytes: int) -> None:
        self.source, self.max_bytes = source, max_bytes
        self.waiting: deque[tuple[int, str | Bad]] = deque()
        self.taken: list[tuple[int, str | Bad]] = []
        self.size = 0
        self.ended = False
        """The record asked for a line and there was none, or it grew too large."""

    def __iter__(self) -> Iterator[str]:
        self.taken, self.size, self.ended = [], 0, False
        while not self.ended:
            item = self.waiting.popleft() if self.waiting else next(self.source, None)
            if item is None:
                break
            text = item[1].raw if isinstance(item[1], Bad) else item[1]
            self.taken.append(item)
            self.size += len(text)
            if len(self.taken) > 1 and self.size > self.max_bytes:
                break
            yield text
        self.ended = True

    def give_back(self, items: list[tuple[int, str | Bad]]) -> None:
        self.waiting.extendleft(reversed(items))


def records(file: DataFile, options: ReadOptions, layout: Layout) -> Iterator[tuple[int, list[str] | Bad]]:
    """(first line, fields) of each record. A quote that never closes spoils its own line only."""
    csv.field_size_limit(1 << 30)  # the library's own 128 KB would refuse long documents; data.max_row_mb bounds them
    feed = Feed(lines(file, options.encoding, options.max_bytes), options.max_bytes)
    quoting: Quoting = csv.QUOTE_MINIMAL if layout.quoted else csv.QUOTE_NONE
    while True:
        fields = next(csv.reader(feed, delimiter=layout.delimiter, quoting=quoting), None)
        if not feed.taken:
            return
        number, first = feed.taken[0]
        if feed.ended:
            yield number, first if isinstance(first, Bad) else Bad('a quote (") opens here and never closes', first)
            feed.give_back(feed.taken[1:])
            continue
        bad = next((item for item in feed.taken if isinstance(item[1], Bad)), None)
        if bad is not None and isinstance(bad[1], Bad):
            yield bad[0], bad[1]
        elif fields:
            yield number, fields


def find_layout(file: DataFile, options: ReadOptions, first_guess: str) -> Layout:
    """Delimiter, quoting, header and column names. Raises DataError for a file without a line."""
    stream, encoding = open_text(file, options.encoding)
    with stream:
        raw = stream.read(HEAD)
        whole = not stream.read(1)
    text = raw.decode(encoding, "replace")
    if not whole:
        text = text[: text.rfind("\n") + 1] or text
    if not text.strip():
        raise DataError(f"{file.shown}: the file has no line with content.")
    delimiter = ESCAPED.get(options.delimiter, options.delimiter)
    if delimiter == "auto":
        delimiter = sniff_delimiter(text, first_guess, whole)
    elif len(delimiter) != 1 or delimiter in '\r\n"':
        raise UserError(f"data.delimiter={options.delimiter!r} must be one character, `tab`, or `auto`.")
    quoted = delimiter in ",;" or properly_quoted(text, delimiter, whole)
    rows = head_rows(text, delimiter, quoted, whole)
    if not rows:
        raise DataError(f'{file.shown}:1: a quote (") opens here and never closes in {HEAD >> 10} KB. Mend the file.')
    header = has_header(rows, options.named) if options.header == "auto" else bool(options.header)
    names = [name.strip() for name in rows[0]] if header else [str(index) for index in range(len(rows[0]))]
    twice = [name for name, count in Counter(names).items() if count > 1 and name]
    if twice:
        raise DataError(
            f"{file.shown}:1: the header names '{twice[0]}' {names.count(twice[0])} times. "
            f"Rename one, or set data.header=false."
        )
    columns = tuple(name or f"column {index}" for index, name in enumerate(names))
    return Layout(delimiter, quoted, columns, header)


def head_rows(text: str, delimiter: str, quoted: bool, whole: bool) -> list[list[str]]:
    """The complete records of the beginning, at most 200."""
    csv.field_size_limit(1 << 30)
    parts = text.splitlines(keepends=True) if "\x0b" not in text and "\x0c" not in text else text.split("\n")
    quoting: Quoting = csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE
    try:
        rows = [row for row in csv.reader(parts, delimiter=delimiter, quoting=quoting) if row]
    except csv.Error:  # a carriage return inside a field: no file of text with this delimiter
        return []
    return (rows if whole or len(rows) < 2 else rows[:-1])[:200]  # the last one may be cut by the end of the head


def sniff_delimiter(text: str, first_guess: str, whole: bool) -> str:
    """The delimiter under which most records have the same number of fields, two or more."""
    best, best_share = first_guess, 0.0
    for delimiter in dict.fromkeys((first_guess, ",", "\t", ";", "|")):
        rows = head_rows(text, delimiter, delimiter in ",;", whole)
        width, count = Counter(len(row) for row in rows).most_common(1)[0] if rows else (0, 0)
        share = count / max(len(rows), 1)
        if width >= 2 and share > best_share + 1e-9:
            best, best_share = delimiter, share
    return best


def properly_quoted(text: str, delimiter: str, whole: bool) -> bool:
    """Whether the beginning has quoted fields and obeys the rules of quoting throughout."""
    if f'{delimiter}"' not in text and '\n"' not in text and not text.startswith('"'):
        return False
    try:
        rows = [row for row in csv.reader(text.splitlines(keepends=True), delimiter=delimiter, strict=True) if row]
    except csv.Error:
        return False
    return len({len(row) for row in (rows if whole else rows[:-1])}) <= 1


def has_header(rows: list[list[str]], named: tuple[str, ...]) -> bool:
    """Whether the first record names the columns: a named or well-known word, or text above a column of numbers."""
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
