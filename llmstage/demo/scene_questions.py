"""Questions about the demo world of shapes: seven types, in English and Chinese, each with an answer of one or two words.

The answer of each question is drawn first, and then a scene for it. Yes and no, the numbers, the colours and the shapes are
therefore equally frequent, and the words of a question reveal little about its answer.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from types import MappingProxyType

from llmstage.data.rows import Row
from llmstage.demo.scene_sentences import COLOURS, OPPOSITE, QUESTION_TYPES, RELATIONS, SCENE_LANGUAGES, SHAPES, SIZES
from llmstage.demo.scenes import (
    PAIRS,
    PREFIX,
    SEEN,
    UNSEEN,
    Claim,
    Composition,
    Pair,
    SceneObject,
    alternate,
    position_pairs,
    relation_holds,
    render_claims,
    write_scene,
)  # fmt: skip

MAX_OBJECTS = 3
"""Maximum number of objects in a scene."""


@dataclass(slots=True)
class World:
    """The pairs of (colour, shape) of a composition: `asked` for the objects of the question, `others` for further objects."""

    rng: random.Random
    asked: tuple[Pair, ...]
    others: tuple[Pair, ...]

    def sample_asked(self, *, colour: str = "", shape: str = "", not_colour: str = "", not_shape: str = "") -> Pair:
        """Return a random pair for the question."""
        return self.rng.choice(matching_pairs(self.asked, colour, shape, not_colour, not_shape))

    def sample_other(self, *, colour: str = "", shape: str = "", not_colour: str = "", not_shape: str = "") -> Pair:
        return self.rng.choice(matching_pairs(self.others, colour, shape, not_colour, not_shape))

    def random_bool(self) -> bool:
        return self.rng.random() < 0.5

    def scene(self, pairs: Sequence[Pair], allowed: Callable[[Pair], bool], min_objects: int = 1) -> list[SceneObject]:
        """Things for the pairs, then for some allowed others; `least` objects or more, the pairs' own first."""
        pairs = list(pairs)
        total = self.rng.randint(max(min_objects, len(pairs)), MAX_OBJECTS)
        more = [pair for pair in self.others if pair not in pairs and allowed(pair)]
        pairs += self.rng.sample(more, min(total - len(pairs), len(more)))
        return position_pairs(self.rng, pairs)

    def with_others(self, group: Sequence[Pair], first: Pair, number: int) -> list[Pair]:
        """Return `number` pairs of the group; `first` is the first of them."""
        return [first, *self.rng.sample([pair for pair in group if pair != first], number - 1)]


def matching_pairs(pairs: tuple[Pair, ...], colour: str, shape: str, not_colour: str, not_shape: str) -> list[Pair]:
    return [
        (c, s)
        for c, s in pairs
        if colour in ("", c) and shape in ("", s) and c != not_colour and s != not_shape
    ]  # fmt: skip


@dataclass(slots=True, frozen=True)
class QuestionScene:
    """A scene, the values for the slots of the question, and the answer, all as keys of `SceneLanguage.names`."""

    objects: list[SceneObject]
    slots: dict[str, str]
    answer: str


def yes_no(is_yes: bool) -> str:
    return "yes" if is_yes else "no"


def slots_of(pair: Pair) -> dict[str, str]:
    return {"colour": pair[0], "shape": pair[1]}


def existence_pair(world: World) -> QuestionScene:
    """If the answer is no, the scene may contain the colour and the shape, each with another one."""
    is_yes, pair = world.random_bool(), world.sample_asked()
    if is_yes:
        return QuestionScene(world.scene([pair], lambda candidate: True), slots_of(pair), "yes")
    near = [
        world.sample_other(colour=pair[0], not_shape=pair[1]),
        world.sample_other(shape=pair[1], not_colour=pair[0]),
    ]
    return QuestionScene(
        world.scene(world.rng.sample(near, world.rng.randint(1, 2)), lambda candidate: candidate != pair),
        slots_of(pair),
        "no",
    )


def existence_size(world: World) -> QuestionScene:
    """One object has the shape, in the size of the question or in the other size."""
    is_yes, pair = world.random_bool(), world.sample_asked()
    objects = world.scene([pair], lambda candidate: candidate[1] != pair[1])
    size = objects[0].size if is_yes else SIZES[1 - SIZES.index(objects[0].size)]
    return QuestionScene(objects, {"size": size, "shape": pair[1]}, yes_no(is_yes))


