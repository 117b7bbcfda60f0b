"""Extrapolate published scores: laws fitted to a table of scores, and forecasts from the smaller models to the next size.

Two laws are fitted: L(N, D) of Hoffmann et al. (2022) over model size and training tokens (scaling_law.py), and the broken
law of Caballero et al. (2022) along one axis (broken_law.py). A forecast extrapolates one continuous score to 4 times the
compute; its error is measured on the last point, which the check leaves out.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.config.explore_curves import CurveFit
from llmstage.errors import DataError, UserError
from llmstage.research.broken_law import MIN_POINTS, fit_broken_law
from llmstage.research.curve_shapes import best_of, power, with_constant
from llmstage.research.curves import Curve, Numbers
from llmstage.research.loss_axis import find_loss
from llmstage.research.metric_names import is_lower_better, is_sharp
from llmstage.research.scaling_law import fit_scaling_law
from llmstage.research.score_curves import logged, table_curves
from llmstage.research.scores_table import ScoreTable
from llmstage.research.verdicts import Rules

MIN_SURFACE_POINTS = 20
SHARE_OF_RESAMPLES = 5
"""The law is refitted on stage.stats.bootstrap divided by this number of resamples: each is an optimization, and the
end of an interval needs hundreds, not thousands."""


def fit_table(table: ScoreTable, cfg: CurveFit, resamples: int, seed: int) -> dict[str, Any]:
    """Fit the laws that the config asks for and return the content of fits.json. It is empty where no law is asked for
    or, with law=auto, none suits the table."""
    if cfg.law == "none":
        return {}
    surface = {"params", "tokens", "loss"} <= table.axes.keys()
    if cfg.law == "chinchilla" or (cfg.law == "auto" and surface and "step" not in table.axes):
        law = chinchilla_law(table, cfg, resamples // SHARE_OF_RESAMPLES, seed)
        return {"chinchilla": law} if law else {}
    laws = broken_laws(table, cfg) if cfg.law == "broken" or "step" not in table.axes else []
    if cfg.law == "broken" and not laws:
        raise DataError(
            f"{table.path}: stage.fit.law=broken needs a loss (or another positive, continuous score) at {MIN_POINTS} "
            f"points of one axis or more."
        )
    return {"broken": laws} if laws else {}


def chinchilla_law(table: ScoreTable, cfg: CurveFit, resamples: int, seed: int) -> dict[str, Any] | None:
    """Fit Hoffmann's law over size and tokens; None with law=auto and too few points."""
    loss = find_loss(table)
    missing = [role for role in ("params", "tokens") if role not in table.axes]
    if loss is None or missing:
        raise UserError(
            f"stage.fit.law=chinchilla needs params, tokens and loss; {table.path} has no column for "
            f"{', '.join([*missing, *([] if loss else ['loss'])])}. Name it: stage.columns.{(missing or ['loss'])[0]}=<column>."
        )
    sizes, tokens, losses = table.axes["params"], table.axes["tokens"], loss.values
    usable = np.isfinite(sizes) & np.isfinite(tokens) & np.isfinite(losses) & (sizes > 0) & (tokens > 0) & (losses > 0)
    rows = without_highest(np.flatnonzero(usable), losses, cfg.drop_highest)
    if len(rows) < MIN_SURFACE_POINTS:
        if cfg.law == "auto":
            return None
        raise DataError(f"{table.path}: {len(rows)} points with size, tokens and loss; a scaling law of five parameters needs {MIN_SURFACE_POINTS}.")  # fmt: skip
    law = fit_scaling_law(sizes[rows], tokens[rows], losses[rows], resamples=resamples, seed=seed)
    return {"loss": loss.label, "dropped": int(usable.sum()) - len(rows), **law.as_dict()}


def without_highest(rows: Any, losses: Numbers, drop: int) -> Any:
    """Drop the rows of the `drop` highest losses and keep the order of the file."""
    ranked = rows[np.argsort(losses[rows], kind="stable")]
    return np.sort(ranked[: len(ranked) - drop])


