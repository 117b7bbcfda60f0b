"""Read conversations in JSON, JSON lines, Parquet or tables. The task converts the layout: see data/chat_formats.py."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.formats import detect, load_reader
from llmstage.data.rows import ReadOptions, Records

ENDINGS = (".jsonl", ".json", ".ndjson")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield the records of the file under the names of its columns."""
    detected = detect(file)
    reader = load_reader(detected if detected in ("json", "jsonl", "parquet", "csv", "tsv") else "jsonl")
    yield from reader.read(file, options)
