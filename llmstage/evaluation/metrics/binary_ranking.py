"""How well a score ranks one class before the other: average precision, ROC area, their curves, thresholds."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.intervals import CHUNK, RESAMPLES, SEED, bootstrap_score
from llmstage.evaluation.metrics.score import Score

Floats = NDArray[np.float64]
MOST_POINTS = 200
"""Points of a curve in a report."""


def ranking_scores(truth: NDArray[np.bool_], score: Floats) -> dict[str, Score]:
    """`average_precision roc_auc` of the positive rows `truth` [N] under `score` [N]; NaN where one class is missing."""
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
    """(average precision [R], ROC area [R]) of seeded bootstrap samples of the rows."""
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
    """The same for R samples given by how often each row was drawn, `counts` [R, N]; rows of equal score are one step.

    The sort is done once, so a thousand samples cost little more than one; NaN where a sample has one class only.
    """
    order = np.argsort(-score, kind="stable")
    ends = np.append(np.flatnonzero(np.diff(score[order])), len(order) - 1)  # last row of each group of equal scores
    up = np.cumsum(counts[:, order] * truth[order], axis=1)[:, ends]
    down = np.cumsum(counts[:, order] * ~truth[order], axis=1)[:, ends]
    with np.errstate(invalid="ignore", divide="ignore"):
        gained = np.diff(up, axis=1, prepend=0)
        precision = np.nan_to_num(up / (up + down))
        average = (gained * precision).sum(axis=1) / up[:, -1]
        passed = np.diff(down, axis=1, prepend=0)
        area = (passed * (up - gained / 2)).sum(axis=1) / (up[:, -1] * down[:, -1])
    return average, area


def curve_exhibits(truth: NDArray[np.bool_], score: Floats, positive: str) -> list[dict[str, object]]:
    """Precision over recall and the ROC curve, as scikit-learn draws their points, thinned for the page."""
    if truth.all() or not truth.any():
        return []
    from sklearn.metrics import precision_recall_curve, roc_curve

    precision, recall, _ = precision_recall_curve(truth, score)
    false, true, _ = roc_curve(truth, score)
    share = float(truth.mean())
    return [
        lines(
            f"Precision and recall of '{positive}'", "recall", "precision",
            {"model": thinned(recall[::-1], precision[::-1]), "chance": ([0.0, 1.0], [share, share])},
        ),
        lines(
            f"ROC curve of '{positive}'", "false positive rate", "true positive rate",
            {"model": thinned(false, true), "chance": ([0.0, 1.0], [0.0, 1.0])},
        ),
    ]  # fmt: skip


def thinned(x: Floats, y: Floats) -> tuple[list[float], list[float]]:
    """At most MOST_POINTS points, evenly spread along the curve, both ends kept."""
    if len(x) > MOST_POINTS:
        kept = np.unique(np.linspace(0, len(x) - 1, MOST_POINTS).round().astype(np.int64))
        x, y = x[kept], y[kept]
    return [round(float(value), 6) for value in x], [round(float(value), 6) for value in y]


def lines(
    title: str, x_label: str, y_label: str, curves: dict[str, tuple[list[float], list[float]]]
) -> dict[str, object]:
    """An exhibit of shares against shares; the second curve is the one to compare with and stands back."""
    series = [
        {"name": name, "x": x, "y": y, **({"faint": True} if number else {})}
        for number, (name, (x, y)) in enumerate(curves.items())
    ]
    return {
        "kind": "lines", "title": title, "x_label": x_label, "y_label": y_label, "series": series, "y_range": [0, 1],
    }  # fmt: skip


def best_threshold(truth: NDArray[np.bool_], score: Floats, fallback: float = 0.5) -> float:
    """The score from which on a row is called positive so that F1 is highest; `fallback` with under five positives.

    Between the chosen score and the next lower one the middle is taken: the exact score would fit the sample's noise.
    Lipton, Elkan & Naryanaswamy (2014), Optimal Thresholding of Classifiers to Maximize F1 Measure.
    """
    if truth.sum() < 5 or truth.all():
        return fallback
    from sklearn.metrics import precision_recall_curve

    precision, recall, thresholds = precision_recall_curve(truth, score)
    both = precision[:-1] + recall[:-1]
    f1 = np.divide(2 * precision[:-1] * recall[:-1], both, out=np.zeros_like(both), where=both > 0)
    place = int(f1.argmax())
    below = float(thresholds[place - 1]) if place else 0.0
    return (float(thresholds[place]) + below) / 2
