"""Scores of one label a row: values by scikit-learn, intervals by Wilson and by the bootstrap."""

from __future__ import annotations

import math
import warnings
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmstage.errors import DataError
from llmstage.evaluation.metrics.intervals import CHUNK, RESAMPLES, SEED, bootstrap_score, mean, proportion
from llmstage.evaluation.metrics.score import Score

NUM_BINS = 15


def classification_scores(
    predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str], probabilities: ArrayLike | None = None
) -> dict[str, Score]:
    """`accuracy macro_f1 micro_f1 weighted_f1 mcc`, and `ece brier` where `probabilities` [N, C] are given.

    Columns of `probabilities` follow `labels`. F1 means are over the labels that occur in `expected` or `predicted`, as
    `sklearn.metrics.f1_score` takes them. With one label a row, micro F1 is the accuracy and has its Wilson interval.
    """
    check_labels(predicted, expected, labels)
    accuracy = proportion([guess == truth for guess, truth in zip(predicted, expected, strict=True)])
    if not expected:
        return {name: Score(math.nan) for name in ("accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc")}
    from sklearn.metrics import f1_score, matthews_corrcoef

    truth, guess = indices(expected, labels), indices(predicted, labels)
    resampled = bootstrap_confusion(truth, guess, len(labels))
    scores = {"accuracy": accuracy}
    for average in ("macro", "micro", "weighted"):
        name, value = f"{average}_f1", float(f1_score(truth, guess, average=average, zero_division=0))
        scores[name] = (
            replace(accuracy, value=value)
            if average == "micro"
            else bootstrap_score(value, resampled[name], len(truth))
        )
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="A single label was found")  # its answer, 0, is the one wanted
        scores["mcc"] = bootstrap_score(float(matthews_corrcoef(truth, guess)), resampled["mcc"], len(truth))
    if probabilities is not None:
        shares = np.asarray(probabilities, dtype=np.float64)
        scores["ece"] = calibration_error(shares, truth)
        scores["brier"] = brier(shares, truth)
    return scores


def calibration_error(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Score:
    """Expected calibration error of the top label: mean over 15 equal-width bins of |accuracy - confidence|.

    Naeini, Cooper & Hauskrecht (2015), AAAI; Guo et al. (2017), ICML, equation 3. No interval: resampling adds noise to
    each bin and an absolute value turns noise into error, so a bootstrap interval can lie above the value itself.
    """
    confidence = probabilities.max(axis=1)
    gap = (probabilities.argmax(axis=1) == truth) - confidence
    # Bins are (k/15, (k+1)/15], so that a confidence of exactly 1 falls into the last.
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    value = float(np.abs(np.bincount(bins, weights=gap, minlength=NUM_BINS)).sum() / len(truth))
    return Score(value, None, None, len(truth), "", higher_is_better=False)


def brier(probabilities: NDArray[np.float64], truth: NDArray[np.int64]) -> Score:
    """Squared distance of probabilities [N, C] from the truth, summed over classes: 0 to 2 (Brier 1950, MWR 78:1-3)."""
    from sklearn.metrics import brier_score_loss

    num_labels = probabilities.shape[1]
    shares = probabilities / probabilities.sum(axis=1, keepdims=True)  # float32 rows miss 1 by more than sklearn bears
    spread = mean(((shares - np.eye(num_labels)[truth]) ** 2).sum(axis=1), higher_is_better=False)
    if num_labels < 2:
        return spread
    value = float(brier_score_loss(truth, shares, labels=list(range(num_labels)), scale_by_half=False))
    return Score(value, spread.low, spread.high, len(truth), spread.method, higher_is_better=False)


def classification_report_text(predicted: Sequence[str], expected: Sequence[str]) -> str:
    """Precision, recall and F1 of each label as scikit-learn prints them, with four digits."""
    from sklearn.metrics import classification_report

    return str(classification_report(expected, predicted, digits=4, zero_division=0))


def confusion(predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str]) -> list[list[int]]:
    """Counts [C, C] in the order of `labels`: a row for each expected label, a column for each predicted one."""
    check_labels(predicted, expected, labels)
    return count_pairs(indices(expected, labels), indices(predicted, labels), len(labels)).tolist()  # type: ignore[no-any-return]


def check_labels(predicted: Sequence[str], expected: Sequence[str], labels: Sequence[str]) -> None:
    """Raise DataError where a label is not among `labels`."""
    strange = sorted({*predicted, *expected} - set(labels))
    if strange:
        raise DataError(
            f"{len(strange)} label(s) are not among the model's {len(labels)}: {', '.join(map(repr, strange[:5]))}. "
            f"Score with the labels the model was trained on, or check data.columns.label."
        )


def indices(names: Sequence[str], labels: Sequence[str]) -> NDArray[np.int64]:
    """Names as positions in `labels` [N]."""
    place = {label: number for number, label in enumerate(labels)}
    return np.array([place[name] for name in names], dtype=np.int64)


def count_pairs(truth: NDArray[np.int64], guess: NDArray[np.int64], num_labels: int) -> NDArray[np.int64]:
    """The confusion matrix [C, C]: rows are the truth."""
    return np.bincount(truth * num_labels + guess, minlength=num_labels**2).reshape(num_labels, num_labels)


def bootstrap_confusion(
    truth: NDArray[np.int64], guess: NDArray[np.int64], num_labels: int
) -> dict[str, NDArray[np.float64]]:
    """`macro_f1 weighted_f1 mcc` of 1000 seeded resamples.

    Drawing N rows with replacement and counting them is, exactly, drawing the confusion matrix's cells from a
    multinomial with the cells' shares; so the cells are drawn, and a million rows cost no more than a hundred.
    """
    cells, counts = np.unique(truth * num_labels + guess, return_counts=True)
    rows, columns = np.divmod(cells, num_labels)
    used = np.unique(np.concatenate([rows, columns]))  # a label that never occurs would only cost time
    is_row, is_column = (rows[:, None] == used).astype(np.float64), (columns[:, None] == used).astype(np.float64)
    rng = np.random.default_rng(SEED)
    step = max(1, CHUNK // max(len(cells), len(used)))
    parts: dict[str, list[NDArray[np.float64]]] = {"macro_f1": [], "weighted_f1": [], "mcc": []}
    for start in range(0, RESAMPLES, step):
        size = min(step, RESAMPLES - start)
        drawn = rng.multinomial(len(truth), counts / len(truth), size=size).astype(np.float64)  # [R, cells]
        found = scores_of_sums(drawn @ (is_row * is_column), drawn @ is_row, drawn @ is_column)
        for name, values in found.items():
            parts[name].append(values)
    return {name: np.concatenate(values) for name, values in parts.items()}


def scores_of_sums(
    hits: NDArray[np.float64], expected: NDArray[np.float64], predicted: NDArray[np.float64]
) -> dict[str, NDArray[np.float64]]:
    """F1 means and MCC (Gorodkin 2004) of R confusion matrices, given as diagonals, row sums and column sums [R, C]."""
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
