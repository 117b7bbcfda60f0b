"""The teacher of the teacher of Anna: a relation followed several times through shuffled facts. Each hop alone is a part."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

from llmstage.explore.probes.base import BOTH, NAMES, Asked

LANGUAGES = BOTH
CORE = tuple({"hops": hops, "entities": 6} for hops in (1, 2, 3))
FULL = tuple({"hops": hops, "entities": entities} for entities in (6, 12) for hops in (1, 2, 3, 4))
SAYS = {"en": "The {role} of {a} is {b}.", "zh": "{a}的{role}是{b}。"}
ROLES = {
    "en": ("teacher", "friend", "doctor", "neighbour"),
    "zh": ("老师", "朋友", "医生", "邻居"),
}


def ask(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    """A ring of names, so that everybody has exactly one and the last name of a chain is no more frequent than others."""
    ring = rng.sample(range(len(NAMES["en"])), cell["entities"])
    role = rng.randrange(len(ROLES["en"]))
    facts = list(zip(ring, ring[1:] + ring[:1], strict=True))
    rng.shuffle(facts)
    start, hops = rng.randrange(len(ring)), cell["hops"]
    chain = [ring[(start + step) % len(ring)] for step in range(hops + 1)]
    key = f"{facts} {role}"
    parts = [("hop", question(facts, role, one, 1, two, f"{key} {one}", lang)) for one, two in pairwise(chain)]
    whole = question(facts, role, chain[0], hops, chain[-1], f"{key} {chain[0]}", lang)
    whole.parts = parts if hops > 1 else []
    return whole


def question(
    facts: Sequence[tuple[int, int]], role: int, start: int, hops: int, end: int, key: str, lang: str
) -> Asked:
    names, word = NAMES[lang], ROLES[lang][role]
    told = [SAYS[lang].format(role=word, a=names[a], b=names[b]) for a, b in facts]
    if lang == "zh":
        return Asked("".join(told) + f"{names[start]}{f'的{word}' * hops}是谁？是", names[end], key=key)
    chain = f"the {word} of " * hops
    return Asked(" ".join(told) + f" Who is {chain}{names[start]}? It is", names[end], key=key)
