"""What a recommender must beat: the most clicked items, and items like those that the user had, by users or by words."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import TfidfVectorizer

from llmstage.data.catalog import Catalog
from llmstage.evaluation.metrics.recommendation import rank_of

SHRINKAGE = 10.0
"""Added to the denominator of the cosine, so that two items that one user shares are not taken for twins."""
MOST_OF_A_USER = 1000
"""Newest items of a user that count for item-kNN; bounds the number of pairs."""
WORDS = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""Each Chinese character is a word."""


def tie_breaks(num_items: int) -> NDArray[np.float64]:
    """[N] seeded numbers in [0, 0.5): equal counts come in a fixed random order, which favours nobody."""
    return np.random.default_rng(0).random(num_items) / 2


def popularity(counts: NDArray[np.int64], num_rows: int) -> Iterator[NDArray[np.float64]]:
    """The same scores [N] for everybody: clicks in training."""
    scores = counts + tie_breaks(len(counts))
    for _ in range(num_rows):
        yield scores


def item_neighbours(
    users: Sequence[int], items: Sequence[int], num_items: int, seen: Sequence[Sequence[int]]
) -> Iterator[NDArray[np.float64]]:
    """Scores [N] for each row of `seen`: summed cosine, on the user-item matrix, to the items the user had.

    Item-based nearest neighbours (Sarwar 2001) with shrinkage (Koren 2008). `users`, `items`: the training clicks.
    """
    kept = newest(np.asarray(users), MOST_OF_A_USER)
    row, column = np.asarray(users)[kept], np.asarray(items)[kept]
    shape = (int(row.max(initial=0)) + 1, num_items)
    matrix = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
    matrix.data[:] = 1.0
    both = (matrix.T @ matrix).tocoo()
    norms = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
    like = both.data / (norms[both.row] * norms[both.col] + SHRINKAGE)
    similar = sparse.csr_matrix((np.where(both.row == both.col, 0.0, like), (both.row, both.col)), shape=both.shape)
    ties = tie_breaks(num_items) * 1e-9
    for had in seen:
        yield np.asarray(similar[list(had)].sum(axis=0)).ravel() + ties if len(had) else ties


def newest(users: NDArray[np.int64], most: int) -> NDArray[np.int64]:
    """Positions of the last `most` rows of each user."""
    order = np.argsort(users, kind="stable")
    ends = np.searchsorted(users[order], users[order], side="right")
    return order[ends - np.arange(len(order)) <= most]


def text_neighbours(texts: Sequence[str], seen: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float64]]:
    """Scores [N] for each row of `seen`: summed cosine of TF-IDF vectors to the items the user had; knows no clicks."""
    vectors = TfidfVectorizer(token_pattern=WORDS, ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    ties = tie_breaks(len(texts)) * 1e-9
    for had in seen:
        taste = np.asarray(vectors[list(had)].sum(axis=0)).ravel() if len(had) else np.zeros(vectors.shape[1])
        yield np.asarray(vectors @ taste).ravel() + ties


def baseline_ranks(
    catalog: Catalog, pairs: Sequence[tuple[str, int]], refs: Sequence[dict[str, Any]], *, exclude_seen: bool
) -> dict[str, list[int]]:
    """Rank of each reference's target by each simple method. `pairs`: the (user, item) clicks of training."""
    names: dict[str, int] = {}
    users = [names.setdefault(user, len(names)) for user, _ in pairs]
    seen = [ref["seen"] for ref in refs]
    scores = {
        "popularity": popularity(catalog.counts, len(refs)),
        "item-kNN": item_neighbours(users, [item for _, item in pairs], len(catalog), seen),
    }
    if any(catalog.texts):
        scores["TF-IDF of item texts"] = text_neighbours(catalog.texts, seen)
    ranks: dict[str, list[int]] = {name: [] for name in scores}
    for name, rows in scores.items():
        for row, ref in zip(rows, refs, strict=True):
            if exclude_seen:
                had = [index for index in ref["seen"] if index != ref["target"]]
                row = row.copy()
                row[had] = -np.inf
            ranks[name].append(rank_of(row, ref["target"]))
    return ranks
