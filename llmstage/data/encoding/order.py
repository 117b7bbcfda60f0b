"""Form the batches of a split: a pure function of (seed, epoch), so that a resumed run continues with the same batches."""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import numpy as np

Rows = list[list[int]]
"""Rows of a batch; each row is the list of the indices of its examples."""

CHUNK = 8192
"""Examples that are packed together: enough to fill rows completely, few enough to start at once."""
SORTED_BATCHES = 50
"""Batches whose examples are sorted by length together, so that the examples of a batch have similar length."""


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
    """Whether examples of similar length share a batch.

    False where the rows of a batch are each other's negatives. Batches are then random and of equal size; each epoch omits
    a different remainder.
    """

    def epoch(self, epoch: int) -> Iterator[Rows]:
        """Yield the batches of one epoch, every example exactly once; the last may be smaller (see by_length)."""
        order = self.shuffled(epoch)
        if self.packing:
            rows_per_batch = self.batch_rows or max(1, (self.batch_tokens or 0) // self.context)
            rows = self._packed_rows(order, epoch)
            while batch := list(islice(rows, rows_per_batch)):
                yield batch
        elif self.by_length:
            yield from self._bucketed(order, epoch)
        else:
            yield from self._equal_size(order)

    def shuffled(self, epoch: int) -> np.ndarray:
        """Return the examples of an epoch in random order, before batches are formed."""
        return np.random.default_rng((self.seed, epoch)).permutation(len(self.lengths))

    def _packed_rows(self, order: np.ndarray, epoch: int) -> Iterator[list[int]]:
        for start in range(0, len(order), CHUNK):
            chosen = order[start : start + CHUNK]
            rows = best_fit([int(index) for index in chosen], self.lengths, self.context)
            np.random.default_rng((self.seed, epoch, start)).shuffle(rows)
            yield from rows

    def _bucketed(self, order: np.ndarray, epoch: int) -> Iterator[Rows]:
        """Yield batches of examples of similar length, in random order."""
        mean = max(1.0, float(self.lengths.mean()))
        size = (self.batch_rows or max(1, int((self.batch_tokens or 0) / mean))) * SORTED_BATCHES
        for start in range(0, len(order), size):
            chosen = order[start : start + size]
            chosen = chosen[np.argsort(self.lengths[chosen], kind="stable")]
            batches = list(self._cut([int(index) for index in chosen]))
            for index in np.random.default_rng((self.seed, epoch, start)).permutation(len(batches)):
                yield batches[index]

    def _equal_size(self, order: np.ndarray) -> Iterator[Rows]:
        size = self.batch_rows or max(1, int((self.batch_tokens or 0) / max(1.0, float(self.lengths.mean()))))
        for start in range(0, max(1, len(order) - size + 1), size):
            yield [[int(index)] for index in order[start : start + size]]

    def _cut(self, chosen: Sequence[int]) -> Iterator[Rows]:
        """Yield batches of `batch_rows` rows or `batch_tokens` padded tokens; `chosen` is sorted by length."""
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
        """Return the number of batches in one epoch."""
        return sum(1 for _ in self.epoch(epoch))


def best_fit(chosen: Sequence[int], lengths: np.ndarray, capacity: int) -> list[list[int]]:
    """Pack examples into rows by best-fit decreasing bin packing (Johnson 1973).

    Each example is added to the row in which it leaves the least free space.
    """
    rows: list[list[int]] = []
    free: list[tuple[int, int]] = []  # (free space, row), sorted
    for index in sorted(chosen, key=lambda item: -int(lengths[item])):
        length = int(lengths[index])
        position = bisect_left(free, (length, -1))
        if position == len(free):
            rows.append([index])
            space, row = capacity - length, len(rows) - 1
        else:
            space, row = free.pop(position)
            rows[row].append(index)
            space -= length
        if space > 1:
            insort(free, (space, row))
    return rows


def micro_batches(batch: Rows, size: int, lengths: np.ndarray) -> list[Rows]:
    """Split a batch into parts of `size` rows, long rows with long rows."""
    ordered = sorted(batch, key=lambda row: -sum(int(lengths[index]) for index in row)) if len(batch) > size else batch
    return [ordered[start : start + size] for start in range(0, len(ordered), size)]


def evenly_spaced(rows: np.ndarray, count: int | None) -> np.ndarray:
    """Return `count` rows at even distances; all rows where there are no more, or where `count` is None."""
    if count is None or count >= len(rows):
        return rows
    return rows[np.arange(count) * len(rows) // max(1, count)]


def scoring_batches(
    lengths: np.ndarray, chosen: Sequence[int], budget: int, *, packing: bool, context: int
) -> list[Rows]:
    """Return batches for scoring: sorted by length, at most `budget` padded tokens each."""
    if packing:
        rows = best_fit(chosen, lengths, context)
        size = max(1, budget // context)
        return [rows[start : start + size] for start in range(0, len(rows), size)]
    ordered = sorted(chosen, key=lambda index: (-int(lengths[index]), index))
    batches: list[Rows] = []
    for index in ordered:
        if batches and (len(batches[-1]) + 1) * int(lengths[batches[-1][0][0]]) <= budget:
            batches[-1].append([index])
        else:
            batches.append([[index]])
    return batches


def of_one_length(batch: Rows, lengths: np.ndarray) -> list[Rows]:
    """Split a batch into parts in which all rows have the same length, so that nothing is padded."""
    parts: dict[int, Rows] = {}
    for row in batch:
        parts.setdefault(sum(int(lengths[index]) for index in row), []).append(row)
    return list(parts.values())


def split_by_length(batch: Rows, lengths: np.ndarray, call: int) -> list[Rows]:
    """Split a batch into parts of similar length so that the total cost is minimal.

    Rows have one example each, longest first. A part costs its padded tokens plus `call` tokens for the call. The minimum
    is the shortest path over the positions at which the batch may be split.
    """
    sizes = np.array([lengths[row[0]] for row in batch], dtype=np.int64)
    if len(batch) * sizes[0] - sizes.sum() <= call:
        return [batch]  # no split saves the cost of a call
    cost = np.zeros(len(batch) + 1, dtype=np.int64)  # minimum cost of the first rows
    begin = np.zeros(len(batch) + 1, dtype=np.int64)  # first row of the part that ends there
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
