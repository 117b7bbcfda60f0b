"""Compare the axes that a score may follow: held-out loss (Du et al. 2024, arXiv 2403.15796), compute or size.

The axis is compared by isotonic R²: how well a monotone function of it explains each score.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.research.curves import Numbers
from llmstage.research.metric_names import LOSSES, is_lower_better, is_perplexity, split_metric_name
from llmstage.research.scores_table import ScoreTable

WARM_UP = 0.005
"""First share of a training whose checkpoints are left out: they depend on the initialization."""
MIN_ROWS = 20


@dataclass(slots=True)
class LossAxis:
    """A loss for each row of a table."""

    column: str
    label: str
    values: Numbers
    """Nats or bits [N]; of a perplexity, its logarithm."""


@dataclass(slots=True)
class AxisComparison:
    """How well each axis orders each score."""

    rows: list[dict[str, Any]]
    """{metric, R2_loss, R2_compute, R2_params}: isotonic R²; None where the table has no such axis."""
    preferred: str
    """loss, compute or params."""


def find_loss(table: ScoreTable) -> LossAxis | None:
    """Return the column that is named as the loss, else the first loss-like metric without missing values."""
    if "loss" in table.axes:
        column = table.columns["loss"]
        return axis_of(column, table.axes["loss"])
    for metric_type in LOSSES:
        for column, values in table.metrics.items():
            if split_metric_name(column)[1] == metric_type and not np.isnan(values).any():
                return axis_of(column, values)
    return None


def axis_of(column: str, values: Numbers) -> LossAxis:
    if is_perplexity(column):
        return LossAxis(column, f"log {column}", np.log(values))
    return LossAxis(column, column, values)


def beyond_warm_up(table: ScoreTable) -> Numbers:
    """Return which rows [N] (0 or 1) lie after the warm-up of their model."""
    if "step" not in table.axes:
        return np.ones(len(table))
    steps = table.axes["step"]
    models = np.array(table.labels.get("model", ["*"] * len(table)))
    last = np.zeros(len(table))
    for name in set(models.tolist()):
        last[models == name] = np.nanmax(steps[models == name])
    return (steps >= WARM_UP * last).astype(np.float64)


def compare_axes(table: ScoreTable, loss: LossAxis | None) -> AxisComparison:
    """Compute the isotonic R² of every score on loss, compute = 6 N D and size, over all rows after the warm-up.

    Isotonic regression uses only the order of the points, so no axis wins by its scale (Barlow et al. 1972;
    scikit-learn).
    """
    selected = beyond_warm_up(table) > 0
    axes: dict[str, Numbers] = {}
    if loss is not None:
        axes["loss"] = -loss.values
    sizes, tokens = table.axes.get("params"), table.axes.get("tokens")
    if "compute" in table.axes:
        axes["compute"] = table.axes["compute"]
    elif sizes is not None and tokens is not None:
        axes["compute"] = 6 * sizes * tokens
    if sizes is not None:
        axes["params"] = sizes
    # The score that serves as the loss axis is not compared with itself.
    rows = []
    for metric, values in table.metrics.items():
        if loss is not None and metric == loss.column:
            continue
        r2 = {
            f"R2_{name}": isotonic(x[selected], values[selected], falls=is_lower_better(metric))
            for name, x in axes.items()
        }
        rows.append({"metric": metric, **{f"R2_{name}": r2.get(f"R2_{name}") for name in ("loss", "compute", "params")}})  # fmt: skip
    middle = {
        name: float(np.median([row[f"R2_{name}"] for row in rows if row[f"R2_{name}"] is not None] or [-np.inf]))
        for name in axes
    }
    # The preferred axis has the largest median R² over all scores.
    preferred = max(middle, key=lambda name: middle[name]) if middle else "params"
    return AxisComparison(rows, preferred)


def isotonic(x: Numbers, y: Numbers, *, falls: bool = False) -> float | None:
    """Return R² of the best monotone sequence over the points in order of x; None with too few points.

    Points of equal x keep the order of the file (training). This favours size, so its R² is an upper bound.
    """
    from sklearn.isotonic import isotonic_regression

    known = np.isfinite(x) & np.isfinite(y)
    if known.sum() < MIN_ROWS or np.ptp(y[known]) == 0:
        return None
    ordered = y[known][np.argsort(x[known], kind="stable")]
    fitted = isotonic_regression(ordered, increasing=not falls)
    return float(1 - ((ordered - fitted) ** 2).sum() / ((ordered - ordered.mean()) ** 2).sum())
