"""SliceLine: the conjunctions of conditions under which a model loses most (Sagadeeva & Boehm 2021, SIGMOD).

A slice S of n rows has the score  alpha (mean error of S / mean error - 1) - (1 - alpha)(n / |S| - 1):  how much worse it is
than all rows, less a price for being small. Slices are built level by level; a conjunction is looked at only where the
best score that its parts allow could still be among the best.
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
"""Rows x conjunctions held at once."""


@dataclass(slots=True, frozen=True)
class Candidate:
    """A conjunction of conditions and what it holds."""

    conditions: tuple[int, ...]
    """Numbers of the conditions, rising."""
    score: float
    size: int
    error_sum: float


@dataclass(slots=True)
class Level:
    """All conjunctions of one order that were looked at and may have children."""

    members: list[tuple[int, ...]]
    sizes: Numbers
    sums: Numbers
    most: Numbers
    """Largest error of a row."""
    place: dict[tuple[int, ...], int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.place = {member: number for number, member in enumerate(self.members)}

    def kept(self, which: Mask) -> Level:
        members = [member for member, stays in zip(self.members, which, strict=True) if stays]
        return Level(members, self.sizes[which], self.sums[which], self.most[which])


def search(
    masks: Mask, columns: Sequence[int], errors: Numbers, *, max_order: int, min_support: int, alpha: float, keep: int
) -> tuple[list[Candidate], int]:
    """(the `keep` best conjunctions with a score above 0, best first; how many were looked at).

    `masks` [P, N]: which rows fulfil each condition; `columns` [P]: two conditions of one column are never joined;
    `errors` [N]: not negative. The result is exact: the same as that of looking at every conjunction up to `max_order`.
    """
    num, mean = len(errors), float(errors.mean()) if len(errors) else 0.0
    if not len(masks) or mean <= 0:
        return [], 0

    def scores(sizes: Numbers, sums: Numbers) -> Numbers:
        return score_of(sizes, sums, num, mean, alpha)

    def bound(sizes: Numbers, sums: Numbers, most: Numbers) -> Numbers:
        """The best score of any slice of at most this size, error sum and largest error (SliceLine, equation 5): within the
        bounds it is monotone on both sides of the size at which the error sum is used up."""
        best = np.full(len(sizes), -np.inf)
        for size in (np.full(len(sizes), float(min_support)), np.ceil(sums / np.maximum(most, 1e-300)), np.floor(sums / np.maximum(most, 1e-300)), sizes):  # fmt: skip
            size = np.clip(size, min_support, np.maximum(sizes, min_support))
            best = np.maximum(best, scores(size, np.minimum(sums, most * size)))
        return best

    level = measure([(number,) for number in range(len(masks))], masks, errors)
    looked_at, found = len(level.members), list[Candidate]()
    for order in range(1, max_order + 1):
        level = level.kept((level.sizes >= min_support) & (level.sums > 0))
        if not level.members:
            break
        own = scores(level.sizes, level.sums)
        found += [
            Candidate(member, float(score), int(size), float(total))
            for member, score, size, total in zip(level.members, own, level.sizes, level.sums, strict=True)
            if score > 0
        ]
        found = sorted(found, key=lambda one: (-one.score, len(one.conditions), one.conditions))[:keep]
        least = found[-1].score if len(found) == keep else 0.0
        if order == max_order:
            break
        level = level.kept(bound(level.sizes, level.sums, level.most) >= least)
        members, sizes, sums, most = children(level, columns)
        promising = (sizes >= min_support) & (bound(sizes, sums, most) >= least) if len(members) else np.zeros(0, bool)
        members = [member for member, stays in zip(members, promising, strict=True) if stays]
        looked_at += len(members)
        level = measure(members, masks, errors)
    return found, looked_at


def score_of(sizes: Numbers, sums: Numbers, num: int, mean: float, alpha: float) -> Numbers:
    """SliceLine's score of slices of these sizes and error sums, among `num` rows of this mean error."""
    found: Numbers = alpha * (sums / sizes / mean - 1) - (1 - alpha) * (num / sizes - 1)
    return found


def single(masks: Mask, errors: Numbers, alpha: float) -> list[Candidate]:
    """Every condition by itself, best first, whatever its score. The price for being small grows with the number of classes:
    of 77 alike, one that is wrong in 17 of 20 cases has a score below 0 where the mean error is 0.19."""
    level = measure([(number,) for number in range(len(masks))], masks, errors)
    level = level.kept(level.sums > 0)
    scores = (
        score_of(level.sizes, level.sums, len(errors), float(errors.mean()), alpha) if level.members else np.zeros(0)
    )
    made = [
        Candidate(member, float(score), int(size), float(total))
        for member, score, size, total in zip(level.members, scores, level.sizes, level.sums, strict=True)
    ]
    return sorted(made, key=lambda one: (-one.score, one.conditions))


def measure(members: list[tuple[int, ...]], masks: Mask, errors: Numbers) -> Level:
    """Sizes, error sums and largest errors of conjunctions of one order."""
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
    """Conjunctions of one condition more, all of whose parts are in the level; with the least of their parts' measures."""
    members: list[tuple[int, ...]] = []
    parents: list[list[int]] = []
    for member in joined(level.members):
        if columns[member[-1]] in {columns[other] for other in member[:-1]}:
            continue
        parts = [level.place.get(part, -1) for part in combinations(member, len(member) - 1)]
        if min(parts) >= 0:
            members.append(member)
            parents.append(parts)
    if not members:
        return [], np.zeros(0), np.zeros(0), np.zeros(0)
    own = np.array(parents)  # [C, order]
    return members, level.sizes[own].min(1), level.sums[own].min(1), level.most[own].min(1)


def joined(members: list[tuple[int, ...]]) -> Iterator[tuple[int, ...]]:
    """Two members that differ in the last condition only, put together (Agrawal & Srikant 1994)."""
    groups: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for member in members:
        groups[member[:-1]].append(member[-1])
    for prefix, ends in groups.items():
        for one, two in combinations(sorted(ends), 2):
            yield (*prefix, one, two)