def counting_shape(world: World) -> QuestionScene:
    number, pair = world.rng.randint(1, 3), world.sample_asked()
    group = [candidate for candidate in world.others if candidate[1] == pair[1]]
    objects = world.scene(world.with_others(group, pair, number), lambda candidate: candidate[1] != pair[1])
    return QuestionScene(objects, {"shape": pair[1], "shapes": f"many {pair[1]}"}, str(number))


def counting_colour(world: World) -> QuestionScene:
    number, pair = world.rng.randint(1, 3), world.sample_asked()
    group = [candidate for candidate in world.others if candidate[0] == pair[0]]
    objects = world.scene(world.with_others(group, pair, number), lambda candidate: candidate[0] != pair[0])
    return QuestionScene(objects, {"colour": pair[0]}, str(number))


def attribute_colour(world: World) -> QuestionScene:
    pair = world.sample_asked(colour=world.rng.choice(COLOURS))
    return QuestionScene(world.scene([pair], lambda candidate: candidate[1] != pair[1]), {"shape": pair[1]}, pair[0])


def attribute_shape(world: World) -> QuestionScene:
    pair = world.sample_asked(shape=world.rng.choice(SHAPES))
    return QuestionScene(world.scene([pair], lambda candidate: candidate[0] != pair[0]), {"colour": pair[0]}, pair[1])


def attribute_size(world: World) -> QuestionScene:
    pair = world.sample_asked()
    objects = world.scene([pair], lambda candidate: candidate[1] != pair[1])
    return QuestionScene(objects, {"shape": pair[1]}, objects[0].size)


def two_objects(world: World, first: Pair, second: Pair) -> list[SceneObject]:
    """Return objects of the two pairs, in random order, and objects of other shapes."""
    pairs = [first, second]
    world.rng.shuffle(pairs)
    return world.scene(pairs, lambda candidate: candidate[1] not in (first[1], second[1]))


def comparison_larger(world: World) -> QuestionScene:
    is_yes, pair = world.random_bool(), world.sample_asked()
    objects = two_objects(world, pair, world.sample_other(not_shape=pair[1]))
    sizes = ("large", "small") if is_yes else world.rng.choice((("small", "large"), ("small",) * 2, ("large",) * 2))
    objects[:2] = [replace(item, size=size) for item, size in zip(objects, sizes, strict=False)]
    return QuestionScene(objects, {"shape": objects[0].shape, "other": objects[1].shape}, yes_no(is_yes))


def comparison_colour(world: World) -> QuestionScene:
    is_yes, pair = world.random_bool(), world.sample_asked()
    colour = {"colour" if is_yes else "not_colour": pair[0]}
    objects = two_objects(world, pair, world.sample_other(not_shape=pair[1], **colour))
    return QuestionScene(objects, {"shape": objects[0].shape, "other": objects[1].shape}, yes_no(is_yes))


def comparison_which(world: World) -> QuestionScene:
    pair = world.sample_asked(shape=world.rng.choice(SHAPES))
    objects = two_objects(world, pair, world.sample_other(not_shape=pair[1]))
    larger = world.rng.randrange(2)
    objects[:2] = [replace(objects[index], size=SIZES[index == larger]) for index in range(2)]
    return QuestionScene(objects, {"shape": objects[0].shape, "other": objects[1].shape}, objects[larger].shape)


def spatial_related(world: World) -> QuestionScene:
    is_yes, first = world.random_bool(), world.sample_asked()
    relation = world.rng.choice(RELATIONS)
    pairs = [first, world.rng.choice([pair for pair in world.others if pair != first])]
    world.rng.shuffle(pairs)
    true_relation = relation if is_yes else OPPOSITE[relation]
    while True:
        objects = subject, reference, *_ = world.scene(pairs, lambda candidate: True)
        if relation_holds(subject, true_relation, reference):
            break
    slots = {**slots_of(subject.pair), "other_colour": reference.colour, "other": reference.shape, "relation": relation}
    return QuestionScene(objects, slots, yes_no(is_yes))


def spatial_colour(world: World) -> QuestionScene:
    pair = world.sample_asked(colour=world.rng.choice(COLOURS))
    objects = world.scene([pair], lambda candidate: True)
    return QuestionScene(objects, {"place": f"at {objects[0].cell_name}"}, pair[0])


