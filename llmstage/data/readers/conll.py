"""CoNLL columns: one token a line with its tag, a blank line between sentences, `-DOCSTART-` lines between documents."""

from __future__ import annotations

import re
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.text_lines import lines

ENDINGS = (".conll", ".annotated", ".bmes", ".bio", ".iob", ".iob2", ".bioes", ".iobes", ".conll2003")
BLANK = re.compile(r"[ \t]+")
"""Not str.split: an ideographic or non-breaking space may be a token."""
DOCUMENT = "-DOCSTART-"
TAG = re.compile(r"(?:O|[BIMES]-\S+)\Z")
LEAST = 4
"""Lines with a token that must be seen before content alone says that a file is of this kind."""


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{"tokens": [...], "tags": [...], "first_line": n}`: the first column and the last.

    Where columns are named by number (`data.columns.tags=2`), every column is there under its number too.
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
    if len(fields) < 2:
        return "one column, where a token and its tag must stand"
    if len(fields) != width:
        return f"{len(fields)} columns, where the file's first line has {width}"
    if not fields[0] or not fields[-1].strip():
        return f"the {'token' if not fields[0] else 'tag'} is empty"
    return None


def record(rows: list[list[str]], first: int, *, numbered: bool) -> dict[str, Any]:
    columns = [list(column) for column in zip(*rows, strict=True)]
    found: dict[str, Any] = {"tokens": columns[0], "tags": columns[-1], "first_line": first}
    return {**found, **{str(index): column for index, column in enumerate(columns)}} if numbered else found


def looks_like(text: str, *, whole: bool) -> bool:
    """Whether the beginning of a file is of this kind: equal columns, the last a tag, and at least one entity begun."""
    seen = text.splitlines()
    seen = [line for line in (seen if whole else seen[:-1]) if line.strip(" \t") and not line.startswith(DOCUMENT)]
    if len(seen) < LEAST:
        return False
    tabs = "\t" in seen[0]
    rows = [line.split("\t") if tabs else BLANK.split(line.strip(" \t")) for line in seen]
    width = len(rows[0])
    return (
        width >= 2
        and all(len(row) == width and TAG.match(row[-1]) for row in rows)
        and any(row[-1] != "O" for row in rows)
    )
