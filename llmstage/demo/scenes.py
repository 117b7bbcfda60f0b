"""The world of shapes: small pictures of one to four coloured shapes, with captions in English and Chinese.

A scene is a string, and its picture a pure function of it: `48:circle.red.large.0.2.12;star.blue.small.1.0.7` is a canvas
of 48 x 48 pixels with a large red circle in the top right cell of a 3 x 3 grid and a small blue star at its left; the last
number of a thing shifts it inside its cell. No (colour, shape) pair comes twice in a scene.

A quarter of the (colour, shape) pairs, chosen by a Latin square, is held out: scenes of composition "seen" hold none of
them, scenes of composition "unseen" hold at least one. Each shape and each colour is in both.
"""

from __future__ import annotations

import math
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Literal

from PIL import Image, ImageDraw

from llmstage.data.rows import Row
from llmstage.demo.scene_sentences import (
    COLOURS,
    LANGUAGES,
    OPPOSITE,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    SPEECHES,
    Speech,
)  # fmt: skip

Composition = Literal["seen", "unseen", "both"]
"""Whether scenes hold held-out pairs; "both": one and the other in turn."""
Pair = tuple[str, str]
"""(colour, shape)."""

PREFIX = "demo:"
"""Says in a row's `image` that the rest is a scene to be drawn."""
CANVAS = 48
GRID = 3
SQUARE = 4
SHIFTS = 5
"""Steps of a thing's place inside its cell, each way; the outer ones are a sixteenth of the cell from the middle."""
MAX_CANVAS = 1024
OVERSAMPLING = 4
RADIUS = {"small": 0.27, "large": 0.41}
"""In cells, measured from the middle of a thing to the side of its box."""
BACKGROUND = (244, 244, 238)
PAINT = {
    "red": (214, 28, 34),
    "orange": (246, 140, 20),
    "yellow": (244, 216, 30),
    "green": (38, 158, 56),
    "cyan": (60, 204, 216),
    "blue": (34, 66, 206),
    "purple": (146, 48, 170),
    "black": (24, 24, 26),
}


@dataclass(slots=True, frozen=True)
class Thing:
    shape: str
    colour: str
    size: str
    row: int
    column: int
    shift: int = SHIFTS * SHIFTS // 2

    @property
    def pair(self) -> Pair:
        return self.colour, self.shape

    @property
    def look(self) -> tuple[str, str, str]:
        return self.size, self.colour, self.shape

    @property
    def place(self) -> str:
        return PLACES[GRID * self.row + self.column]


def is_held_out(pair: Pair) -> bool:
    """Whether training never shows this pair: one in each row of each 4 x 4 block of the table of pairs."""
    colour, shape = pair
    return (COLOURS.index(colour) + SHAPES.index(shape)) % SQUARE == 0


PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
UNSEEN = tuple(pair for pair in PAIRS if is_held_out(pair))
SEEN = tuple(pair for pair in PAIRS if not is_held_out(pair))


def write_scene(things: Sequence[Thing], canvas: int = CANVAS) -> str:
    parts = (f"{t.shape}.{t.colour}.{t.size}.{t.row}.{t.column}.{t.shift}" for t in things)
    return f"{canvas}:{';'.join(parts)}"


def read_scene(scene: str) -> tuple[int, list[Thing]]:
    """(canvas size in pixels, things) of a scene, with or without its "demo:"; a ValueError says what it should be."""
    canvas, _, listed = scene.removeprefix(PREFIX).partition(":")
    try:
        things = [read_thing(part) for part in listed.split(";")]
        size = int(canvas)
    except ValueError as error:
        raise ValueError(f"{scene!r} is no scene: {error}") from None
    if not GRID <= size <= MAX_CANVAS:
        raise ValueError(f"{scene!r} is no scene: its canvas is {size} pixels wide, not {GRID} to {MAX_CANVAS}")
    return size, things


def read_thing(text: str) -> Thing:
    parts = text.split(".")
    if len(parts) != 6:
        raise ValueError(f"{text!r} is not shape.colour.size.row.column.shift")
    for part, known in zip(parts, (SHAPES, COLOURS, SIZES), strict=False):
        if part not in known:
            raise ValueError(f"{part!r} is none of {', '.join(known)}")
    row, column, shift = map(int, parts[3:])
    if not (0 <= row < GRID and 0 <= column < GRID and 0 <= shift < SHIFTS * SHIFTS):
        raise ValueError(f"{text!r} lies outside the grid")
    return Thing(parts[0], parts[1], parts[2], row, column, shift)


