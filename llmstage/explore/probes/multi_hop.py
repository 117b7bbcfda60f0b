"""The teacher of the teacher of Anna: follow a relation several times through shuffled facts. Each hop alone is a part."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from llmstage.explore.probes.base import BOTH, NAMES, Question

LANGUAGES = BOTH
CORE = tuple({"hops": hops, "entities": 6} for hops in (1, 2, 3))
FULL = tuple({"hops": hops, "entities": entities} for entities in (6, 12) for hops in (1, 2, 3, 4))
SAYS = {"en": "The {role} of {a} is {b}.", "zh": "{a}的{role}是{b}。"}
ROLES = {
    "en": ("teacher", "friend", "doctor", "neighbour"),
    "zh": ("老师", "朋友", "医生", "邻居"),
}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a ring of names: everybody has exactly one successor, and the last name of a chain is no more frequent than others."""
    ring = rng.sample(range(len(NAMES["en"])), cell["entities"])
    role = rng.randrange(len(ROLES["en"]))
    facts = list(zip(ring, ring[1:] + ring[:1], strict=True))
    rng.shuffle(facts)
    start, hops = rng.randrange(len(ring)), cell["hops"]
    chain = [ring[(start + step) % len(ring)] for step in range(hops + 1)]
    key = f"{facts} {role}"
    parts = [
        ("hop", question(facts, role, first, 1, second, f"{key} {first}", lang)) for first, second in pairwise(chain)
    ]
    full_question = question(facts, role, chain[0], hops, chain[-1], f"{key} {chain[0]}", lang)
    full_question.parts = parts if hops > 1 else []
    return full_question


def question(
    facts: Sequence[tuple[int, int]], role: int, start: int, hops: int, end: int, key: str, lang: str
) -> Question:
    """Return the question that follows `role` from `start` over `hops` facts to `end`."""
    names, word = NAMES[lang], ROLES[lang][role]
    lines = [SAYS[lang].format(role=word, a=names[a], b=names[b]) for a, b in facts]
    if lang == "zh":
        return Question("".join(lines) + f"{names[start]}{f'的{word}' * hops}是谁？是", names[end], key=key)
    chain = f"the {word} of " * hops
    return Question(" ".join(lines) + f" Who is {chain}{names[start]}? It is", names[end], key=key)
