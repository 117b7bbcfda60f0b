"""What the report shows of a model that compares images with texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmstage.data.pictures import Pictures
from llmstage.metrics.pairs import COMPOSITIONS
from llmstage.metrics.retrieval import CUTS
from llmstage.metrics.score import Score

IN_GRID = 24
RIGHT_IN_GRID = 12
LONGEST = 90
"""Characters of a caption under a picture."""

Exhibit = dict[str, Any]


def pair_exhibits(
    predictions: Sequence[Any], refs: Sequence[Any], pictures: Pictures | None, scores: Mapping[str, Score]
) -> list[Exhibit]:
    made = [recall_table(predictions, scores)]
    made += composition_table(scores)
    made += heat_map(predictions, refs)
    if pictures is not None:
        made.append(picture_grid(predictions, refs, pictures))
    return made


def recall_table(predictions: Sequence[Any], scores: Mapping[str, Score]) -> Exhibit:
    sizes = sorted({item["pool_size"] for item in predictions})
    told = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    rows = []
    for way, name in (("image to text", "image_to_text"), ("text to image", "text_to_image")):
        found = [scores[f"{name}_recall@{cut}"] for cut in CUTS]
        rows.append([way, *map(shown, found), f"{scores[f'{name}_median_rank'].value:g}"])
    return {
        "kind": "table",
        "title": f"Found among {told} images with different captions ({1 + max(item['pool'] for item in predictions)} pools)",
        "columns": ["", *(f"recall@{cut}" for cut in CUTS), "median rank"],
        "rows": rows,
    }


def composition_table(scores: Mapping[str, Score]) -> list[Exhibit]:
    """Does the model compose? Pairs of attributes that training showed against pairs that it never did."""
    names = [name.removeprefix("seen_") for name in scores if name.startswith("seen_")]
    if not names or not all(f"unseen_{name}" in scores for name in names):
        return []
    rows = []
    for name in names:
        seen, unseen = (scores[f"{part}_{name}"] for part in COMPOSITIONS)
        rows.append([name.replace("_", " "), shown(seen), shown(unseen), f"{unseen.value - seen.value:+.3f}"])
    return [
        {
            "kind": "table",
            "title": "Attribute pairs that training showed, and pairs that it never did",
            "columns": ["", "seen pairs", "unseen pairs", "difference"],
            "rows": rows,
        }
    ]


def shown(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def heat_map(predictions: Sequence[Any], refs: Sequence[Any]) -> list[Exhibit]:
    """The first images of one pool against their captions: what the model's softmax makes of their similarities."""
    chosen = [(item, ref) for item, ref in zip(predictions, refs, strict=True) if "near" in item]
    if len(chosen) < 2:
        return []
    order = [item["near_place"] for item, _ in chosen]  # columns stand in the pool's order, items in the split's
    near = np.array([item["near"] for item, _ in chosen])[:, order]
    near = np.exp(near - near.max(1, keepdims=True))
    shares = near / near.sum(1, keepdims=True)
    labels = [cut(ref["captions"][0], 40) for _, ref in chosen]
    return [
        {
            "kind": "matrix",
            "title": f"Which of {len(chosen)} captions fits which image: shares by the model's own temperature",
            "row_name": "image of",
            "column_name": "caption",
            "row_labels": labels,
            "column_labels": labels,
            "values": [[round(float(value), 3) for value in row] for row in shares],
        }
    ]


def picture_grid(predictions: Sequence[Any], refs: Sequence[Any], pictures: Pictures) -> Exhibit:
    """Images with the caption that was found for each: wrong ones first, as they tell more, beside as many right ones."""
    right = [index for index, item in enumerate(predictions) if item["rank"] == 1]
    wrong = [index for index, item in enumerate(predictions) if item["rank"] > 1]
    half = RIGHT_IN_GRID
    chosen = wrong[: max(half, IN_GRID - len(right))] + right[: max(IN_GRID - half, IN_GRID - len(wrong))]
    items = []
    for index in chosen[:IN_GRID]:
        item, ref = predictions[index], refs[index]
        good = item["rank"] == 1
        lines = [cut(item["found"], LONGEST)]
        if not good:
            lines.append(f"right (rank {item['rank']}): {cut(ref['captions'][0], LONGEST)}")
        if "composition" in ref:
            lines.append(f"{ref['composition']} pairs")
        items.append({"src": pictures.thumbnail(ref["picture"]), "lines": lines, "good": good})
    share = len(right) / max(1, len(predictions))
    return {
        "kind": "images",
        "title": f"The caption found for an image ({share:.0%} of all are right; the wrong ones are shown first)",
        "columns": 6,
        "items": items,
    }


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
