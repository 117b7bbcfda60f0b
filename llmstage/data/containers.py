"""Files that hold pictures: members of tar shards, cells of Parquet columns, addressed as `file::member`."""

from __future__ import annotations

import tarfile
import threading
from functools import lru_cache
from pathlib import Path

LOCK = threading.Lock()


def member(place: str) -> bytes:
    """The bytes at `shard.tar::name` or `rows.parquet::row::column`. Raises KeyError where there is none, OSError."""
    file, _, inside = place.partition("::")
    if file.lower().endswith(".parquet"):
        row, _, column = inside.partition("::")
        return parquet_cell(file, int(row), column)
    offset, size = tar_index(file)[inside]
    with Path(file).open("rb") as stream:
        stream.seek(offset)
        return stream.read(size)


@lru_cache(64)
def tar_index(file: str) -> dict[str, tuple[int, int]]:
    """Name to (first byte, size) of the files in an unpacked tar."""
    try:
        with tarfile.open(file, "r:") as tar:
            return {item.name: (item.offset_data, item.size) for item in tar if item.isfile()}
    except tarfile.TarError as error:
        raise OSError(f"no tar file: {error}") from None


def parquet_cell(file: str, row: int, column: str) -> bytes:
    """One value of a bytes column, or the `bytes` of a struct as the datasets library writes images."""
    with LOCK:  # one row group at a time stays in memory
        group, first = parquet_group(file, row)
        value = parquet_column(file, group, column)[row - first]
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes):
        raise KeyError(column)
    return data


@lru_cache(64)
def group_starts(file: str) -> list[int]:
    from pyarrow.parquet import ParquetFile

    meta = ParquetFile(file).metadata
    starts = [0]
    for group in range(meta.num_row_groups):
        starts.append(starts[-1] + meta.row_group(group).num_rows)
    return starts


def parquet_group(file: str, row: int) -> tuple[int, int]:
    starts = group_starts(file)
    group = next((number for number, first in enumerate(starts[1:]) if row < first), None)
    if group is None:
        raise KeyError(row)
    return group, starts[group]


@lru_cache(2)
def parquet_column(file: str, group: int, column: str) -> list[object]:
    from pyarrow.parquet import ParquetFile

    values: list[object] = ParquetFile(file).read_row_group(group, columns=[column]).column(column).to_pylist()
    return values
