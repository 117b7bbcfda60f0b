"""From the embeddings of (image, caption) pairs to the ranks in each pool, and to the scores of a contrastive model."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.classification import classification_scores
from llmstage.evaluation.metrics.composition import group_scores
from llmstage.evaluation.metrics.retrieval import Pool, make_pools, ranks, retrieval_scores
from llmstage.evaluation.metrics.score import Score, proportion

HEAT_MAP_IMAGES = 24
"""Images of the first pool whose similarities the report shows as a heat map."""
BLOCK = 20_000_000
"""Similarities in memory at once."""
IMAGE_KEYS = ("label", "composition", "language", "foils")

Vectors = NDArray[np.float64]


def merge_pairs(
    predictions: Sequence[Any], refs: Sequence[Any], rows: Sequence[int], size: int | None
) -> tuple[list[Any], list[Any], list[int]]:
    """Merge pairs to one item for each image; return its (predictions, refs, rows) with the ranks in its pool.

    `predictions`: {image [D], text [D], scale, label?, foils_beaten?}, `refs`: {picture, captions, caption, ...} and `rows`
    have one entry for each pair. Pairs of one image are merged even if they come from several rows.
    """
    # Collect the captions and predictions of each image.
    images: dict[int, dict[str, Any]] = {}
    for prediction, ref, row in zip(predictions, refs, rows, strict=True):
        item = images.setdefault(
            ref["picture"], {"row": row, "image": prediction["image"], "texts": {}, "prediction": {}}
        )
        item["texts"].setdefault(ref["captions"][ref["caption"]], prediction["text"])
        for name in ("label", "label_probability"):
            if name in prediction:
                item["prediction"][name] = prediction[name]
        if "foils_beaten" in prediction:
            item["prediction"]["foils_beaten"] = (
                item["prediction"].get("foils_beaten", True) and prediction["foils_beaten"]
            )
        item["ref"] = {name: ref[name] for name in IMAGE_KEYS if name in ref} | item.get("ref", {})
    # Rank the images and captions of each pool against each other.
    items = list(images.values())
    pools = make_pools([list(item["texts"]) for item in items], size)
    for pool_index, pool in enumerate(pools):
        rank_pool(items, pool, pool_index, predictions[0]["scale"])
    return (
        [item["prediction"] for item in items],
        [
            {"picture": picture, "captions": list(item["texts"]), **item["ref"]}
            for picture, item in zip(images, items, strict=True)
        ],
        [item["row"] for item in items],
    )


def rank_pool(items: list[dict[str, Any]], pool: Pool, number: int, scale: float) -> None:
    """Write the ranks within a pool to the `prediction` of its queries."""
    members = [items[index] for index in pool.members]
    # The candidates are the distinct captions of the pool; `correct` marks those of each image.
    texts: dict[str, list[float]] = {}
    for item in members:
        for text, vector in item["texts"].items():
            texts.setdefault(text, vector)
    column_of = {text: index for index, text in enumerate(texts)}
    columns_of = [[column_of[text] for text in item["texts"]] for item in members]
    correct = np.zeros((len(members), len(texts)), dtype=bool)
    for index, columns in enumerate(columns_of):
        correct[index, columns] = True
    image_vectors = np.array([item["image"] for item in members], dtype=np.float64)  # [M, D]
    text_vectors = np.array(list(texts.values()), dtype=np.float64)  # [T, D]
    query_texts = sorted({column for columns in columns_of[: pool.queries] for column in columns})
    text_ranks = dict(
        zip(query_texts, search(text_vectors[query_texts], image_vectors, correct.T[query_texts])[0], strict=True)
    )
    image_ranks, best, best_similarity, correct_similarity = search(
        image_vectors[: pool.queries], text_vectors, correct[: pool.queries]
    )
    names = list(texts)
    for index, item in enumerate(members[: pool.queries]):
        item["prediction"] |= {
            "rank": int(image_ranks[index]),
            "text_ranks": [int(text_ranks[column]) for column in columns_of[index]],
            "found": names[best[index]],
            "found_similarity": round(float(best_similarity[index]), 6),
            "similarity": round(float(correct_similarity[index]), 6),
            "pool": number,
            "pool_size": len(members),
        }
    if number == 0:  # similarities for the heat map of the report
        num_images = min(HEAT_MAP_IMAGES, pool.queries)
        logits = (
            scale * image_vectors[:num_images] @ text_vectors[[columns[0] for columns in columns_of[:num_images]]].T
        )
        for index, (item, row) in enumerate(zip(members[:num_images], logits, strict=True)):
            item["prediction"] |= {"near": [round(float(logit), 4) for logit in row], "near_place": index}


def search(
    queries: Vectors, candidates: Vectors, correct: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], Vectors, Vectors]:
    """Return (rank, index of the best candidate, its similarity, similarity of the best correct one), each [Q].

    Large pools are computed in blocks.
    """
    step = max(1, BLOCK // max(1, len(candidates)))
    parts = []
    for start in range(0, len(queries), step):
        scores, block_correct = queries[start : start + step] @ candidates.T, correct[start : start + step]
        parts.append(
            (
                ranks(scores, block_correct),
                scores.argmax(1),
                scores.max(1),
                np.where(block_correct, scores, -np.inf).max(1),
            )
        )
    return tuple(np.concatenate(arrays) for arrays in zip(*parts, strict=True))  # type: ignore[return-value]


def pair_scores(predictions: Sequence[Any], refs: Sequence[Any], classes: Sequence[str]) -> dict[str, Score]:
    """Return the scores of retrieval, foils and zero-shot classes; `_seen`, `_unseen`, `_gap`: by `composition`."""
    scores = retrieval_scores([item["rank"] for item in predictions], [item["text_ranks"] for item in predictions])
    for name, (correct, groups) in metrics_by_image(predictions, refs).items():
        if name not in scores:
            scores[name] = proportion([value == 1 for value in correct])
        scores |= group_scores(name, correct, groups)
    label_pairs = [
        (item["label"], ref["label"])
        for item, ref in zip(predictions, refs, strict=True)
        if "label" in ref and "label" in item
    ]
    if label_pairs:
        names = sorted({*classes, *(name for pair in label_pairs for name in pair)})
        class_scores = classification_scores(
            [predicted for predicted, _ in label_pairs], [expected for _, expected in label_pairs], names
        )
        scores |= {name: class_scores[name] for name in ("accuracy", "macro_f1")}
    return scores


def metrics_by_image(
    predictions: Sequence[Any], refs: Sequence[Any]
) -> dict[str, tuple[list[float], list[str | None]]]:
    """Return {metric: (one number for each image, its composition or None)}.

    `foil_accuracy`: the correct caption is more similar than all foils (the text score of Thrush 2022, Winoground).
    """
    groups = [ref.get("composition") for ref in refs]
    text_hits = [sum(rank == 1 for rank in item["text_ranks"]) / len(item["text_ranks"]) for item in predictions]
    metrics = {
        "image_to_text_recall@1": ([float(item["rank"] == 1) for item in predictions], groups),
        "text_to_image_recall@1": (text_hits, groups),
    }
    foil_results = [
        (float(item["foils_beaten"]), group)
        for item, group in zip(predictions, groups, strict=True)
        if "foils_beaten" in item
    ]
    if foil_results:
        metrics["foil_accuracy"] = ([value for value, _ in foil_results], [group for _, group in foil_results])
    return metrics
