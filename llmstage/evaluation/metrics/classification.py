"""Scores of class labels: one label per row, ordered levels, and several labels per row.

scikit-learn computes the values; the intervals are Wilson's and the bootstrap over rows.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmstage.errors import DataError
from llmstage.evaluation.metrics.regression import spearman
from llmstage.evaluation.metrics.score import CHUNK, RESAMPLES, SEED, Score, bootstrap_score, mean, proportion, ratio

NUM_BINS = 15

LabelMatrix = NDArray[np.bool_]
"""[N, K]: True where a row has the label."""


def classification_scores(
    predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str], probabilities: ArrayLike | None = None
) -> dict[str, Score]:
    """Return `accuracy macro_f1 micro_f1 weighted_f1 mcc`, and `ece brier` if `probabilities` [N, C] are given.

    Columns of `probabilities` are in the order of `labels`. F1 means are over the labels that occur in `expected` or
    `predicted`, as in `sklearn.metrics.f1_score`. With one label per row, micro F1 is the accuracy and has its Wilson interval.
    """
    check_labels(predicted, expected, labels)
    accuracy = proportion([guess == truth for guess, truth in zip(predicted, expected, strict=True)])
    if not expected:
        return {name: Score(math.nan) for name in ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc")}
    from sklearn.metrics import matthews_corrcoef, precision_recall_fscore_support

    truth, guess = indices(expected, labels), indices(predicted, labels)
    resampled = bootstrap_confusion(truth, guess, len(labels))
    _, _, f1, support = precision_recall_fscore_support(truth, guess, zero_division=0)
    scores = {
        "accuracy": accuracy,
        "macro_f1": bootstrap_score(float(f1.mean()), resampled["macro_f1"], len(truth)),
        "micro_f1": accuracy,
        "weighted_f1": bootstrap_score(float(np.average(f1, weights=support)), resampled["weighted_f1"], len(truth)),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")  # sklearn returns 0, which is right here
        scores["mcc"] = bootstrap_score(float(matthews_corrcoef(truth, guess)), resampled["mcc"], len(truth))
    if probabilities is not None:
        shares = np.asarray(probabilities, dtype=np.float64)
        scores["ece"] = calibration_error(shares, truth)
        scores["brier"] = brier(shares, truth)
    return scores


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Score:
    """Return the expected calibration error of the top label: mean over 15 equal-width bins of |accuracy - confidence|.

    Naeini, Cooper & Hauskrecht (2015), AAAI; Guo et al. (2017), ICML, equation 3. No interval: resampling adds noise to
    each bin and an absolute value turns noise into error, so a bootstrap interval can lie above the value.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == truth) - confidence
    # Bins are (k/15, (k+1)/15], so that a confidence of exactly 1 is in the last bin.
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    value = float(np.abs(np.bincount(bins, weights=gap, minlength=NUM_BINS)).sum() / len(truth))
    return Score(value, None, None, len(truth), "", higher_is_better=False)


