"""Changes of images in training: drawn from a seed, of the size of before, and never against what the texts say."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmstage.config.data import AugmentConfig
from llmstage.config.run import VisionConfig
from llmstage.data.augment import augment, box, mentions_sides
from llmstage.data.image_store import ImageStore
from llmstage.tokenization.vision import preset_image_processor

Draw = Callable[..., Any]


@pytest.mark.parametrize(
    ("text", "sides"),
    [
        ("a cat left of a dog", True),
        ("The Rightmost box", True),
        ("going leftward", True),
        ("红方块在蓝圆的左边", True),
        ("右上角有一只猫", True),
        ("a bright red square above a circle", False),
        ("copyright, cleft, leftover", False),
        ("红方块在蓝圆的上面", False),
    ],
)
def test_texts_that_speak_of_sides(text: str, sides: bool) -> None:
    assert mentions_sides(["a cat", text]) == sides


def test_a_part_has_at_least_the_share_asked_for_and_lies_inside() -> None:
    rng = np.random.default_rng(0)
    areas = []
    for _ in range(500):
        top, left, tall, wide = box(rng, 40, 60, 0.3)
        assert 0 <= top <= 40 - tall and 0 <= left <= 60 - wide
        assert 0.7 < wide / tall < 1.4 or (tall, wide) == (40, 60)
        areas.append(tall * wide / 2400)
    assert min(areas) > 0.27 and max(areas) > 0.6 and np.std(areas) > 0.05  # sides are whole pixels


def test_a_crop_keeps_the_size_and_follows_its_draw_alone() -> None:
    pixels = torch.arange(3 * 20 * 30, dtype=torch.int64).remainder(251).to(torch.uint8).view(3, 20, 30)
    first = augment(pixels, (0, 1, 7), crop=0.5, mirror=False)
    assert first.shape == pixels.shape and first.dtype == torch.uint8 and not torch.equal(first, pixels)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(first, augment(pixels, (0, 1, 7), crop=0.5, mirror=False))
    assert not torch.equal(first, augment(pixels, (0, 2, 7), crop=0.5, mirror=False))
    flat = torch.full((3, 20, 30), 77, dtype=torch.uint8)
    assert torch.equal(augment(flat, (1,), crop=0.3, mirror=True), flat)


def test_half_of_the_draws_are_mirrored() -> None:
    pixels = torch.tensor([[[1, 2, 3]]] * 3, dtype=torch.uint8)
    flipped = [torch.equal(augment(pixels, (0, 0, at), crop=1, mirror=True), pixels.flip(-1)) for at in range(200)]
    assert 70 < sum(flipped) < 130
    assert all(torch.equal(augment(pixels, (0, 0, at), crop=1, mirror=False), pixels) for at in range(20))


@pytest.fixture
def task(glance: Any, tmp_path: Path, draw: Draw) -> Any:
    """A task that looks at two images; the second's caption speaks of a side."""
    for number in range(2):
        draw(number, (32, 32)).save(tmp_path / f"{number}.png")
    glance.rows = [
        {"image": str(tmp_path / "0.png"), "caption": ["a cat", "一只猫"]},
        {"image": str(tmp_path / "1.png"), "caption": ["a cat", "a cat on the left"]},
    ]
    glance.image_store = ImageStore(preset_image_processor(VisionConfig(size=32)))
    glance.image_store.read(row["image"] for row in glance.rows)
    return glance


def batch(task: Any, draws: list[tuple[int, ...] | None], which: int = 0) -> torch.Tensor:
    rows = []
    for drawn in draws:
        (feature,) = task.encode(task.rows[which])
        feature.draw = drawn
        rows.append([feature])
    pixels: torch.Tensor = task.collate(rows).inputs["pixel_values"]
    return pixels


DRAWS: list[tuple[int, ...] | None] = [(0, 0, at) for at in range(12)]


def test_without_augmentation_and_in_scoring_images_stay_as_they_are(task: Any) -> None:
    plain = batch(task, [None])
    for wanted in (None, AugmentConfig()):
        task.augment = wanted
        assert torch.equal(batch(task, DRAWS), plain.expand(12, -1, -1, -1))
    task.augment = AugmentConfig(crop=0.5, flip=True)
    assert torch.equal(batch(task, [None] * 3), plain.expand(3, -1, -1, -1))


def test_crop_changes_each_draw(task: Any) -> None:
    task.augment = AugmentConfig(crop=0.4)
    seen = batch(task, DRAWS)
    assert seen.shape == (12, 3, 32, 32) and len({item.numpy().tobytes() for item in seen}) == 12
    assert torch.equal(seen, batch(task, DRAWS))  # a resumed run sees the same


def test_flip_mirrors_some_and_never_what_speaks_of_sides(task: Any) -> None:
    task.augment = AugmentConfig(flip=True)
    plain = batch(task, [None])[0]
    seen = batch(task, DRAWS)
    kinds = {"plain" if torch.equal(item, plain) else "mirrored" for item in seen}
    assert kinds == {"plain", "mirrored"}
    assert all(torch.equal(item, plain) or torch.equal(item, plain.flip(-1)) for item in seen)
    assert torch.equal(batch(task, DRAWS, which=1), batch(task, [None], which=1).expand(12, -1, -1, -1))
