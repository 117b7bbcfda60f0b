"""A score along an axis, and BIG-bench's two measures of its shape: linearity and breakthroughness.

Srivastava et al. 2022 (arXiv 2206.04615), appendix B.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
AxisKind = Literal["log", "training", "loss", "plain"]
"""log: sizes, compute, number of examples. training: steps or tokens, which may start at 0. loss: nats or bits, which
are logarithms already. plain: no transformation."""


@dataclass(slots=True)
class Curve:
    """Scores [N] of one metric, ordered by x [N]."""

    metric: str
    x: Numbers
    y: Numbers
    error: Numbers
    """Standard error of each score over its items; NaN where unknown."""
    axis: str
    """Name of x."""
    axis_kind: AxisKind = "log"
    model: str = "*"
    seed_sd: float | None = None
    """Standard deviation of a score between seeds. None: unknown, so the scatter around a curve is estimated from the
    curve."""
    items: int | None = None
    """Number of items behind each score, where known; the smallest along the curve."""
    finals: tuple[float, ...] = ()
    """The score of each seed at the last point."""

    def by(self, axis: str, x: ArrayLike, axis_kind: AxisKind = "plain") -> Curve:
        """Return the same scores along another axis."""
        order = np.argsort(np.asarray(x, dtype=np.float64), kind="stable")
        return Curve(
            self.metric, np.asarray(x, dtype=np.float64)[order], self.y[order], self.error[order], axis, axis_kind,
            self.model, self.seed_sd, self.items, self.finals,
        )  # fmt: skip


def improvement(y: ArrayLike) -> float:
    """I = sign(argmax - argmin) (max - min): the range of a curve, positive where its maximum comes after its minimum."""
    values = np.asarray(y, dtype=np.float64)
    if len(values) == 0:
        return 0.0
    return float(np.sign(int(values.argmax()) - int(values.argmin())) * (values.max() - values.min()))


def linearity(y: ArrayLike) -> float:
    """I / sqrt(mean of squared steps) (BIG-bench, arXiv 2206.04615, appendix B); n - 1 for a straight line."""
    return _improvement_over_step(y, lambda squares: float(np.mean(squares)))


def breakthroughness(y: ArrayLike) -> float:
    """I / sqrt(median of squared steps) (same source); n - 1 for a straight line, infinite for a single jump."""
    return _improvement_over_step(y, lambda squares: float(np.median(squares)))


def _improvement_over_step(y: ArrayLike, average: Any) -> float:
    values = np.asarray(y, dtype=np.float64)
    change = improvement(values)
    if change == 0:
        return 0.0
    step = math.sqrt(average(np.diff(values) ** 2))
    return change / step if step > 0 else math.copysign(math.inf, change)


def p_of_breakthroughness(curve: Curve, noise: Numbers, *, trials: int = 1000, seed: int = 0) -> float:
    """Return how often a straight line with this noise [N] is as breakthrough as the curve: B alone is no evidence.

    The best weighted line over the positions of the points is simulated with the errors. Where the number of items is
    known, simulated values are rounded to whole items, because few items give equal neighbours, and equal neighbours
    give a large B.
    """
    num = len(curve.y)
    change = improvement(curve.y)
    if num < 3 or change == 0:
        return 1.0
    observed = abs(breakthroughness(curve.y))
    positions = np.arange(num, dtype=np.float64)
    safe = np.maximum(noise, 1e-12)
    slope, start = np.polyfit(positions, curve.y, 1, w=1 / safe)
    rng = np.random.default_rng(seed)
    drawn = start + slope * positions + noise * rng.standard_normal((trials, num))
    if curve.items:
        drawn = np.round(drawn * curve.items) / curve.items
    gaps = np.sqrt(np.median(np.diff(drawn, axis=1) ** 2, axis=1))
    span = drawn.max(axis=1) - drawn.min(axis=1)
    same_direction = np.sign(drawn.argmax(axis=1) - drawn.argmin(axis=1)) == np.sign(change)
    with np.errstate(divide="ignore", invalid="ignore"):
        simulated = np.where(same_direction & (span > 0), span / gaps, 0.0)
    return (int(np.count_nonzero(simulated >= observed)) + 1) / (trials + 1)


def json_number(value: float) -> float | str:
    """Return a number as JSON can hold it: JSON has no infinity."""
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def first_tenth(y: ArrayLike, share: float = 0.1) -> int:
    """Return the index of the first point at which a curve has made `share` of its change from the first to the last
    point."""
    values = np.asarray(y, dtype=np.float64)
    change = values[-1] - values[0]
    if change == 0:
        return len(values) - 1
    return int(np.argmax((values - values[0]) / change >= share))
