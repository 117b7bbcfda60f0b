"""Parquet, a batch of rows at a time."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.records import ReadOptions, Records
from llmstage.errors import DataError

ENDINGS = (".parquet", ".pq")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records by row number from 1, which stands for the line. Raises DataError for a file pyarrow cannot read."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            for batch in table.iter_batches(batch_size=1024):
                for record in batch.to_pylist():
                    number += 1
                    yield number, record
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file.shown}:{number + 1}: unreadable from here on ({error}). Write it anew.") from None
