"""From the vectors of (image, caption) pairs to where each image and each caption stands in its pool, and to scores."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.classification import classification_scores
from llmstage.evaluation.metrics.composition import group_scores
from llmstage.evaluation.metrics.intervals import proportion
from llmstage.evaluation.metrics.retrieval import Pool, make_pools, ranks, retrieval_scores
from llmstage.evaluation.metrics.score import Score

SHOWN = 24
"""Images of the first pool whose similarities are kept for the report's heat map."""
BLOCK = 20_000_000
"""Similarities in memory at once."""
OF_IMAGE = ("label", "composition", "language", "foils")

Vectors = NDArray[np.float64]


def placed(
    predictions: Sequence[Any], refs: Sequence[Any], rows: Sequence[int], size: int | None
) -> tuple[list[Any], list[Any], list[int]]:
    """One item an image. `predictions`: {image [D], text [D], scale, label?, foils_beaten?}, `refs`: {picture, captions,
    caption, ...} and `rows`, one each a pair; pairs of one picture are brought together, whatever row they come from."""
    images: dict[int, dict[str, Any]] = {}
    for prediction, ref, row in zip(predictions, refs, rows, strict=True):
        item = images.setdefault(ref["picture"], {"row": row, "image": prediction["image"], "texts": {}, "said": {}})
        item["texts"].setdefault(ref["captions"][ref["caption"]], prediction["text"])
        for name in ("label", "label_probability"):
            if name in prediction:
                item["said"][name] = prediction[name]
        if "foils_beaten" in prediction:
            item["said"]["foils_beaten"] = item["said"].get("foils_beaten", True) and prediction["foils_beaten"]
        item["ref"] = {name: ref[name] for name in OF_IMAGE if name in ref} | item.get("ref", {})
    listed = list(images.values())
    pools = make_pools([list(item["texts"]) for item in listed], size)
    for number, pool in enumerate(pools):
        place_pool(listed, pool, number, predictions[0]["scale"])
    return (
        [item["said"] for item in listed],
        [
            {"picture": picture, "captions": list(item["texts"]), **item["ref"]}
            for picture, item in zip(images, listed, strict=True)
        ],
        [item["row"] for item in listed],
    )


def place_pool(listed: list[dict[str, Any]], pool: Pool, number: int, scale: float) -> None:
    """Ranks within a pool, written to `said` of those that are looked for in it."""
    members = [listed[index] for index in pool.members]
    texts: dict[str, list[float]] = {}
    for item in members:
        for text, vector in item["texts"].items():
            texts.setdefault(text, vector)
    place = {text: index for index, text in enumerate(texts)}
    own = [[place[text] for text in item["texts"]] for item in members]
    right = np.zeros((len(members), len(texts)), dtype=bool)
    for index, columns in enumerate(own):
        right[index, columns] = True
    of_images = np.array([item["image"] for item in members], dtype=np.float64)  # [M, D]
    of_texts = np.array(list(texts.values()), dtype=np.float64)  # [T, D]
    asked = sorted({column for columns in own[: pool.queries] for column in columns})
    text_ranks = dict(zip(asked, find(of_texts[asked], of_images, right.T[asked])[0], strict=True))
    image_ranks, best, value, mine = find(of_images[: pool.queries], of_texts, right[: pool.queries])
    names = list(texts)
    for index, item in enumerate(members[: pool.queries]):
        item["said"] |= {
            "rank": int(image_ranks[index]),
            "text_ranks": [int(text_ranks[column]) for column in own[index]],
            "found": names[best[index]],
            "found_similarity": round(float(value[index]), 6),
            "similarity": round(float(mine[index]), 6),
            "pool": number,
            "pool_size": len(members),
        }
    if number == 0:
        shown = min(SHOWN, pool.queries)
        near = scale * of_images[:shown] @ of_texts[[columns[0] for columns in own[:shown]]].T
        for index, (item, line) in enumerate(zip(members[:shown], near, strict=True)):
            item["said"] |= {"near": [round(float(one), 4) for one in line], "near_place": index}


def find(
    queries: Vectors, answers: Vectors, right: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Vectors, Vectors]:
    """(rank, best answer, its similarity, the best right one's) of each query, [Q] each; in blocks, for large pools."""
    step = max(1, BLOCK // max(1, len(answers)))
    parts = []
    for start in range(0, len(queries), step):
        scores, truth = queries[start : start + step] @ answers.T, right[start : start + step]
        parts.append((ranks(scores, truth), scores.argmax(1), scores.max(1), np.where(truth, scores, -np.inf).max(1)))
    return tuple(np.concatenate(same) for same in zip(*parts, strict=True))  # type: ignore[return-value]


def pair_scores(predictions: Sequence[Any], refs: Sequence[Any], classes: Sequence[str]) -> dict[str, Score]:
    """Retrieval, wrong captions refused, classes told; `_seen`, `_unseen`, `_gap`: by the images' `composition`."""
    found = retrieval_scores([item["rank"] for item in predictions], [item["text_ranks"] for item in predictions])
    for name, (correct, groups) in by_image(predictions, refs).items():
        if name not in found:
            found[name] = proportion([value == 1 for value in correct])
        found |= group_scores(name, correct, groups)
    told = [
        (item["label"], ref["label"])
        for item, ref in zip(predictions, refs, strict=True)
        if "label" in ref and "label" in item
    ]
    if told:
        names = sorted({*classes, *(name for pair in told for name in pair)})
        scores = classification_scores([said for said, _ in told], [true for _, true in told], names)
        found |= {name: scores[name] for name in ("accuracy", "macro_f1")}
    return found


def by_image(predictions: Sequence[Any], refs: Sequence[Any]) -> dict[str, tuple[list[float], list[str | None]]]:
    """Metric to (one number an image, the image's composition or None). `foil_accuracy`: the right caption is nearer than
    all its foils (the text score of Thrush 2022, Winoground)."""
    groups = [ref.get("composition") for ref in refs]
    texts = [sum(rank == 1 for rank in item["text_ranks"]) / len(item["text_ranks"]) for item in predictions]
    found = {
        "image_to_text_recall@1": ([float(item["rank"] == 1) for item in predictions], groups),
        "text_to_image_recall@1": (texts, groups),
    }
    asked = [
        (float(item["foils_beaten"]), group)
        for item, group in zip(predictions, groups, strict=True)
        if "foils_beaten" in item
    ]
    if asked:
        found["foil_accuracy"] = ([value for value, _ in asked], [group for _, group in asked])
    return found
