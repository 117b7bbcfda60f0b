"""Read conversations in JSON or JSON lines: `messages`, ShareGPT `conversations`, Alpaca, prompt and completion."""

from __future__ import annotations

from llmstage.data.chat_formats import to_messages
from llmstage.data.files import DataFile
from llmstage.data.formats import detect, load_reader
from llmstage.data.rows import Bad, ReadOptions, Records

ENDINGS = (".jsonl", ".json", ".ndjson")


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{"messages": [...]}` with the other columns of the row."""
    detected = detect(file)
    reader = load_reader(detected if detected in ("json", "jsonl", "parquet", "csv", "tsv") else "jsonl")
    for number, record in reader.read(file, options):
        if isinstance(record, Bad):
            yield number, record
            continue
        chat = to_messages(record)
        yield number, Bad(chat, str(record)[:500]) if isinstance(chat, str) else chat
