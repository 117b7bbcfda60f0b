"""Read Parquet, a batch of rows at a time. Images stay in the file; a row gets their location."""

from __future__ import annotations

import json
from typing import Any

from llmstage.data.chat_messages import without_nulls
from llmstage.data.files import DataFile
from llmstage.data.image_containers import INSIDE, holds_images
from llmstage.data.rows import ImageLocation, ReadOptions, Records
from llmstage.errors import DataError

ENDINGS = (".parquet", ".pq")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records with their row number from 1 as the line. Raise DataError for a file that pyarrow cannot read."""
    import pyarrow
    import pyarrow.parquet

    number = 0
    try:
        with pyarrow.parquet.ParquetFile(file.path) as table:
            schema = table.schema_arrow
            image_columns = [field.name for field in schema if options.with_images and holds_images(field.type)]
            names = class_names(schema.metadata) if options.with_images else {}
            columns = [field.name for field in schema if field.name not in image_columns] if image_columns else None
            for batch in table.iter_batches(batch_size=1024, columns=columns):
                for record in batch.to_pylist():
                    if "messages" in options.task_columns:
                        record = without_nulls(record)
                    locations = {column: image_location(file, number, column) for column in image_columns}
                    number += 1
                    yield number, {**locations, **with_class_names(record, names)}
    except (pyarrow.ArrowException, OSError) as error:
        raise DataError(
            f"{file.display_name}:{number + 1}: unreadable from here on ({error}). Write it anew."
        ) from None


def image_location(file: DataFile, row: int, column: str) -> ImageLocation:
    member = f"{INSIDE}{row}{INSIDE}{column}"
    return ImageLocation.of(f"{file.path.absolute()}{member}", f"{file.path.name}{member}")


def class_names(metadata: dict[bytes, bytes] | None) -> dict[str, list[str]]:
    """Return the class names of each column of classes, which the datasets library writes into the schema."""
    try:
        features = json.loads((metadata or {})[b"huggingface"])["info"]["features"]
        return {
            column: feature["names"] for column, feature in features.items() if feature.get("_type") == "ClassLabel"
        }
    except (KeyError, ValueError, TypeError, AttributeError):
        return {}


def with_class_names(record: dict[str, Any], names: dict[str, list[str]]) -> dict[str, Any]:
    """Replace the numbers of classes in a record by their names."""
    for column, column_names in names.items():
        value = record.get(column)
        if isinstance(value, int) and 0 <= value < len(column_names):
            record[column] = column_names[value]
    return record
