"""Paths as people type them (a file, a glob, a folder, `-`) to files that open, gzip too, with a content digest."""

from __future__ import annotations

import glob
import gzip
import hashlib
import os
import re
import shutil
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from llmstage.errors import DataError
from llmstage.naming import did_you_mean

PIECE = 64 << 20
"""Bytes that one thread hashes; part of the digest's definition, so never change it without a reason."""
NOTICES = re.compile(r"(readme|licen[cs]e|notice|changelog|citation)([._-].*)?", re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class DataFile:
    """One file: where it is, and the name under which the user knows it."""

    path: Path
    shown: str

    def open(self) -> BinaryIO:
        """The bytes of the file, unpacked if it is gzip (decided by content, not by name)."""
        stream = self.path.open("rb")
        if stream.peek(2)[:2] == b"\x1f\x8b":
            return cast(BinaryIO, gzip.open(stream))
        return stream

    def head(self, size: int = 1 << 16) -> bytes:
        """The first `size` unpacked bytes."""
        with self.open() as stream:
            return stream.read(size)

    def ending(self) -> str:
        """The lower-case ending without a `.gz` after it, e.g. `.csv`."""
        name = self.shown.lower()
        return os.path.splitext(name.removesuffix(".gz"))[1]

    def digest(self) -> str:
        """sha256 over the sha256 of each 64 MB piece: content only, never name, size on disk or time. Of a folder: names and
        sizes of all that is in it; what its pictures show has a digest of its own (data/pictures.py)."""
        if self.path.is_dir():
            return folder_digest(self.path)
        size = self.path.stat().st_size
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            pieces = list(pool.map(self._piece_digest, range(0, size, PIECE)))
        return hashlib.sha256(b"".join(pieces)).hexdigest()

    def _piece_digest(self, start: int) -> bytes:
        sha = hashlib.sha256()
        with self.path.open("rb") as stream:
            stream.seek(start)
            left = PIECE
            while left and (data := stream.read(min(1 << 20, left))):
                sha.update(data)  # releases the GIL
                left -= len(data)
        return sha.digest()


def folder_digest(folder: Path) -> str:
    sha = hashlib.sha256()
    for path in walk(folder):
        sha.update(f"{path.relative_to(folder).as_posix()}\0{path.stat().st_size}\0".encode(errors="surrogateescape"))
    return sha.hexdigest()


def walk(folder: Path) -> Iterator[Path]:
    """Every file in and below a folder that is not hidden, in a fixed order."""
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            if not folder.resolve().is_relative_to(item.resolve()):  # a link to a folder above would never end
                yield from walk(item)
        elif item.is_file():
            yield item


class NamingFile:
    """Errors of opening and unpacking become a DataError that names the file."""

    def __init__(self, shown: str) -> None:
        self.shown, self.line = shown, 0

    def __enter__(self) -> NamingFile:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        after = f" after line {self.line}" if self.line else ""
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            raise DataError(
                f"{self.shown}: the gzip file is cut off or damaged{after} ({error}). Fetch or pack it anew."
            ) from None
        if isinstance(error, OSError):
            raise DataError(f"{self.shown}: cannot be read{after} ({error.strerror or error}).") from None


Find = Callable[[Path], list[Path]]


def expand(paths: str | list[str], key: str, endings: set[str], find: Find | None = None) -> list[DataFile]:
    """Every file that `paths` means, in a fixed order. `key` (`data.train`) is named in complaints.

    `endings`: what counts as data inside a folder. `find`: the named reader's own way to look into a folder, for sets that
    are spread over several. Raises DataError where a path leads to nothing.
    """
    found: list[DataFile] = []
    for path in [paths] if isinstance(paths, str) else paths:
        found += expand_one(path, key, endings, find)
    return found


def expand_one(path: str, key: str, endings: set[str], find: Find | None = None) -> list[DataFile]:
    if path == "-":
        return [spool_stdin()]
    real = Path(path).expanduser()
    if real.is_dir():
        inside = find(real) if find else []
        if inside:
            return [
                DataFile(item, path if item == real else os.path.join(path, item.relative_to(real))) for item in inside
            ]
        return list_folder(real, path, key, endings)
    if real.exists():
        return [DataFile(real, path)]
    if glob.has_magic(path):
        names = sorted(name for name in glob.glob(str(real), recursive=True) if os.path.isfile(name))
        if not names:
            raise DataError(f"{key}={path} matches no file (seen from {Path.cwd()}). Check the pattern.")
        return [DataFile(Path(name), name) for name in names]
    parent = real.parent
    if not parent.is_dir():
        raise DataError(f"{key}={path}: there is no folder '{parent}' (seen from {Path.cwd()}). Check the path.")
    near = did_you_mean(real.name, (item.name for item in parent.iterdir()))
    raise DataError(f"{key}={path}: there is no such file (seen from {Path.cwd()}).{near} Check the path.")


def list_folder(folder: Path, shown: str, key: str, endings: set[str]) -> list[DataFile]:
    """The data files directly inside; never those of subfolders, which are often other splits."""
    inside = sorted(folder.iterdir())
    files = [DataFile(item, os.path.join(shown, item.name)) for item in inside if item.is_file()]
    data = [
        file
        for file in files
        if file.ending() in endings and not file.path.name.startswith(".") and not NOTICES.fullmatch(file.path.name)
    ]
    if data:
        return data
    below = [item.name for item in inside if item.is_dir() and not item.name.startswith(".")]
    if below:
        mend = f"It has folders: {', '.join(below[:8])}. Name one ({key}={os.path.join(shown, below[0])}) or a glob, or the reader of this set: data.format=<name>."
    elif files:
        names = ", ".join(file.path.name for file in files[:8])
        mend = f"It has: {names}. Known endings: {', '.join(sorted(endings))} (and .gz); or name the files in {key}."
    else:
        mend = "It is empty."
    raise DataError(f"{key}={shown}: this folder holds no file that can be read as data. {mend}")


def spool_stdin() -> DataFile:
    """Standard input as a temporary file, because rows are read more than once."""
    handle, name = tempfile.mkstemp(prefix="llmstage-stdin-")
    with os.fdopen(handle, "wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)
    SPOOLED.append(_Removed(name))
    return DataFile(Path(name), "-")


class _Removed:
    """Removes a file when the process lets go of it."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __del__(self) -> None:
        if os is not None and os.path.exists(self.name):
            os.unlink(self.name)


SPOOLED: list[_Removed] = []
