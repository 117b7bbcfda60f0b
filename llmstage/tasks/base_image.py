"""What the tasks share that read a picture: its number in the features, its pixels in the batch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from llmstage.data.augment import augmented, speaks_of_sides
from llmstage.data.images import BadImage
from llmstage.data.rows import Row
from llmstage.tasks.base import Example, RowError, Task


class Seeing(Task):
    """Rows hold one `image`. Features hold `image` [1], its number among the pictures, and `mirror` [1], whether it may be
    mirrored."""

    def images(self, row: Row) -> list[str]:
        return [row["image"]]

    def sight(self, row: Row, texts: Sequence[str]) -> dict[str, list[Any]]:
        """Arrays of the row's picture. `texts`: all that is said of it. Raises RowError where it cannot be used."""
        assert self.pictures is not None
        try:
            number = self.pictures.index(row["image"])
        except BadImage as error:
            raise RowError(str(error)) from None
        return {"image": [number], "mirror": [int(not speaks_of_sides(texts))]}

    def cache_key(self) -> dict[str, Any]:
        return {"pictures": self.pictures.digest if self.pictures is not None else ""}

    def picture(self, features: Example) -> int | None:
        # A task that leaves the picture out on purpose has none in its features, and then none is shown.
        return int(features.arrays["image"][0]) if "image" in features.arrays else None

    def pixel_values(self, features: Sequence[Example]) -> Tensor:
        """float32 [B, 3, H, W] as the image processor normalises them; changed at random in training, if asked for."""
        assert self.pictures is not None
        pixels = self.pictures.pixels([item.arrays["image"][0] for item in features])
        wanted = self.augment
        if wanted is not None and (wanted.crop < 1 or wanted.flip):
            parts = []
            for item, own in zip(features, pixels, strict=True):
                mirror = wanted.flip and bool(item.arrays["mirror"][0])
                parts.append(own if item.draw is None else augmented(own, item.draw, crop=wanted.crop, mirror=mirror))
            pixels = torch.stack(parts)
        return self.pictures.normalised(pixels)
