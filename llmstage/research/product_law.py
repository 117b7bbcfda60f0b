"""Predict exact match of answers from the accuracy of their tokens: the law behind most apparent jumps.

Two products predict it. (token accuracy)^L assumes independent and equal tokens (Schaeffer et al. 2023, arXiv
2304.15004). The product of p_i, the accuracy at the i-th position of the answer, assumes independence only; for answers
of one length it is never larger than the first (inequality of the means). Where only the second predicts exact match,
positions differ in accuracy. Where both fail, the errors of an answer are correlated, positively or negatively.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

import numpy as np

from llmstage.explore.items import Item
from llmstage.research.checkpoints import Checkpoint

MAX_GAP = 0.05
"""Largest difference between exact match and a product that explains it."""
MIN_SHARE_WITHIN = 0.95
"""Share of the cells in which the difference must be at most MAX_GAP."""
MIN_ITEMS = 20
"""Fewest items of a cell whose exact match is compared with the products."""


def product_cells(
    checkpoint: Checkpoint, items: Sequence[Item], scores: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Compare the exact match of each cell with both products.

    L and the positions include the token that ends the answer. Where lengths differ, each product is the mean over
    answers.
    """
    cells: dict[str, list[dict[str, Any]]] = {}
    for item, score in zip(items, scores, strict=True):
        if item.choices or score["unscored"] is not None or score["em"] is None:
            continue
        axes = {key: value for key, value in item.meta.items() if key not in ("carries",)}
        cells.setdefault(f"{item.probe_family} {json.dumps(axes, ensure_ascii=False)}", []).append(score)
    summaries = []
    for name, cell_scores in cells.items():
        if len(cell_scores) >= MIN_ITEMS:
            lengths = np.array([score["num_tokens"] for score in cell_scores])
            token = float(np.average([score["tok"] for score in cell_scores], weights=lengths))
            em, predicted = float(np.mean([score["em"] for score in cell_scores])), float(np.mean(token**lengths))
            positions, predicted_by_position = product_by_position([score["right"] for score in cell_scores])
            summaries.append(
                {
                    "rung": checkpoint.id, "cell": name, "n": len(cell_scores), "length": float(lengths.mean()), "token_accuracy": token,
                    "em": em, "predicted": predicted, "gap": abs(em - predicted), "places": positions,
                    "predicted_by_place": predicted_by_position, "gap_by_place": abs(em - predicted_by_position),
                }
            )  # fmt: skip
    return summaries


def product_by_position(right: Sequence[Sequence[int]]) -> tuple[list[float], float]:
    """Return (accuracy at each position, mean over answers of their products), given which tokens of each answer are
    right.

    Positions are counted from the beginning. The last token of each answer, usually the end token, has a position of
    its own.
    """
    longest = max(map(len, right))
    by_position = [
        [answer[position] for answer in right if len(answer) - 1 > position] for position in range(longest - 1)
    ]
    shares = [float(np.mean(values)) for values in by_position]
    last = float(np.mean([answer[-1] for answer in right]))
    return [*shares, last], float(np.mean([np.prod(shares[: len(answer) - 1]) * last for answer in right]))


def product_law(cells: Sequence[dict[str, Any]]) -> dict[str, Any] | None:
    """Return how well both products predict exact match over all cells and checkpoints; None without cells."""
    if not cells:
        return None
    em = np.array([cell["em"] for cell in cells])
    summary: dict[str, Any] = {"cells": len(em)}
    for suffix in ("", "_by_place"):
        gaps = np.array([cell[f"gap{suffix}"] for cell in cells])
        predicted = np.array([cell[f"predicted{suffix}"] for cell in cells])
        # Near 0 and near 1 the two always agree, so such cells say little about the law.
        uninformative = (np.maximum(em, predicted) <= MAX_GAP) | (np.minimum(em, predicted) >= 1 - MAX_GAP)
        summary |= {
            f"telling{suffix}": int((~uninformative).sum()), f"within_05{suffix}": float((gaps <= MAX_GAP).mean()),
            f"telling_within_05{suffix}": float((gaps[~uninformative] <= MAX_GAP).mean()) if (~uninformative).any() else None,
            f"median_gap{suffix}": float(np.median(gaps)), f"gap_95{suffix}": float(np.quantile(gaps, 0.95)),
            f"max_gap{suffix}": float(gaps.max()),
        }  # fmt: skip
    return summary
