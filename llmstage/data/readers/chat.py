"""Conversations as JSON or JSON lines: `messages`, ShareGPT `conversations`, Alpaca, prompt and completion."""

from __future__ import annotations

from llmstage.data.chat_formats import to_messages
from llmstage.data.files import DataFile
from llmstage.data.formats import detect, load_reader
from llmstage.data.records import Bad, ReadOptions, Records

ENDINGS = (".jsonl", ".json", ".ndjson")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{"messages": [...]}` with what else stood in the row."""
    found = detect(file)
    inner = load_reader(found if found in ("json", "jsonl", "parquet", "csv", "tsv") else "jsonl")
    for number, record in inner.read(file, options):
        if isinstance(record, Bad):
            yield number, record
            continue
        made = to_messages(record)
        yield number, Bad(made, str(record)[:500]) if isinstance(made, str) else made
