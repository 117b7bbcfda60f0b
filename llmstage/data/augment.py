"""Changes of images in training: a random crop, a mirror. Drawn from a seed, so that a resumed run sees the same ones."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = re.compile(r"\b(left|right)(most|ward|wards)?\b|[左右]", re.IGNORECASE)
"""A text that says one of these is no longer true of the mirrored image."""
RATIO = 3 / 4, 4 / 3


def speaks_of_sides(texts: Sequence[str]) -> bool:
    return any(SIDES.search(text) for text in texts)


def augmented(pixels: Tensor, draw: tuple[int, ...], *, crop: float, mirror: bool) -> Tensor:
    """uint8 [3, H, W], changed. `crop`: least share of the area that is kept, 1 for all; `mirror`: in half of the draws."""
    rng = np.random.default_rng(draw)
    height, width = pixels.shape[1:]
    if crop < 1:
        top, left, tall, wide = box(rng, height, width, crop)
        part = pixels[None, :, top : top + tall, left : left + wide].float()
        made = F.interpolate(part, (height, width), mode="bilinear", antialias=True, align_corners=False)
        pixels = made[0].round().clamp(0, 255).to(torch.uint8)
    if mirror and rng.random() < 0.5:
        pixels = pixels.flip(-1)
    return pixels


def box(rng: np.random.Generator, height: int, width: int, least: float) -> tuple[int, int, int, int]:
    """(top, left, height, width) of a part with at least `least` of the area, sides 3:4 to 4:3 (Szegedy 2015)."""
    for _ in range(10):
        area = height * width * rng.uniform(least, 1)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        wide, tall = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < wide <= width and 0 < tall <= height:
            return int(rng.integers(height - tall + 1)), int(rng.integers(width - wide + 1)), tall, wide
    return 0, 0, height, width