def spatial_shape(world: World) -> QuestionScene:
    pair = world.sample_asked(shape=world.rng.choice(SHAPES))
    objects = world.scene([pair], lambda candidate: True)
    return QuestionScene(objects, {"place": f"at {objects[0].cell_name}"}, pair[1])


def negation_none(world: World) -> QuestionScene:
    scene = existence_pair(world)
    return replace(scene, answer=yes_no(scene.answer == "no"))


def negation_any(world: World) -> QuestionScene:
    """All objects have the colour, or all but one."""
    is_yes, pair = world.random_bool(), world.sample_asked()
    number = world.rng.randint(2, 3)
    group = [candidate for candidate in world.others if candidate[0] == pair[0]]
    exception = world.rng.sample(
        [candidate for candidate in world.others if candidate[0] != pair[0]], 1 if is_yes else 0
    )
    pairs = world.with_others(group, pair, number - len(exception)) + exception
    return QuestionScene(position_pairs(world.rng, pairs), {"colour": pair[0]}, yes_no(is_yes))


def negation_shape(world: World) -> QuestionScene:
    pair = world.sample_asked(shape=world.rng.choice(SHAPES))
    colour = world.sample_other(not_colour=pair[0])[0]
    group = [candidate for candidate in world.others if candidate[0] == colour]
    pairs = [pair, *world.rng.sample(group, world.rng.randint(1, 3))]
    return QuestionScene(position_pairs(world.rng, pairs), {"colour": colour}, pair[1])


def two_step_colour(world: World) -> QuestionScene:
    """Exactly one object has the relation to the only object of a shape."""
    pair = world.sample_asked(colour=world.rng.choice(COLOURS))
    anchor = world.sample_other(not_shape=pair[1])
    relation = world.rng.choice(RELATIONS)
    while True:
        objects = world.scene([pair, anchor], lambda candidate: candidate[1] != anchor[1])
        if [item for item in objects if relation_holds(item, relation, objects[1])] == objects[:1]:
            return QuestionScene(objects, {"relation": relation, "other": anchor[1]}, pair[0])


def two_step_shape(world: World) -> QuestionScene:
    pair = world.sample_asked(shape=world.rng.choice(SHAPES))
    anchor = world.sample_other(colour=pair[0], not_shape=pair[1])
    objects = world.scene([pair, anchor], lambda candidate: candidate[0] != pair[0] and candidate[1] != anchor[1])
    return QuestionScene(objects, {"other": anchor[1]}, pair[1])


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
    """Return `num_rows` distinct rows `{image, question, answer, kind, caption, prompt, language, composition}`.

    The question types alternate. "unseen": an object of the question has a held-out pair, or the question is about a
    held-out pair that the scene lacks.
    """
    rng = random.Random(f"question scenes {seed} {composition}")
    worlds = {"seen": World(rng, SEEN, SEEN), "unseen": World(rng, UNSEEN, PAIRS)}
    patterns = {
        question_type: [name for name in PATTERNS if name.startswith(f"{question_type}.")]
        for question_type in QUESTION_TYPES
    }
    rows: list[Row] = []
    known: set[tuple[str, str]] = set()
    sequence = alternate(composition)
    language_name, row_composition = next(sequence)
    while len(rows) < num_rows:
        question_type = QUESTION_TYPES[len(rows) // 4 % len(QUESTION_TYPES)]  # each in both languages and compositions
        pattern = rng.choice(patterns[question_type])
        scene = PATTERNS[pattern](worlds[row_composition])
        language = SCENE_LANGUAGES[language_name]
        objects = rng.sample(scene.objects, len(scene.objects))
        question = rng.choice(language.questions[pattern]).format(
            **{slot: language.names[value] for slot, value in scene.slots.items()}
        )
        image = PREFIX + write_scene(objects)
        if (image, question) in known:
            continue
        known.add((image, question))
        rows.append(
            {
                "image": image,
                "question": question,
                "answer": language.names[scene.answer],
                "kind": question_type,
                "caption": render_claims(
                    language, [Claim(item) for item in sorted(objects, key=lambda item: (item.row, item.column))]
                ),
                "prompt": language.describe,
                "language": language_name,
                "composition": row_composition,
            }
        )
        language_name, row_composition = next(sequence)
    return rows
