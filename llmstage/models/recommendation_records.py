"""Logits over a catalogue as what a recommender says of one row."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

TOP = 10
"""Items in a prediction."""
TRIES = 20
"""Draws for each other item that is wanted; those that the user had are passed over."""


def decode(
    logits: Tensor, odds: Tensor, target: int, had: list[int], draw: int, *, others: int, exclude_seen: bool
) -> dict[str, Any]:
    """The best items, the rank of the candidate, and chances of a click for it and for `others` drawn items.

    `logits`, `odds` [N] over the catalogue; `had`: what the user had before, -1 where there is nothing; `draw`: decides
    which other items are taken. Of equal logits the earlier item is the better one.
    """
    before = [index for index in had if index >= 0 and index != target]
    if exclude_seen:
        logits[before] = -math.inf
    mine = logits[target]
    rank = 1 + int((logits > mine).sum()) + int((logits[:target] == mine).sum())
    best = logits.topk(min(TOP, len(logits)))
    top = [at for at, value in zip(best.indices.tolist(), best.values.tolist(), strict=True) if value > -math.inf]
    never, chosen = {target, *before}, list[int]()
    if others:
        for index in np.random.default_rng(draw).integers(0, len(logits), TRIES * others).tolist():
            if index not in never and len(chosen) < others:
                chosen.append(index)
    chance = torch.sigmoid(odds)
    return {
        "rank": rank,
        "p": float(chance[target]),
        "others": chance[chosen].tolist(),
        "top": top,
        "chances": chance[top].tolist(),
    }
