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
from llmstage.research.broken_law import FEWEST, fit_broken_law
from llmstage.research.curve_shapes import best_of, power, with_constant
from llmstage.research.curves import Curve, Numbers
from llmstage.research.loss_axis import find_loss
from llmstage.research.metric_names import is_lower_better, is_sharp
from llmstage.research.scaling_law import fit_scaling_law
from llmstage.research.score_curves import logged, placed_curves
from llmstage.research.scores_table import ScoreTable
from llmstage.research.verdicts import Rules

FEWEST_SURFACE = 20
SHARE_OF_RESAMPLES = 5
"""A law is fitted to this part of stage.stats.bootstrap resamples: each is an optimisation, and an end of an interval
needs hundreds, not thousands."""


def fit_table(table: ScoreTable, cfg: CurveFit, resamples: int, seed: int) -> dict[str, Any]:
    """What goes to fits.json; empty where no law was asked for or, with law=auto, none suits the table."""
    if cfg.law == "none":
        return {}
    surface = {"params", "tokens", "loss"} <= table.axes.keys()
    if cfg.law == "chinchilla" or (cfg.law == "auto" and surface and "step" not in table.axes):
        found = chinchilla(table, cfg, resamples // SHARE_OF_RESAMPLES, seed)
        return {"chinchilla": found} if found else {}
    found_broken = broken(table, cfg) if cfg.law == "broken" or "step" not in table.axes else []
    if cfg.law == "broken" and not found_broken:
        raise DataError(
            f"{table.shown}: stage.fit.law=broken needs a loss (or another positive, continuous score) at {FEWEST} places of "
            f"one axis or more."
        )
    return {"broken": found_broken} if found_broken else {}


def chinchilla(table: ScoreTable, cfg: CurveFit, resamples: int, seed: int) -> dict[str, Any] | None:
    loss = find_loss(table)
    missing = [role for role in ("params", "tokens") if role not in table.axes]
    if loss is None or missing:
        raise UserError(
            f"stage.fit.law=chinchilla needs params, tokens and loss; {table.shown} has no column for "
            f"{', '.join([*missing, *([] if loss else ['loss'])])}. Name it: stage.columns.{(missing or ['loss'])[0]}=<column>."
        )
    sizes, tokens, losses = table.axes["params"], table.axes["tokens"], loss.values
    good = np.isfinite(sizes) & np.isfinite(tokens) & np.isfinite(losses) & (sizes > 0) & (tokens > 0) & (losses > 0)
    kept = without_highest(np.flatnonzero(good), losses, cfg.drop_highest)
    if len(kept) < FEWEST_SURFACE:
        if cfg.law == "auto":
            return None
        raise DataError(f"{table.shown}: {len(kept)} points with size, tokens and loss; a scaling law of five parameters needs {FEWEST_SURFACE}.")  # fmt: skip
    law = fit_scaling_law(sizes[kept], tokens[kept], losses[kept], resamples=resamples, seed=seed)
    return {"loss": loss.label, "dropped": int(good.sum()) - len(kept), **law.as_dict()}


def without_highest(rows: Any, losses: Numbers, drop: int) -> Any:
    """The rows but those of the `drop` highest losses, in the file's order."""
    ranked = rows[np.argsort(losses[rows], kind="stable")]
    return np.sort(ranked[: len(ranked) - drop])


def broken(table: ScoreTable, cfg: CurveFit) -> list[dict[str, Any]]:
    """A broken law for each loss over scale with enough points; with law=broken, over training too."""
    found = []
    for placed in placed_curves(table):
        curve = placed.curve
        wanted = placed.kind == "scale" or cfg.law == "broken"
        if not wanted or is_sharp(curve.metric) or not is_lower_better(curve.metric):
            continue
        good = (curve.x > 0) & (curve.y > 0)
        rows = without_highest(np.flatnonzero(good), curve.y, cfg.drop_highest)
        if len(np.unique(curve.x[rows])) - cfg.hold_out < FEWEST:
            continue
        law = fit_broken_law(curve.x[rows], curve.y[rows], held_out=cfg.hold_out)
        found.append({"metric": curve.metric, "model": curve.model, "x": curve.axis, **law.as_dict()})
    return found


FARTHEST = 4.0
"""Times the compute of the largest model beyond which nothing is said (arXiv 2411.16035 predicts so far ahead)."""
FEWEST_POINTS = 5
MIN_RANK_CORRELATION = 0.9


@dataclass(slots=True)
class Forecast:
    """One score's forecast."""

    metric: str
    axis: str
    left_out: float
    """x of the last point, which the check leaves out."""
    said: float
    was: float
    error: float
    next_x: float
    next_said: float


def forecasts(curves: list[Curve], rules: Rules) -> list[Forecast]:
    """For continuous scores that follow their axis: a saturating power law in x, checked on the last point."""
    found = []
    for curve in curves:
        if not is_sharp(curve.metric) and len(curve.y) >= FEWEST_POINTS and (curve.x > 0).all():
            told = forecast(logged(curve))
            if told is not None:
                found.append(told)
    return found


def forecast(curve: Curve) -> Forecast | None:
    """None where the score does not follow its axis (Spearman below 0.9): a wish, not a forecast."""
    from scipy.stats import spearmanr

    if (
        len(np.unique(curve.x)) < FEWEST_POINTS
        or abs(float(spearmanr(curve.x, curve.y).statistic)) < MIN_RANK_CORRELATION
    ):
        return None
    said = extrapolate(curve.x[:-1], curve.y[:-1], float(curve.x[-1]))
    # Compute grows with size to the power 2 on a compute-optimal ladder; twice the size is then 4 times the compute.
    next_x = float(curve.x[-1]) * reach(curve.axis)
    was = float(curve.y[-1])
    return Forecast(
        curve.metric, curve.axis, float(curve.x[-1]), said, was, abs(said - was), next_x, extrapolate(curve.x, curve.y, next_x)
    )  # fmt: skip


def reach(axis: str) -> float:
    """How far along an axis 4 times the compute is: itself on compute, its square root on size or tokens."""
    return (
        FARTHEST if any(word in axis.casefold() for word in ("flop", "compute", "计算")) else float(np.sqrt(FARTHEST))
    )


def extrapolate(x: Numbers, y: Numbers, at: float) -> float:
    """The best of a line and saturating power laws in log x, by squared error, at a larger x."""
    places = np.log(np.r_[x, at])
    u = (places - places[0]) / (places[-1] - places[0])
    curves, _ = power(u, u)
    columns: Any = np.concatenate(
        [with_constant(u[None]), curves[16:]]
    )  # the first 16 bend upwards: no forecast on hope
    known = columns[:, :-1]
    chosen, values = best_of(known, y, np.ones_like(y))
    solved = np.linalg.lstsq(known[chosen], values, rcond=None)[0]
    return float(columns[chosen, -1] @ solved)
