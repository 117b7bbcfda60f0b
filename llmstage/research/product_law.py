"""Exact match of whole answers beside what their tokens make of it: the law behind most apparent jumps.

Two products foretell it. (token accuracy)^L is what independent and equal tokens give (Schaeffer 2023, arXiv 2304.15004). The product
of p_i, the accuracy of the i-th place of the answer, is what independence alone gives: it needs no equal places, and for answers of one
length is never more than the first (inequality of the means). Where the first misses and the second holds, places are unequal; where both miss,
errors of an answer come together or keep apart.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmstage.explore.items import Item
from llmstage.research.checkpoints import Rung

PREDICTED = 0.05
"""How far exact match may be from a product that explains it."""
HELD = 0.95
"""Share of the cells in which that must be so."""
FEWEST_ITEMS = 20
"""Of a cell whose exact match is compared with the products."""


def products_of(rung: Rung, items: Sequence[Item], scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exact match of each cell beside both products, L and places counting the token that ends the answer; each the mean over
    answers where their lengths differ."""
    cells: dict[str, list[dict[str, Any]]] = {}
    for item, one in zip(items, scores, strict=True):
        if item.choices or one["unscored"] is not None or one["em"] is None:
            continue
        axes = {key: value for key, value in item.meta.items() if key not in ("carries",)}
        cells.setdefault(f"{item.family} {json.dumps(axes, ensure_ascii=False)}", []).append(one)
    out = []
    for name, own in cells.items():
        if len(own) >= FEWEST_ITEMS:
            lengths = np.array([one["num_tokens"] for one in own])
            token = float(np.average([one["tok"] for one in own], weights=lengths))
            em, predicted = float(np.mean([one["em"] for one in own])), float(np.mean(token**lengths))
            places, by_place = product_of_places([one["right"] for one in own])
            out.append(
                {
                    "rung": rung.id, "cell": name, "n": len(own), "length": float(lengths.mean()), "token_accuracy": token,
                    "em": em, "predicted": predicted, "gap": abs(em - predicted), "places": places,
                    "predicted_by_place": by_place, "gap_by_place": abs(em - by_place),
                }
            )  # fmt: skip
    return out


def product_of_places(right: Sequence[Sequence[int]]) -> tuple[list[float], float]:
    """(accuracy of each place, mean over answers of the product of theirs) from which tokens of each answer were right.

    Places are counted from the beginning, and the last of each answer, which as a rule ends it, is a place of its own.
    """
    longest = max(map(len, right))
    places = [[one[at] for one in right if len(one) - 1 > at] for at in range(longest - 1)]
    shares = [float(np.mean(place)) for place in places]
    last = float(np.mean([one[-1] for one in right]))
    return [*shares, last], float(np.mean([np.prod(shares[: len(one) - 1]) * last for one in right]))


def product_law(products: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """How well both products foretell exact match over all cells and rungs."""
    if not products:
        return None
    em = np.array([cell["em"] for cell in products])
    told: dict[str, Any] = {"cells": len(em)}
    for law in ("", "_by_place"):
        gaps = np.array([cell[f"gap{law}"] for cell in products])
        foretold = np.array([cell[f"predicted{law}"] for cell in products])
        # Where both are all but 0, or all but 1, they agree, and it shows little.
        idle = (np.maximum(em, foretold) <= PREDICTED) | (np.minimum(em, foretold) >= 1 - PREDICTED)
        told |= {
            f"telling{law}": int((~idle).sum()), f"within_05{law}": float((gaps <= PREDICTED).mean()),
            f"telling_within_05{law}": float((gaps[~idle] <= PREDICTED).mean()) if (~idle).any() else None,
            f"median_gap{law}": float(np.median(gaps)), f"gap_95{law}": float(np.quantile(gaps, 0.95)),
            f"max_gap{law}": float(gaps.max()),
        }  # fmt: skip
    return told
