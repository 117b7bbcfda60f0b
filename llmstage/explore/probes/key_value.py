"""Retrieve a value by its key: pairs of names and numbers, some updated later, one queried; the core of long dialogues."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llmstage.explore.probes.base import BOTH, NAMES, Question

LANGUAGES = BOTH
CORE = (*({"pairs": pairs, "updated": 0} for pairs in (1, 4, 16)), {"pairs": 4, "updated": 2})
FULL = tuple({"pairs": pairs, "updated": updated} for updated in (0, 1, 4) for pairs in (1, 2, 4, 8, 16, 32))
SAYS = {"en": "The number of {key} is {value}.", "zh": "{key}的号码是{value}。"}
AGAIN = {"en": "Now the number of {key} is {value}.", "zh": "现在{key}的号码是{value}。"}
ASKS = {"en": "What is the number of {key} now? It is", "zh": "现在{key}的号码是多少？是"}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw pairs of (index of a name, number). An updated pair appears again with another value at a random later position.
    Half of the questions are about a pair that was not updated, where there is one."""
    keys = rng.sample(range(len(NAMES["en"])), cell["pairs"])
    facts = [(key, rng.randrange(10, 100)) for key in keys]
    for key in rng.sample(keys, min(cell["updated"], len(keys))):
        at = next(index for index, fact in enumerate(facts) if fact[0] == key)
        value = rng.choice([value for value in range(10, 100) if value != facts[at][1]])
        facts.insert(rng.randint(at + 1, len(facts)), (key, value))
    asked = rng.choice(keys)
    position = max(at for at, fact in enumerate(facts) if fact[0] == asked)
    right = facts[position]
    return Question(
        prompt(facts, asked, lang),
        str(right[1]),
        key=f"{facts} {asked}",
        meta={"distance": len(facts) - position, "changed": sum(fact[0] == asked for fact in facts) - 1},
        parts=[("pair", Question(prompt([right], asked, lang), str(right[1])))],
    )


def prompt(facts: Sequence[tuple[int, int]], asked: int, lang: str) -> str:
    """Return the text of all facts and the question for the key `asked`."""
    seen: set[int] = set()
    lines = []
    for key, value in facts:
        form = AGAIN if key in seen else SAYS
        seen.add(key)
        lines.append(form[lang].format(key=NAMES[lang][key], value=value))
    between = "" if lang == "zh" else " "
    return between.join([*lines, ASKS[lang].format(key=NAMES[lang][asked])])
