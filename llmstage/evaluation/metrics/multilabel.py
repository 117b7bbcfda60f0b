"""Scores of several labels a row: values by scikit-learn, intervals by the bootstrap over rows."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.intervals import CHUNK, RESAMPLES, SEED, bootstrap_score, mean, proportion, ratio
from llmstage.evaluation.metrics.score import Score

Hits = NDArray[np.bool_]


def multilabel_scores(
    predicted: Hits, expected: Hits, probabilities: NDArray[np.float64] | None = None
) -> dict[str, Score]:
    """`micro_f1 macro_f1 weighted_f1 samples_f1 subset_accuracy hamming_loss`, and `average_precision_macro`,
    `average_precision_micro` where `probabilities` are given; all arrays are [N, K].

    Macro means are over the labels that occur in `expected` or `predicted`; average precision over those in `expected`.
    A row with no label and none predicted counts 0 in samples_f1, as in scikit-learn.
    """
    from sklearn.metrics import average_precision_score, f1_score, hamming_loss

    used = (predicted | expected).any(axis=0)
    both, either = (predicted & expected).sum(axis=1), predicted.sum(axis=1) + expected.sum(axis=1)
    micro = ratio(2 * both, either)
    resampled = bootstrap_labels(predicted[:, used], expected[:, used])
    by_row = np.divide(2.0 * both, either, out=np.zeros(len(both)), where=either > 0)
    scores = {"micro_f1": micro}
    for name in ("macro", "weighted"):
        value = (
            float(f1_score(expected[:, used], predicted[:, used], average=name, zero_division=0)) if used.any() else 0.0
        )
        scores[f"{name}_f1"] = bootstrap_score(value, resampled[name], len(expected))
    scores["samples_f1"] = mean(by_row)
    scores["subset_accuracy"] = proportion((predicted == expected).all(axis=1))
    spread = mean((predicted != expected).mean(axis=1), higher_is_better=False)
    scores["hamming_loss"] = Score(
        float(hamming_loss(expected, predicted)), spread.low, spread.high, spread.count, spread.method, False
    )
    if probabilities is not None:
        some = expected.any(axis=0)
        for average in ("macro", "micro"):
            value = math.nan
            if some.any():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = float(average_precision_score(expected[:, some], probabilities[:, some], average=average))
            scores[f"average_precision_{average}"] = Score(value, count=len(expected))
    return scores


def bootstrap_labels(predicted: Hits, expected: Hits) -> dict[str, NDArray[np.float64]]:
    """`macro weighted` F1 of 1000 seeded resamples of the rows."""
    num, labels = expected.shape
    sums = np.concatenate([predicted & expected, expected, predicted], axis=1).astype(np.float64)  # [N, 3K]
    rng = np.random.default_rng(SEED)
    step = max(1, CHUNK // max(1, num))
    macro, weighted = [], []
    for start in range(0, RESAMPLES, step):
        drawn = rng.integers(0, num, size=(min(step, RESAMPLES - start), num))
        counts = np.stack([np.bincount(row, minlength=num) for row in drawn]).astype(np.float64)
        hits, truth, guess = np.split(counts @ sums, [labels, 2 * labels], axis=1)
        either = truth + guess
        f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
        macro.append(f1.sum(axis=1) / np.maximum(1, (either > 0).sum(axis=1)))
        weighted.append((f1 * truth).sum(axis=1) / np.maximum(1, truth.sum(axis=1)))
    return {"macro": np.concatenate(macro), "weighted": np.concatenate(weighted)}


def label_table(
    predicted: Hits, expected: Hits, labels: Sequence[str], thresholds: Sequence[float]
) -> dict[str, object]:
    """Precision, recall and F1 of each label, as an exhibit."""
    from sklearn.metrics import precision_recall_fscore_support

    found = precision_recall_fscore_support(expected, predicted, average=None, zero_division=0)
    rows = [
        [label, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", str(int(support)), f"{threshold:.3f}"]
        for label, precision, recall, f1, support, threshold in zip(labels, *found, thresholds, strict=True)
    ]
    columns = ["label", "precision", "recall", "F1", "rows", "threshold"]
    return {"kind": "table", "title": "Per label", "columns": columns, "rows": rows}
