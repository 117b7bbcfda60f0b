"""Copy, reverse, sort, or the successor of each symbol: does a rule learned on short rows hold for long ones?"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import BOTH, LETTERS, STEMS, Asked

LANGUAGES = BOTH
OPS = ("copy", "reverse", "sort", "succ")
CORE = tuple({"op": op, "len": length} for op in OPS for length in (2, 5, 10))
FULL = tuple(
    {"op": op, "len": length, "alphabet": size} for op in OPS for length in (2, 4, 6, 8, 12, 16) for size in (10, 22)
)
SAID = {
    "en": {"copy": "copy", "reverse": "reverse", "sort": "sort", "succ": "next"},
    "zh": {"copy": "照抄", "reverse": "倒写", "sort": "排序", "succ": "后一个"},
}


def ask(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    op = cell["op"]
    size = cell.get("alphabet", 22)
    # The last symbol has no successor: where the alphabet ends is not told.
    row = [rng.randrange(size - (op == "succ")) for _ in range(cell["len"])]
    asked = question(op, row, size, lang)
    if op == "sort":
        pairs = [sorted(row)[at : at + 2] for at in range(len(row) - 1)]
        asked.parts = [("pair", question("sort", rng.sample(pair, 2), size, lang)) for pair in pairs]
    else:
        asked.parts = [("symbol", question("succ" if op == "succ" else "copy", [one], size, lang)) for one in row]
    return asked


def question(op: str, row: list[int], size: int, lang: str) -> Asked:
    """Symbols are places in the alphabet."""
    alphabet = STEMS if lang == "zh" else LETTERS
    made = {"copy": row, "reverse": row[::-1], "sort": sorted(row), "succ": [one + 1 for one in row]}[op]
    between = "" if lang == "zh" else " "
    given, result = (between.join(alphabet[one] for one in part) for part in (row, made))
    colon, equals = ("：", "＝") if lang == "zh" else (": ", " =")
    return Asked(f"{SAID[lang][op]}{colon}{given}{equals}", result, key=f"{op} {size} {row}")
