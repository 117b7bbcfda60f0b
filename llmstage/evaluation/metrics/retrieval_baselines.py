"""Simple ways to find the caption of an image: guessing, and the words of training images with like colours."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.evaluation.metrics.classification import classification_scores
from llmstage.evaluation.metrics.pair_ranks import find
from llmstage.evaluation.metrics.retrieval import Pool, chance_scores, retrieval_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import tfidf

LEVELS = 4
"""Steps into which each colour channel is cut: 64 colours."""
NEIGHBOURS = 5
MOST_TRAINING = 5000


def pair_baselines(
    train: Iterable[tuple[str, list[str], Any]], refs: Sequence[Any], pools: Sequence[Pool], pictures: ImageStore | None
) -> dict[str, dict[str, Score]]:
    """`train`: (place of the image, captions, label or None) of each training row; `refs`: one an image."""
    sizes = [0] * len(refs)
    for pool in pools:
        for index in pool.members[: pool.queries]:
            sizes[index] = len(pool.members)
    guess = chance_scores(sizes, [len(ref["captions"]) for ref in refs])
    foils = [1 / (1 + len(ref["foils"])) for ref in refs if ref.get("foils")]
    if foils:
        guess["foil_accuracy"] = Score(float(np.mean(foils)), count=len(foils))
    numbers: list[int] = []
    captions: list[str] = []
    labels: Counter[str] = Counter()
    for place, said, label in train:
        if label is not None:
            labels[str(label).strip()] += 1
        if pictures is not None and len(numbers) < MOST_TRAINING:
            try:
                numbers.append(pictures.index(place))
            except BadImage:  # quarantined, or not read because only scores are wanted
                continue
            captions.append(" ".join(said))
    name = "chance"
    told = [ref["label"] for ref in refs if "label" in ref]
    if told and labels:
        name = "chance, majority class"
        most = min(labels, key=lambda label: (-labels[label], label))
        scores = classification_scores([most] * len(told), told, sorted({most, *told}))
        guess |= {key: scores[key] for key in ("accuracy", "macro_f1")}
    methods = {name: guess}
    if pictures is not None and len(numbers) >= NEIGHBOURS:
        methods["words of training images with like colours"] = by_colour(numbers, captions, refs, pools, pictures)
    return methods


def by_colour(
    numbers: Sequence[int], captions: Sequence[str], refs: Sequence[Any], pools: Sequence[Pool], pictures: ImageStore
) -> dict[str, Score]:
    """An image is described by the TF-IDF words of its five nearest training images, by histograms of their colours."""
    flat = [caption for ref in refs for caption in ref["captions"]]
    starts = np.cumsum([0, *(len(ref["captions"]) for ref in refs)])
    known, asked = tfidf(captions, flat)
    near = histograms(pictures, [ref["picture"] for ref in refs]) @ histograms(pictures, numbers).T  # [N, training]
    picked = np.argsort(-near, axis=1, kind="stable")[:, :NEIGHBOURS]
    image_ranks, text_ranks = [0] * len(refs), [[0]] * len(refs)
    for pool in pools:
        columns = [list(range(starts[index], starts[index + 1])) for index in pool.members]
        texts = [column for own in columns for column in own]
        names = [flat[column] for column in texts]
        right = np.array([[name in refs[index]["captions"] for name in names] for index in pool.members])
        words = np.asarray(
            np.stack([np.asarray(known[picked[index]].mean(0)).ravel() for index in pool.members]), dtype=np.float64
        )
        spread = asked[texts].toarray()
        per_image = find(words, spread, right)[0]
        per_text = dict(zip(texts, find(spread, words, right.T)[0], strict=True))
        for place, index in enumerate(pool.members[: pool.queries]):
            image_ranks[index] = int(per_image[place])
            text_ranks[index] = [int(per_text[column]) for column in columns[place]]
    return retrieval_scores(image_ranks, text_ranks)


def histograms(pictures: ImageStore, numbers: Sequence[int]) -> NDArray[np.float64]:
    """[N, 64] square roots of the shares of each colour: their product is the Bhattacharyya coefficient."""
    out = np.zeros((len(numbers), LEVELS**3))
    for line, number in enumerate(numbers):
        steps = np.asarray(pictures.array[number], dtype=np.int64) * LEVELS // 256  # [3, H, W]
        colours = (steps[0] * LEVELS + steps[1]) * LEVELS + steps[2]
        out[line] = np.bincount(colours.ravel(), minlength=LEVELS**3)
    roots: NDArray[np.float64] = np.sqrt(out / np.maximum(1, out.sum(1, keepdims=True)))
    return roots
