"""A score along an axis, and BIG-bench's two measures of its shape: linearity and breakthroughness."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

Numbers = NDArray[np.float64]
AxisKind = Literal["log", "training", "loss", "plain"]
"""log: sizes, compute, examples; training: steps or tokens, which may begin at 0; loss: nats or bits, a logarithm already;
plain: as it is."""


@dataclass(slots=True)
class Curve:
    """Scores [N] of one metric, ordered by x [N]."""

    metric: str
    x: Numbers
    y: Numbers
    error: Numbers
    """Standard error of each score from its items; NaN where unknown."""
    axis: str
    """Name of x."""
    axis_kind: AxisKind = "log"
    model: str = "*"
    seed_sd: float | None = None
    """Spread of a score between seeds; None: unknown, so that scatter around a curve is estimated from the curve."""
    items: int | None = None
    """Items behind each score, where known; the fewest of the curve."""
    finals: tuple[float, ...] = ()
    """The last point's score of each seed."""

    def by(self, axis: str, x: ArrayLike, kind: AxisKind = "plain") -> Curve:
        """The same scores along another axis."""
        order = np.argsort(np.asarray(x, dtype=np.float64), kind="stable")
        return Curve(
            self.metric, np.asarray(x, dtype=np.float64)[order], self.y[order], self.error[order], axis, kind,
            self.model, self.seed_sd, self.items, self.finals,
        )  # fmt: skip


def improvement(y: ArrayLike) -> float:
    """I = sign(argmax - argmin) (max - min): how far a curve goes, positive where its top comes after its bottom."""
    values = np.asarray(y, dtype=np.float64)
    if len(values) == 0:
        return 0.0
    return float(np.sign(int(values.argmax()) - int(values.argmin())) * (values.max() - values.min()))


def linearity(y: ArrayLike) -> float:
    """I / sqrt(mean of squared steps) (BIG-bench, arXiv 2206.04615, appendix B); n - 1 for a straight line."""
    return _over_steps(y, lambda squares: float(np.mean(squares)))


def breakthroughness(y: ArrayLike) -> float:
    """I / sqrt(median of squared steps) (the same source); n - 1 for a straight line, infinite for one jump."""
    return _over_steps(y, lambda squares: float(np.median(squares)))


def _over_steps(y: ArrayLike, middle: Any) -> float:
    values = np.asarray(y, dtype=np.float64)
    whole = improvement(values)
    if whole == 0:
        return 0.0
    typical = math.sqrt(middle(np.diff(values) ** 2))
    return whole / typical if typical > 0 else math.copysign(math.inf, whole)


def p_of_breakthroughness(curve: Curve, noise: Numbers, *, trials: int = 1000, seed: int = 0) -> float:
    """How often a straight line with this noise [N] is as breakthrough as the curve: B alone is no evidence.

    The best weighted line over the points' places is simulated with the errors, its values rounded to whole items where
    their number is known (a few items give equal neighbours, and equal neighbours a large B).
    """
    num = len(curve.y)
    whole = improvement(curve.y)
    if num < 3 or whole == 0:
        return 1.0
    found = abs(breakthroughness(curve.y))
    places = np.arange(num, dtype=np.float64)
    safe = np.maximum(noise, 1e-12)
    slope, start = np.polyfit(places, curve.y, 1, w=1 / safe)
    rng = np.random.default_rng(seed)
    drawn = start + slope * places + noise * rng.standard_normal((trials, num))
    if curve.items:
        drawn = np.round(drawn * curve.items) / curve.items
    gaps = np.sqrt(np.median(np.diff(drawn, axis=1) ** 2, axis=1))
    span = drawn.max(axis=1) - drawn.min(axis=1)
    same_way = np.sign(drawn.argmax(axis=1) - drawn.argmin(axis=1)) == np.sign(whole)
    with np.errstate(divide="ignore", invalid="ignore"):
        simulated = np.where(same_way & (span > 0), span / gaps, 0.0)
    return (int(np.count_nonzero(simulated >= found)) + 1) / (trials + 1)


def told(value: float) -> float | str:
    """A number for JSON, which knows no infinity."""
    return value if math.isfinite(value) else ("inf" if value > 0 else "-inf")


def first_tenth(y: ArrayLike, share: float = 0.1) -> int:
    """Place of the first point by which a curve has made `share` of its whole change, from its first to its last point."""
    values = np.asarray(y, dtype=np.float64)
    whole = values[-1] - values[0]
    if whole == 0:
        return len(values) - 1
    return int(np.argmax((values - values[0]) / whole >= share))