def brier(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Score:
    """Return the squared distance of probabilities [N, C] from the truth, summed over classes: 0 to 2 (Brier 1950, MWR
    78:1-3)."""
    from sklearn.metrics import brier_score_loss

    num_labels = probabilities.shape[1]
    normalized = probabilities / probabilities.sum(
        axis=1, keepdims=True
    )  # the sum of float32 rows differs from 1 by more than sklearn accepts
    interval = mean(((normalized - np.eye(num_labels)[truth]) ** 2).sum(axis=1), higher_is_better=False)
    if num_labels < 2:
        return interval
    value = float(brier_score_loss(truth, normalized, labels=list(range(num_labels)), scale_by_half=False))
    return Score(value, interval.low, interval.high, len(truth), interval.method, higher_is_better=False)


def classification_report_text(predicted: Sequence[str], expected: Sequence[str]) -> str:
    """Return scikit-learn's report of precision, recall and F1 of each label, with four digits."""
    from sklearn.metrics import classification_report

    return str(classification_report(expected, predicted, digits=4, zero_division=0))


def confusion(predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Return the confusion matrix [C, C] in the order of `labels`: rows are expected labels, columns predicted ones."""
    check_labels(predicted, expected, labels)
    return count_pairs(indices(expected, labels), indices(predicted, labels), len(labels)).tolist()  # type: ignore[no-any-return]


def check_labels(predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str]) -> None:
    """Raise DataError if a label is not among `labels`."""
    unknown = sorted({*predicted, *expected} - set(labels))
    if unknown:
        raise DataError(
            f"{len(unknown)} labels are not among the {len(labels)} labels of the model: {', '.join(map(repr, unknown[:5]))}. "
            f"Use rows with the labels of the training split, or check data.columns.label."
        )


def indices(names: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Return the position of each name in `labels` [N]."""
    index_of = {label: number for number, label in enumerate(labels)}
    return np.array([index_of[name] for name in names], dtype=np.int64)


def count_pairs(truth: NDArray[np.int64], guess: NDArray[np.int64], num_labels: int) -> NDArray[np.int64]:
    """Return the confusion matrix [C, C]; rows are the truth."""
    return np.bincount(truth * num_labels + guess, minlength=num_labels**2).reshape(num_labels, num_labels)


def bootstrap_confusion(
    truth: NDArray[np.int64], guess: NDArray[np.int64], num_labels: int
) -> dict[str, NDArray[np.float64]]:
    """Return `macro_f1 weighted_f1 mcc` of 1000 seeded resamples.

    The confusion matrix of N rows drawn with replacement has a multinomial distribution with the shares of the cells. So
    the cells are drawn, and a million rows cost no more than a hundred.
    """
    cells, counts = np.unique(truth * num_labels + guess, return_counts=True)
    rows, columns = np.divmod(cells, num_labels)
    used = np.unique(np.concatenate([rows, columns]))  # a label that never occurs only costs time
    is_row, is_column = (rows[:, None] == used).astype(np.float64), (columns[:, None] == used).astype(np.float64)
    rng = np.random.default_rng(SEED)
    step = max(1, CHUNK // max(len(cells), len(used)))
    parts: dict[str, list[NDArray[np.float64]]] = {"macro_f1": [], "weighted_f1": [], "mcc": []}
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = rng.multinomial(len(truth), counts / len(truth), size=size).astype(np.float64)  # [R, cells]
        scores = scores_of_sums(drawn @ (is_row * is_column), drawn @ is_row, drawn @ is_column)
        for name, values in scores.items():
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def scores_of_sums(
    hits: NDArray[np.float64], expected: NDArray[np.float64], predicted: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """Return F1 means and MCC (Gorodkin 2004) of R confusion matrices, given as diagonals, row sums and column sums [R, C]."""
    either = expected + predicted
    f1 = np.divide(2 * hits, either, out=np.zeros_like(hits), where=either > 0)
    num = expected.sum(axis=1)
    inner = (num**2 - (expected**2).sum(axis=1)) * (num**2 - (predicted**2).sum(axis=1))
    cross = hits.sum(axis=1) * num - (expected * predicted).sum(axis=1)
    return {
        "macro_f1": f1.sum(axis=1) / (either > 0).sum(axis=1),
        "weighted_f1": (f1 * expected).sum(axis=1) / num,
        "mcc": np.divide(cross, np.sqrt(inner), out=np.zeros_like(cross), where=inner > 0),
    }


def ordinal_scores(
    predicted: NDArray[np.int64], expected: NDArray[np.int64], num_levels: int, values: NDArray[np.float64]
) -> dict[str, Score]:
    """Return `qwk mae spearman accuracy` of levels [N] counted from 0. `values` [N]: mean levels, before rounding.

    qwk is the kappa with quadratic weights (Cohen 1968, Psychological Bulletin 70:213-220) of scikit-learn. mae is the mean
    distance in levels. spearman ranks by `values`.
    """
    from sklearn.metrics import cohen_kappa_score

    levels = list(range(num_levels))
    kappa = math.nan
    if len({*predicted.tolist(), *expected.tolist()}) > 1:
        kappa = float(cohen_kappa_score(expected, predicted, weights="quadratic", labels=levels))
    resampled = bootstrap_kappa(predicted, expected, num_levels)
    return {
        "qwk": bootstrap_score(kappa, resampled, len(expected)),
        "mae": mean(np.abs(predicted - expected), higher_is_better=False),
        "spearman": spearman(values, expected.astype(np.float64)),
        "accuracy": proportion(predicted == expected),
    }


def bootstrap_kappa(predicted: NDArray[np.int64], expected: NDArray[np.int64], num_levels: int) -> NDArray[np.float64]:
    """Return the quadratic kappa of 1000 seeded resamples, drawn as confusion matrices (see `bootstrap_confusion`)."""
    cells = count_pairs(expected, predicted, num_levels).reshape(-1).astype(np.float64)
    drawn = np.random.default_rng(SEED).multinomial(len(expected), cells / cells.sum(), size=RESAMPLES)
    matrices = drawn.reshape(RESAMPLES, num_levels, num_levels).astype(np.float64)
    return quadratic_kappa(matrices)


def quadratic_kappa(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Return the kappa [R] of confusion matrices [R, C, C]; NaN if all rows are in one cell of the diagonal."""
    level = np.arange(matrices.shape[1])
    weights = (level[:, None] - level[None]).astype(np.float64) ** 2
    truth, guess = matrices.sum(axis=2), matrices.sum(axis=1)
    chance = np.einsum("ri,rj,ij->r", truth, guess, weights) / matrices.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (matrices * weights).sum(axis=(1, 2)) / chance  # type: ignore[no-any-return]


def multilabel_scores(
    predicted: LabelMatrix, expected: LabelMatrix, probabilities: NDArray[np.float64] | None = None
) -> dict[str, Score]:
    """Return `micro_f1 macro_f1 weighted_f1 samples_f1 subset_accuracy hamming_loss` of arrays [N, K].

    With `probabilities`, also return `average_precision_macro` and `average_precision_micro`. Macro means are over the labels
    that occur in `expected` or `predicted`; average precision is over those in `expected`. A row without labels and without
    predictions counts 0 in samples_f1, as in scikit-learn.
    """
    from sklearn.metrics import average_precision_score, f1_score, hamming_loss

    occurs = (predicted | expected).any(axis=0)
    # F1 means.
    num_common, num_total = (predicted & expected).sum(axis=1), predicted.sum(axis=1) + expected.sum(axis=1)
    micro = ratio(2 * num_common, num_total)
    resampled = bootstrap_labels(predicted[:, occurs], expected[:, occurs])
    row_f1 = np.divide(2.0 * num_common, num_total, out=np.zeros(len(num_common)), where=num_total > 0)
    scores = {"micro_f1": micro}
    for name in ("macro", "weighted"):
        value = (
            float(f1_score(expected[:, occurs], predicted[:, occurs], average=name, zero_division=0))
            if occurs.any()
            else 0.0
        )
        scores[f"{name}_f1"] = bootstrap_score(value, resampled[name], len(expected))
    scores["samples_f1"] = mean(row_f1)
    # Shares of rows and of cells.
    scores["subset_accuracy"] = proportion((predicted == expected).all(axis=1))
    interval = mean((predicted != expected).mean(axis=1), higher_is_better=False)
    scores["hamming_loss"] = Score(
        float(hamming_loss(expected, predicted)), interval.low, interval.high, interval.count, interval.method, False
    )
    if probabilities is not None:
        has_positives = expected.any(axis=0)
        for average in ("macro", "micro"):
            value = math.nan
            if has_positives.any():
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    value = float(
                        average_precision_score(
                            expected[:, has_positives], probabilities[:, has_positives], average=average
                        )
                    )
            scores[f"average_precision_{average}"] = Score(value, count=len(expected))
    return scores


def bootstrap_labels(predicted: LabelMatrix, expected: LabelMatrix) -> dict[str, NDArray[np.float64]]:
    """Return the `macro` and `weighted` F1 of 1000 seeded resamples of the rows."""
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
    predicted: LabelMatrix, expected: LabelMatrix, labels: Sequence[str], thresholds: Sequence[float]
) -> dict[str, object]:
    """Return a report table of precision, recall and F1 of each label."""
    from sklearn.metrics import precision_recall_fscore_support

    metrics = precision_recall_fscore_support(expected, predicted, average=None, zero_division=0)
    rows = [
        [label, f"{precision:.3f}", f"{recall:.3f}", f"{f1:.3f}", str(int(support)), f"{threshold:.3f}"]
        for label, precision, recall, f1, support, threshold in zip(labels, *metrics, thresholds, strict=True)
    ]
    columns = ["label", "precision", "recall", "F1", "rows", "threshold"]
    return {"kind": "table", "title": "Per label", "columns": columns, "rows": rows}
