"""Read CrossWOZ (Zhu et al. 2020, arXiv 2002.11893): one object keyed by dialogue id, messages with roles usr and sys."""

from __future__ import annotations

import re

from llmstage.data.files import DataFile
from llmstage.data.readers.json import is_document, load_text, members, skip_space, syntax_error
from llmstage.data.rows import Bad, FileHead, ReadOptions, Records

ENDINGS = (".json",)
KEYED_BY_ID = re.compile(r'\s*\{\s*"[^"]+"\s*:\s*\{')


def matches(head: FileHead) -> bool:
    """Return whether the beginning of a file is a JSON object of objects with the keys of CrossWOZ."""
    if not KEYED_BY_ID.match(head.text) or not is_document(head.text):
        return False
    return '"messages"' in head.text and '"sys-usr"' in head.text


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{"messages": [...], "id": ...}`, without dialogue acts and states."""
    text = load_text(file, options)
    start = skip_space(text, 0)
    if text[start : start + 1] != "{":
        raise syntax_error(file, text, start, "CrossWOZ is one JSON object keyed by dialogue id")
    end, line = 0, 1
    for key, begin, value in members(text, start, file):
        line += text.count("\n", end, begin)
        end = begin
        turns = value.get("messages") if isinstance(value, dict) else None
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            yield line, Bad(f"dialogue '{key}' has no list 'messages'", str(value)[:500])
            continue
        messages = [{"role": turn.get("role"), "content": turn.get("content")} for turn in turns]
        yield line, {"messages": messages, "id": key}
