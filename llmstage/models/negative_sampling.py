"""Items drawn to stand against the clicked ones: half of them evenly, half by popularity, with the chance of each known."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor


class Negatives:
    """Draws with replacement among the items met in training."""

    def __init__(self, counts: np.ndarray) -> None:
        weights = np.maximum(counts, 1) ** 0.75  # word2vec's flattening (Mikolov 2013)
        share = weights / weights.sum()
        self.num_items = len(counts)
        self.cumulated = torch.from_numpy(np.cumsum(share))
        self.log_q = torch.from_numpy(np.log(0.5 / len(share) + 0.5 * share)).float()
        """[items] log of the chance of each in one draw, both halves together."""

    def draw(self, uniform: Tensor) -> Tensor:
        """Items [R, M] from uniform numbers [R, M]; the first half evenly."""
        half = uniform.shape[1] // 2
        even = (uniform[:, :half] * self.num_items).long()
        popular = torch.searchsorted(self.cumulated, uniform[:, half:].double().contiguous())
        return torch.cat([even, popular], 1).clamp(max=self.num_items - 1)


def fixed_uniform(marks: list[int], num: int) -> Tensor:
    """[R, M] numbers that depend on the row's own mark only."""
    return torch.from_numpy(np.stack([np.random.default_rng(mark).random(num) for mark in marks])).float()
