"""Read NLVR (Suhr et al. 2017, aclanthology.org/P17-2034): a statement about a drawing and whether it is true.

Each example is one row, with the first of the six drawings that show the same boxes in different orders.
"""

from __future__ import annotations

import re
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.readers import json, jsonl
from llmstage.data.rows import Bad, FileHead, ReadOptions, Records

ENDINGS = (".json",)
KEYS = ("sentence", "identifier", "directory", "label")


def matches(head: FileHead) -> bool:
    """Return whether the beginning of a file is JSON lines with the keys of NLVR, for a task that reads images."""
    first = head.text.lstrip().partition("\n")[0]
    has_keys = all(f'"{key}"' in first for key in (*KEYS, "structured_rep"))
    return head.with_images and has_keys and json.detect(head) == "jsonl"


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{image, question, answer, kind, …}`, or `{image, caption, …}` for a task without questions.

    Captions are the true statements only: a false statement does not describe the image.
    """
    has_questions = "question" in options.task_columns
    split = re.sub(r"\.json(\.gz)?$", "", file.path.name)
    for line, record in jsonl.read(file, options):
        if isinstance(record, Bad):
            yield line, record
            continue
        missing = [key for key in KEYS if not isinstance(record.get(key), str)]
        if missing:
            yield line, Bad(f"no text '{missing[0]}', as NLVR has", str(record)[:500])
            continue
        name = record["identifier"]
        values: dict[str, Any] = {
            "image": f"images/{record['directory']}/{split}-{name}-0.png",
            "identifier": name,
            "directory": record["directory"],
            "presentation": name.partition("-")[0],  # annotators saw and described up to four examples together
        }
        if has_questions:
            scene_type = scene_type_of(record.get("structured_rep"))
            yield line, {**values, "question": record["sentence"], "answer": record["label"], "kind": scene_type}
        elif record["label"] == "true":
            yield line, {**values, "caption": record["sentence"]}


def describe(file: DataFile, options: ReadOptions) -> str:
    """Return a note for the header line."""
    return "" if "question" in options.task_columns else "true statements only"


def scene_type_of(boxes: Any) -> str | None:
    """Return `tower` where each box contains one stack of squares, as in half of the data set, else `scatter`."""
    try:
        stacked = [len({item["x_loc"] for item in box}) <= 1 for box in boxes]
        return "tower" if all(stacked) and all(item["type"] == "square" for box in boxes for item in box) else "scatter"
    except (TypeError, KeyError):
        return None
