"""Read Schema-Guided Dialogue (Rastogi et al. 2020, arXiv 1909.05855): arrays of dialogues with USER and SYSTEM turns."""

from __future__ import annotations

from llmstage.data.files import DataFile
from llmstage.data.readers import json
from llmstage.data.rows import Bad, FileHead, ReadOptions, Records

ENDINGS = (".json",)
SKIP = ("schema.json",)
"""Files in the folder of the data that contain no rows."""
ROLES = {"USER": "user", "SYSTEM": "assistant"}


def matches(head: FileHead) -> bool:
    """Return whether the beginning of a file is a JSON array with the keys of this data set."""
    if not head.text.lstrip().startswith("[") or not json.is_document(head.text):
        return False
    return all(key in head.text for key in ('"dialogue_id"', '"turns"', '"utterance"'))


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{"messages": [...], "id": ...}`, without annotations (frames)."""
    for line, record in json.read(file, options):
        if isinstance(record, Bad):
            yield line, record
            continue
        turns = record.get("turns")
        if not isinstance(turns, list) or not all(isinstance(turn, dict) for turn in turns):
            yield line, Bad("no list 'turns', as SGD dialogues have", str(record)[:500])
            continue
        messages = [
            {"role": ROLES.get(str(turn.get("speaker")), turn.get("speaker")), "content": turn.get("utterance")}
            for turn in turns
        ]
        yield line, {"messages": messages, "id": record.get("dialogue_id")}
