"""Scores of a recommender: rankings with one relevant item, click probabilities, and their report tables.

Intervals are over users, because the rows of one user depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.score import RESAMPLES, SEED, Score, bootstrap_score, ratio

HITS = (1, 5, 10)
DEPTH = 10
MOST_DRAWS = 20_000_000
"""Upper bound of pairs times resamples in the bootstrap of the AUC."""
HISTORY_LENGTHS = ((0, 0), (1, 9), (10, 49), (50, 199), (200, None))
"""Slices by the number of earlier items of the user, first and last included; None: no upper bound."""


def rank_of(scores: NDArray[np.float64], target: int) -> int:
    """Return the rank of `target` among scores [N], 1 for the best. Of equal scores, the earlier item ranks higher."""
    mine = scores[target]
    return int(1 + np.count_nonzero(scores > mine) + np.count_nonzero(scores[:target] == mine))


def ranking_scores(ranks: Sequence[int], users: Sequence[str]) -> dict[str, Score]:
    """Return hit@k, ndcg@10 and mrr of ranks [N] with their users [N].

    With one relevant item the ideal DCG is 1, so NDCG (Järvelin & Kekäläinen 2002) is 1 / log2(1 + rank) up to the cutoff.
    """
    if not len(ranks):
        return {}
    rank = np.asarray(ranks, dtype=np.float64)
    gain = np.where(rank <= DEPTH, 1 / np.log2(1 + rank), 0.0)
    scores = {f"ndcg@{DEPTH}": by_user(gain, users)}
    scores |= {f"hit@{cutoff}": by_user(rank <= cutoff, users) for cutoff in reversed(HITS)}
    return {**scores, "mrr": by_user(1 / rank, users)}


def by_user(
    values: NDArray[np.float64] | NDArray[np.bool_], users: Sequence[str], *, higher_is_better: bool = True
) -> Score:
    """Return the mean over rows with a bootstrap interval over users."""
    _, user_index = np.unique(np.asarray(users), return_inverse=True)
    sums = np.bincount(user_index, weights=np.asarray(values, dtype=np.float64))
    return ratio(sums, np.bincount(user_index), count=len(users), higher_is_better=higher_is_better)


def click_scores(probabilities: Sequence[float], clicks: Sequence[bool], users: Sequence[str]) -> dict[str, Score]:
    """Return auc and log_loss of click probabilities [N] against clicks [N]; empty if there is only one outcome."""
    p, y = np.asarray(probabilities, dtype=np.float64), np.asarray(clicks, dtype=bool)
    if not len(p) or y.all() or not y.any():
        return {}
    clipped = np.clip(p, 1e-15, 1 - 1e-15)
    loss = by_user(-np.where(y, np.log(clipped), np.log1p(-clipped)), users, higher_is_better=False)
    _, user_index = np.unique(np.asarray(users), return_inverse=True)
    num_users = int(user_index.max()) + 1
    value = weighted_auc(p, y, np.ones(len(p)))
    rng = np.random.default_rng(SEED)
    num_resamples = max(100, min(RESAMPLES, MOST_DRAWS // len(p)))
    resampled = [
        weighted_auc(
            p, y, np.bincount(rng.integers(0, num_users, num_users), minlength=num_users)[user_index].astype(np.float64)
        )
        for _ in range(num_resamples if num_users > 1 else 0)
    ]
    auc = bootstrap_score(value, np.array(resampled), len(p)) if resampled else Score(value, count=len(p))
    return {"auc": auc, "log_loss": loss}


def weighted_auc(p: NDArray[np.float64], y: NDArray[np.bool_], weights: NDArray[np.float64]) -> float:
    """Return the area under the ROC curve: the share of correctly ordered pairs; ties count half (Mann & Whitney 1947)."""
    order = np.argsort(p, kind="stable")
    p, y, weights = p[order], y[order], weights[order]
    starts = np.flatnonzero(np.r_[True, p[1:] != p[:-1]])
    positives = np.add.reduceat(np.where(y, weights, 0.0), starts)
    negatives = np.add.reduceat(np.where(y, 0.0, weights), starts)
    pairs = positives.sum() * negatives.sum()
    return float((positives * (np.cumsum(negatives) - negatives / 2)).sum() / pairs) if pairs else math.nan


def ranking_tables(
    predictions: list[Any], refs: list[Any], num_items: int, facts: dict[str, int]
) -> list[dict[str, Any]]:
    """Return report tables: scores by slice, catalogue coverage, and the counts from reading the data (`facts`)."""
    clicked = [(item["rank"], ref) for item, ref in zip(predictions, refs, strict=True) if ref["click"]]
    slices = [("all", clicked)]
    slices.append(("items in the training split", [pair for pair in clicked if not pair[1]["cold"]]))
    slices.append(("cold items (scored from text alone)", [pair for pair in clicked if pair[1]["cold"]]))
    for low, high in HISTORY_LENGTHS:
        name = f"{low} or more earlier items" if high is None else f"{low} to {high} earlier items"
        members = [
            pair for pair in clicked if pair[1]["history"] >= low and (high is None or pair[1]["history"] <= high)
        ]
        slices.append(("no earlier item" if high == 0 else name, members))
    names = ("ndcg@10", "hit@10", "mrr")
    rows = []
    for name, pairs in slices:
        if pairs:
            scores = ranking_scores([rank for rank, _ in pairs], [ref["user"] for _, ref in pairs])
            rows.append([name, str(len(pairs)), *(f"{scores[metric].value:.4f}" for metric in names)])
    recommended = {index for item in predictions for index in item["top"]}
    count_rows = [[name, f"{count:,}"] for name, count in facts.items()]
    count_rows.append(["items in the catalogue", f"{num_items:,}"])
    count_rows.append(
        ["of them in at least one top 10 (coverage)", f"{len(recommended):,} ({len(recommended) / num_items:.1%})"]
    )
    return [
        {"kind": "table", "title": "Ranking by slice", "columns": ["slice", "clicks", *names], "rows": rows},
        {"kind": "table", "title": "Interactions and items", "columns": ["what", "count"], "rows": count_rows},
    ]


def ranking_record(prediction: Any, ref: Any, ids: list[str], texts: list[str]) -> dict[str, Any]:
    """Return a line of predictions.jsonl: the top items with their probabilities, the held-out item and its rank."""
    top_items = zip(prediction["top"], prediction["chances"], strict=True)
    return {
        "user": ref["user"],
        "prediction": [
            {"item": ids[index], "text": texts[index], "probability": round(probability, 6)}
            for index, probability in top_items
        ],
        "reference": {"item": ref["item"], "text": ref["text"]},
        "rank": prediction["rank"] if ref["click"] else None,
        "click": ref["click"],
        "probability": round(prediction["p"], 6),
        "history": ref["history"],
        "cold": ref["cold"],
    }
