"""Reads complete lines of a file that may still grow, or of standard input, and remembers the read position."""

from __future__ import annotations

import hashlib
import os
import select
import sys
import time
from collections import deque
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from llmstage.data.files import NamingFile
from llmstage.errors import DataError
from llmstage.naming import did_you_mean

READ_SIZE = 1 << 20
DIGEST_BYTES = 4096
"""Bytes at the beginning of a file and before the read position whose digest identifies the file."""
EMPTY_DIGEST = hashlib.sha256().hexdigest()
HEAD_LINES = 200
"""Lines that are enough to detect format and layout."""

Line = tuple[bytes, int]
"""(content, size in the file): the content of a line that is too large is cut."""


@dataclass(slots=True)
class Position:
    """How far an input was read."""

    offset: int = 0
    line: int = 0
    digest: str = ""
    """Of the first bytes of the file and the last bytes before `offset`."""


class LineTail:
    """Lines of a file or of standard input (`-`). `position`: the read position of an earlier run; `name`: the input as the
    user gave it."""

    def __init__(self, name: str, position: Position, *, follow: bool, poll: float, max_bytes: int) -> None:
        self.name, self.follow, self.poll, self.max_bytes = name, follow, poll, max_bytes
        self.path = None if name == "-" else Path(name).expanduser()
        self.position, self.ended = Position(), False
        self.partial, self.partial_size = b"", 0
        """The beginning of a line without its end, cut where it is too large, and its size in the file."""
        self.lines: deque[Line] = deque()
        """Complete lines that have not been taken."""
        self.exhausted = False
        """The end of the input was read and no more can come."""
        self.idle = False
        """The end of the input was read and more can come."""
        self.fd = sys.stdin.fileno() if self.path is None else self.open()
        if self.path is not None and position.offset:
            self.resume(position)

    def open(self) -> int:
        assert self.path is not None
        if not self.path.exists():
            near = did_you_mean(self.path.name, [entry.name for entry in self.path.parent.glob("*")])
            raise DataError(
                f"stage.input={self.name}: there is no such file (seen from {Path.cwd()}).{near} Check the path."
            )
        if not self.path.is_file():
            raise DataError(f"stage.input={self.name} is not a file. Name one file, or - for standard input.")
        with NamingFile(self.name):
            return os.open(self.path, os.O_RDONLY)

    def resume(self, position: Position) -> None:
        """Go to the read position of an earlier run. Raises DataError where the file is not the same."""
        if os.fstat(self.fd).st_size < position.offset or digest(self.fd, position.offset) != position.digest:
            raise DataError(
                f"{self.name} is not the file that was read before: its first {position.offset:,} bytes have changed, so the "
                f"items already counted cannot be told from new ones. Restore the file, or begin again in another "
                f"folder: hydra.run.dir=<folder>"
            )
        os.lseek(self.fd, position.offset, os.SEEK_SET)
        self.position = Position(position.offset, position.line, position.digest)

    def head(self) -> bytes:
        """Return the first complete lines without taking them."""
        self.fill(HEAD_LINES)
        return b"".join(content for content, _ in islice(self.lines, HEAD_LINES))

    def take(self, limit: int, *, quoted: bool = False) -> list[bytes]:
        """Return the next complete lines, at most `limit` unless one record has more.

        `quoted`: a record continues over line ends while a quote is open, as in CSV.
        """
        self.fill(limit)
        taken = [self.lines.popleft() for _ in range(min(limit, len(self.lines)))]
        if quoted:
            taken = self.complete_records(taken)
        if taken:
            offset = self.position.offset + size_of(taken)
            file_digest = "" if self.path is None else digest(self.fd, offset)
            self.position = Position(offset, self.position.line + len(taken), file_digest)
        self.ended = self.exhausted and not self.lines
        return [content for content, _ in taken]

    def complete_records(self, taken: list[Line]) -> list[Line]:
        """Return the lines up to the last one after which no quote is open, and put the others back.

        A quote that never closes is left to the CSV reader, which reports it.
        """
        quote_open = sum(content.count(b'"') for content, _ in taken) % 2 == 1
        while quote_open and size_of(taken) < self.max_bytes and (self.lines or self.read()):
            if self.lines:
                taken.append(self.lines.popleft())
                quote_open ^= taken[-1][0].count(b'"') % 2 == 1
        if not quote_open or self.exhausted or size_of(taken) >= self.max_bytes:
            return taken
        odd, num_complete = False, 0
        for number, (content, _) in enumerate(taken, start=1):
            odd ^= content.count(b'"') % 2 == 1
            num_complete = num_complete if odd else number
        self.lines.extendleft(reversed(taken[num_complete:]))
        return taken[:num_complete]

    def fill(self, limit: int) -> None:
        while len(self.lines) < limit and not self.exhausted and self.read():
            pass

    def read(self) -> bool:
        """Read a block of bytes where there is one now, and return whether something was read."""
        if self.path is None and not select.select([self.fd], [], [], 0)[0]:
            return False
        data = os.read(self.fd, READ_SIZE)
        if not data:
            return self.at_end()
        if self.idle and self.path is not None and digest(self.fd, self.position.offset) != self.position.digest:
            raise self.changed_error()
        self.idle = False
        *line_ends, rest = data.split(b"\n")
        for part in line_ends:
            self.append(part)
            self.end_line(b"\n")
        self.append(rest)
        return True

    def append(self, part: bytes) -> None:
        """Add bytes to the partial line. Of a line that is too large one byte too many is stored, so that the reader sees it."""
        self.partial += part[: max(0, self.max_bytes + 1 - len(self.partial))]
        self.partial_size += len(part)

    def end_line(self, line_end: bytes) -> None:
        self.lines.append((self.partial + line_end, self.partial_size + len(line_end)))
        self.partial, self.partial_size = b"", 0

    def at_end(self) -> bool:
        """Handle the end of the input, and return whether a new file has replaced it.

        Where no more can come, a last line without a line end counts as complete. Raises DataError where the part that was read
        has changed.
        """
        if self.path is not None:
            size = self.position.offset + size_of(self.lines) + self.partial_size
            expected = self.position.digest or EMPTY_DIGEST
            if os.fstat(self.fd).st_size < size or digest(self.fd, self.position.offset) != expected:
                raise self.changed_error()
        if self.path is None or not self.follow:
            self.exhausted = True
            if self.partial_size:
                self.end_line(b"")
            return False
        self.idle = self.position.offset > 0
        # Log rotation: another file under the same name. The old file is read to its end first.
        try:
            replaced = os.stat(self.path).st_ino != os.fstat(self.fd).st_ino
        except FileNotFoundError:
            return False  # the old file was moved, and the new one does not exist yet
        if not replaced or self.lines:
            return False
        if self.partial_size:
            self.end_line(b"")
            return False
        os.close(self.fd)
        self.fd, self.position, self.idle = self.open(), Position(), False
        return True

    def changed_error(self) -> DataError:
        return DataError(
            f"{self.name} was changed where it had been read, so its counts are no longer right. Only append to it, or replace "
            f"it by a new file under its name."
        )

    def wait(self) -> None:
        """Sleep until there may be more."""
        if self.path is None:
            select.select([self.fd], [], [], self.poll)
        else:
            time.sleep(self.poll)


def size_of(lines: list[Line] | deque[Line]) -> int:
    """Return the bytes that lines take in the file."""
    return sum(size for _, size in lines)


def digest(fd: int, offset: int) -> str:
    """Return the digest of the first bytes of a file and the last bytes before `offset`."""
    ends = os.pread(fd, min(DIGEST_BYTES, offset), 0)
    ends += os.pread(fd, min(DIGEST_BYTES, offset), max(0, offset - DIGEST_BYTES))
    return hashlib.sha256(ends).hexdigest()
