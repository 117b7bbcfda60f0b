"""Files that hold pictures: members of tar shards, cells of Parquet and Arrow files, addressed as `file::member`.

Nothing is held whole: a member of a tar is read at its place, Parquet in batches of rows, Arrow from a memory map.
"""

from __future__ import annotations

import os
import tarfile
import threading
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

INSIDE = "::"
"""Between a container and what stands in it: `shard.tar::000001.jpg`, `rows.parquet::12::image`."""
LOCK = threading.Lock()
AT_ONCE = 64
"""Rows of a Parquet column in memory; twice as many are kept, since threads do not ask strictly in order."""
BUFFER = 1 << 20


def member(place: str) -> bytes:
    """The bytes at `shard.tar::name` or `rows.parquet::row::column`. KeyError where there is none, OSError."""
    file, _, inside = place.partition(INSIDE)
    row, between, column = inside.partition(INSIDE)
    if between and row.isdecimal():
        return cell(file, int(row), column)
    with Path(file).open("rb") as stream:
        return read_at(stream, *tar_index(file, os.stat(file).st_mtime_ns)[inside])


def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


@lru_cache(64)
def tar_index(file: str, stamp: int) -> dict[str, tuple[int, int]]:
    """Name to (first byte, size) of the files in an unpacked tar. `stamp`: its time, so that a changed one is read anew."""
    try:
        with tarfile.open(file, "r:") as tar:
            return {item.name: (item.offset_data, item.size) for item in tar if item.isfile()}
    except tarfile.TarError as error:
        raise OSError(f"no tar file, or one that is cut off ({error})") from None


def cell(file: str, row: int, column: str) -> bytes:
    """One value of a bytes column, or of a struct {bytes, path} as the datasets library writes images: one of the two."""
    with LOCK:
        value = arrow_value(file, row, column) if file.lower().endswith(".arrow") else parquet_value(file, row, column)
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, dict) and not data and value.get("path"):
        if ".." in Path(value["path"]).parts:  # as for a name in a table: data must not lead out of their folder
            raise OSError(f"row {row + 1} names {value['path']}, which leaves the folder of its file")
        data = (Path(file).parent / value["path"]).read_bytes()
    if data is None:
        raise OSError(f"row {row + 1} has no image in '{column}'")
    if not isinstance(data, bytes):
        raise KeyError(column)
    return data


class Window:
    """A Parquet column read forward, batch by batch; asked for a row behind it, it begins anew."""

    def __init__(self, file: str, column: str) -> None:
        self.file, self.column = file, column
        self.begin(0)

    def begin(self, row: int) -> None:
        from pyarrow.parquet import ParquetFile

        table = ParquetFile(self.file, buffer_size=BUFFER)  # with a buffer, a column's chunk is not read whole
        sizes = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
        first, group = 0, 0
        while group < len(sizes) and first + sizes[group] <= row:
            first, group = first + sizes[group], group + 1
        self.first, self.next, self.values = first, first, list[Any]()
        groups = list(range(group, len(sizes)))
        self.batches: Iterator[Any] = table.iter_batches(AT_ONCE, row_groups=groups, columns=[self.column])

    def value(self, row: int) -> Any:
        if row < self.first or row > self.next + 100 * AT_ONCE:
            self.begin(row)
        while row >= self.next:
            batch = next(self.batches, None)
            if batch is None:
                raise KeyError(row)
            self.values = self.values[-AT_ONCE:] + batch.column(0).to_pylist()
            self.next += len(batch)
            self.first = self.next - len(self.values)
        return self.values[row - self.first]


@lru_cache(4)
def window(file: str, column: str, stamp: int) -> Window:
    return Window(file, column)


def parquet_value(file: str, row: int, column: str) -> Any:
    import pyarrow

    try:
        return window(file, column, os.stat(file).st_mtime_ns).value(row)
    except pyarrow.ArrowException as error:
        raise OSError(f"unreadable Parquet ({error})") from None


@lru_cache(64)
def arrow_table(file: str, stamp: int) -> Any:
    """A file of the datasets library, mapped into memory."""
    import pyarrow

    with pyarrow.memory_map(file) as source:
        return pyarrow.ipc.open_stream(source).read_all()


def arrow_value(file: str, row: int, column: str) -> Any:
    table = arrow_table(file, os.stat(file).st_mtime_ns)
    if row >= len(table):
        raise KeyError(row)
    return table.column(column)[row].as_py()


def holds_pictures(kind: Any) -> bool:
    """Whether an Arrow type is one of bytes, or a struct with `bytes` and `path`."""
    import pyarrow.types as types

    if types.is_struct(kind):
        names = {kind.field(number).name for number in range(kind.num_fields)}
        return {"bytes", "path"} <= names
    return bool(types.is_binary(kind) or types.is_large_binary(kind) or types.is_binary_view(kind))
