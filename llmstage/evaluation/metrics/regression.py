"""Scores of predicted numbers, in the unit of the data."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.score import Z95, Score, bootstrap_score, mean, ratio, resampled_sums

Floats = NDArray[np.float64]


def regression_scores(predicted: Floats, expected: Floats) -> dict[str, Score]:
    """Return `mae rmse r2 spearman` of values [N] in the unit of the data."""
    from sklearn.metrics import r2_score

    errors = predicted - expected
    r2, resampled_r2 = math.nan, np.full(1, math.nan)
    if len(expected) > 1 and np.ptp(expected) > 0:
        r2 = float(r2_score(expected, predicted))
        # Subtract the mean: it changes no variance and avoids cancellation of large values (prices, years).
        centred = expected - expected.mean()
        sums = resampled_sums(np.stack([errors**2, centred, centred**2], axis=1))
        with np.errstate(invalid="ignore", divide="ignore"):
            resampled_r2 = 1 - sums[:, 0] / (sums[:, 2] - sums[:, 1] ** 2 / len(expected))
    return {
        "mae": mean(np.abs(errors), higher_is_better=False),
        "rmse": ratio(errors**2, np.ones_like(errors), np.sqrt, higher_is_better=False),
        "r2": bootstrap_score(r2, resampled_r2, len(expected)),
        "spearman": spearman(predicted, expected),
    }


def spearman(predicted: Floats, expected: Floats) -> Score:
    """Return the rank correlation of scipy with the interval of Bonett & Wright (2000), Psychometrika 65:23-28.

    The interval is Fisher's z with standard error sqrt((1 + rho²/2) / (N - 3)). Equal predictions give 0: they rank nothing.
    """
    from scipy.stats import spearmanr

    num = len(expected)
    if num < 2 or np.ptp(expected) == 0:
        return Score(math.nan, count=num)
    if np.ptp(predicted) == 0:
        return Score(0.0, count=num)
    rho = float(spearmanr(predicted, expected).statistic)
    if num < 4 or abs(rho) >= 1 - 1e-12:
        return Score(rho, count=num)
    half = Z95 * math.sqrt((1 + rho * rho / 2) / (num - 3))
    middle = math.atanh(rho)
    return Score(rho, math.tanh(middle - half), math.tanh(middle + half), num, "fisher")


def quantile_items(predicted: Floats, expected: Floats) -> list[dict[str, object]]:
    """Return a chart of the predictions by true value, in up to twenty groups of equal size: median, and 10 % to 90 %."""
    groups = np.array_split(np.argsort(expected, kind="stable"), min(20, len(expected)))
    true = [float(np.median(expected[group])) for group in groups]
    percentiles = np.array([np.percentile(predicted[group], [10, 50, 90]) for group in groups])
    model = {
        "name": "predicted (median, 10 % to 90 %)", "x": true, "y": percentiles[:, 1].tolist(),
        "low": percentiles[:, 0].tolist(), "high": percentiles[:, 2].tolist(),
    }  # fmt: skip
    exact = {"name": "exact", "x": [true[0], true[-1]], "y": [true[0], true[-1]], "faint": True}
    return [
        {
            "kind": "lines", "title": "Predicted against true values", "x_label": "true value (median of a twentieth)",
            "y_label": "predicted", "series": [model, exact], "log_y": False,
        }
    ]  # fmt: skip
