"""Image-text retrieval: pools of images, ranks, recall@k, median rank, and the expected scores of guessing."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.score import Z95, Score, bootstrap_score, resampled_sums

Floats = NDArray[np.float64]
CUTS = (1, 5, 10)
SEED = 0
RECALLS = tuple(f"{direction}_recall@{cut}" for direction in ("image_to_text", "text_to_image") for cut in CUTS)


@dataclass(slots=True, frozen=True)
class Pool:
    """A set of images that are ranked against each other, as indices into the list of all images."""

    members: list[int]
    queries: int
    """Number of members that are queries of this pool, the first ones; the others are distractors and queries of other pools."""


def make_pools(captions: Sequence[Sequence[str]], size: int | None, seed: int = SEED) -> list[Pool]:
    """Return pools of `size` images without shared captions; each image is a query in exactly one pool.

    Images of other pools fill up a pool that would stay smaller. `size` None: one pool of all images, in which a shared
    caption is correct for each of its images.
    """
    if size is None or not captions:
        return [Pool(list(range(len(captions))), len(captions))] if captions else []
    shuffled = [int(index) for index in np.random.default_rng((seed, len(captions))).permutation(len(captions))]
    # First fit: each image goes into the first open pool without one of its captions.
    full_pools: list[list[int]] = []
    open_pools: list[tuple[list[int], set[str]]] = []
    for index in shuffled:
        fits = (pool for pool in open_pools if pool[1].isdisjoint(captions[index]))
        members, pool_captions = next(fits, ([], set()))
        if not members:
            open_pools.append((members, pool_captions))
        members.append(index)
        pool_captions.update(captions[index])
        if len(members) == size:
            full_pools.append(members)
            open_pools = [pool for pool in open_pools if pool[0] is not members]
    pools = [Pool(members, size) for members in full_pools]
    # Fill the remaining pools with images of other pools, as distractors.
    for members, pool_captions in open_pools:
        num_queries = len(members)
        used = set(members)
        for index in shuffled:
            if len(members) == size:
                break
            if index not in used and pool_captions.isdisjoint(captions[index]):
                members.append(index)
                used.add(index)
                pool_captions.update(captions[index])
        pools.append(Pool(members, num_queries))
    return pools


def ranks(scores: Floats, correct: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return the rank [Q] of the best correct candidate of each query, 1 for the best. `scores`, `correct`: [Q, A].

    A wrong candidate with an equal score ranks higher: a model with constant scores retrieves nothing.
    """
    best = np.where(correct, scores, -np.inf).max(1, keepdims=True)
    result: NDArray[np.int64] = 1 + ((scores >= best) & ~correct).sum(1)
    return result


def retrieval_scores(image_ranks: Sequence[int], text_ranks: Sequence[Sequence[int]]) -> dict[str, Score]:
    """Return recall at 1, 5, 10, the mean of all six recalls, and the median rank, in both directions.

    `image_ranks` [N]: rank of the best caption of each image. `text_ranks` [N][captions]: rank of the image for each of its
    captions. Intervals are over images.
    """
    if not len(image_ranks):
        return {}
    columns = [[float(rank <= cut) for rank in image_ranks] for cut in CUTS]
    columns += [[float(sum(rank <= cut for rank in ranks_of_image)) for ranks_of_image in text_ranks] for cut in CUTS]
    columns += [[1.0] * len(image_ranks), [float(len(ranks_of_image)) for ranks_of_image in text_ranks]]
    rows = np.array(columns).T  # [N, 8]: hits both ways, images, captions
    counts = [len(image_ranks)] * len(CUTS) + [sum(map(len, text_ranks))] * len(CUTS)
    value, resampled = (
        recalls(rows.sum(0)[None])[0],
        recalls(resampled_sums(rows)) if len(rows) > 1 else np.zeros((0, 6)),
    )
    scores = {
        name: bootstrap_score(float(value[column]), resampled[:, column], counts[column])
        for column, name in enumerate(RECALLS)
    }
    scores["mean_recall"] = bootstrap_score(float(value.mean()), resampled.mean(1), len(image_ranks))
    scores["image_to_text_median_rank"] = median(image_ranks)
    scores["text_to_image_median_rank"] = median([rank for ranks_of_image in text_ranks for rank in ranks_of_image])
    return scores


def recalls(sums: Floats) -> Floats:
    """Return the recalls [R, 6] of sums [R, 8]."""
    return sums[:, :6] / np.repeat(sums[:, 6:], len(CUTS), axis=1)


def median(values: Sequence[int]) -> Score:
    """Return the median with the interval between two order statistics, which assumes nothing about the distribution.

    Conover (1999), Practical Nonparametric Statistics, section 3.2: positions n/2 -+ z sqrt(n)/2.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    num, half = len(ordered), Z95 * math.sqrt(len(ordered)) / 2
    low, high = math.floor(num / 2 - half), math.ceil(num / 2 + half)
    value = float(np.median(ordered))
    if low < 0 or high >= num:
        return Score(value, None, None, num, "", False)
    return Score(value, float(ordered[low]), float(ordered[high]), num, "order statistics", False)


def chance_scores(sizes: Sequence[int], captions: Sequence[int]) -> dict[str, Score]:
    """Return the expected recall of guessing. `sizes` [N]: images in the pool of each image; `captions` [N]: its captions.

    Exact if all images of a pool have the same number of captions c: 1 - C(texts - c, k) / C(texts, k).
    """
    scores = {}
    for cutoff in CUTS:
        image_to_text = [
            1
            - math.comb(size * num_captions - num_captions, min(cutoff, size * num_captions))
            / math.comb(size * num_captions, min(cutoff, size * num_captions))
            for size, num_captions in zip(sizes, captions, strict=True)
        ]
        scores[f"image_to_text_recall@{cutoff}"] = Score(float(np.mean(image_to_text)), count=len(sizes))
        text_to_image = np.average([min(1.0, cutoff / size) for size in sizes], weights=captions)
        scores[f"text_to_image_recall@{cutoff}"] = Score(float(text_to_image), count=int(sum(captions)))
    scores = {name: scores[name] for name in RECALLS}
    scores["mean_recall"] = Score(float(np.mean([score.value for score in scores.values()])), count=len(sizes))
    return scores
