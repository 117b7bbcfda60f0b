"""Resolve the paths that a user types (a file, a glob, a folder, `-`) to files; open them, gzip too; hash their content."""

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

HASH_CHUNK = 64 << 20
"""Bytes that one thread hashes. It is part of the definition of the digest: a change invalidates every cache."""
HEAD_SIZE = 1 << 16
"""Bytes at the beginning of a file from which its reader is detected."""
NOTICES = re.compile(r"(readme|licen[cs]e|notice|changelog|citation)([._-].*)?", re.IGNORECASE)


@dataclass(slots=True, frozen=True)
class DataFile:
    """One file: its path, and the name that the user typed."""

    path: Path
    display_name: str

    def open(self) -> BinaryIO:
        """Open the file, unpacked if its content is gzip, whatever its name."""
        stream = self.path.open("rb")
        if stream.peek(2)[:2] == b"\x1f\x8b":
            return cast(BinaryIO, gzip.open(stream))
        return stream

    def head(self, size: int = HEAD_SIZE) -> bytes:
        """Return the first `size` unpacked bytes."""
        with self.open() as stream:
            return stream.read(size)

    def ending(self) -> str:
        """Return the ending in lower case, without a `.gz` after it, e.g. `.csv`."""
        name = self.display_name.lower()
        return os.path.splitext(name.removesuffix(".gz"))[1]

    def digest(self) -> str:
        """Return the sha256 over the sha256 of each 64 MB chunk: content only, not name, size on disk or time.

        Of a folder: names and sizes of all files in it. ImageStore has a digest of the pixels.
        """
        if self.path.is_dir():
            return folder_digest(self.path)
        size = self.path.stat().st_size
        with ThreadPoolExecutor(max_workers=min(4, os.cpu_count() or 1)) as pool:
            digests = list(pool.map(self._chunk_digest, range(0, size, HASH_CHUNK)))
        return hashlib.sha256(b"".join(digests)).hexdigest()

    def _chunk_digest(self, start: int) -> bytes:
        sha = hashlib.sha256()
        with self.path.open("rb") as stream:
            stream.seek(start)
            left = HASH_CHUNK
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
    """Yield every file in a folder and its subfolders that is not hidden, in a fixed order."""
    for item in sorted(folder.iterdir()):
        if item.name.startswith("."):
            continue
        if item.is_dir():
            if not folder.resolve().is_relative_to(item.resolve()):  # a link to a parent folder would never end
                yield from walk(item)
        elif item.is_file():
            yield item


class NamingFile:
    """Context in which errors of opening and unpacking become a DataError that names the file."""

    def __init__(self, display_name: str) -> None:
        self.display_name, self.line = display_name, 0

    def __enter__(self) -> NamingFile:
        return self

    def __exit__(self, error_type: type[BaseException] | None, error: BaseException | None, trace: object) -> None:
        after = f" after line {self.line}" if self.line else ""
        if isinstance(error, (EOFError, zlib.error, gzip.BadGzipFile)):
            raise DataError(
                f"{self.display_name}: the gzip file is cut off or damaged{after} ({error}). Fetch or pack it anew."
            ) from None
        if isinstance(error, OSError):
            raise DataError(f"{self.display_name}: cannot be read{after} ({error.strerror or error}).") from None


Find = Callable[[Path], list[Path]]


def expand(paths: str | list[str], key: str, endings: set[str], find: Find | None = None) -> list[DataFile]:
    """Return every file that `paths` names, in a fixed order. Complaints name `key` (`data.train`).

    `endings`: endings of data files inside a folder. `find`: lists the files of a folder instead, for data sets in several
    folders. Raise DataError where a path leads to nothing.
    """
    files: list[DataFile] = []
    for path in [paths] if isinstance(paths, str) else paths:
        files += expand_path(path, key, endings, find)
    return files


def expand_path(path: str, key: str, endings: set[str], find: Find | None = None) -> list[DataFile]:
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


def list_folder(folder: Path, display_name: str, key: str, endings: set[str]) -> list[DataFile]:
    """Return the data files directly inside a folder; subfolders are often other splits."""
    inside = sorted(folder.iterdir())
    files = [DataFile(item, os.path.join(display_name, item.name)) for item in inside if item.is_file()]
    data = [
        file
        for file in files
        if file.ending() in endings and not file.path.name.startswith(".") and not NOTICES.fullmatch(file.path.name)
    ]
    if data:
        return data
    below = [item.name for item in inside if item.is_dir() and not item.name.startswith(".")]
    if below:
        remedy = f"It has folders: {', '.join(below[:8])}. Name one ({key}={os.path.join(display_name, below[0])}) or a glob, or the reader of this set: data.format=<name>."
    elif files:
        names = ", ".join(file.path.name for file in files[:8])
        remedy = f"It has: {names}. Known endings: {', '.join(sorted(endings))} (and .gz); or name the files in {key}."
    else:
        remedy = "It is empty."
    raise DataError(f"{key}={display_name}: this folder holds no file that can be read as data. {remedy}")


def spool_stdin() -> DataFile:
    """Copy standard input to a temporary file, because rows are read more than once."""
    handle, name = tempfile.mkstemp(prefix="llmstage-stdin-")
    with os.fdopen(handle, "wb") as target:
        shutil.copyfileobj(sys.stdin.buffer, target)
    SPOOLED.append(_Removed(name))
    return DataFile(Path(name), "-")


class _Removed:
    """Removes a temporary file when this object is deleted, at the end of the process."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __del__(self) -> None:
        if os is not None and os.path.exists(self.name):
            os.unlink(self.name)


SPOOLED: list[_Removed] = []
