"""Read images inside files: members of tar shards, cells of Parquet and Arrow files, addressed as `file::member`.

No file is loaded completely: a tar member is read at its offset, Parquet in batches of rows, Arrow from a memory map.
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
"""Separates a container from its member: `shard.tar::000001.jpg`, `rows.parquet::12::image`."""
LOCK = threading.Lock()
BATCH_ROWS = 64
"""Rows of a Parquet column read at a time. Two batches stay in memory, since threads read slightly out of order."""
BUFFER = 1 << 20


def read_member(location: str) -> bytes:
    """Return the bytes at `shard.tar::name` or `rows.parquet::row::column`. Raise KeyError where there is none, OSError."""
    file, _, member = location.partition(INSIDE)
    row, separator, column = member.partition(INSIDE)
    if separator and row.isdecimal():
        return cell(file, int(row), column)
    with Path(file).open("rb") as stream:
        return read_at(stream, *tar_index(file, os.stat(file).st_mtime_ns)[member])


def read_at(stream: BinaryIO, offset: int, size: int) -> bytes:
    stream.seek(offset)
    return stream.read(size)


@lru_cache(64)
def tar_index(file: str, stamp: int) -> dict[str, tuple[int, int]]:
    """Return (first byte, size) of each file in an unpacked tar, by name.

    `stamp`: the modification time, a part of the cache key.
    """
    try:
        with tarfile.open(file, "r:") as tar:
            return {item.name: (item.offset_data, item.size) for item in tar if item.isfile()}
    except tarfile.TarError as error:
        raise OSError(f"no tar file, or one that is cut off ({error})") from None


def cell(file: str, row: int, column: str) -> bytes:
    """Return one value of a column of bytes, or of structs {bytes, path} with one of the two, as the datasets library writes."""
    with LOCK:
        value = arrow_value(file, row, column) if file.lower().endswith(".arrow") else parquet_value(file, row, column)
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(value, dict) and not data and value.get("path"):
        if ".." in Path(value["path"]).parts:  # as for names in a table: data must not read files outside its folder
            raise OSError(f"row {row + 1} names {value['path']}, which leaves the folder of its file")
        data = (Path(file).parent / value["path"]).read_bytes()
    if data is None:
        raise OSError(f"row {row + 1} has no image in '{column}'")
    if not isinstance(data, bytes):
        raise KeyError(column)
    return data


class Window:
    """A Parquet column that is read forward, batch by batch. For an earlier row, it starts again."""

    def __init__(self, file: str, column: str) -> None:
        self.file, self.column = file, column
        self.begin(0)

    def begin(self, row: int) -> None:
        from pyarrow.parquet import ParquetFile

        table = ParquetFile(self.file, buffer_size=BUFFER)  # without a buffer, a column chunk is read at once
        sizes = [table.metadata.row_group(group).num_rows for group in range(table.metadata.num_row_groups)]
        first, group = 0, 0
        while group < len(sizes) and first + sizes[group] <= row:
            first, group = first + sizes[group], group + 1
        self.first, self.next, self.values = first, first, list[Any]()
        groups = list(range(group, len(sizes)))
        self.batches: Iterator[Any] = table.iter_batches(BATCH_ROWS, row_groups=groups, columns=[self.column])

    def value(self, row: int) -> Any:
        if row < self.first or row > self.next + 100 * BATCH_ROWS:
            self.begin(row)
        while row >= self.next:
            batch = next(self.batches, None)
            if batch is None:
                raise KeyError(row)
            self.values = self.values[-BATCH_ROWS:] + batch.column(0).to_pylist()
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
    """Open a file of the datasets library as a memory map."""
    import pyarrow

    with pyarrow.memory_map(file) as source:
        return pyarrow.ipc.open_stream(source).read_all()


def arrow_value(file: str, row: int, column: str) -> Any:
    table = arrow_table(file, os.stat(file).st_mtime_ns)
    if row >= len(table):
        raise KeyError(row)
    return table.column(column)[row].as_py()


def holds_images(arrow_type: Any) -> bool:
    """Return whether an Arrow type is one of bytes, or a struct with `bytes` and `path`."""
    import pyarrow.types as types

    if types.is_struct(arrow_type):
        names = {arrow_type.field(number).name for number in range(arrow_type.num_fields)}
        return {"bytes", "path"} <= names
    return bool(types.is_binary(arrow_type) or types.is_large_binary(arrow_type) or types.is_binary_view(arrow_type))
