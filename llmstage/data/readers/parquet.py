"""Parquet, a batch of rows at a time. Pictures in it stay where they are: a row holds their place."""

from __future__ import annotations

import json
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.image_containers import INSIDE, holds_pictures
from llmstage.data.records import ReadOptions, Records
from llmstage.data.rows import Place
from llmstage.errors import DataError

ENDINGS = (".parquet", ".pq")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records by row number from 1, which stands for the line. Raises DataError for a file pyarrow cannot read."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            schema = table.schema_arrow
            held = [field.name for field in schema if options.sees and holds_pictures(field.type)]
            names = class_names(schema.metadata) if options.sees else {}
            columns = [field.name for field in schema if field.name not in held] if held else None
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for record in batch.to_pylist():
                    places = {column: picture_place(file, number, column) for column in held}
                    number += 1
                    yield number, {**places, **named(record, names)}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(f"{file.shown}:{number + 1}: unreadable from here on ({error}). Write it anew.") from None


def picture_place(file: DataFile, row: int, column: str) -> Place:
    inside = f"{INSIDE}{row}{INSIDE}{column}"
    return Place.of(f"{file.path.absolute()}{inside}", f"{file.path.name}{inside}")


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Column to its classes' names, where the datasets library has written them beside the numbers."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {column: told["names"] for column, told in features.items() if told.get("_type") == "ClassLabel"}
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def named(record: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """The record with names in place of the numbers of classes."""
    for column, known in names.items():
        value = record.get(column)
        if isinstance(value, int) and 0 <= value < len(known):
            record[column] = known[value]
    return record