def draw(scene: str) -> Image.Image:
    """The picture of a scene: RGB, canvas x canvas."""
    size, things = read_scene(scene)
    wide = size * OVERSAMPLING
    image = Image.new("RGB", (wide, wide), BACKGROUND)
    brush = ImageDraw.Draw(image)
    cell = wide / GRID
    for thing in things:
        down, right = divmod(thing.shift, SHIFTS)
        x = (thing.column + 0.5 + (right - SHIFTS // 2) / 32) * cell
        y = (thing.row + 0.5 + (down - SHIFTS // 2) / 32) * cell
        radius = RADIUS[thing.size] * cell
        if thing.shape == "circle":
            brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=PAINT[thing.colour])
        else:
            outline = [(x + dx * radius, y + dy * radius) for dx, dy in OUTLINES[thing.shape]]
            brush.polygon(outline, fill=PAINT[thing.colour])
    return image.reduce(OVERSAMPLING)


def star(points: int, inner: float) -> tuple[tuple[float, float], ...]:
    turns = [math.pi * index / points for index in range(2 * points)]
    far = [1.05 if index % 2 == 0 else inner for index in range(2 * points)]
    return tuple((r * math.sin(turn), -r * math.cos(turn)) for turn, r in zip(turns, far, strict=True))


ARM = 0.34
OUTLINES: dict[str, tuple[tuple[float, float], ...]] = {
    "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
    "triangle": ((0, -1), (1, 0.9), (-1, 0.9)),
    "diamond": ((0, -1.05), (0.75, 0), (0, 1.05), (-0.75, 0)),
    "star": star(5, 0.42),
    "cross": (
        (-ARM, -1), (ARM, -1), (ARM, -ARM), (1, -ARM), (1, ARM), (ARM, ARM),
        (ARM, 1), (-ARM, 1), (-ARM, ARM), (-1, ARM), (-1, -ARM), (-ARM, -ARM),
    ),
}  # fmt: skip
"""In radii from the middle; y grows downwards."""


def holds(first: Thing, relation: str, second: Thing) -> bool:
    """Whether `first` stands in the relation to `second`; things of one column are neither left nor right of each other."""
    match relation:
        case "left":
            return first.column < second.column
        case "right":
            return first.column > second.column
        case "above":
            return first.row < second.row
    return first.row > second.row


def place_pairs(rng: random.Random, pairs: Sequence[Pair]) -> list[Thing]:
    """A thing for each pair, with a size and a cell of its own."""
    cells = rng.sample(range(GRID * GRID), len(pairs))
    return [
        Thing(shape, colour, rng.choice(SIZES), *divmod(cell, GRID), rng.randrange(SHIFTS * SHIFTS))
        for (colour, shape), cell in zip(pairs, cells, strict=True)
    ]


def turns(composition: Composition) -> Iterator[tuple[str, Composition]]:
    """(language, composition) of row 0, 1, 2, ...: the languages in turn, and for "both" the compositions too."""
    both: tuple[Composition, ...] = ("seen", "unseen")
    while True:
        for now in both if composition == "both" else (composition,):
            for language in LANGUAGES:
                yield language, now


def draw_things(rng: random.Random, composition: Composition, num_things: int) -> list[Thing]:
    if composition == "seen":
        return place_pairs(rng, rng.sample(SEEN, num_things))
    held_out = rng.choice(UNSEEN)
    pairs = [held_out, *rng.sample([pair for pair in PAIRS if pair != held_out], num_things - 1)]
    rng.shuffle(pairs)
    return place_pairs(rng, pairs)


@dataclass(slots=True, frozen=True)
class Claim:
    """What a caption says of a thing: where it stands, or how to another one."""

    it: Thing
    relation: str | None = None
    other: Thing | None = None

    def is_true(self, things: Sequence[Thing]) -> bool:
        """Of the things with these looks. Looks do not repeat in a scene, so there is one of each at most."""
        known = {thing.look: thing for thing in things}
        it = known.get(self.it.look)
        if it is None:
            return False
        if self.relation is None or self.other is None:
            return it.place == self.it.place
        other = known.get(self.other.look)
        return other is not None and holds(it, self.relation, other)


def say(speech: Speech, claims: Sequence[Claim]) -> str:
    *parts, last = (say_claim(speech, claim) for claim in claims)
    return speech.join.join(parts) + speech.join_last + last if parts else last


def say_claim(speech: Speech, claim: Claim) -> str:
    it = say_look(speech, claim.it)
    if claim.relation is None or claim.other is None:
        return speech.at.format(it=it, place=speech.names[f"at {claim.it.place}"])
    return speech.related.format(it=it, relation=speech.names[claim.relation], other=say_look(speech, claim.other))


def say_look(speech: Speech, thing: Thing) -> str:
    return speech.look.format(**{word: speech.names[getattr(thing, word)] for word in ("size", "colour", "shape")})


def relate(rng: random.Random, first: Thing, second: Thing) -> Claim:
    return Claim(first, rng.choice([word for word in RELATIONS if holds(first, word, second)]), second)


def contrastive_rows(num_rows: int, seed: int, composition: Composition = "seen") -> list[Row]:
    """`num_rows` distinct rows `{image, caption, language, composition, foils}`.

    The caption names every thing and how two of them stand to each other; a foil is the caption with colours, sizes,
    shapes or places changed about, so that the same words tell of another picture.
    """
    rng = random.Random(f"contrastive scenes {seed} {composition}")
    rows: list[Row] = []
    images: set[str] = set()
    turn = turns(composition)
    language, now = next(turn)
    while len(rows) < num_rows:
        things = draw_things(rng, now, rng.choices((1, 2, 3, 4), (5, 50, 30, 15))[0])
        claims = tell(rng, things)
        foils = [say(SPEECHES[language], wrong) for wrong in spoil(rng, claims) if not is_true(wrong, things)]
        image = PREFIX + write_scene(things)
        if image in images or not foils:
            continue
        images.add(image)
        caption = say(SPEECHES[language], claims)
        rows.append({"image": image, "caption": caption, "language": language, "composition": now, "foils": foils[:3]})
        language, now = next(turn)
    return rows


def is_true(claims: Sequence[Claim], things: Sequence[Thing]) -> bool:
    return all(claim.is_true(things) for claim in claims)


def tell(rng: random.Random, things: Sequence[Thing]) -> list[Claim]:
    """Claims that name each thing once: two by two in relation, one left over where it stands."""
    order = rng.sample(things, len(things))
    claims = [relate(rng, *order[start : start + 2]) for start in range(0, len(order) - 1, 2)]
    return claims + [Claim(thing) for thing in order[len(claims) * 2 :]]


def spoil(rng: random.Random, claims: Sequence[Claim]) -> list[list[Claim]]:
    """Claims with the first one changed: attributes and places of its two things exchanged, or its relation turned
    about; a thing alone gets another colour and another place."""
    first, *rest = claims
    it, other, relation = first.it, first.other, first.relation
    if other is None or relation is None:
        colour = rng.choice([pair[0] for pair in SEEN if pair[1] == it.shape and pair[0] != it.colour])
        return [
            [replace(first, it=replace(it, colour=colour)), *rest],
            [replace(first, it=replace(it, row=GRID - 1 - it.row, column=(it.column + 1) % GRID)), *rest],
        ]
    wrong = [Claim(other, relation, it), Claim(it, OPPOSITE[relation], other)]
    for word in ("colour", "size"):
        mine, others = getattr(it, word), getattr(other, word)
        if mine != others:
            wrong.append(Claim(replace(it, **{word: others}), relation, replace(other, **{word: mine})))
    rng.shuffle(wrong)
    return [[claim, *rest] for claim in wrong]


def caption_rows(num_rows: int, seed: int, composition: Composition = "seen") -> list[Row]:
    """`num_rows` distinct rows `{image, prompt, captions, language, composition}`, one to three things each.

    The first caption is a function of the scene and the language alone: every thing and its place, row by row. The
    others say the same in another order, with another beginning, or by relations.
    """
    rng = random.Random(f"caption scenes {seed} {composition}")
    rows: list[Row] = []
    images: set[str] = set()
    turn = turns(composition)
    language, now = next(turn)
    while len(rows) < num_rows:
        things = draw_things(rng, now, rng.choices((1, 2, 3), (10, 50, 40))[0])
        things.sort(key=lambda thing: (thing.row, thing.column))
        image = PREFIX + write_scene(things)
        if image in images:
            continue
        images.add(image)
        speech = SPEECHES[language]
        canonical = [Claim(thing) for thing in things]
        captions = [say(speech, canonical), speech.there_is + say(speech, canonical)]
        if len(things) > 1:
            captions += [
                say(speech, canonical[::-1]),
                say(speech, [relate(rng, *two) for two in pairwise(things)]),
            ]
        rows.append(
            {
                "image": image,
                "prompt": speech.describe,
                "captions": captions,
                "language": language,
                "composition": now,
            }
        )
        language, now = next(turn)
    return rows
