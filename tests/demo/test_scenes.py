"""Laws of the world of shapes: pictures show what captions say, foils are false, and held-out pairs are never in training."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from llmstage.demo.scene_sentences import COLOURS, LANGUAGES, PLACES, SCENE_LANGUAGES, SHAPES
from llmstage.demo.scenes import (
    BACKGROUND,
    PAINT,
    PAIRS,
    SEEN,
    UNSEEN,
    caption_rows,
    contrastive_rows,
    draw,
    read_scene,
    write_scene,
)  # fmt: skip
from llmstage.evaluation.metrics.answers import HAS_CJK

CELL = 16
EN_LOOK = re.compile(rf"a (small|large) ({'|'.join(COLOURS)}) ({'|'.join(SHAPES)})")


def cells_of(image) -> np.ndarray:
    """The picture cut into its nine cells: [9, 16, 16, 3]."""
    pixels = np.asarray(image).astype(int)
    return pixels.reshape(3, CELL, 3, CELL, 3).swapaxes(1, 2).reshape(9, CELL, CELL, 3)


def painted(cell: np.ndarray) -> tuple[str | None, int]:
    """(colour most of the cell's foreground is nearest to, number of foreground pixels), from the pixels alone."""
    ink = cell[np.abs(cell - BACKGROUND).sum(-1) > 60]
    paints = np.array(list(PAINT.values()))
    far = np.abs(ink[:, None] - paints).sum(
        -1
    )  # [pixels, colours]; a blue edge that fades into the ground is near cyan
    counts = (far < 40).sum(0)
    return (list(PAINT)[counts.argmax()] if counts.any() else None), len(ink)


@pytest.mark.parametrize("rows_of", [contrastive_rows, caption_rows])
@pytest.mark.parametrize("composition", ["seen", "unseen", "both"])
def test_pure_distinct_and_a_longer_list_begins_with_the_shorter_one(rows_of, composition):
    rows = rows_of(400, 0, composition)
    assert rows[:100] == rows_of(100, 0, composition)
    images = {row["image"] for row in rows}
    assert len(images) == 400
    assert len(images & {row["image"] for row in rows_of(400, 1, composition)}) <= 2
    assert Counter(row["language"] for row in rows) == {"en": 200, "zh": 200}
    wanted = {"seen": 200, "unseen": 200} if composition == "both" else {composition: 400}
    assert Counter(row["composition"] for row in rows) == wanted


def test_a_quarter_of_the_pairs_is_held_out_and_every_shape_and_colour_is_seen():
    assert len(UNSEEN) * 4 == len(PAIRS) == len(COLOURS) * len(SHAPES)
    for pairs in (SEEN, UNSEEN):
        assert {colour for colour, _ in pairs} == set(COLOURS)
        assert {shape for _, shape in pairs} == set(SHAPES)
    assert {shape: sum(pair[1] == shape for pair in UNSEEN) for shape in SHAPES} == dict.fromkeys(SHAPES, 2)


@pytest.mark.parametrize("rows_of", [contrastive_rows, caption_rows])
def test_seen_scenes_hold_no_held_out_pair_and_unseen_ones_do(rows_of):
    shown = set()
    for row in rows_of(2000, 0, "both"):
        pairs = {thing.pair for thing in read_scene(row["image"])[1]}
        assert (row["composition"] == "unseen") is bool(pairs & set(UNSEEN))
        if row["composition"] == "seen":
            shown |= pairs
    assert shown == set(SEEN)


def test_the_pixels_of_each_cell_have_the_colour_that_the_scene_says():
    for row in contrastive_rows(300, 0, "both"):
        canvas, things = read_scene(row["image"])
        image = draw(row["image"])
        assert (image.mode, image.size, canvas) == ("RGB", (48, 48), 48)
        seen = [painted(cell) for cell in cells_of(image)]
        wanted = {3 * thing.row + thing.column: thing.colour for thing in things}
        assert {place: colour for place, (colour, _) in enumerate(seen) if colour} == wanted


def test_large_things_cover_more_than_small_ones_and_no_two_looks_are_drawn_alike():
    pictures = {}
    for shape in SHAPES:
        small, large = (painted(cells_of(draw(f"48:{shape}.blue.{size}.0.0.12"))[0])[1] for size in ("small", "large"))
        assert large > 1.8 * small > 20
        for size in ("small", "large"):
            pictures[shape, size] = cells_of(draw(f"48:{shape}.blue.{size}.0.0.12"))[0]
    for one in pictures:
        for two in pictures:
            assert one == two or np.abs(pictures[one] - pictures[two]).mean() > 4, (one, two)  # of 255 grey levels


def test_a_canvas_of_another_size_shows_the_same_picture():
    scene = "star.red.large.0.2.3;cross.black.small.2.0.20"
    small, big = draw(f"48:{scene}"), draw(f"demo:96:{scene}")
    assert big.size == (96, 96)
    assert np.abs(np.asarray(big.reduce(2)).astype(int) - np.asarray(small)).mean() < 2


@pytest.mark.parametrize(
    ("scene", "why"),
    [
        ("48:circle.red.large.0.2", "shape.colour.size"),
        ("48:hexagon.red.large.0.2.1", "'hexagon' is none of circle"),
        ("48:circle.red.large.3.2.1", "outside the grid"),
        ("9999:circle.red.large.0.2.1", "9999 pixels"),
        ("circle.red.large.0.2.1", "is no scene"),
        ("", "is no scene"),
    ],
)
def test_a_scene_that_is_none_says_why(scene, why):
    with pytest.raises(ValueError, match=re.escape(why)):
        read_scene(scene)


def test_writing_and_reading_a_scene_are_inverse():
    for row in caption_rows(50, 0):
        canvas, things = read_scene(row["image"])
        assert "demo:" + write_scene(things, canvas) == row["image"]


def said_of(caption: str, language: str) -> tuple[set, list]:
    """({(size, colour, shape)} named, [(look, relation or place, look or None)] claimed), from the text alone."""
    names = SCENE_LANGUAGES[language].names
    back = {names[word]: word for word in (*SHAPES, *COLOURS, "small", "large")}
    places = {names[f"at {place}"]: place for place in PLACES}
    relations = {names[word]: word for word in ("left", "right", "above", "below")}
    if language == "en":
        look, parts = EN_LOOK, re.split(r", | and ", caption.removeprefix("there is "))
    else:
        look = re.compile(f"({'|'.join(names[c] for c in COLOURS)})的(小|大)({'|'.join(names[s] for s in SHAPES)})")
        parts = caption.removeprefix("图中").split("，")
    looks, claims = set(), []
    for part in parts:
        found = [tuple(sorted(back[word] for word in match.groups())) for match in look.finditer(part)]
        looks |= set(found)
        if len(found) == 2:
            (relation,) = [word for name, word in relations.items() if name in part]
            claims.append((found[0], relation, found[1]))
        else:
            (place,) = [place for name, place in places.items() if part.endswith(name)]
            claims.append((found[0], place, None))
    return looks, claims


def agrees(things, claims) -> bool:
    by_look = {tuple(sorted(thing.appearance)): thing for thing in things}
    for it, relation, other in claims:
        one, two = by_look.get(it), by_look.get(other)
        if one is None or (other and two is None):
            return False
        right = {
            "left": other and one.column < two.column,
            "right": other and one.column > two.column,
            "above": other and one.row < two.row,
            "below": other and one.row > two.row,
        }
        if not (right[relation] if other else PLACES.index(relation) == 3 * one.row + one.column):
            return False
    return True


@pytest.mark.parametrize("composition", ["seen", "unseen"])
def test_contrastive_captions_are_true_and_name_everything_and_foils_are_false(composition):
    for row in contrastive_rows(600, 0, composition):
        _, things = read_scene(row["image"])
        looks, claims = said_of(row["caption"], row["language"])
        assert looks == {tuple(sorted(thing.appearance)) for thing in things} and agrees(things, claims)
        assert 1 <= len(row["foils"]) <= 3
        for foil in row["foils"]:
            assert foil != row["caption"]
            assert not agrees(things, said_of(foil, row["language"])[1]), (row["caption"], foil)


def test_most_foils_use_the_same_words_as_the_caption():
    rows = contrastive_rows(600, 0)
    pairs = [(row["caption"], foil) for row in rows if row["language"] == "zh" for foil in row["foils"]]
    assert sum(Counter(caption) == Counter(foil) for caption, foil in pairs) / len(pairs) > 0.6


def test_captions_tell_pictures_apart():
    rows = contrastive_rows(640, 0)
    alone = []
    for start in range(0, 640, 64):
        pool = rows[start : start + 64]
        assert len({row["caption"] for row in pool}) == 64
        fits = [
            sum(agrees(read_scene(other["image"])[1], said_of(row["caption"], row["language"])[1]) for other in pool)
            for row in pool
        ]
        alone += [number == 1 for number in fits]  # a caption of few things may also be true of a picture of more
    assert np.mean(alone) > 0.96


def test_the_first_caption_is_a_function_of_the_scene_and_all_references_are_true():
    for row in caption_rows(600, 0, "both"):
        _, things = read_scene(row["image"])
        speech = SCENE_LANGUAGES[row["language"]]
        assert row["prompt"] == speech.describe
        assert bool(HAS_CJK.search(row["captions"][0])) is (row["language"] == "zh")
        assert len(set(row["captions"])) == len(row["captions"]) >= 2
        for caption in row["captions"]:
            looks, claims = said_of(caption, row["language"])
            assert looks == {tuple(sorted(thing.appearance)) for thing in things} and agrees(things, claims)
        looks, claims = said_of(row["captions"][0], row["language"])
        places = [PLACES.index(place) for _, place, _ in claims]
        assert places == sorted(places) == sorted(3 * thing.row + thing.column for thing in things)


def test_both_languages_have_all_the_words():
    for language in LANGUAGES:
        names = SCENE_LANGUAGES[language].names
        assert {*SHAPES, *COLOURS, "small", "large", "yes", "no", "1", "2", "3"} <= set(names)
        assert {f"at {place}" for place in PLACES} <= set(names)
