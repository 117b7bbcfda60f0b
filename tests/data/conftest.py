"""For tests of images: folders of them, and the smallest task that looks at one."""

from __future__ import annotations

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image, ImageDraw
from torch import nn

from llmstage.config import GenerationConfig, TaskConfig
from llmstage.data.rows import Columns, Row
from llmstage.tasks.base import Batch, Example, LossSum
from llmstage.tasks.base_image import ImageTask


class Glance(ImageTask):
    """One image and what is said of it."""

    columns = Columns(
        ("image",), ("caption", "label"), content=("image",), either=(("caption",), ("label",)), images=("image",)
    )

    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        return []

    def texts(self, row: Row) -> list[str]:
        said = row.get("caption") or row.get("label") or ""
        return [said] if isinstance(said, str) else said

    def encode(self, row: Row) -> list[Example]:
        return [Example({"input_ids": [1], **self.image_arrays(row, self.texts(row))}, ref=row["image"])]

    def collate(self, rows: list[list[Example]]) -> Batch:
        return Batch({"pixel_values": self.pixel_values([item for row in rows for item in row])})

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        return LossSum(torch.zeros(()), 1)

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        return []

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        return {}


@pytest.fixture
def glance() -> Glance:
    return Glance(TaskConfig(name="glance"), GenerationConfig())


def noise(seed: int, size: tuple[int, int] = (24, 16)) -> Image.Image:
    """A picture like no other."""
    draw, image = random.Random(seed), Image.new("RGB", size)
    brush = ImageDraw.Draw(image)
    for _ in range(6):
        box = sorted(draw.choices(range(size[0]), k=2)), sorted(draw.choices(range(size[1]), k=2))
        colour = (draw.randrange(256), draw.randrange(256), draw.randrange(256))
        brush.rectangle((box[0][0], box[1][0], box[0][1], box[1][1]), fill=colour)
    return image


@pytest.fixture
def draw() -> Callable[..., Image.Image]:
    return noise


@pytest.fixture
def classes(tmp_path: Path) -> Path:
    """A folder with two folders of three images each, and things that are none."""
    root = tmp_path / "动物"
    for number, name in enumerate(("cat", "狗")):
        (root / name).mkdir(parents=True)
        for index in range(3):
            noise(10 * number + index).save(
                root / name / f"{index}.{'png' if index else 'JPG'}", "PNG" if index else None
            )
    (root / "cat" / "Thumbs.db").write_bytes(b"x")
    (root / ".hidden").mkdir()
    noise(99).save(root / ".hidden" / "a.png")
    (root / "README.md").write_text("about")
    return root
