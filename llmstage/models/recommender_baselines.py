"""Simple methods that a recommender is compared with: popularity, and nearest neighbours of the user's items by users or by text."""

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
"""Added to the denominator of the cosine, so that two items with a single common user do not count as equal."""
MAX_USER_ITEMS = 1000
"""Newest items of a user that count for item-kNN; bounds the number of pairs."""
TOKEN_PATTERN = r"[\u3400-\u9fff]|[^\W\u3400-\u9fff]+"
"""A token of TF-IDF: one Chinese character, or a run of other word characters."""


def tie_breaks(num_items: int) -> NDArray[np.float64]:
    """[N] seeded numbers in [0, 0.5): items of equal count get a fixed random order."""
    return np.random.default_rng(0).random(num_items) / 2


def popularity(counts: NDArray[np.int64], num_rows: int) -> Iterator[NDArray[np.float64]]:
    """The same scores [N] for every row: clicks in training."""
    scores = counts + tie_breaks(len(counts))
    for _ in range(num_rows):
        yield scores


def item_neighbours(
    users: Sequence[int], items: Sequence[int], num_items: int, seen: Sequence[Sequence[int]]
) -> Iterator[NDArray[np.float64]]:
    """Scores [N] for each row of `seen`: summed cosine, on the user-item matrix, to the user's items.

    Item-based nearest neighbours (Sarwar 2001) with shrinkage (Koren 2008). `users`, `items`: the training clicks.
    """
    rows = newest(np.asarray(users), MAX_USER_ITEMS)
    row, column = np.asarray(users)[rows], np.asarray(items)[rows]
    shape = (int(row.max(initial=0)) + 1, num_items)
    matrix = sparse.csr_matrix((np.ones(len(row)), (row, column)), shape=shape)
    matrix.data[:] = 1.0
    common = (matrix.T @ matrix).tocoo()  # users of both items
    norms = np.sqrt(np.asarray(matrix.sum(axis=0)).ravel())
    cosine = common.data / (norms[common.row] * norms[common.col] + SHRINKAGE)
    values = np.where(common.row == common.col, 0.0, cosine)
    similar = sparse.csr_matrix((values, (common.row, common.col)), shape=common.shape)
    ties = tie_breaks(num_items) * 1e-9
    for history in seen:
        yield np.asarray(similar[list(history)].sum(axis=0)).ravel() + ties if len(history) else ties


def newest(users: NDArray[np.int64], count: int) -> NDArray[np.int64]:
    """Positions of the last `count` rows of each user."""
    order = np.argsort(users, kind="stable")
    ends = np.searchsorted(users[order], users[order], side="right")
    return order[ends - np.arange(len(order)) <= count]


def text_neighbours(texts: Sequence[str], seen: Sequence[Sequence[int]]) -> Iterator[NDArray[np.float64]]:
    """Scores [N] for each row of `seen`: summed cosine of TF-IDF vectors to the user's items. Clicks of others do not count."""
    vectors = TfidfVectorizer(token_pattern=TOKEN_PATTERN, ngram_range=(1, 2), sublinear_tf=True).fit_transform(texts)
    ties = tie_breaks(len(texts)) * 1e-9
    for history in seen:
        user = np.asarray(vectors[list(history)].sum(axis=0)).ravel() if len(history) else np.zeros(vectors.shape[1])
        yield np.asarray(vectors @ user).ravel() + ties


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
                row = row.copy()
                row[[index for index in ref["seen"] if index != ref["target"]]] = -np.inf
            ranks[name].append(rank_of(row, ref["target"]))
    return ranks
