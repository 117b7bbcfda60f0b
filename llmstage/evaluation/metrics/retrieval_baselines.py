"""Baselines of image-text retrieval: guessing, and the words of training images with similar colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.evaluation.metrics.classification import classification_scores
from llmstage.evaluation.metrics.pair_ranks import search
from llmstage.evaluation.metrics.retrieval import Pool, chance_scores, retrieval_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import tfidf

LEVELS = 4
"""Levels of each colour channel: 64 colours."""
NEIGHBOURS = 5
MAX_TRAINING = 5000


def pair_baselines(
    train: Iterable[tuple[str, list[str], Any]],
    refs: Sequence[Any],
    pools: Sequence[Pool],
    image_store: ImageStore | None,
) -> dict[str, dict[str, Score]]:
    """Return {method: scores}. `train`: (image path, captions, label or None) of each row; `refs`: one for each image."""
    sizes = [0] * len(refs)
    for pool in pools:
        for index in pool.members[: pool.queries]:
            sizes[index] = len(pool.members)
    # Expected scores of guessing.
    chance = chance_scores(sizes, [len(ref["captions"]) for ref in refs])
    foils = [1 / (1 + len(ref["foils"])) for ref in refs if ref.get("foils")]
    if foils:
        chance["foil_accuracy"] = Score(float(np.mean(foils)), count=len(foils))
    # Read the training rows once: images and captions for the neighbours, labels for the majority class.
    numbers: list[int] = []
    captions: list[str] = []
    labels: Counter[str] = Counter()
    for path, row_captions, label in train:
        if label is not None:
            labels[str(label).strip()] += 1
        if image_store is not None and len(numbers) < MAX_TRAINING:
            try:
                numbers.append(image_store.index(path))
            except BadImage:  # quarantined, or not read because the run only evaluates
                continue
            captions.append(" ".join(row_captions))
    method = "chance"
    true_labels = [ref["label"] for ref in refs if "label" in ref]
    if true_labels and labels:
        method = "chance, majority class"
        most_frequent = min(labels, key=lambda label: (-labels[label], label))
        scores = classification_scores(
            [most_frequent] * len(true_labels), true_labels, sorted({most_frequent, *true_labels})
        )
        chance |= {key: scores[key] for key in ("accuracy", "macro_f1")}
    methods = {method: chance}
    if image_store is not None and len(numbers) >= NEIGHBOURS:
        methods["words of training images with like colours"] = by_colour(numbers, captions, refs, pools, image_store)
    return methods


def by_colour(
    numbers: Sequence[int], captions: Sequence[str], refs: Sequence[Any], pools: Sequence[Pool], image_store: ImageStore
) -> dict[str, Score]:
    """Return the scores of the nearest-neighbour method.

    The TF-IDF words of the five training images with the nearest colour histograms describe an image.
    """
    all_captions = [caption for ref in refs for caption in ref["captions"]]
    starts = np.cumsum([0, *(len(ref["captions"]) for ref in refs)])
    train_matrix, caption_matrix = tfidf(captions, all_captions)
    similarities = (
        histograms(image_store, [ref["picture"] for ref in refs]) @ histograms(image_store, numbers).T
    )  # [N, training]
    neighbours = np.argsort(-similarities, axis=1, kind="stable")[:, :NEIGHBOURS]
    image_ranks, text_ranks = [0] * len(refs), [[0]] * len(refs)
    for pool in pools:
        # Columns of the captions of each image, and which captions are correct for it.
        columns = [list(range(starts[index], starts[index + 1])) for index in pool.members]
        texts = [column for image_columns in columns for column in image_columns]
        names = [all_captions[column] for column in texts]
        correct = np.array([[name in refs[index]["captions"] for name in names] for index in pool.members])
        image_vectors = np.asarray(
            np.stack([np.asarray(train_matrix[neighbours[index]].mean(0)).ravel() for index in pool.members]),
            dtype=np.float64,
        )
        text_vectors = caption_matrix[texts].toarray()
        per_image = search(image_vectors, text_vectors, correct)[0]
        per_text = dict(zip(texts, search(text_vectors, image_vectors, correct.T)[0], strict=True))
        for position, index in enumerate(pool.members[: pool.queries]):
            image_ranks[index] = int(per_image[position])
            text_ranks[index] = [int(per_text[column]) for column in columns[position]]
    return retrieval_scores(image_ranks, text_ranks)


def histograms(image_store: ImageStore, numbers: Sequence[int]) -> NDArray[np.float64]:
    """Return the square roots [N, 64] of the shares of each colour; their dot product is the Bhattacharyya coefficient."""
    counts = np.zeros((len(numbers), LEVELS**3))
    for row, number in enumerate(numbers):
        levels = np.asarray(image_store.array[number], dtype=np.int64) * LEVELS // 256  # [3, H, W]
        colours = (levels[0] * LEVELS + levels[1]) * LEVELS + levels[2]
        counts[row] = np.bincount(colours.ravel(), minlength=LEVELS**3)
    roots: NDArray[np.float64] = np.sqrt(counts / np.maximum(1, counts.sum(1, keepdims=True)))
    return roots
