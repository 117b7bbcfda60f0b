"""Temperature scaling, and the reliability diagram of predicted probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.binary_ranking import lines

NUM_BINS = 15


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """Return the T > 0 that minimises the log-loss of softmax(logits / T) [N, C]. T does not change the order of the classes.

    Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2. T lies in 0.05…20: on a split without
    errors the best T would be 0, and every later error would have an infinite loss.
    """

    def log_loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]).mean())

    return minimize_log_loss(log_loss)


def fit_temperature_multilabel(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """Return the T > 0 that minimises the log-loss of sigmoid(logits / T) [N, K] against labels 0 or 1 [N, K]."""

    def log_loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float((np.logaddexp(0, scaled) - scaled * truth).mean())

    return minimize_log_loss(log_loss)


def minimize_log_loss(log_loss: object) -> float:
    """Return the temperature that minimises `log_loss(log(temperature))`."""
    from scipy.optimize import minimize_scalar

    result = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(result.x)), 6)


def reliability(confidence: NDArray[np.float64], correct: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """Return a chart and a table of the accuracy by confidence, over 15 bins of equal width."""
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    mean_confidences, accuracies, rows = [], [], []
    for index in range(NUM_BINS):
        inside = bins == index
        if inside.any():
            mean_confidences.append(round(float(confidence[inside].mean()), 6))
            accuracies.append(round(float(correct[inside].mean()), 6))
            edges = f"{index / NUM_BINS:.2f} to {(index + 1) / NUM_BINS:.2f}"
            rows.append([edges, str(int(inside.sum())), f"{mean_confidences[-1]:.3f}", f"{accuracies[-1]:.3f}"])
    chart = lines(
        "Reliability diagram", "mean confidence", "accuracy",
        {"model": (mean_confidences, accuracies), "perfect": ([0.0, 1.0], [0.0, 1.0])},
    )  # fmt: skip
    table = {
        "kind": "table", "title": "Reliability by confidence",
        "columns": ["confidence", "rows", "mean confidence", "accuracy"], "rows": rows,
    }  # fmt: skip
    return [chart, table]
