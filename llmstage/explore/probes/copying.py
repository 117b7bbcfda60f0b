"""Copy, reverse, sort, or the successor of each symbol: does a rule learned on short sequences extend to long ones?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import BOTH, LETTERS, STEMS, Question

LANGUAGES = BOTH
OPS = ("copy", "reverse", "sort", "succ")
CORE = tuple({"op": op, "len": length} for op in OPS for length in (2, 5, 10))
FULL = tuple(
    {"op": op, "len": length, "alphabet": size} for op in OPS for length in (2, 4, 6, 8, 12, 16) for size in (10, 22)
)
COMMANDS = {
    "en": {"copy": "copy", "reverse": "reverse", "sort": "sort", "succ": "next"},
    "zh": {"copy": "照抄", "reverse": "倒写", "sort": "排序", "succ": "后一个"},
}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a sequence of symbols and ask for its image under the operation of the cell."""
    op = cell["op"]
    size = cell.get("alphabet", 22)
    # The last symbol has no successor, and a model cannot know where the alphabet ends.
    row = [rng.randrange(size - (op == "succ")) for _ in range(cell["len"])]
    asked = question(op, row, size, lang)
    if op == "sort":
        pairs = [sorted(row)[at : at + 2] for at in range(len(row) - 1)]
        asked.parts = [("pair", question("sort", rng.sample(pair, 2), size, lang)) for pair in pairs]
    else:
        op = "succ" if op == "succ" else "copy"
        asked.parts = [("symbol", question(op, [symbol], size, lang)) for symbol in row]
    return asked


def question(op: str, row: list[int], size: int, lang: str) -> Question:
    """Return the question on a sequence of indices into the alphabet."""
    alphabet = STEMS if lang == "zh" else LETTERS
    result = {"copy": row, "reverse": row[::-1], "sort": sorted(row), "succ": [index + 1 for index in row]}[op]
    between = "" if lang == "zh" else " "
    given, answer = (between.join(alphabet[index] for index in part) for part in (row, result))
    colon, equals = ("：", "＝") if lang == "zh" else (": ", " =")
    return Question(f"{COMMANDS[lang][op]}{colon}{given}{equals}", answer, key=f"{op} {size} {row}")
