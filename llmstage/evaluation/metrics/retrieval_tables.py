"""Report items of a contrastive image-text model: recall table, composition, heat map, image grid."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from llmstage.data.image_store import ImageStore
from llmstage.evaluation.metrics.composition import composition_item
from llmstage.evaluation.metrics.pair_ranks import metrics_by_image
from llmstage.evaluation.metrics.retrieval import CUTS
from llmstage.evaluation.metrics.score import Score

IN_GRID = 24
RIGHT_IN_GRID = 12
LONGEST = 90
"""Upper bound of the characters of a caption under an image."""

ReportItem = dict[str, Any]


def pair_items(
    predictions: Sequence[Any], refs: Sequence[Any], image_store: ImageStore | None, scores: Mapping[str, Score]
) -> list[ReportItem]:
    """Return all report items of the split."""
    items = [recall_table(predictions, scores)]
    for name, (correct, groups) in metrics_by_image(predictions, refs).items():
        items += composition_item(name, correct, groups, chance_of(name, predictions, refs))
    items += heat_map(predictions, refs)
    if image_store is not None:
        items.append(picture_grid(predictions, refs, image_store))
    return items


def recall_table(predictions: Sequence[Any], scores: Mapping[str, Score]) -> ReportItem:
    """Return a table of recall@k and median rank in both directions."""
    sizes = sorted({item["pool_size"] for item in predictions})
    pool_size = str(sizes[0]) if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]}"
    rows = []
    for direction, name in (("image to text", "image_to_text"), ("text to image", "text_to_image")):
        recalls = [scores[f"{name}_recall@{cut}"] for cut in CUTS]
        rows.append([direction, *map(score_text, recalls), f"{scores[f'{name}_median_rank'].value:g}"])
    return {
        "kind": "table",
        "title": f"Retrieval among {pool_size} images with different captions ({1 + max(item['pool'] for item in predictions)} pools)",
        "columns": ["", *(f"recall@{cut}" for cut in CUTS), "median rank"],
        "rows": rows,
    }


def chance_of(name: str, predictions: Sequence[Any], refs: Sequence[Any]) -> float:
    """Return the expected score of guessing, averaged over the images."""
    if name == "foil_accuracy":
        return float(np.mean([1 / (1 + len(ref["foils"])) for ref in refs if ref.get("foils")]))
    return float(np.mean([1 / item["pool_size"] for item in predictions]))


def score_text(score: Score) -> str:
    """Return the score as text: `0.610 [0.523, 0.690]`."""
    if score.low is None or score.high is None:
        return f"{score.value:.3f}"
    return f"{score.value:.3f} [{score.low:.3f}, {score.high:.3f}]"


def heat_map(predictions: Sequence[Any], refs: Sequence[Any]) -> list[ReportItem]:
    """Return the softmax over captions of the first images of one pool, as a heat map."""
    chosen = [(item, ref) for item, ref in zip(predictions, refs, strict=True) if "near" in item]
    if len(chosen) < 2:
        return []
    order = [
        item["near_place"] for item, _ in chosen
    ]  # columns are in the order of the pool, items in that of the split
    logits = np.array([item["near"] for item, _ in chosen])[:, order]
    logits = np.exp(logits - logits.max(1, keepdims=True))
    probabilities = logits / logits.sum(1, keepdims=True)
    labels = [cut(ref["captions"][0], 40) for _, ref in chosen]
    return [
        {
            "kind": "matrix",
            "title": f"Probability of each of {len(chosen)} captions for each image, at the temperature of the model",
            "row_name": "image of",
            "column_name": "caption",
            "row_labels": labels,
            "column_labels": labels,
            "values": [[round(float(value), 3) for value in row] for row in probabilities],
        }
    ]


def picture_grid(predictions: Sequence[Any], refs: Sequence[Any], image_store: ImageStore) -> ReportItem:
    """Return a grid of images with the retrieved caption: wrong ones first, then up to RIGHT_IN_GRID correct ones."""
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
            lines.append(f"correct (rank {item['rank']}): {cut(ref['captions'][0], LONGEST)}")
        if "composition" in ref:
            lines.append(f"{ref['composition']} pairs")
        items.append({"src": image_store.thumbnail(ref["picture"]), "lines": lines, "good": good})
    share = len(right) / max(1, len(predictions))
    return {
        "kind": "images",
        "title": f"Retrieved captions ({share:.0%} of all are correct; wrong ones first)",
        "columns": 6,
        "items": items,
    }


def cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"
