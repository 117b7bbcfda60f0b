"""Scores of rankings with one right item each, and of chances of a click; intervals are over users, not over rows."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.intervals import RESAMPLES, SEED, bootstrap_score, ratio
from llmstage.evaluation.metrics.score import Score

HITS = (1, 5, 10)
DEPTH = 10
MOST_DRAWS = 20_000_000
"""Pairs times resamples of the bootstrap of the AUC, at most."""


def rank_of(scores: NDArray[np.float64], target: int) -> int:
    """Rank of `target` among scores [N], 1 for the best; of equal scores the earlier item is the better one."""
    mine = scores[target]
    return int(1 + np.count_nonzero(scores > mine) + np.count_nonzero(scores[:target] == mine))


def ranking_scores(ranks: Sequence[int], users: Sequence[str]) -> dict[str, Score]:
    """hit@k, ndcg@10 and mrr of ranks [N], each of a user [N].

    With one relevant item the ideal DCG is 1, so NDCG (Järvelin & Kekäläinen 2002) is 1 / log2(1 + rank) within the cut.
    """
    if not len(ranks):
        return {}
    rank = np.asarray(ranks, dtype=np.float64)
    gain = np.where(rank <= DEPTH, 1 / np.log2(1 + rank), 0.0)
    found = {f"ndcg@{DEPTH}": by_user(gain, users)}
    found |= {f"hit@{cut}": by_user(rank <= cut, users) for cut in reversed(HITS)}
    return {**found, "mrr": by_user(1 / rank, users)}


def by_user(
    values: NDArray[np.float64] | NDArray[np.bool_], users: Sequence[str], *, higher_is_better: bool = True
) -> Score:
    """Mean over rows with a bootstrap interval over users: rows of one user depend on each other."""
    _, of = np.unique(np.asarray(users), return_inverse=True)
    sums = np.bincount(of, weights=np.asarray(values, dtype=np.float64))
    return ratio(sums, np.bincount(of), count=len(users), higher_is_better=higher_is_better)


def click_scores(chances: Sequence[float], clicks: Sequence[bool], users: Sequence[str]) -> dict[str, Score]:
    """auc and log_loss of chances [N] of a click against what happened [N]; empty without both outcomes."""
    p, y = np.asarray(chances, dtype=np.float64), np.asarray(clicks, dtype=bool)
    if not len(p) or y.all() or not y.any():
        return {}
    safe = np.clip(p, 1e-15, 1 - 1e-15)
    loss = by_user(-np.where(y, np.log(safe), np.log1p(-safe)), users, higher_is_better=False)
    _, of = np.unique(np.asarray(users), return_inverse=True)
    num_users = int(of.max()) + 1
    value = weighted_auc(p, y, np.ones(len(p)))
    rng = np.random.default_rng(SEED)
    draws = max(100, min(RESAMPLES, MOST_DRAWS // len(p)))
    again = [
        weighted_auc(
            p, y, np.bincount(rng.integers(0, num_users, num_users), minlength=num_users)[of].astype(np.float64)
        )
        for _ in range(draws if num_users > 1 else 0)
    ]
    auc = bootstrap_score(value, np.array(again), len(p)) if again else Score(value, count=len(p))
    return {"auc": auc, "log_loss": loss}


def weighted_auc(p: NDArray[np.float64], y: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """Area under the ROC curve: the share of pairs in the right order, ties counting half (Mann & Whitney 1947)."""
    order = np.argsort(p, kind="stable")
    p, y, weights = p[order], y[order], weights[order]
    starts = np.flatnonzero(np.r_[True, p[1:] != p[:-1]])
    good = np.add.reduceat(np.where(y, weights, 0.0), starts)
    bad = np.add.reduceat(np.where(y, 0.0, weights), starts)
    pairs = good.sum() * bad.sum()
    return float((good * (np.cumsum(bad) - bad / 2)).sum() / pairs) if pairs else math.nan
