"""NLVR (Suhr et al. 2017, aclanthology.org/P17-2034): a statement about a drawing and whether it is true.

One row an example, with the first of the six drawings that show the same boxes in other orders.
"""

from __future__ import annotations

import re
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.readers import jsonl
from llmstage.data.records import Bad, ReadOptions, Records

ENDINGS = (".json",)
KEYS = ("sentence", "identifier", "directory", "label")


def looks_like(text: str) -> bool:
    """Whether the beginning of a file of JSON lines has the words of NLVR."""
    first = text.lstrip().partition("\n")[0]
    return all(f'"{key}"' in first for key in (*KEYS, "structured_rep"))


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{image, question, answer, kind, …}`, or `{image, caption, …}` for a task that asks no question: of the true
    statements only, since a false one does not say what is seen."""
    asks = "question" in options.words
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
        made: dict[str, Any] = {
            "image": f"images/{record['directory']}/{split}-{name}-0.png",
            "identifier": name,
            "directory": record["directory"],
            "presentation": name.partition("-")[0],  # up to four examples were shown, and described, together
        }
        if asks:
            kind = kind_of(record.get("structured_rep"))
            yield line, {**made, "question": record["sentence"], "answer": record["label"], "kind": kind}
        elif record["label"] == "true":
            yield line, {**made, "caption": record["sentence"]}


def describe(file: DataFile, options: ReadOptions) -> str:
    """For the header line."""
    return "" if "question" in options.words else "true statements only"


def kind_of(boxes: Any) -> str | None:
    """`tower` where each box holds one stack of squares, as one half of the set does, else `scatter`."""
    try:
        stacked = [len({item["x_loc"] for item in box}) <= 1 for box in boxes]
        return "tower" if all(stacked) and all(item["type"] == "square" for box in boxes for item in box) else "scatter"
    except (TypeError, KeyError):
        return None
