"""A grid of coloured shapes and its caption, in both directions, with pairs of colour and shape that training never shows.

Vision models read the image, text models read the grid as text. Shape, colour and relation alone are the parts.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from llmstage.demo.scene_sentences import COLOURS, OPPOSITE, SCENE_LANGUAGES, SHAPES
from llmstage.demo.scenes import (
    PAIRS,
    PREFIX,
    SEEN,
    Claim,
    Composition,
    SceneObject,
    draw_objects,
    relation_holds,
    render_claims,
    spatial_claim,
    write_scene,
)  # fmt: skip
from llmstage.explore.items import scene_rows
from llmstage.explore.probes.base import BOTH, Question, shuffled

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


def sample_question(rng: random.Random, cell: Mapping[str, Any], lang: str) -> Question:
    """Draw a question about the relation of two objects, in words or as grids.

    The four choices combine two relations with two appearances of the first object. Each word of the right choice is also
    in one wrong choice, so no choice differs from all others.
    """
    composition: Composition = cell["composition"]
    things = draw_objects(rng, composition, cell["things"])
    claim = spatial_claim(rng, things[0], things[1])
    assert claim.relation and claim.reference
    relations = [claim, replace(claim, relation=OPPOSITE[claim.relation])]
    replacement = other_appearance(rng, things, composition)
    claims = [*relations, *(replace(variant, subject=replacement) for variant in relations)]
    key = f"{write_scene(things)} {claim.relation} {replacement.pair}"
    if cell["direction"] == "caption":
        right, *wrong = (render_claims(SCENE_LANGUAGES[lang], [variant]) for variant in claims)
        choices, label = shuffled(rng, right, wrong)
        scene = PREFIX + write_scene(things)
        return Question(
            WHICH[lang], choices=choices, label=label, image=scene, key=key, parts=parts(rng, claim, things, lang)
        )
    right, *wrong = (grid_text(scene) for scene in candidate_scenes(things, replacement))
    choices, label = shuffled(rng, right, wrong)
    prompt = DRAWN[lang].format(caption=render_claims(SCENE_LANGUAGES[lang], [claim]))
    return Question(prompt, choices=choices, label=label, key=key, glued=True)


def other_appearance(rng: random.Random, things: Sequence[SceneObject], composition: Composition) -> SceneObject:
    """Return the first object with another colour or another shape that no object of the scene has.

    The pair of colour and shape is one that the composition draws from.
    """
    it = things[0]
    taken = {thing.pair for thing in things}
    known = SEEN if composition == "seen" else PAIRS
    free = [pair for pair in known if pair not in taken and (pair[0] == it.colour) != (pair[1] == it.shape)]
    colour, shape = rng.choice(free)
    return replace(it, colour=colour, shape=shape)


def candidate_scenes(things: Sequence[SceneObject], replacement: SceneObject) -> list[list[SceneObject]]:
    """Return four scenes: with the first two objects in order and swapped, and the same with `replacement` as the first."""
    first, second, *rest = things
    positions = [(first.row, first.column), (second.row, second.column)]
    scenes = []
    for thing in (first, replacement):
        for a, b in (positions, positions[::-1]):
            scenes.append([replace(thing, row=a[0], column=a[1]), replace(second, row=b[0], column=b[1]), *rest])
    return scenes


def grid_text(things: Sequence[SceneObject]) -> str:
    """Return a scene as rows of text, after a line break."""
    return "\n" + "\n".join(scene_rows(things))


def parts(rng: random.Random, claim: Claim, things: Sequence[SceneObject], lang: str) -> list[tuple[str, Question]]:
    """Return the parts: colour and shape of the first object at its position, and the relation with all appearances given."""
    assert claim.relation and claim.reference
    it, scene, names = claim.subject, PREFIX + write_scene(things), SCENE_LANGUAGES[lang].names
    position = names[f"at {it.cell_name}"].removeprefix("at the ").removeprefix("on the ").removeprefix("in the ")
    questions = []
    for attribute, known in (("colour", COLOURS), ("shape", SHAPES)):
        right = getattr(it, attribute)
        others = rng.sample([names[value] for value in known if value != right], 3)
        choices, label = shuffled(rng, names[right], others)
        prompt = ASKS[lang][attribute].format(place=position)
        questions.append((attribute, Question(prompt, choices=choices, label=label, image=scene)))
    sides = [
        render_claims(SCENE_LANGUAGES[lang], [variant])
        for variant in (claim, replace(claim, relation=OPPOSITE[claim.relation]))
    ]
    assert relation_holds(it, claim.relation, claim.reference)
    choices, label = shuffled(rng, sides[0], sides[1:])
    questions.append(("relation", Question(WHICH[lang], choices=choices, label=label, image=scene)))
    return questions
