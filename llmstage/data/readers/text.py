"""Read plain text: a row is a block of paragraphs, a line, or the complete file (`data.text_rows`)."""

from __future__ import annotations

import re
from collections.abc import Iterator

from llmstage.data.files import DataFile
from llmstage.data.rows import Bad, ReadOptions, Records
from llmstage.data.text_lines import chunks, decode, lines, open_text, too_large

ENDINGS = (".txt", ".text", ".md")
BLOCK = 4096
"""Maximum characters of a block."""
BLANK = re.compile(r"\n[ \t]+\n")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{"text": ...}`."""
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
    """Yield blocks while the file is read: memory is that of one chunk, whatever the size of the file or of its lines."""
    text, first = "", 1
    for number, chunk in chunks(file, options.encoding):
        if isinstance(chunk, Bad):
            for line, block, _ in blocks(text, first, final=True):
                if block:
                    yield line, {"text": block}
            yield number, chunk
            text, first = "", number + 1
            continue
        if not text:
            first = number
        text += chunk
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
    """Yield (line, block, end). A block ends at a blank line, else at a line end, else at a space, else at full length.

    A block without content is an empty string, so that the caller knows how much text was used.
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
    """Return the length of the block at the beginning of a window."""
    blank = window.rfind("\n\n") + 2
    if blank < 2:
        blank = max((match.end() for match in BLANK.finditer(window)), default=0)
    return blank or window.rfind("\n") + 1 or window.rfind(" ") + 1 or len(window)
