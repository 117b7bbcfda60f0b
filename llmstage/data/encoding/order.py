"""Which features form which batch: a pure function of (seed, epoch), so a resumed run sees what it would have seen."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

Rows = list[list[int]]
"""Rows of a batch; each is the list of features that share it."""

CHUNK = 8192
"""Features packed together: large enough to fill rows to the brim, small enough to start at once."""
SORTED_BATCHES = 50
"""Batches whose features are sorted by length together, so that a batch holds features of like length."""


@dataclass(slots=True, frozen=True)
class BatchOrder:
    """The batches of a split. Exactly one of `batch_rows` and `batch_tokens` is set."""

    lengths: np.ndarray
    seed: int
    context: int
    packing: bool
    batch_rows: int | None
    batch_tokens: int | None = None
    by_length: bool = True
    """Rows of like length share a batch; not where the rows of a batch are each other's negatives: batches are then an
    even draw, and all of one size (a pass leaves out the rest, another one each time)."""

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """All batches of one pass, every feature exactly once; the last may be smaller (see by_length)."""
        order = self.drawn(epoch)
        if self.packing:
            rows_per_batch = self.batch_rows or max(1, (self.batch_tokens or 0) // self.context)
            rows = self._packed_rows(order, epoch)
            while batch := list(islice(rows, rows_per_batch)):
                yield batch
        elif self.by_length:
            yield from self._bucketed(order, epoch)
        else:
            yield from self._drawn(order)

    def drawn(self, epoch: int) -> np.ndarray:
        """The features of a pass in random order, before they are brought together in batches."""
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.lengths))

    def _packed_rows(self, order: np.ndarray, epoch: int) -> Iterator[list[int]]:
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            rows = best_fit([int(index) for index in chosen], self.lengths, self.context)
            np.random.default_rng((self.seed, epoch, start)).shuffle(rows)
            yield from rows

    def _bucketed(self, order: np.ndarray, epoch: int) -> Iterator[Rows]:
        """Neighbours in length share a batch; the batches come in random order."""
        mean = max(1.0, float(self.lengths.mean()))
        size = (self.batch_rows or max(1, int((self.batch_tokens or 0) / mean))) * SORTED_BATCHES
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            chosen = chosen[np.argsort(self.lengths[chosen], kind="stable")]
            batches = list(self._cut([int(index) for index in chosen]))
            for which in np.random.default_rng((self.seed, epoch, start)).permutation(len(batches)):
                yield batches[which]

    def _drawn(self, order: np.ndarray) -> Iterator[Rows]:
        size = self.batch_rows or max(1, int((self.batch_tokens or 0) / max(1.0, float(self.lengths.mean()))))
        for start in range(0, max(1, len(order) - size + 1), size):
            yield [[int(index)] for index in order[start : start + size]]

    def _cut(self, chosen: Sequence[int]) -> Iterator[Rows]:
        """Batches of so many rows, or of so many padded tokens; `chosen` is sorted by length."""
        batch: Rows = []
        for index in chosen:
            full = (
                len(batch) >= self.batch_rows
                if self.batch_rows
                else (len(batch) + 1) * self.lengths[index] > (self.batch_tokens or 0)
            )
            if batch and full:
                yield batch
                batch = []
            batch.append([index])
        if batch:
            yield batch

    def count(self, epoch: int = 0) -> int:
        """Batches in one pass."""
        return sum(1 for _ in self.epoch(epoch))


def best_fit(chosen: Sequence[int], lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Best-fit decreasing bin packing (Johnson 1973): each feature goes where it leaves the least room."""
    rows: list[list[int]] = []
    room: list[tuple[int, int]] = []  # (room left, row), sorted
    for index in sorted(chosen, key=lambda item: -int(lengths[item])):
        length = int(lengths[index])
        place = bisect_left(room, (length, -1))
        if place == len(room):
            rows.append([index])
            left, row = capacity - length, len(rows) - 1
        else:
            left, row = room.pop(place)
            rows[row].append(index)
            left -= length
        if left > 1:
            insort(room, (left, row))
    return rows


def micro_batches(batch: Rows, size: int, lengths: np.ndarray) -> list[Rows]:
    """The batch in parts of `size` rows, longest rows together."""
    ordered = sorted(batch, key=lambda row: -sum(int(lengths[index]) for index in row)) if len(batch) > size else batch
    return [ordered[at : at + size] for at in range(0, len(ordered), size)]


def spread(rows: np.ndarray, count: int | None) -> np.ndarray:
    """`count` of the rows at even distances; all where there are no more, or where it is None."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.arange(count) * len(rows) // max(1, count)]


def scoring_batches(
    lengths: np.ndarray, chosen: Sequence[int], budget: int, *, packing: bool, context: int
) -> list[Rows]:
    """Batches for scoring: length-sorted, at most `budget` padded tokens each."""
    if packing:
        rows = best_fit(chosen, lengths, context)
        size = max(1, budget // context)
        return [rows[at : at + size] for at in range(0, len(rows), size)]
    ordered = sorted(chosen, key=lambda index: (-int(lengths[index]), index))
    batches: list[Rows] = []
    for index in ordered:
        if batches and (len(batches[-1]) + 1) * int(lengths[batches[-1][0][0]]) <= budget:
            batches[-1].append([index])
        else:
            batches.append([[index]])
    return batches


def alike(batch: Rows, lengths: np.ndarray, call: int) -> list[Rows]:
    """Rows of one feature each, longest first, in the parts that cost least together where each part is padded to its longest row
    and calls cost as much as `call` tokens more: the shortest path over the places where a batch may be cut."""
    sizes = np.array([lengths[row[0]] for row in batch], dtype=np.int64)
    if len(batch) * sizes[0] - sizes.sum() <= call:
        return [batch]  # no cut saves what it costs
    cost = np.zeros(len(batch) + 1, dtype=np.int64)  # of the first so many rows
    begin = np.zeros(len(batch) + 1, dtype=np.int64)  # of the part that ends there
    for stop in range(1, len(batch) + 1):
        total = cost[:stop] + call + np.arange(stop, 0, -1) * sizes[:stop]
        begin[stop] = total.argmin()
        cost[stop] = total[begin[stop]]
    parts: list[Rows] = []
    stop = len(batch)
    while stop:
        parts.append(batch[begin[stop] : stop])
        stop = int(begin[stop])
    return parts[::-1]
