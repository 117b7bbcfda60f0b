"""Close all open brackets: complete a word of the Dyck language, as in dyck_languages of BIG-bench."""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from llmstage.explore.probes.base import NO_LANGUAGE, Question

LANGUAGES = NO_LANGUAGE
CORE = tuple({"kinds": kinds, "depth": depth} for kinds, depth in ((1, 2), (2, 2), (2, 4), (4, 6)))
FULL = tuple({"kinds": kinds, "depth": depth} for kinds in (1, 2, 4) for depth in (1, 2, 3, 4, 6, 8))
PAIRS = ("()", "[]", "{}", "<>")
OPEN = {pair[0]: pair[1] for pair in PAIRS}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a word with `depth` open brackets at the end, and at most depth + 1 open on the way; its length is drawn."""
    depth, kinds = cell["depth"], PAIRS[: cell["kinds"]]
    length = rng.randint(depth + 2, 4 * depth + 6)
    length += (length - depth) % 2
    opened: list[str] = []
    word: list[str] = []
    while len(word) < length:
        left = length - len(word)
        must_open, must_close = depth - len(opened) >= left, len(opened) - depth >= left
        may_open = len(opened) < depth + 1
        if opened and (must_close or not may_open or (not must_open and rng.random() < 0.5)):
            word.append(OPEN[opened.pop()])
        else:
            opened.append(rng.choice(kinds)[0])
            word.append(opened[-1])
    answer = [OPEN[bracket] for bracket in reversed(opened)]
    # The same word with one bracket type asks for the number of open brackets only.
    plain = ["(" if bracket in OPEN else ")" for bracket in word]
    count = Question(" ".join(plain) + " ...", " ".join(")" * len(opened)))
    return Question(
        " ".join(word) + " ...",
        " ".join(answer),
        key=" ".join(word),
        meta={"length": length},
        parts=[("counting", count)] if len(kinds) > 1 else [],
    )
