"""SliceLine: search the conjunctions of conditions with the largest errors of a model (Sagadeeva & Boehm 2021, SIGMOD).

A slice S of n rows has the score  alpha (mean error of S / mean error - 1) - (1 - alpha)(n / |S| - 1):  how much worse it is
than all rows, minus a penalty for a small size. Slices are built level by level. A conjunction is evaluated only where the
upper bound of its score, from its parts, could still be among the best.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

Mask = NDArray[np.bool_]
Numbers = NDArray[np.float64]
CELLS = 20_000_000
"""Largest number of rows x conjunctions in memory."""


@dataclass(slots=True, frozen=True)
class Candidate:
    """A conjunction of conditions with its size and error sum."""

    conditions: tuple[int, ...]
    """Numbers of the conditions, ascending."""
    score: float
    size: int
    error_sum: float


@dataclass(slots=True)
class Level:
    """All evaluated conjunctions of one order that may have children."""

    members: list[tuple[int, ...]]
    sizes: Numbers
    sums: Numbers
    most: Numbers
    """Largest error of a row."""
    index: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.index = {member: number for number, member in enumerate(self.members)}

    def subset(self, mask: Mask) -> Level:
        """Return the level with the members of a mask only."""
        members = [member for member, stays in zip(self.members, mask, strict=True) if stays]
        return Level(members, self.sizes[mask], self.sums[mask], self.most[mask])


def search(
    masks: Mask, columns: Sequence[int], errors: Numbers, *, max_order: int, min_support: int, alpha: float, keep: int
) -> tuple[list[Candidate], int]:
    """Return (the `keep` best conjunctions with a score above 0, best first; the number of evaluated conjunctions).

    `masks` [P, N]: the rows of each condition; `columns` [P]: two conditions of one column are never joined; `errors` [N]: not
    negative. The result is exact: it equals that of evaluating every conjunction up to `max_order`.
    """
    num, mean = len(errors), float(errors.mean()) if len(errors) else 0.0
    if not len(masks) or mean <= 0:
        return [], 0

    def scores(sizes: Numbers, sums: Numbers) -> Numbers:
        return score_of(sizes, sums, num, mean, alpha)

    def bound(sizes: Numbers, sums: Numbers, most: Numbers) -> Numbers:
        """Return the best score of any slice with at most this size, error sum and largest error (SliceLine, equation 5).

        Within these limits the score is monotone on both sides of the size at which the error sum is used up.
        """
        best = np.full(len(sizes), -np.inf)
        for size in (np.full(len(sizes), float(min_support)), np.ceil(sums / np.maximum(most, 1e-300)), np.floor(sums / np.maximum(most, 1e-300)), sizes):  # fmt: skip
            size = np.clip(size, min_support, np.maximum(sizes, min_support))
            best = np.maximum(best, scores(size, np.minimum(sums, most * size)))
        return best

    level = measure([(number,) for number in range(len(masks))], masks, errors)
    num_evaluated, best_candidates = len(level.members), list[Candidate]()
    for order in range(1, max_order + 1):
        level = level.subset((level.sizes >= min_support) & (level.sums > 0))
        if not level.members:
            break
        level_scores = scores(level.sizes, level.sums)
        best_candidates += [
            Candidate(member, float(score), int(size), float(total))
            for member, score, size, total in zip(level.members, level_scores, level.sizes, level.sums, strict=True)
            if score > 0
        ]
        best_candidates.sort(key=lambda each: (-each.score, len(each.conditions), each.conditions))
        best_candidates = best_candidates[:keep]
        # From now on a slice must beat the worst retained one.
        least = best_candidates[-1].score if len(best_candidates) == keep else 0.0
        if order == max_order:
            break
        level = level.subset(bound(level.sizes, level.sums, level.most) >= least)
        members, sizes, sums, most = children(level, columns)
        promising = (sizes >= min_support) & (bound(sizes, sums, most) >= least) if len(members) else np.zeros(0, bool)
        members = [member for member, stays in zip(members, promising, strict=True) if stays]
        num_evaluated += len(members)
        level = measure(members, masks, errors)
    return best_candidates, num_evaluated


def score_of(sizes: Numbers, sums: Numbers, num: int, mean: float, alpha: float) -> Numbers:
    """Return SliceLine's score of slices of these sizes and error sums, among `num` rows of this mean error."""
    scores: Numbers = alpha * (sums / sizes / mean - 1) - (1 - alpha) * (num / sizes - 1)
    return scores


def single(masks: Mask, errors: Numbers, alpha: float) -> list[Candidate]:
    """Return every condition alone as a candidate, best first, whatever its score.

    The penalty for a small size grows with the number of classes: of 77 equal classes, one that is wrong in 17 of 20 cases
    has a score below 0 where the mean error is 0.19.
    """
    level = measure([(number,) for number in range(len(masks))], masks, errors)
    level = level.subset(level.sums > 0)
    scores = (
        score_of(level.sizes, level.sums, len(errors), float(errors.mean()), alpha) if level.members else np.zeros(0)
    )
    candidates = [
        Candidate(member, float(score), int(size), float(total))
        for member, score, size, total in zip(level.members, scores, level.sizes, level.sums, strict=True)
    ]
    return sorted(candidates, key=lambda candidate: (-candidate.score, candidate.conditions))


def measure(members: list[tuple[int, ...]], masks: Mask, errors: Numbers) -> Level:
    """Compute sizes, error sums and largest errors of conjunctions of one order."""
    sizes, sums, most = (np.zeros(len(members)) for _ in range(3))
    step = max(1, CELLS // max(1, masks.shape[1]))
    for start in range(0, len(members), step):
        part = np.array(members[start : start + step])
        rows = masks[part[:, 0]]
        for column in range(1, part.shape[1]):
            rows = rows & masks[part[:, column]]
        stop = start + len(part)
        sizes[start:stop] = rows.sum(1)
        sums[start:stop] = rows @ errors
        most[start:stop] = np.where(rows, errors, 0.0).max(1)
    return Level(members, sizes, sums, most)


def children(level: Level, columns: Sequence[int]) -> tuple[list[tuple[int, ...]], Numbers, Numbers, Numbers]:
    """Return conjunctions with one condition more whose parts are all in the level, and the smallest measures of the parts."""
    members: list[tuple[int, ...]] = []
    parents: list[list[int]] = []
    for member in joined(level.members):
        if columns[member[-1]] in {columns[condition] for condition in member[:-1]}:
            continue
        parts = [level.index.get(part, -1) for part in combinations(member, len(member) - 1)]
        if min(parts) >= 0:
            members.append(member)
            parents.append(parts)
    if not members:
        return [], np.zeros(0), np.zeros(0), np.zeros(0)
    rows = np.array(parents)  # [C, order]
    return members, level.sizes[rows].min(1), level.sums[rows].min(1), level.most[rows].min(1)


def joined(members: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Join two members that differ in the last condition only (Agrawal & Srikant 1994)."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for member in members:
        groups[member[:-1]].append(member[-1])
    for prefix, ends in groups.items():
        for first, second in combinations(sorted(ends), 2):
            yield (*prefix, first, second)
