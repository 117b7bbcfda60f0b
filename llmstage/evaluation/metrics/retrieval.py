"""Scores of finding the text of an image and the image of a text, in pools: recall, median rank, wrong captions refused."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.intervals import Z95, bootstrap_score, resampled_sums
from llmstage.evaluation.metrics.score import Score

Floats = NDArray[np.float64]
CUTS = (1, 5, 10)
SEED = 0
RECALLS = tuple(f"{way}_recall@{cut}" for way in ("image_to_text", "text_to_image") for cut in CUTS)


@dataclass(slots=True, frozen=True)
class Pool:
    """Images among which one is looked for; numbers are places in the list of all images."""

    members: list[int]
    queries: int
    """The first so many members are looked for here; the others only stand in the way, and are looked for elsewhere."""


def make_pools(captions: Sequence[Sequence[str]], size: int | None, seed: int = SEED) -> list[Pool]:
    """Pools of `size` images, no two of which share a caption; every image is looked for in exactly one.

    Of a pool that stays smaller, the room is filled with images of other pools where there are any that fit. None: one
    pool of everything, where a shared caption is right for each of its images.
    """
    if size is None or not captions:
        return [Pool(list(range(len(captions))), len(captions))] if captions else []
    order = [int(index) for index in np.random.default_rng((seed, len(captions))).permutation(len(captions))]
    full: list[list[int]] = []
    open_pools: list[tuple[list[int], set[str]]] = []
    for index in order:
        fits = (pool for pool in open_pools if pool[1].isdisjoint(captions[index]))
        members, said = next(fits, ([], set()))
        if not members:
            open_pools.append((members, said))
        members.append(index)
        said.update(captions[index])
        if len(members) == size:
            full.append(members)
            open_pools = [pool for pool in open_pools if pool[0] is not members]
    pools = [Pool(members, size) for members in full]
    for members, said in open_pools:
        own = len(members)
        taken = set(members)
        for index in order:
            if len(members) == size:
                break
            if index not in taken and said.isdisjoint(captions[index]):
                members.append(index)
                taken.add(index)
                said.update(captions[index])
        pools.append(Pool(members, own))
    return pools


def ranks(scores: Floats, right: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Rank [Q] of the best right answer of each query, 1 for the best. `scores`, `right`: [Q, A].

    A wrong answer with an equal score counts as better: a model that says the same of everything finds nothing.
    """
    best = np.where(right, scores, -np.inf).max(1, keepdims=True)
    found: NDArray[np.int64] = 1 + ((scores >= best) & ~right).sum(1)
    return found


def retrieval_scores(image_ranks: Sequence[int], text_ranks: Sequence[Sequence[int]]) -> dict[str, Score]:
    """Recall at 1, 5, 10, mean recall (of all six) and median rank, both ways. `image_ranks` [N]: of the best caption of
    each image; `text_ranks` [N][captions]: of the image, for each of its captions. Intervals are over images."""
    if not len(image_ranks):
        return {}
    columns = [[float(rank <= cut) for rank in image_ranks] for cut in CUTS]
    columns += [[float(sum(rank <= cut for rank in own)) for own in text_ranks] for cut in CUTS]
    columns += [[1.0] * len(image_ranks), [float(len(own)) for own in text_ranks]]
    rows = np.array(columns).T  # [N, 8]: hits both ways, images, captions
    counts = [len(image_ranks)] * len(CUTS) + [sum(map(len, text_ranks))] * len(CUTS)
    value, again = recalls(rows.sum(0)[None])[0], recalls(resampled_sums(rows)) if len(rows) > 1 else np.zeros((0, 6))
    found = {
        name: bootstrap_score(float(value[place]), again[:, place], counts[place]) for place, name in enumerate(RECALLS)
    }
    found["mean_recall"] = bootstrap_score(float(value.mean()), again.mean(1), len(image_ranks))
    found["image_to_text_median_rank"] = median(image_ranks)
    found["text_to_image_median_rank"] = median([rank for own in text_ranks for rank in own])
    return found


def recalls(sums: Floats) -> Floats:
    """[R, 6] of sums [R, 8]"""
    return sums[:, :6] / np.repeat(sums[:, 6:], len(CUTS), axis=1)


def median(values: Sequence[int]) -> Score:
    """The median with the interval between two order statistics, which needs no assumption about how values are spread.

    Conover (1999), Practical Nonparametric Statistics, section 3.2: places n/2 -+ z sqrt(n)/2.
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    num, half = len(ordered), Z95 * math.sqrt(len(ordered)) / 2
    low, high = math.floor(num / 2 - half), math.ceil(num / 2 + half)
    value = float(np.median(ordered))
    if low < 0 or high >= num:
        return Score(value, None, None, num, "", False)
    return Score(value, float(ordered[low]), float(ordered[high]), num, "order statistics", False)


def chance_scores(sizes: Sequence[int], captions: Sequence[int]) -> dict[str, Score]:
    """Expected recall of guessing. `sizes` [N]: images in the pool of each image; `captions` [N]: how many it has.

    Exact where all images of a pool have as many captions as this one: 1 - C(texts - own, k) / C(texts, k).
    """
    found = {}
    for cut in CUTS:
        some = [
            1 - math.comb(size * own - own, min(cut, size * own)) / math.comb(size * own, min(cut, size * own))
            for size, own in zip(sizes, captions, strict=True)
        ]
        found[f"image_to_text_recall@{cut}"] = Score(float(np.mean(some)), count=len(sizes))
        one = np.average([min(1.0, cut / size) for size in sizes], weights=captions)
        found[f"text_to_image_recall@{cut}"] = Score(float(one), count=int(sum(captions)))
    found = {name: found[name] for name in RECALLS}
    found["mean_recall"] = Score(float(np.mean([score.value for score in found.values()])), count=len(sizes))
    return found
