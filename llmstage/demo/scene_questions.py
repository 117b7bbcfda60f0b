"""Questions about the world of shapes: seven kinds, in English and Chinese, each with one answer of a word or two.

For each question the answer is drawn first and a scene is then made for it, so that yes and no, the numbers, the colours
and the shapes are as frequent as each other, and the words of a question say little about its answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from llmstage.data.rows import Row
from llmstage.demo.scene_sentences import COLOURS, KINDS, OPPOSITE, RELATIONS, SHAPES, SIZES, SPEECHES
from llmstage.demo.scenes import (
    PAIRS,
    PREFIX,
    SEEN,
    UNSEEN,
    Claim,
    Composition,
    Pair,
    Thing,
    holds,
    place_pairs,
    say,
    turns,
    write_scene,
)  # fmt: skip

MOST = 3
"""Things in a scene, at most."""


@dataclass(slots=True)
class World:
    """From which pairs a question's things are drawn: those asked about from `asked`, those beside them from `others`."""

    rng: random.Random
    asked: tuple[Pair, ...]
    others: tuple[Pair, ...]

    def pick(self, *, colour: str = "", shape: str = "", not_colour: str = "", not_shape: str = "") -> Pair:
        """A pair to be asked about."""
        return self.rng.choice(chosen(self.asked, colour, shape, not_colour, not_shape))

    def pick_other(self, *, colour: str = "", shape: str = "", not_colour: str = "", not_shape: str = "") -> Pair:
        return self.rng.choice(chosen(self.others, colour, shape, not_colour, not_shape))

    def wish(self) -> bool:
        return self.rng.random() < 0.5

    def scene(self, pairs: Sequence[Pair], allowed: Callable[[Pair], bool], least: int = 1) -> list[Thing]:
        """Things for the pairs, then for some allowed others; `least` things or more, the pairs' own first."""
        pairs = list(pairs)
        total = self.rng.randint(max(least, len(pairs)), MOST)
        more = [pair for pair in self.others if pair not in pairs and allowed(pair)]
        pairs += self.rng.sample(more, min(total - len(pairs), len(more)))
        return place_pairs(self.rng, pairs)

    def some(self, group: Sequence[Pair], least_asked: Pair, number: int) -> list[Pair]:
        """`number` pairs of the group, with `least_asked` among them."""
        return [least_asked, *self.rng.sample([pair for pair in group if pair != least_asked], number - 1)]


def chosen(pairs: tuple[Pair, ...], colour: str, shape: str, not_colour: str, not_shape: str) -> list[Pair]:
    return [
        (c, s)
        for c, s in pairs
        if colour in ("", c) and shape in ("", s) and c != not_colour and s != not_shape
    ]  # fmt: skip


@dataclass(slots=True, frozen=True)
class Asked:
    """A scene, what fills the holes of the question, and the answer, in the world's own words."""

    things: list[Thing]
    slots: dict[str, str]
    answer: str


def yes_no(wish: bool) -> str:
    return "yes" if wish else "no"


def slots_of(pair: Pair) -> dict[str, str]:
    return {"colour": pair[0], "shape": pair[1]}


def existence_pair(world: World) -> Asked:
    """Where the answer is no, the colour and the shape may well be there, each with another."""
    wish, pair = world.wish(), world.pick()
    if wish:
        return Asked(world.scene([pair], lambda other: True), slots_of(pair), "yes")
    near = [
        world.pick_other(colour=pair[0], not_shape=pair[1]),
        world.pick_other(shape=pair[1], not_colour=pair[0]),
    ]
    return Asked(
        world.scene(world.rng.sample(near, world.rng.randint(1, 2)), lambda other: other != pair), slots_of(pair), "no"
    )


def existence_size(world: World) -> Asked:
    """One thing has the shape, in the size asked for or in the other one."""
    wish, pair = world.wish(), world.pick()
    things = world.scene([pair], lambda other: other[1] != pair[1])
    size = things[0].size if wish else SIZES[1 - SIZES.index(things[0].size)]
    return Asked(things, {"size": size, "shape": pair[1]}, yes_no(wish))


