"""What the report shows of a model that compares images with texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmstage.data.image_store import ImageStore
from llmstage.evaluation.metrics.composition import composition_exhibit
from llmstage.evaluation.metrics.pair_ranks import by_image
from llmstage.evaluation.metrics.retrieval import CUTS
from llmstage.evaluation.metrics.score import Score

IN_GRID = 24
RIGHT_IN_GRID = 12
LONGEST = 90
"""Characters of a caption under a picture."""

ReportItem = dict[str, Any]


def pair_exhibits(
    predictions: Sequence[Any], refs: Sequence[Any], pictures: ImageStore | None, scores: Mapping[str, Score]
) -> list[ReportItem]:
    made = [recall_table(predictions, scores)]
    for name, (correct, groups) in by_image(predictions, refs).items():
        made += composition_exhibit(name, correct, groups, chance_of(name, predictions, refs))
    made += heat_map(predictions, refs)
    if pictures is not None:
        made.append(picture_grid(predictions, refs, pictures))
    return made


def recall_table(predictions: Sequence[Any], scores: Mapping[str, Score]) -> ReportItem:
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


def chance_of(name: str, predictions: Sequence[Any], refs: Sequence[Any]) -> float:
    """What guessing gets, on average over the images that are asked about."""
    if name == "foil_accuracy":
        return float(np.mean([1 / (1 + len(ref["foils"])) for ref in refs if ref.get("foils")]))
    return float(np.mean([1 / item["pool_size"] for item in predictions]))


def shown(score: Score) -> str:
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def heat_map(predictions: Sequence[Any], refs: Sequence[Any]) -> list[ReportItem]:
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


def picture_grid(predictions: Sequence[Any], refs: Sequence[Any], pictures: ImageStore) -> ReportItem:
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
