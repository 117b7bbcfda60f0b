"""CrossWOZ (Zhu et al. 2020, arXiv 2002.11893): one object keyed by dialogue id, messages with roles usr and sys."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.readers.json import broken, load_text, members, skip
from llmstage.data.records import Bad, ReadOptions, Records

ENDINGS = (".json",)


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{"messages": [...], "id": ...}`; dialogue acts and states are left out."""
    text = load_text(file, options)
    start = skip(text, 0)
    if text[start : start + 1] != "{":
        raise broken(file, text, start, "CrossWOZ is one JSON object keyed by dialogue id")
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
