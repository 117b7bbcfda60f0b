"""Not, not not, all, some, none: is a claim about a few facts true? Yes and no are equally likely in every cell."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llmstage.explore.probes.base import BOTH, THINGS, YES_NO, Question

LANGUAGES = BOTH
CORE = (
    *({"quantifier": "none", "depth": depth} for depth in (0, 1, 2)),
    *({"quantifier": "mixed", "depth": depth} for depth in (0, 1)),
)
FULL = tuple({"quantifier": name, "depth": depth} for name in ("none", "all", "some", "no") for depth in (0, 1, 2, 3))
STATES = {
    "en": (("red", "blue"), ("new", "old"), ("here", "there"), ("big", "small")),
    "zh": (("红的", "蓝的"), ("新的", "旧的"), ("这里的", "那里的"), ("大的", "小的")),
}
FACT = {"en": "The {thing} is {state}.", "zh": "{thing}是{state}。"}
CLAIM = {
    "en": {
        "none": "the {thing} is {state}",
        "all": "all of them are {state}",
        "some": "some of them are {state}",
        "no": "none of them is {state}",
    },
    "zh": {"none": "{thing}是{state}", "all": "全部都是{state}", "some": "有的是{state}", "no": "没有一个是{state}"},
}
NOT = {"en": "it is not true that ", "zh": "并非"}
IS_IT = {"en": "Is it right that {claim}? Answer:", "zh": "“{claim}”对吗？答："}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw yes or no first, then facts until the claim has that truth value, so that its words do not predict the answer."""
    quantifier = cell["quantifier"] if cell["quantifier"] != "mixed" else rng.choice(("all", "some", "no"))
    wish, depth = rng.random() < 0.5, cell["depth"]
    pair = rng.randrange(len(STATES["en"]))
    things = rng.sample(range(len(THINGS["en"])), 3)
    asked = rng.randrange(3)
    state = rng.randrange(2)
    while True:
        states = [rng.randrange(2) for _ in things]
        if holds(quantifier, states, asked, state) == (wish if depth % 2 == 0 else not wish):
            break
    negated = question(quantifier, depth, things, states, asked, (pair, state), wish, lang)
    if depth:
        negated.parts = [
            ("fact", question(quantifier, 0, things, states, asked, (pair, state), wish == (depth % 2 == 0), lang))
        ]
    return negated


def holds(quantifier: str, states: Sequence[int], asked: int, state: int) -> bool:
    """Whether the claim without negation is true of these states."""
    same = [value == state for value in states]
    return {"none": same[asked], "all": all(same), "some": any(same), "no": not any(same)}[quantifier]


def question(
    quantifier: str, depth: int, things: Sequence[int], states: Sequence[int], asked: int, about: tuple[int, int],
    answer: bool, lang: str,
) -> Question:  # fmt: skip
    """Return the facts and the question whether the claim is right, with `depth` negations."""
    pair, state = about
    words = STATES[lang][pair]
    facts = [FACT[lang].format(thing=THINGS[lang][t], state=words[s]) for t, s in zip(things, states, strict=True)]
    claim = CLAIM[lang][quantifier].format(thing=THINGS[lang][things[asked]], state=words[state])
    prompt = ("" if lang == "zh" else " ").join([*facts, IS_IT[lang].format(claim=NOT[lang] * depth + claim)])
    key = f"{quantifier} {things} {states} {asked} {about}"
    return Question(prompt, choices=YES_NO[lang], label=0 if answer else 1, key=key, meta={"claim": quantifier})
