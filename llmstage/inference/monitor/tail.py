"""Bytes of an input that may still grow, as whole lines, with the place behind the last line that was taken."""

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

PIECE = 1 << 20
ENDS = 4096
"""Bytes at the beginning of a file and before the place, by which it is known again."""
NOTHING = hashlib.sha256().hexdigest()
HEAD_LINES = 200
"""Lines from which format and layout are told."""


@dataclass(slots=True)
class Place:
    """How far an input was read."""

    offset: int = 0
    line: int = 0
    digest: str = ""
    """Of the first bytes, and of the last ones before `offset`."""


class Feed:
    """Lines of a file or of standard input (`-`). `place`: where an earlier run stood."""

    def __init__(self, path: str, place: Place, *, follow: bool, poll: float, max_bytes: int) -> None:
        self.shown, self.follow, self.poll, self.max_bytes = path, follow, poll, max_bytes
        self.path = None if path == "-" else Path(path).expanduser()
        self.place, self.ended = Place(), False
        self.rest, self.rest_size = b"", 0
        """The beginning of a line whose end was not written yet, as much of it as is kept, and its size."""
        self.lines: deque[tuple[bytes, int]] = deque()
        """Whole lines that were not taken, with their size in the file."""
        self.exhausted = self.at_rest = False
        """The end was seen and nothing more is expected; the end was seen and more may come."""
        self.fd = sys.stdin.fileno() if self.path is None else self.open()
        if self.path is not None and place.offset:
            self.go_on(place)

    def open(self) -> int:
        assert self.path is not None
        if not self.path.exists():
            near = did_you_mean(self.path.name, [item.name for item in self.path.parent.glob("*")])
            raise DataError(
                f"stage.input={self.shown}: there is no such file (seen from {Path.cwd()}).{near} Check the path."
            )
        if not self.path.is_file():
            raise DataError(f"stage.input={self.shown} is no file. Name one file, or - for standard input.")
        with NamingFile(self.shown):
            return os.open(self.path, os.O_RDONLY)

    def go_on(self, place: Place) -> None:
        if os.fstat(self.fd).st_size < place.offset or digest(self.fd, place.offset) != place.digest:
            raise DataError(
                f"{self.shown} is not the file that was read before: its first {place.offset:,} bytes have changed, so the "
                f"items already counted cannot be told from new ones. Give the file as it was, or begin anew in another "
                f"folder: hydra.run.dir=<folder>"
            )
        os.lseek(self.fd, place.offset, os.SEEK_SET)
        self.place = Place(place.offset, place.line, place.digest)

    def head(self) -> bytes:
        """The first whole lines that are there, without taking them."""
        self.fill(HEAD_LINES)
        return b"".join(line for line, _ in islice(self.lines, HEAD_LINES))

    def take(self, most: int, *, quoted: bool = False) -> list[bytes]:
        """The next whole lines, at most so many (more where one record has more). `quoted`: a record goes on while a quote is
        open."""
        self.fill(most)
        taken = [self.lines.popleft() for _ in range(min(most, len(self.lines)))]
        if quoted:
            taken = self.whole_records(taken)
        if taken:
            offset = self.place.offset + sum(size for _, size in taken)
            known = "" if self.path is None else digest(self.fd, offset)
            self.place = Place(offset, self.place.line + len(taken), known)
        self.ended = self.exhausted and not self.lines
        return [line for line, _ in taken]

    def whole_records(self, taken: list[tuple[bytes, int]]) -> list[tuple[bytes, int]]:
        """Lines up to the last one behind which no quote is open; those after it wait for the end of their record. A quote
        that never closes is the reader's to tell."""
        inside = sum(line.count(b'"') for line, _ in taken) % 2 == 1
        while inside and self.size_of(taken) < self.max_bytes and (self.lines or self.read()):
            if self.lines:
                taken.append(self.lines.popleft())
                inside ^= taken[-1][0].count(b'"') % 2 == 1
        if not inside or self.exhausted or self.size_of(taken) >= self.max_bytes:
            return taken
        odd, cut = False, 0
        for number, (line, _) in enumerate(taken, start=1):
            odd ^= line.count(b'"') % 2 == 1
            cut = cut if odd else number
        self.lines.extendleft(reversed(taken[cut:]))
        return taken[:cut]

    def size_of(self, taken: list[tuple[bytes, int]]) -> int:
        return sum(size for _, size in taken)

    def fill(self, most: int) -> None:
        while len(self.lines) < most and not self.exhausted and self.read():
            pass

    def read(self) -> bool:
        """Read another piece, if there is one now."""
        if self.path is None and not select.select([self.fd], [], [], 0)[0]:
            return False
        data = os.read(self.fd, PIECE)
        if not data:
            return self.at_end()
        if self.at_rest and self.path is not None and digest(self.fd, self.place.offset) != self.place.digest:
            raise self.changed()
        self.at_rest = False
        *whole, rest = data.split(b"\n")
        for line in whole:
            self.add(line)
            self.close_line(b"\n")
        self.add(rest)
        return True

    def add(self, piece: bytes) -> None:
        """Of a line that is too large only so much is kept that the reader sees that it is."""
        self.rest += piece[: max(0, self.max_bytes + 1 - len(self.rest))]
        self.rest_size += len(piece)

    def close_line(self, end: bytes) -> None:
        self.lines.append((self.rest + end, self.rest_size + len(end)))
        self.rest, self.rest_size = b"", 0

    def at_end(self) -> bool:
        """Whether there is more behind the end: a new file under the old name. A last line without its end counts as whole
        where nothing more is expected."""
        if self.path is not None:
            size = self.place.offset + self.size_of(list(self.lines)) + self.rest_size
            if os.fstat(self.fd).st_size < size or digest(self.fd, self.place.offset) != (self.place.digest or NOTHING):
                raise self.changed()
        if self.path is None or not self.follow:
            self.exhausted = True
            if self.rest_size:
                self.close_line(b"")
            return False
        self.at_rest = self.place.offset > 0
        try:
            replaced = os.stat(self.path).st_ino != os.fstat(self.fd).st_ino
        except FileNotFoundError:
            return False  # moved away; the new one is about to come
        if not replaced or self.lines:
            return False
        if self.rest_size:
            self.close_line(b"")
            return False
        os.close(self.fd)
        self.fd, self.place, self.at_rest = self.open(), Place(), False
        return True

    def changed(self) -> DataError:
        return DataError(
            f"{self.shown} was changed where it had been read, so what was counted no longer stands there. Append to it only, "
            f"or replace it by a new file under its name."
        )

    def wait(self) -> None:
        """Until there may be more."""
        if self.path is None:
            select.select([self.fd], [], [], self.poll)
        else:
            time.sleep(self.poll)


def digest(fd: int, offset: int) -> str:
    ends = os.pread(fd, min(ENDS, offset), 0) + os.pread(fd, min(ENDS, offset), max(0, offset - ENDS))
    return hashlib.sha256(ends).hexdigest()
