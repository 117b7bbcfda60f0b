"""Augment images in training by a random crop and a mirror. The seed decides both, so that a resumed run repeats them."""

from __future__ import annotations

import math
import re
from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

SIDES = re.compile(r"\b(left|right)(most|ward|wards)?\b|[左右]", re.IGNORECASE)
"""Words that make a text wrong for the mirrored image."""
RATIO = 3 / 4, 4 / 3


def mentions_sides(texts: Sequence[str]) -> bool:
    """Return whether a text contains left or right, so that its image must not be mirrored."""
    return any(SIDES.search(text) for text in texts)


def augment(pixels: Tensor, draw: tuple[int, ...], *, crop: float, mirror: bool) -> Tensor:
    """Return augmented pixels, uint8 [3, H, W].

    `crop`: minimum share of the area that remains, 1 for no crop. `mirror`: whether half of the draws are mirrored.
    """
    rng = np.random.default_rng(draw)
    height, width = pixels.shape[1:]
    if crop < 1:
        top, left, crop_height, crop_width = box(rng, height, width, crop)
        part = pixels[None, :, top : top + crop_height, left : left + crop_width].float()
        resized = F.interpolate(part, (height, width), mode="bilinear", antialias=True, align_corners=False)
        pixels = resized[0].round().clamp(0, 255).to(torch.uint8)
    if mirror and rng.random() < 0.5:
        pixels = pixels.flip(-1)
    return pixels


def box(rng: np.random.Generator, height: int, width: int, min_area: float) -> tuple[int, int, int, int]:
    """Return (top, left, height, width) of a part with at least `min_area` of the area, sides 3:4 to 4:3 (Szegedy 2015)."""
    for _ in range(10):
        area = height * width * rng.uniform(min_area, 1)
        ratio = math.exp(rng.uniform(math.log(RATIO[0]), math.log(RATIO[1])))
        crop_width, crop_height = round(math.sqrt(area * ratio)), round(math.sqrt(area / ratio))
        if 0 < crop_width <= width and 0 < crop_height <= height:
            top, left = int(rng.integers(height - crop_height + 1)), int(rng.integers(width - crop_width + 1))
            return top, left, crop_height, crop_width
    return 0, 0, height, width