def counting_shape(world: World) -> Asked:
    number, pair = world.rng.randint(1, 3), world.pick()
    group = [other for other in world.others if other[1] == pair[1]]
    things = world.scene(world.some(group, pair, number), lambda other: other[1] != pair[1])
    return Asked(things, {"shape": pair[1], "shapes": f"many {pair[1]}"}, str(number))


def counting_colour(world: World) -> Asked:
    number, pair = world.rng.randint(1, 3), world.pick()
    group = [other for other in world.others if other[0] == pair[0]]
    things = world.scene(world.some(group, pair, number), lambda other: other[0] != pair[0])
    return Asked(things, {"colour": pair[0]}, str(number))


def attribute_colour(world: World) -> Asked:
    pair = world.pick(colour=world.rng.choice(COLOURS))
    return Asked(world.scene([pair], lambda other: other[1] != pair[1]), {"shape": pair[1]}, pair[0])


def attribute_shape(world: World) -> Asked:
    pair = world.pick(shape=world.rng.choice(SHAPES))
    return Asked(world.scene([pair], lambda other: other[0] != pair[0]), {"colour": pair[0]}, pair[1])


def attribute_size(world: World) -> Asked:
    pair = world.pick()
    things = world.scene([pair], lambda other: other[1] != pair[1])
    return Asked(things, {"shape": pair[1]}, things[0].size)


def two_shapes(world: World, first: Pair, second: Pair) -> list[Thing]:
    """The two pairs, in chance order of asking, and others of other shapes."""
    pairs = [first, second]
    world.rng.shuffle(pairs)
    return world.scene(pairs, lambda other: other[1] not in (first[1], second[1]))


def comparison_larger(world: World) -> Asked:
    wish, pair = world.wish(), world.pick()
    things = two_shapes(world, pair, world.pick_other(not_shape=pair[1]))
    sizes = ("large", "small") if wish else world.rng.choice((("small", "large"), ("small",) * 2, ("large",) * 2))
    things[:2] = [replace(thing, size=size) for thing, size in zip(things, sizes, strict=False)]
    return Asked(things, {"shape": things[0].shape, "other": things[1].shape}, yes_no(wish))


def comparison_colour(world: World) -> Asked:
    wish, pair = world.wish(), world.pick()
    colour = {"colour" if wish else "not_colour": pair[0]}
    things = two_shapes(world, pair, world.pick_other(not_shape=pair[1], **colour))
    return Asked(things, {"shape": things[0].shape, "other": things[1].shape}, yes_no(wish))


def comparison_which(world: World) -> Asked:
    pair = world.pick(shape=world.rng.choice(SHAPES))
    things = two_shapes(world, pair, world.pick_other(not_shape=pair[1]))
    larger = world.rng.randrange(2)
    things[:2] = [replace(things[index], size=SIZES[index == larger]) for index in range(2)]
    return Asked(things, {"shape": things[0].shape, "other": things[1].shape}, things[larger].shape)


def spatial_related(world: World) -> Asked:
    wish, first = world.wish(), world.pick()
    relation = world.rng.choice(RELATIONS)
    pairs = [first, world.rng.choice([pair for pair in world.others if pair != first])]
    world.rng.shuffle(pairs)
    wanted = relation if wish else OPPOSITE[relation]
    while True:
        things = one, two, *_ = world.scene(pairs, lambda other: True)
        if holds(one, wanted, two):
            break
    slots = {**slots_of(one.pair), "other_colour": two.colour, "other": two.shape, "relation": relation}
    return Asked(things, slots, yes_no(wish))


def spatial_colour(world: World) -> Asked:
    pair = world.pick(colour=world.rng.choice(COLOURS))
    things = world.scene([pair], lambda other: True)
    return Asked(things, {"place": f"at {things[0].place}"}, pair[0])


def spatial_shape(world: World) -> Asked:
    pair = world.pick(shape=world.rng.choice(SHAPES))
    things = world.scene([pair], lambda other: True)
    return Asked(things, {"place": f"at {things[0].place}"}, pair[1])


def negation_none(world: World) -> Asked:
    asked = existence_pair(world)
    return replace(asked, answer=yes_no(asked.answer == "no"))


