"""Scores of binary rankings: average precision, area under the ROC curve, their curves, and the best threshold."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.score import CHUNK, RESAMPLES, SEED, Score, bootstrap_score

Floats = NDArray[np.float64]
MAX_POINTS = 200
"""Upper bound of the points of a curve in a report."""


def ranking_scores(truth: NDArray[np.bool_], score: Floats) -> dict[str, Score]:
    """Return `average_precision` and `roc_auc` of `score` [N] for the positive rows `truth` [N]; NaN if a class is missing."""
    positives = int(truth.sum())
    if positives in (0, len(truth)):
        return {name: Score(math.nan, count=len(truth)) for name in ("average_precision", "roc_auc")}
    from sklearn.metrics import average_precision_score, roc_auc_score

    precision, area = resampled_ranking(truth, score)
    return {
        "average_precision": bootstrap_score(float(average_precision_score(truth, score)), precision, len(truth)),
        "roc_auc": bootstrap_score(float(roc_auc_score(truth, score)), area, len(truth)),
    }


def resampled_ranking(truth: NDArray[np.bool_], score: Floats) -> tuple[Floats, Floats]:
    """Return (average precision [R], ROC area [R]) of seeded bootstrap samples of the rows."""
    rng = np.random.default_rng(SEED)
    step = max(1, CHUNK // max(1, len(truth)))
    parts = []
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = rng.integers(0, len(truth), size=(size, len(truth)))
        counts = np.stack([np.bincount(row, minlength=len(truth)) for row in drawn]).astype(np.float64)
        parts.append(weighted_ranking(truth, score, counts))
    return np.concatenate([part[0] for part in parts]), np.concatenate([part[1] for part in parts])


def weighted_ranking(truth: NDArray[np.bool_], score: Floats, counts: Floats) -> tuple[Floats, Floats]:
    """Return (average precision [R], ROC area [R]) of R samples, given as the draw counts of each row, `counts` [R, N].

    Rows of equal score form one step of the curve. The rows are sorted once, so a thousand samples cost little more than
    one. A sample with only one class gives NaN.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # last row of each group of equal scores
    true_positives = np.cumsum(counts[:, order] * truth[order], axis=1)[:, ends]
    false_positives = np.cumsum(counts[:, order] * ~truth[order], axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        new_true_positives = np.diff(true_positives, axis=1, prepend=0)
        precision = np.nan_to_num(true_positives / (true_positives + false_positives))
        average_precision = (new_true_positives * precision).sum(axis=1) / true_positives[:, -1]
        new_false_positives = np.diff(false_positives, axis=1, prepend=0)
        area = (new_false_positives * (true_positives - new_true_positives / 2)).sum(axis=1) / (
            true_positives[:, -1] * false_positives[:, -1]
        )
    return average_precision, area


def curve_items(truth: NDArray[np.bool_], score: Floats, positive: str) -> list[dict[str, object]]:
    """Return charts of precision over recall and of the ROC curve, with at most MAX_POINTS points each."""
    if truth.all() or not truth.any():
        return []
    from sklearn.metrics import precision_recall_curve, roc_curve

    precision, recall, _ = precision_recall_curve(truth, score)
    false, true, _ = roc_curve(truth, score)
    prevalence = float(truth.mean())
    return [
        lines(
            f"Precision and recall of '{positive}'", "recall", "precision",
            {"model": thinned(recall[::-1], precision[::-1]), "chance": ([0.0, 1.0], [prevalence, prevalence])},
        ),
        lines(
            f"ROC curve of '{positive}'", "false positive rate", "true positive rate",
            {"model": thinned(false, true), "chance": ([0.0, 1.0], [0.0, 1.0])},
        ),
    ]  # fmt: skip


def thinned(x: Floats, y: Floats) -> tuple[list[float], list[float]]:
    """Return at most MAX_POINTS evenly spaced points of the curve, with both ends."""
    if len(x) > MAX_POINTS:
        indices = np.unique(np.linspace(0, len(x) - 1, MAX_POINTS).round().astype(np.int64))
        x, y = x[indices], y[indices]
    return [round(float(value), 6) for value in x], [round(float(value), 6) for value in y]


def lines(
    title: str, x_label: str, y_label: str, curves: dict[str, tuple[list[float], list[float]]]
) -> dict[str, object]:
    """Return a line chart with both axes from 0 to 1. All curves but the first are references and are drawn faint."""
    series = [
        {"name": name, "x": x, "y": y, **({"faint": True} if number else {})}
        for number, (name, (x, y)) in enumerate(curves.items())
    ]
    return {
        "kind": "lines", "title": title, "x_label": x_label, "y_label": y_label, "series": series, "y_range": [0, 1],
    }  # fmt: skip


def best_threshold(truth: NDArray[np.bool_], score: Floats, fallback: float = 0.5) -> float:
    """Return the threshold with the highest F1: rows at or above it are positive. `fallback` with fewer than five positives.

    The result lies midway between the best score and the next lower one: the exact score would fit the noise of the sample.
    Lipton, Elkan & Naryanaswamy (2014), Optimal Thresholding of Classifiers to Maximize F1 Measure.
    """
    if truth.sum() < 5 or truth.all():
        return fallback
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(truth, score)
    sums = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], sums, out=np.zeros_like(sums), where=sums > 0)
    best = int(f1.argmax())
    below = float(thresholds[best - 1]) if best else 0.0
    return (float(thresholds[best]) + below) / 2
