"""Forecasts from the smaller models to the next size, shown with the error they made where the answer is known."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.research.curve_shapes import best_of, power, with_constant
from llmstage.research.curves import Curve, Numbers
from llmstage.research.metric_names import is_sharp
from llmstage.research.score_curves import logged
from llmstage.research.verdicts import Rules

FARTHEST = 4.0
"""Times the compute of the largest model beyond which nothing is said (arXiv 2411.16035 predicts so far ahead)."""
FEWEST = 5
ORDERED = 0.9


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
        if not is_sharp(curve.metric) and len(curve.y) >= FEWEST and (curve.x > 0).all():
            told = forecast(logged(curve))
            if told is not None:
                found.append(told)
    return found


def forecast(curve: Curve) -> Forecast | None:
    """None where the score does not follow its axis (Spearman below 0.9): a wish, not a forecast."""
    from scipy.stats import spearmanr

    if len(np.unique(curve.x)) < FEWEST or abs(float(spearmanr(curve.x, curve.y).statistic)) < ORDERED:
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
