"""The demo world of shapes: small images of one to four coloured shapes, with captions in English and Chinese.

A scene is a string, and its image a pure function of it: `48:circle.red.large.0.2.12;star.blue.small.1.0.7` is a canvas
of 48 x 48 pixels with a large red circle in the top right cell of a 3 x 3 grid and a small blue star at its left. The last
number of an object shifts it inside its cell. No (colour, shape) pair occurs twice in a scene.

A quarter of the (colour, shape) pairs, chosen by a Latin square, is held out: scenes of composition "seen" have none of
them, scenes of composition "unseen" at least one. Each shape and each colour is in both.
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
    SCENE_LANGUAGES,
    SHAPES,
    SIZES,
    SceneLanguage,
)  # fmt: skip

Composition = Literal["seen", "unseen", "both"]
"""Whether scenes have held-out pairs; "both": the two alternate."""
Pair = tuple[str, str]
"""(colour, shape)."""

PREFIX = "demo:"
"""Prefix of an `image` that is a scene to be drawn."""
CANVAS = 48
GRID = 3
SQUARE = 4
SHIFTS = 5
"""Steps of the position inside the cell, in each direction; the outer ones are a sixteenth of the cell from the middle."""
MAX_CANVAS = 1024
OVERSAMPLING = 4
RADIUS = {"small": 0.27, "large": 0.41}
"""In cells, from the middle of an object to the side of its bounding box."""
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
class SceneObject:
    """One shape of a scene."""

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
    def appearance(self) -> tuple[str, str, str]:
        return self.size, self.colour, self.shape

    @property
    def cell_name(self) -> str:
        return PLACES[GRID * self.row + self.column]


def is_held_out(pair: Pair) -> bool:
    """Return whether a pair is never in training: one in each row of each 4 x 4 block of the table of pairs."""
    colour, shape = pair
    return (COLOURS.index(colour) + SHAPES.index(shape)) % SQUARE == 0


PAIRS: tuple[Pair, ...] = tuple((colour, shape) for colour in COLOURS for shape in SHAPES)
UNSEEN = tuple(pair for pair in PAIRS if is_held_out(pair))
SEEN = tuple(pair for pair in PAIRS if not is_held_out(pair))


def write_scene(objects: Sequence[SceneObject], canvas: int = CANVAS) -> str:
    parts = (f"{t.shape}.{t.colour}.{t.size}.{t.row}.{t.column}.{t.shift}" for t in objects)
    return f"{canvas}:{';'.join(parts)}"


def read_scene(scene: str) -> tuple[int, list[SceneObject]]:
    """Return (canvas size in pixels, objects) of a scene, with or without "demo:". Raise ValueError for an invalid scene."""
    canvas, _, listed = scene.removeprefix(PREFIX).partition(":")
    try:
        objects = [read_object(part) for part in listed.split(";")]
        size = int(canvas)
    except ValueError as error:
        raise ValueError(f"{scene!r} is no scene: {error}") from None
    if not GRID <= size <= MAX_CANVAS:
        raise ValueError(f"{scene!r} is no scene: its canvas is {size} pixels wide, not {GRID} to {MAX_CANVAS}")
    return size, objects


def read_object(text: str) -> SceneObject:
    parts = text.split(".")
    if len(parts) != 6:
        raise ValueError(f"{text!r} is not shape.colour.size.row.column.shift")
    for part, known in zip(parts, (SHAPES, COLOURS, SIZES), strict=False):
        if part not in known:
            raise ValueError(f"{part!r} is none of {', '.join(known)}")
    row, column, shift = map(int, parts[3:])
    if not (0 <= row < GRID and 0 <= column < GRID and 0 <= shift < SHIFTS * SHIFTS):
        raise ValueError(f"{text!r} lies outside the grid")
    return SceneObject(parts[0], parts[1], parts[2], row, column, shift)


def draw(scene: str) -> Image.Image:
    """Return the image of a scene: RGB, canvas x canvas."""
    size, objects = read_scene(scene)
    width = size * OVERSAMPLING
    image = Image.new("RGB", (width, width), BACKGROUND)
    brush = ImageDraw.Draw(image)
    cell = width / GRID
    for item in objects:
        down, right = divmod(item.shift, SHIFTS)
        x = (item.column + 0.5 + (right - SHIFTS // 2) / 32) * cell
        y = (item.row + 0.5 + (down - SHIFTS // 2) / 32) * cell
        radius = RADIUS[item.size] * cell
        if item.shape == "circle":
            brush.ellipse((x - radius, y - radius, x + radius, y + radius), fill=PAINT[item.colour])
        else:
            outline = [(x + dx * radius, y + dy * radius) for dx, dy in OUTLINES[item.shape]]
            brush.polygon(outline, fill=PAINT[item.colour])
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
"""Corners in radii from the middle; y increases downwards."""


def relation_holds(first: SceneObject, relation: str, second: SceneObject) -> bool:
    """Return whether `first` has the relation to `second`; in one column, neither object is left or right of the other."""
    match relation:
        case "left":
            return first.column < second.column
        case "right":
            return first.column > second.column
        case "above":
            return first.row < second.row
    return first.row > second.row


def position_pairs(rng: random.Random, pairs: Sequence[Pair]) -> list[SceneObject]:
    """Return an object for each pair, each with a random size in a cell of its own."""
    cells = rng.sample(range(GRID * GRID), len(pairs))
    return [
        SceneObject(shape, colour, rng.choice(SIZES), *divmod(cell, GRID), rng.randrange(SHIFTS * SHIFTS))
        for (colour, shape), cell in zip(pairs, cells, strict=True)
    ]


def alternate(composition: Composition) -> Iterator[tuple[str, Composition]]:
    """Yield (language, composition) of row 0, 1, 2, ...: the languages alternate, and for "both" the compositions too."""
    both: tuple[Composition, ...] = ("seen", "unseen")
    while True:
        for row_composition in both if composition == "both" else (composition,):
            for language in LANGUAGES:
                yield language, row_composition


def draw_objects(rng: random.Random, composition: Composition, num_objects: int) -> list[SceneObject]:
    if composition == "seen":
        return position_pairs(rng, rng.sample(SEEN, num_objects))
    held_out = rng.choice(UNSEEN)
    pairs = [held_out, *rng.sample([pair for pair in PAIRS if pair != held_out], num_objects - 1)]
    rng.shuffle(pairs)
    return position_pairs(rng, pairs)


@dataclass(slots=True, frozen=True)
class Claim:
    """A statement of a caption about an object: its position, or its relation to another object."""

    subject: SceneObject
    relation: str | None = None
    reference: SceneObject | None = None

    def is_true(self, objects: Sequence[SceneObject]) -> bool:
        """Return whether the claim is true. No two objects of a scene have the same appearance."""
        known = {item.appearance: item for item in objects}
        subject = known.get(self.subject.appearance)
        if subject is None:
            return False
        if self.relation is None or self.reference is None:
            return subject.cell_name == self.subject.cell_name
        reference = known.get(self.reference.appearance)
        return reference is not None and relation_holds(subject, self.relation, reference)


def render_claims(language: SceneLanguage, claims: Sequence[Claim]) -> str:
    """Return the claims as one sentence."""
    *parts, last = (render_claim(language, claim) for claim in claims)
    return language.join.join(parts) + language.join_last + last if parts else last


def render_claim(language: SceneLanguage, claim: Claim) -> str:
    subject = render_appearance(language, claim.subject)
    if claim.relation is None or claim.reference is None:
        return language.at.format(it=subject, place=language.names[f"at {claim.subject.cell_name}"])
    reference = render_appearance(language, claim.reference)
    return language.related.format(it=subject, relation=language.names[claim.relation], other=reference)


def render_appearance(language: SceneLanguage, item: SceneObject) -> str:
    names = {attribute: language.names[getattr(item, attribute)] for attribute in ("size", "colour", "shape")}
    return language.appearance.format(**names)


def spatial_claim(rng: random.Random, first: SceneObject, second: SceneObject) -> Claim:
    """Return a random true relation between two objects."""
    return Claim(first, rng.choice([name for name in RELATIONS if relation_holds(first, name, second)]), second)


def contrastive_rows(num_rows: int, seed: int, composition: Composition = "seen") -> list[Row]:
    """Return `num_rows` distinct rows `{image, caption, language, composition, foils}`.

    The caption names every object, and the relations between pairs of them. A foil is the caption with colours, sizes, shapes
    or positions exchanged, so that the same words describe another image.
    """
    rng = random.Random(f"contrastive scenes {seed} {composition}")
    rows: list[Row] = []
    images: set[str] = set()
    sequence = alternate(composition)
    language, row_composition = next(sequence)
    while len(rows) < num_rows:
        objects = draw_objects(rng, row_composition, rng.choices((1, 2, 3, 4), (5, 50, 30, 15))[0])
        claims = describe(rng, objects)
        variants = corrupt(rng, claims)
        foils = [
            render_claims(SCENE_LANGUAGES[language], variant) for variant in variants if not is_true(variant, objects)
        ]
        image = PREFIX + write_scene(objects)
        if image in images or not foils:
            continue
        images.add(image)
        rows.append(
            {
                "image": image,
                "caption": render_claims(SCENE_LANGUAGES[language], claims),
                "language": language,
                "composition": row_composition,
                "foils": foils[:3],
            }
        )
        language, row_composition = next(sequence)
    return rows


def is_true(claims: Sequence[Claim], objects: Sequence[SceneObject]) -> bool:
    return all(claim.is_true(objects) for claim in claims)


def describe(rng: random.Random, objects: Sequence[SceneObject]) -> list[Claim]:
    """Return claims that name each object once: relations between pairs, and the position of an unpaired object."""
    order = rng.sample(objects, len(objects))
    claims = [spatial_claim(rng, *order[start : start + 2]) for start in range(0, len(order) - 1, 2)]
    return claims + [Claim(item) for item in order[len(claims) * 2 :]]


def corrupt(rng: random.Random, claims: Sequence[Claim]) -> list[list[Claim]]:
    """Return variants of the claims with the first one changed.

    Attributes and positions of its two objects are exchanged, or its relation is reversed. A single object gets another colour
    or another position.
    """
    first, *rest = claims
    subject, reference, relation = first.subject, first.reference, first.relation
    if reference is None or relation is None:
        colour = rng.choice([pair[0] for pair in SEEN if pair[1] == subject.shape and pair[0] != subject.colour])
        moved = replace(subject, row=GRID - 1 - subject.row, column=(subject.column + 1) % GRID)
        return [
            [replace(first, subject=replace(subject, colour=colour)), *rest],
            [replace(first, subject=moved), *rest],
        ]
    variants = [Claim(reference, relation, subject), Claim(subject, OPPOSITE[relation], reference)]
    for attribute in ("colour", "size"):
        value, reference_value = getattr(subject, attribute), getattr(reference, attribute)
        if value != reference_value:
            swapped = replace(subject, **{attribute: reference_value}), replace(reference, **{attribute: value})
            variants.append(Claim(swapped[0], relation, swapped[1]))
    rng.shuffle(variants)
    return [[claim, *rest] for claim in variants]


def caption_rows(num_rows: int, seed: int, composition: Composition = "seen") -> list[Row]:
    """Return `num_rows` distinct rows `{image, prompt, captions, language, composition}` with one to three objects.

    The first caption depends only on the scene and the language: every object and its position, row by row. The others
    have another order, another beginning, or relations.
    """
    rng = random.Random(f"caption scenes {seed} {composition}")
    rows: list[Row] = []
    images: set[str] = set()
    sequence = alternate(composition)
    language_name, row_composition = next(sequence)
    while len(rows) < num_rows:
        objects = draw_objects(rng, row_composition, rng.choices((1, 2, 3), (10, 50, 40))[0])
        objects.sort(key=lambda item: (item.row, item.column))
        image = PREFIX + write_scene(objects)
        if image in images:
            continue
        images.add(image)
        language = SCENE_LANGUAGES[language_name]
        canonical = [Claim(item) for item in objects]
        captions = [render_claims(language, canonical), language.there_is + render_claims(language, canonical)]
        if len(objects) > 1:
            captions += [
                render_claims(language, canonical[::-1]),
                render_claims(language, [spatial_claim(rng, *two) for two in pairwise(objects)]),
            ]
        rows.append(
            {
                "image": image,
                "prompt": language.describe,
                "captions": captions,
                "language": language_name,
                "composition": row_composition,
            }
        )
        language_name, row_composition = next(sequence)
    return rows
