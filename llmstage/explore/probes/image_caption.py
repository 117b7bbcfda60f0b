"""A grid of coloured shapes and what is said of it, in both directions, with pairs of colour and shape that training never
shows. Models that see are given the picture, others the grid as text. Shape, colour and relation alone are the parts."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmstage.demo.scene_sentences import COLOURS, OPPOSITE, SHAPES, SPEECHES
from llmstage.demo.scenes import (
    PAIRS,
    PREFIX,
    SEEN,
    Claim,
    Composition,
    Thing,
    draw_things,
    holds,
    relate,
    say,
    write_scene,
)  # fmt: skip
from llmstage.explore.items import scene_rows
from llmstage.explore.probes.base import BOTH, Asked, shuffled

LANGUAGES = BOTH
CORE = (
    *({"direction": "caption", "things": 2, "composition": seen} for seen in ("seen", "unseen")),
    {"direction": "grid", "things": 2, "composition": "seen"},
)
FULL = tuple(
    {"direction": direction, "things": things, "composition": seen}
    for direction in ("caption", "grid")
    for things in (2, 3, 4)
    for seen in ("seen", "unseen")
)
WHICH = {"en": "What is true of the picture?", "zh": "关于这张图，哪句话是对的？"}
DRAWN = {"en": "The grid in which {caption}:", "zh": "在哪个图中，{caption}："}
ASKS = {
    "en": {"colour": "Which colour is at the {place}? It is", "shape": "Which shape is at the {place}? It is a"},
    "zh": {"colour": "{place}是什么颜色？是", "shape": "{place}是什么形状？是"},
}


def ask(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Asked:
    """The caption says how two things stand to each other. The choices are made of two relations and two looks of the first
    thing, all four: each word of the right one stands in one wrong one as well, and none is the odd one out."""
    composition: Composition = cell["composition"]
    things = draw_things(rng, composition, cell["things"])
    claim = relate(rng, things[0], things[1])
    assert claim.relation and claim.other
    turned = [claim, replace(claim, relation=OPPOSITE[claim.relation])]
    look = other_look(rng, things, composition)
    claims = [*turned, *(replace(one, it=look) for one in turned)]
    key = f"{write_scene(things)} {claim.relation} {look.pair}"
    if cell["direction"] == "caption":
        right, *wrong = (say(SPEECHES[lang], [one]) for one in claims)
        choices, label = shuffled(rng, right, wrong)
        scene = PREFIX + write_scene(things)
        return Asked(
            WHICH[lang], choices=choices, label=label, image=scene, key=key, parts=parts(rng, claim, things, lang)
        )
    right, *wrong = (written(scene) for scene in scenes_of(things, look))
    choices, label = shuffled(rng, right, wrong)
    prompt = DRAWN[lang].format(caption=say(SPEECHES[lang], [claim]))
    return Asked(prompt, choices=choices, label=label, key=key, glued=True)


def other_look(rng: random.Random, things: Sequence[Thing], composition: Composition) -> Thing:
    """The first thing in another colour or another shape, as no thing of the scene looks; from the pairs that the
    composition draws from."""
    it = things[0]
    taken = {thing.pair for thing in things}
    known = SEEN if composition == "seen" else PAIRS
    found = [pair for pair in known if pair not in taken and (pair[0] == it.colour) != (pair[1] == it.shape)]
    colour, shape = rng.choice(found)
    return replace(it, colour=colour, shape=shape)


def scenes_of(things: Sequence[Thing], look: Thing) -> list[list[Thing]]:
    """The scene; its first two things with their places exchanged; the same two with the first thing's other look."""
    first, second, *rest = things
    places = [(first.row, first.column), (second.row, second.column)]
    made = []
    for thing in (first, look):
        for one, two in (places, places[::-1]):
            made.append([replace(thing, row=one[0], column=one[1]), replace(second, row=two[0], column=two[1]), *rest])
    return made


def written(things: Sequence[Thing]) -> str:
    return "\n" + "\n".join(scene_rows(things))


def parts(rng: random.Random, claim: Claim, things: Sequence[Thing], lang: str) -> list[tuple[str, Asked]]:
    """Colour and shape of the first thing at its place, and the relation alone, where the looks are given."""
    assert claim.relation and claim.other
    it, scene, names = claim.it, PREFIX + write_scene(things), SPEECHES[lang].names
    place = names[f"at {it.place}"].removeprefix("at the ").removeprefix("on the ").removeprefix("in the ")
    found = []
    for word, known in (("colour", COLOURS), ("shape", SHAPES)):
        right = getattr(it, word)
        others = rng.sample([names[one] for one in known if one != right], 3)
        choices, label = shuffled(rng, names[right], others)
        asked = Asked(ASKS[lang][word].format(place=place), choices=choices, label=label, image=scene)
        found.append((word, asked))
    sides = [say(SPEECHES[lang], [one]) for one in (claim, replace(claim, relation=OPPOSITE[claim.relation]))]
    assert holds(it, claim.relation, claim.other)
    choices, label = shuffled(rng, sides[0], sides[1:])
    found.append(("relation", Asked(WHICH[lang], choices=choices, label=label, image=scene)))
    return found
