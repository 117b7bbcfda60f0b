"""Exact match of whole answers beside what their tokens make of it: the law behind most apparent jumps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmstage.explore.items import Item
from llmstage.explore.rungs import Rung

PREDICTED = 0.05
"""How far exact match may be from p^L in a cell that the product of token accuracies explains."""
FEWEST_ITEMS = 20
"""Of a cell whose exact match is compared with the product."""


def products_of(rung: Rung, items: Sequence[Item], scores: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Exact match of each cell beside (teacher-forced token accuracy)^L, L counting the token that ends the answer: what
    independent errors of equal tokens would give (Schaeffer 2023, arXiv 2304.15004); the mean over answers where their
    lengths differ."""
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
            out.append(
                {
                    "rung": rung.id, "cell": name, "n": len(own), "length": float(lengths.mean()), "token_accuracy": token,
                    "em": em, "predicted": predicted, "gap": abs(em - predicted),
                }
            )  # fmt: skip
    return out


def product_law(products: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """How well the product foretells exact match over all cells and rungs."""
    if not products:
        return None
    gaps = np.array([cell["gap"] for cell in products])
    # Where exact match and prediction are both zero they agree, and it shows nothing.
    telling = sum(max(cell["em"], cell["predicted"]) > PREDICTED for cell in products)
    return {
        "cells": len(gaps), "telling": telling, "within_05": float((gaps <= PREDICTED).mean()), "median_gap": float(np.median(gaps)),
        "gap_95": float(np.quantile(gaps, 0.95)), "max_gap": float(gaps.max()),
    }  # fmt: skip
