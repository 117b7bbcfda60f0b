"""The simplest language model, as a measure for others: how often each token stands in the training split."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable

import numpy as np

SMOOTHING = 1.0
"""Laplace's: one more occurrence of every entry of the vocabulary, so that none has probability 0."""


class Unigram:
    """Add-k smoothed token frequencies: p(t) = (count(t) + k) / (all + k * V)."""

    def __init__(self, texts: Iterable[Iterable[int]], vocab_size: int) -> None:
        counts: Counter[int] = Counter()
        for ids in texts:
            counts.update(ids)
        table = np.full(vocab_size, SMOOTHING)
        for token, count in counts.items():
            table[token] += count
        self.log_p: np.ndarray = np.log(table) - math.log(table.sum())
        self.likeliest = int(table.argmax())

    def measure(self, texts: Iterable[list[int]]) -> tuple[list[float], list[int], list[int]]:
        """(-log p in nats, tokens, tokens that are the likeliest one) of each text."""
        rows = [(-float(self.log_p[ids].sum()) if ids else 0.0, len(ids), ids.count(self.likeliest)) for ids in texts]
        return [row[0] for row in rows], [row[1] for row in rows], [row[2] for row in rows]
