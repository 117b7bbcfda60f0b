"""Decode files to text, by line or in large chunks. A line that cannot be decoded is one bad row with its number."""

from __future__ import annotations

import codecs
import io
from collections.abc import Iterator
from functools import lru_cache
from typing import BinaryIO, cast

from llmstage.data.files import DataFile
from llmstage.data.rows import Bad
from llmstage.errors import DataError, UserError
from llmstage.naming import did_you_mean

BOMS = (  # the four-byte marks are first: the mark of UTF-32-LE begins with that of UTF-16-LE
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
COMMON = ("utf-8", "gb18030", "gbk", "big5", "utf-16", "shift_jis", "euc_kr", "latin-1", "cp1252", "cp1251")
CHUNK_SIZE = 1 << 20


def check_encoding(name: str) -> str:
    """Return the canonical name of an encoding. Raise UserError for an unknown name, or a codec that is not text."""
    try:
        "".encode(name)
        return codecs.lookup(name).name
    except (LookupError, TypeError, ValueError):
        raise UserError(
            f"data.encoding={name} is no text encoding.{did_you_mean(name, COMMON)} Common: {', '.join(COMMON)}."
        ) from None


def open_text(file: DataFile, encoding: str) -> tuple[BinaryIO, str]:
    """Open a file behind its byte order mark; return the stream and an encoding in which lines end in byte 0x0A.

    The byte order mark takes precedence over `encoding`.
    """
    encoding = "utf-8" if encoding == "utf-8-sig" else encoding
    stream = file.open()
    head = cast(io.BufferedReader, stream).peek(4)[:4]
    for mark, name in BOMS:
        if head.startswith(mark):
            stream.read(len(mark))
            encoding = name
            break
    if "\n".encode(encoding) == b"\n":
        return stream, encoding
    return io.BufferedReader(Recoder(stream, encoding, file.display_name), CHUNK_SIZE), "utf-8"


class Recoder(io.RawIOBase):
    """Recodes UTF-16, UTF-32 and similar encodings to UTF-8 bytes while they are read."""

    def __init__(self, stream: BinaryIO, encoding: str, file_name: str) -> None:
        self.stream, self.file_name, self.encoding = stream, file_name, encoding
        self.decoder = codecs.getincrementaldecoder(encoding)("strict")
        self.ready = b""
        self.lines = 1

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        while not self.ready:
            data = self.stream.read(CHUNK_SIZE)
            try:
                text = self.decoder.decode(data, final=not data)
            except UnicodeDecodeError as error:
                raise DataError(
                    f"{self.file_name}:{self.lines}: not valid {self.encoding} at or after this line ({error.reason}). "
                    f"Repair the file, or set data.encoding to what it is written in."
                ) from None
            self.ready = text.encode("utf-8", "surrogatepass")
            self.lines += self.ready.count(b"\n")
            if not data:
                break
        size = min(len(buffer), len(self.ready))
        buffer[:size] = self.ready[:size]
        self.ready = self.ready[size:]
        return size

    def close(self) -> None:
        self.stream.close()
        super().close()


def lines(file: DataFile, encoding: str, max_bytes: int) -> Iterator[tuple[int, str | Bad]]:
    """Yield (number from 1, line with its end) for every line. `max_bytes` limits the memory."""
    stream, encoding = open_text(file, encoding)
    number = 0
    with stream:
        while raw := stream.readline(max_bytes + 1):
            number += 1
            if len(raw) > max_bytes and not raw.endswith(b"\n"):
                size = len(raw)
                while rest := stream.readline(CHUNK_SIZE):
                    size += len(rest)
                    if rest.endswith(b"\n"):
                        break
                yield number, too_large(size, max_bytes, raw[:500].decode(encoding, "replace"))
                continue
            yield number, decode(raw, encoding, file)


def chunks(file: DataFile, encoding: str) -> Iterator[tuple[int, str | Bad]]:
    """Yield (number of the first line, text) in chunks of about a megabyte, which end at line ends where there are any.

    Only a chunk that does not decode is decoded line by line: for 1 GB, that saves minutes.
    """
    stream, encoding = open_text(file, encoding)
    number, rest = 1, b""
    with stream:
        while True:
            chunk = stream.read(CHUNK_SIZE)
            data = rest + chunk
            if not data:
                return
            cut = len(data) if not chunk else data.rfind(b"\n") + 1 or complete_characters(data, encoding)
            yield from decode_chunk(data[:cut], number, encoding, file)
            number += data.count(b"\n", 0, cut)
            rest = data[cut:]
            if not chunk:
                return


def complete_characters(data: bytes, encoding: str) -> int:
    """Return the length of `data` without an incomplete character at its end."""
    for missing in range(4):
        try:
            data[: len(data) - missing].decode(encoding)
        except UnicodeDecodeError:
            continue
        return len(data) - missing
    return len(data)


def decode_chunk(data: bytes, number: int, encoding: str, file: DataFile) -> Iterator[tuple[int, str | Bad]]:
    """Yield a chunk as one text, or line by line where a line cannot be decoded or contains NUL."""
    try:
        text = data.decode(encoding)
    except UnicodeDecodeError:
        text = "\0"
    if "\0" not in text:
        yield number, text.replace("\r\n", "\n") if "\r" in text else text
        return
    for raw in data.splitlines(keepends=True) if b"\r" not in data else data.replace(b"\r\n", b"\n").split(b"\n"):
        if raw:
            line = decode(raw, encoding, file)
            yield number, line if isinstance(line, Bad) or line.endswith("\n") else line + "\n"
        number += 1


def decode(raw: bytes, encoding: str, file: DataFile) -> str | Bad:
    """Return one line as text, or the reason why it cannot be decoded."""
    if b"\0" in raw:
        return Bad(f"a NUL byte at byte {raw.index(0) + 1} of the line", raw.decode(encoding, "replace"))
    try:
        return raw.decode(encoding)
    except UnicodeDecodeError as error:
        better = likely_encoding(file, encoding)
        hint = f"; the file reads as {better}: set data.encoding={better}" if better else ""
        return Bad(
            f"byte 0x{raw[error.start]:02x} at byte {error.start + 1} of the line is not valid {encoding}{hint}",
            raw.decode(encoding, "replace"),
        )


def too_large(size: int, max_bytes: int, raw: str) -> Bad:
    return Bad(
        f"{size / 1e6:.1f} MB in one record, more than data.max_row_mb={max_bytes / (1 << 20):.3g}"
        f" (if it is intended: data.max_row_mb={size / (1 << 20) + 1:.0f})",
        raw,
    )


def likely_encoding(file: DataFile, wrong: str) -> str | None:
    """Return an encoding in which the first 64 KB of a file look like real text; None where no encoding is clearly best."""
    return likely_encoding_of(file.head(), wrong)


@lru_cache(maxsize=16)  # called once for each bad line
def likely_encoding_of(head: bytes, wrong: str) -> str | None:
    scores: dict[str, float] = {}
    for name in ("utf-8", "gb18030", "big5", "shift_jis", "euc_kr", "cp1252"):
        try:
            text = codecs.getincrementaldecoder(name)("strict").decode(head)
        except UnicodeDecodeError:
            continue
        non_ascii = [char for char in text if not char.isascii()]
        if name != wrong and non_ascii:
            scores[name] = sum(writing_score(char, name) for char in non_ascii) / len(non_ascii)
    best = max(scores, key=lambda name: scores[name], default=None)
    return best if best is not None and scores[best] > 0.5 else None


EVERYDAY = frozenset(
    "的一是不了在人有我他这个们中来上大为和国地到以说时要就出会可也你对生能而子那得着"
    "下自之年過後這個們來為國說時會對著"
    "이다는을의에가고하지한로를은어도사자기리인"
)


def writing_score(char: str, encoding: str) -> float:
    """Return how much a non-ASCII character looks like real text: everyday characters score highest."""
    if encoding == "cp1252":
        return 0.6 if char.isalpha() or char in "’‘“”–—€£°é" else 0.0
    if char in EVERYDAY:
        return 2.0
    if encoding == "shift_jis" and "\u3040" <= char <= "\u30ff":
        return 1.2
    if encoding == "euc_kr" and "\uac00" <= char <= "\ud7a3":
        return 0.7
    han = "\u4e00" <= char <= "\u9fff" or "\u3000" <= char <= "\u303f" or "\uff00" <= char <= "\uffef"
    return 0.7 if han else 0.0
