"""Temperature scaling and the reliability of stated probabilities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.binary_ranking import lines

NUM_BINS = 15


def fit_temperature(logits: NDArray[np.float64], truth: NDArray[np.int64]) -> float:
    """T > 0 that minimises the log-loss of softmax(logits / T) [N, C] on the validation split; the order stays.

    Guo et al. (2017), On Calibration of Modern Neural Networks, section 4.2. Bounded to 0.05…20: on a split without a
    mistake the best T would be 0 and every later mistake would cost without end.
    """

    def log_loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        scaled = scaled - scaled.max(axis=1, keepdims=True)
        return float((np.log(np.exp(scaled).sum(axis=1)) - scaled[np.arange(len(truth)), truth]).mean())

    return smallest(log_loss)


def fit_temperature_multilabel(logits: NDArray[np.float64], truth: NDArray[np.bool_]) -> float:
    """The same for sigmoid(logits / T) [N, K] against hits [N, K]."""

    def log_loss(log_t: float) -> float:
        scaled = logits / np.exp(log_t)
        return float((np.logaddexp(0, scaled) - scaled * truth).mean())

    return smallest(log_loss)


def smallest(log_loss: object) -> float:
    from scipy.optimize import minimize_scalar

    found = minimize_scalar(log_loss, bounds=(np.log(0.05), np.log(20)), method="bounded", options={"xatol": 1e-4})
    return round(float(np.exp(found.x)), 6)


def reliability(confidence: NDArray[np.float64], right: NDArray[np.bool_]) -> list[dict[str, Any]]:
    """How often what was said with some confidence was right: a curve and a table over 15 bins of equal width."""
    bins = np.clip(np.ceil(confidence * NUM_BINS).astype(np.int64) - 1, 0, NUM_BINS - 1)
    said, found, rows = [], [], []
    for index in range(NUM_BINS):
        inside = bins == index
        if inside.any():
            said.append(round(float(confidence[inside].mean()), 6))
            found.append(round(float(right[inside].mean()), 6))
            edges = f"{index / NUM_BINS:.2f} to {(index + 1) / NUM_BINS:.2f}"
            rows.append([edges, str(int(inside.sum())), f"{said[-1]:.3f}", f"{found[-1]:.3f}"])
    chart = lines(
        "Reliability of the stated confidence", "mean confidence", "share that is right",
        {"model": (said, found), "perfect": ([0.0, 1.0], [0.0, 1.0])},
    )  # fmt: skip
    table = {
        "kind": "table", "title": "Reliability by confidence",
        "columns": ["confidence", "rows", "mean confidence", "right"], "rows": rows,
    }  # fmt: skip
    return [chart, table]
