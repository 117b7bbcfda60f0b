"""Read CoNLL columns: one token a line with its tag, a blank line between sentences, `-DOCSTART-` lines between documents."""

from __future__ import annotations

import re
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.rows import Bad, FileHead, ReadOptions, Records
from llmstage.data.text_lines import lines

ENDINGS = (".conll", ".annotated", ".bmes", ".bio", ".iob", ".iob2", ".bioes", ".iobes", ".conll2003")
BLANK = re.compile(r"[ \t]+")
"""str.split would also split at ideographic and non-breaking spaces, which may be tokens."""
DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"(?:O|[BIMES]-\S+)\Z")
MIN_LINES = 4
"""Lines with a token that a file must have to be detected by content."""


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{"tokens": [...], "tags": [...], "first_line": n}`: the first column and the last.

    Where the user names columns by number (`data.columns.tags=2`), every column is also in the record by its number.
    """
    numbered = any(name.isdigit() for name in options.named)
    rows: list[list[str]] = []
    first, width, separator = 0, 0, ""
    bad: tuple[int, Bad] | None = None
    number = 0
    for number, line in lines(file, options.encoding, options.max_bytes):
        text = line.raw if isinstance(line, Bad) else line.rstrip("\r\n")
        if not isinstance(line, Bad) and (not text.strip(" \t") or text.startswith(DOCUMENT)):
            if rows or bad:
                yield bad or (first, record(rows, first, numbered=numbered))
            rows, bad = [], None
            continue
        if not separator and not isinstance(line, Bad):
            separator = "\t" if "\t" in text else " "
        if not rows and bad is None:
            first = number
        if isinstance(line, Bad):
            bad = bad or (number, line)
            continue
        fields = text.split("\t") if separator == "\t" else BLANK.split(text.strip(" \t"))
        width = width or len(fields)
        reason = complaint(fields, width)
        if reason and bad is None:
            bad = number, Bad(reason, text)
        rows.append(fields)
    if rows or bad:
        yield bad or (first, record(rows, first, numbered=numbered))


def complaint(fields: list[str], width: int) -> str | None:
    """Return what is wrong with the columns of a line, or None."""
    if len(fields) < 2:
        return "one column, where a token and its tag must stand"
    if len(fields) != width:
        return f"{len(fields)} columns, where the file's first line has {width}"
    if not fields[0] or not fields[-1].strip():
        return f"the {'token' if not fields[0] else 'tag'} is empty"
    return None


def record(rows: list[list[str]], first: int, *, numbered: bool) -> dict[str, Any]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    values: dict[str, Any] = {"tokens": columns[0], "tags": columns[-1], "first_line": first}
    return {**values, **{str(index): column for index, column in enumerate(columns)}} if numbered else values


def matches(head: FileHead) -> bool:
    """Return whether the beginning of a file has equal columns, tags in the last one, and at least one entity."""
    complete = head.text.splitlines()
    complete = complete if head.is_complete else complete[:-1]
    token_lines = [line for line in complete if line.strip(" \t") and not line.startswith(DOCUMENT)]
    if len(token_lines) < MIN_LINES:
        return False
    tabs = "\t" in token_lines[0]
    rows = [line.split("\t") if tabs else BLANK.split(line.strip(" \t")) for line in token_lines]
    width = len(rows[0])
    return (
        width >= 2
        and all(len(row) == width and TAG.match(row[-1]) for row in rows)
        and any(row[-1] != "O" for row in rows)
    )
