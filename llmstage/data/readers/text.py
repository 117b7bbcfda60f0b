"""Plain text: a row is a block of paragraphs, a line, or the whole file (`data.text_rows`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmstage.data.files import DataFile
from llmstage.data.records import Bad, ReadOptions, Records
from llmstage.data.text_lines import decode, lines, open_text, pieces, too_large

ENDINGS = (".txt", ".text", ".md")
BLOCK = 4096
"""Characters of a block at most."""
BLANK = re.compile(r"\n[ \t]+\n")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{"text": ...}`."""
    if options.text_rows == "file":
        return read_file(file, options)
    return read_lines(file, options) if options.text_rows == "line" else read_blocks(file, options)


def read_file(file: DataFile, options: ReadOptions) -> Records:
    stream, encoding = open_text(file, options.encoding)
    with stream:
        raw = stream.read(options.max_bytes + 1)
    if len(raw) > options.max_bytes:
        yield 1, too_large(file.path.stat().st_size, options.max_bytes, raw[:500].decode(encoding, "replace"))
        return
    text = decode(raw, encoding, file)
    if isinstance(text, Bad):
        yield 1, text
    elif text.strip():
        yield 1, {"text": text.replace("\r\n", "\n")}


def read_lines(file: DataFile, options: ReadOptions) -> Records:
    for number, line in lines(file, options.encoding, options.max_bytes):
        if isinstance(line, Bad):
            yield number, line
        elif line.strip():
            yield number, {"text": line.rstrip("\r\n")}


def read_blocks(file: DataFile, options: ReadOptions) -> Records:
    """Streaming; memory is that of one piece, whatever the size of the file or of its lines."""
    text, first = "", 1
    for number, piece in pieces(file, options.encoding):
        if isinstance(piece, Bad):
            for line, block, _ in blocks(text, first, final=True):
                if block:
                    yield line, {"text": block}
            yield number, piece
            text, first = "", number + 1
            continue
        if not text:
            first = number
        text += piece
        used = 0
        for line, block, end in blocks(text, first, final=False):
            used = end
            if block:
                yield line, {"text": block}
        first += text.count("\n", 0, used)
        text = text[used:]
    for line, block, _ in blocks(text, first, final=True):
        if block:
            yield line, {"text": block}


def blocks(text: str, first: int, final: bool) -> Iterator[tuple[int, str, int]]:
    """(line, block, end) with blocks closed at a blank line, else a line end, else a space, else at full length.

    A block without content comes as an empty string, so that the caller still learns how far it got.
    """
    start, size = 0, len(text)
    while start < size and (final or size - start >= BLOCK):
        end = size if size - start < BLOCK else start + block_length(text[start : start + BLOCK])
        block = text[start:end]
        body = block.lstrip("\n")
        line = first + len(block) - len(body)
        first += block.count("\n")
        body = body.rstrip("\n")
        yield line, "" if not body or body.isspace() else body, end
        start = end


def block_length(window: str) -> int:
    blank = window.rfind("\n\n") + 2
    if blank < 2:
        blank = max((found.end() for found in BLANK.finditer(window)), default=0)
    return blank or window.rfind("\n") + 1 or window.rfind(" ") + 1 or len(window)
