"""State tracking: who has the ball after all the swaps, and how many objects of a sort there are."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from llmstage.explore.probes.base import BOTH, NAMES, THINGS, Question

LANGUAGES = BOTH
CORE = (
    *({"kind": "swaps", "objects": 3, "steps": steps} for steps in (1, 3, 5)),
    *({"kind": "count", "objects": objects, "steps": 0} for objects in (4, 10)),
)
FULL = (
    *({"kind": "swaps", "objects": objects, "steps": steps} for objects in (3, 5, 7) for steps in (1, 2, 3, 5, 8)),
    *({"kind": "count", "objects": objects, "steps": 0} for objects in (4, 8, 12, 20)),
)
HAS = {"en": "{name} has the {thing}.", "zh": "{name}有{thing}。"}
SWAP = {"en": "{a} and {b} swap.", "zh": "{a}和{b}互换。"}
WHAT = {"en": "What does {name} have now? The", "zh": "{name}现在有什么？有"}
COUNT = {"en": "{row}. How many times is there a {thing}? Answer:", "zh": "{row}。有几个{thing}？答："}


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a question of the type `swaps` or `count`."""
    return swaps(rng, cell, lang) if cell["kind"] == "swaps" else count(rng, cell, lang)


def swaps(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Ask for the object of one of the last two who swapped: no name can be answered without following the swaps."""
    size = cell["objects"]
    names, things = rng.sample(range(len(NAMES["en"])), size), rng.sample(range(len(THINGS["en"])), size)
    steps: list[tuple[int, int]] = []
    while len(steps) < cell["steps"]:
        step = tuple(rng.sample(range(size), 2))
        if not steps or set(step) != set(steps[-1]):  # two equal swaps cancel out
            steps.append((step[0], step[1]))
    holding = list(things)
    before = list(holding)
    for a, b in steps:
        before = list(holding)
        holding[a], holding[b] = holding[b], holding[a]
    asked = rng.choice(steps[-1])
    full_story = story(names, things, steps, asked, holding[asked], lang)
    if len(steps) > 1:
        full_story.parts = [("swap", story(names, before, steps[-1:], asked, holding[asked], lang))]
    return full_story


def story(
    names: Sequence[int], things: Sequence[int], steps: Sequence[tuple[int, int]], asked: int, answer: int, lang: str
) -> Question:
    """Return the text of who has what, the swaps, and the question."""
    called = [NAMES[lang][name] for name in names]
    lines = [HAS[lang].format(name=name, thing=THINGS[lang][thing]) for name, thing in zip(called, things, strict=True)]
    lines += [SWAP[lang].format(a=called[a], b=called[b]) for a, b in steps]
    lines.append(WHAT[lang].format(name=called[asked]))
    prompt = ("" if lang == "zh" else " ").join(lines)
    return Question(prompt, THINGS[lang][answer], key=f"{names} {things} {steps} {asked}")


def count(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw the number uniformly from 1 to 9, or to the number of objects."""
    size = cell["objects"]
    asked, *others = rng.sample(range(len(THINGS["en"])), 4)
    answer = rng.randint(1, min(9, size))
    row = [asked] * answer + [rng.choice(others) for _ in range(size - answer)]
    rng.shuffle(row)
    objects = ("、" if lang == "zh" else ", ").join(THINGS[lang][index] for index in row)
    return Question(COUNT[lang].format(row=objects, thing=THINGS[lang][asked]), str(answer), key=f"count {row} {asked}")