def negation_any(world: World) -> Asked:
    """All things but one or two have the colour, or all of them have it."""
    wish, pair = world.wish(), world.pick()
    number = world.rng.randint(2, 3)
    group = [other for other in world.others if other[0] == pair[0]]
    strange = world.rng.sample([other for other in world.others if other[0] != pair[0]], 1 if wish else 0)
    pairs = world.some(group, pair, number - len(strange)) + strange
    return Asked(place_pairs(world.rng, pairs), {"colour": pair[0]}, yes_no(wish))


def negation_shape(world: World) -> Asked:
    pair = world.pick(shape=world.rng.choice(SHAPES))
    colour = world.pick_other(not_colour=pair[0])[0]
    group = [other for other in world.others if other[0] == colour]
    pairs = [pair, *world.rng.sample(group, world.rng.randint(1, 3))]
    return Asked(place_pairs(world.rng, pairs), {"colour": colour}, pair[1])


def two_step_colour(world: World) -> Asked:
    """One thing alone stands so to the only thing of its shape; others stand elsewhere."""
    pair = world.pick(colour=world.rng.choice(COLOURS))
    anchor = world.pick_other(not_shape=pair[1])
    relation = world.rng.choice(RELATIONS)
    while True:
        things = world.scene([pair, anchor], lambda other: other[1] != anchor[1])
        if [thing for thing in things if holds(thing, relation, things[1])] == things[:1]:
            return Asked(things, {"relation": relation, "other": anchor[1]}, pair[0])


def two_step_shape(world: World) -> Asked:
    pair = world.pick(shape=world.rng.choice(SHAPES))
    anchor = world.pick_other(colour=pair[0], not_shape=pair[1])
    things = world.scene([pair, anchor], lambda other: other[0] != pair[0] and other[1] != anchor[1])
    return Asked(things, {"other": anchor[1]}, pair[1])


PATTERNS = MappingProxyType(
    {
        "existence.pair": existence_pair,
        "existence.size": existence_size,
        "counting.shape": counting_shape,
        "counting.colour": counting_colour,
        "attribute.colour": attribute_colour,
        "attribute.shape": attribute_shape,
        "attribute.size": attribute_size,
        "comparison.larger": comparison_larger,
        "comparison.colour": comparison_colour,
        "comparison.which": comparison_which,
        "spatial.related": spatial_related,
        "spatial.colour": spatial_colour,
        "spatial.shape": spatial_shape,
        "negation.none": negation_none,
        "negation.any": negation_any,
        "negation.shape": negation_shape,
        "two_step.colour": two_step_colour,
        "two_step.shape": two_step_shape,
    }
)


def question_rows(num_rows: int, seed: int, composition: Composition = "seen") -> list[Row]:
    """`num_rows` distinct rows `{image, question, answer, kind, caption, prompt, language, composition}`, the kinds in turn.

    "unseen": a thing asked about has a held-out pair, or a held-out pair is asked for and is not there.
    """
    rng = random.Random(f"question scenes {seed} {composition}")
    worlds = {"seen": World(rng, SEEN, SEEN), "unseen": World(rng, UNSEEN, PAIRS)}
    patterns = {kind: [name for name in PATTERNS if name.startswith(f"{kind}.")] for kind in KINDS}
    rows: list[Row] = []
    known: set[tuple[str, str]] = set()
    turn = turns(composition)
    language, now = next(turn)
    while len(rows) < num_rows:
        kind = KINDS[len(rows) // 4 % len(KINDS)]  # each kind in both languages and both compositions
        pattern = rng.choice(patterns[kind])
        asked = PATTERNS[pattern](worlds[now])
        speech = SPEECHES[language]
        things = rng.sample(asked.things, len(asked.things))
        question = rng.choice(speech.questions[pattern]).format(
            **{slot: speech.names[word] for slot, word in asked.slots.items()}
        )
        image = PREFIX + write_scene(things)
        if (image, question) in known:
            continue
        known.add((image, question))
        rows.append(
            {
                "image": image,
                "question": question,
                "answer": speech.names[asked.answer],
                "kind": kind,
                "caption": say(speech, [Claim(thing) for thing in sorted(things, key=lambda it: (it.row, it.column))]),
                "prompt": speech.describe,
                "language": language,
                "composition": now,
            }
        )
        language, now = next(turn)
    return rows