def broken_laws(table: ScoreTable, cfg: CurveFit) -> list[dict[str, Any]]:
    """Fit a broken law to each loss over scale with enough points; with law=broken, over training too."""
    laws = []
    for table_curve in table_curves(table):
        curve = table_curve.curve
        is_requested = table_curve.curve_type == "scale" or cfg.law == "broken"
        if not is_requested or is_sharp(curve.metric) or not is_lower_better(curve.metric):
            continue
        usable = (curve.x > 0) & (curve.y > 0)
        rows = without_highest(np.flatnonzero(usable), curve.y, cfg.drop_highest)
        if len(np.unique(curve.x[rows])) - cfg.hold_out < MIN_POINTS:
            continue
        law = fit_broken_law(curve.x[rows], curve.y[rows], held_out=cfg.hold_out)
        laws.append({"metric": curve.metric, "model": curve.model, "x": curve.axis, **law.as_dict()})
    return laws


MAX_COMPUTE_RATIO = 4.0
"""Largest extrapolation, as a multiple of the compute of the largest model (arXiv 2411.16035 predicts so far ahead)."""
MIN_FORECAST_POINTS = 5
MIN_RANK_CORRELATION = 0.9
"""Smallest absolute Spearman correlation with the axis at which a score is forecast."""


@dataclass(slots=True)
class Forecast:
    """The forecast of one score."""

    metric: str
    axis: str
    left_out: float
    """x of the last point, which the check leaves out."""
    predicted: float
    actual: float
    error: float
    next_x: float
    next_predicted: float


def forecasts(curves: list[Curve], rules: Rules) -> list[Forecast]:
    """Forecast the continuous scores that follow their axis with a saturating power law in x, checked on the last
    point."""
    results = []
    for curve in curves:
        if not is_sharp(curve.metric) and len(curve.y) >= MIN_FORECAST_POINTS and (curve.x > 0).all():
            result = forecast(logged(curve))
            if result is not None:
                results.append(result)
    return results


def forecast(curve: Curve) -> Forecast | None:
    """Forecast one score. None where it does not follow its axis (Spearman below 0.9)."""
    from scipy.stats import spearmanr

    if (
        len(np.unique(curve.x)) < MIN_FORECAST_POINTS
        or abs(float(spearmanr(curve.x, curve.y).statistic)) < MIN_RANK_CORRELATION
    ):
        return None
    predicted = extrapolate(curve.x[:-1], curve.y[:-1], float(curve.x[-1]))
    # On a compute-optimal ladder, compute grows as the square of the size: twice the size is 4 times the compute.
    next_x = float(curve.x[-1]) * axis_ratio(curve.axis)
    actual = float(curve.y[-1])
    return Forecast(
        curve.metric, curve.axis, float(curve.x[-1]), predicted, actual, abs(predicted - actual), next_x, extrapolate(curve.x, curve.y, next_x)
    )  # fmt: skip


def axis_ratio(axis: str) -> float:
    """Return how far along an axis 4 times the compute is: the factor itself on compute, its square root on size or
    tokens."""
    return (
        MAX_COMPUTE_RATIO
        if any(word in axis.casefold() for word in ("flop", "compute", "计算"))
        else float(np.sqrt(MAX_COMPUTE_RATIO))
    )


def extrapolate(x: Numbers, y: Numbers, target: float) -> float:
    """Return the value at a larger x of the best of a line and saturating power laws in log x, by squared error."""
    log_x = np.log(np.r_[x, target])
    u = (log_x - log_x[0]) / (log_x[-1] - log_x[0])
    curves, _ = power(u, u)
    columns: Any = np.concatenate(
        [with_constant(u[None]), curves[16:]]
    )  # the first 16 of the grid bend upwards: a forecast does not assume acceleration
    known = columns[:, :-1]
    chosen, values = best_of(known, y, np.ones_like(y))
    solved = np.linalg.lstsq(known[chosen], values, rcond=None)[0]
    return float(columns[chosen, -1] @ solved)
