"""Fit smooth and broken shapes to a curve by weighted least squares and compare them by AICc.

A plain test "does a hinge improve the fit?" calls every curvature a break, because items are many and errors small.
Here the best smooth shape is compared with the best broken one. The scatter between checkpoints or seeds is part of the
error: it is given, or estimated for each shape as one more parameter.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np

from llmstage.research.curves import AxisKind, Curve, Numbers

SMOOTH = ("flat", "line", "power", "exponential", "shifted_power", "sigmoid")
BROKEN = ("onset", "bent_onset", "hinge", "step")
ROUNDS = 4
"""Iterations of fitting and estimating the scatter."""
RIDGE = 1e-10


@dataclass(slots=True, frozen=True)
class FittedShape:
    """One shape, fitted to a curve."""

    name: str
    num_parameters: int
    loss: float
    """-2 log-likelihood, up to a constant that all shapes share."""
    aicc: float
    scatter: float
    """Standard deviation in addition to the errors of the items."""
    at: float | None
    """The break, as a value of x; None for smooth shapes."""
    fitted: Numbers
    """Values at the points [N]."""


@dataclass(slots=True, frozen=True)
class Comparison:
    """The best smooth shape and the best broken shape of a curve."""

    smooth: FittedShape
    broken: FittedShape
    shapes: dict[str, FittedShape]

    @property
    def delta_aicc(self) -> float:
        """AICc of the smooth shape minus that of the broken one; above 0 the broken shape fits better."""
        return self.smooth.aicc - self.broken.aicc

    @property
    def departure(self) -> float:
        """The largest difference of the two shapes at a point, as a share of the broken shape's range; 0 where that is
        flat."""
        span = float(np.ptp(self.broken.fitted))
        return float(np.abs(self.smooth.fitted - self.broken.fitted).max()) / span if span > 0 else 0.0


def compare(curve: Curve) -> Comparison:
    """Fit all shapes of the axis to a curve of four points or more."""
    shapes = {name: fit(name, curve) for name in (*SMOOTH, *BROKEN) if name in shapes_for(curve.axis_kind)}
    best_smooth = min((shapes[name] for name in SMOOTH if name in shapes), key=lambda shape: shape.aicc)
    best_broken = min((shapes[name] for name in BROKEN if name in shapes), key=lambda shape: shape.aicc)
    return Comparison(best_smooth, best_broken, shapes)


def coordinate(x: Numbers, axis_kind: AxisKind) -> Numbers:
    """Scale x to [0, 1]: its logarithm for sizes; log(1 + x / smallest positive x) for steps, which may be 0."""
    values = x
    if axis_kind in ("log", "training"):
        positive = x[x > 0]
        least = float(positive.min()) if len(positive) else 1.0
        values = np.log1p(x / least) if axis_kind == "training" or len(positive) < len(x) else np.log(x)
    span = float(np.ptp(values))
    return (values - values.min()) / span if span > 0 else np.zeros_like(values)


Design = Callable[[Numbers, Numbers], tuple[Numbers, Numbers | None]]


def shapes_for(axis_kind: AxisKind) -> dict[str, tuple[int, Design]]:
    """Return the shapes of an axis: number of parameters, and the function that builds the design matrices [G, N, K]
    over a grid of the nonlinear parameters, with the break [G] where there is one."""
    known: dict[str, tuple[int, Design]] = {
        "flat": (1, flat), "line": (2, line), "power": (3, power), "onset": (3, onset), "bent_onset": (4, bent_onset), "hinge": (4, hinge), "step": (4, step),
    }  # fmt: skip
    if axis_kind in ("log", "training"):
        known["exponential"] = (3, exponential)
    if axis_kind == "training":
        known["shifted_power"] = (4, shifted_power)
    if axis_kind == "loss":
        known["exponential"] = (3, likelihood)
        known["sigmoid"] = (4, sigmoid)
    return known


def flat(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    return np.ones((1, len(u), 1)), None


def line(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    return np.stack([np.ones_like(u), u], axis=-1)[None], None


def power(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    """a + b exp(-c u): on a logarithmic axis the power law a + b x^-c, on a plain one an exponential. It may bend
    either way."""
    rates = np.r_[-np.geomspace(0.2, 4, 16), np.geomspace(0.2, 24, 32)]
    return with_constant(np.exp(-rates[:, None] * u)), None


def exponential(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    """a + b exp(-c x) on the untransformed axis."""
    rates = np.geomspace(0.2, 200, 40)
    return with_constant(np.exp(-rates[:, None] * raw)), None


def shifted_power(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    """a + b (1 + x / x0)^-c: flat while x is far below x0, as at the start of a training."""
    starts, rates = np.meshgrid(np.geomspace(1e-6, 1, 25), np.geomspace(0.1, 8, 14), indexing="ij")
    return with_constant((1 + raw / starts.reshape(-1, 1)) ** -rates.reshape(-1, 1)), None


def likelihood(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    """a + b exp(c u), rising or falling: the probability of an answer is exp(-loss) to the power of its length (arXiv
    2304.15004), which bends sharply on a loss axis without any break."""
    rates = np.geomspace(4, 40, 24)
    return with_constant(np.exp(np.r_[rates, -rates][:, None] * u)), None


def sigmoid(u: Numbers, raw: Numbers) -> tuple[Numbers, None]:
    """a + b logistic((u - t) / w), wider than any step: how accuracy follows loss in published fits (arXiv 2405.10938)."""
    middles, widths = np.meshgrid(np.linspace(-0.2, 1.2, 30), np.geomspace(0.085, 0.4, 8), indexing="ij")
    return with_constant(1 / (1 + np.exp(-(u - middles.reshape(-1, 1)) / widths.reshape(-1, 1)))), None


def onset(u: Numbers, raw: Numbers) -> tuple[Numbers, Numbers]:
    """a until t, then a + b (u - t)."""
    starts = breaks(u)
    return with_constant(np.maximum(u - starts[:, None], 0.0)), starts


def bent_onset(u: Numbers, raw: Numbers) -> tuple[Numbers, Numbers]:
    """a until t, then a + b (u - t)^p."""
    starts, bends = np.meshgrid(breaks(u), np.array([0.35, 0.5, 0.75, 1.5, 2.0]), indexing="ij")
    beyond = np.maximum(u - starts.reshape(-1, 1), 0.0)
    return with_constant(beyond ** bends.reshape(-1, 1)), starts.reshape(-1)


def hinge(u: Numbers, raw: Numbers) -> tuple[Numbers, Numbers]:
    """Two lines that meet at t."""
    starts = breaks(u)
    beyond = np.maximum(u - starts[:, None], 0.0)
    return np.stack(np.broadcast_arrays(np.ones_like(u), u, beyond), axis=-1), starts


def step(u: Numbers, raw: Numbers) -> tuple[Numbers, Numbers]:
    """a + b logistic((u - t) / w), where 80 % of the rise happens within a third of the axis at most: wider ones count
    as smooth."""
    starts, widths = np.meshgrid(breaks(u, 40), np.array([0.002, 0.01, 0.02, 0.035, 0.055, 0.08]), indexing="ij")
    return with_constant(1 / (1 + np.exp(-(u - starts.reshape(-1, 1)) / widths.reshape(-1, 1)))), starts.reshape(-1)


def with_constant(values: Numbers) -> Numbers:
    """[G, N] → [G, N, 2], the first column 1."""
    return np.stack([np.ones_like(values), values], axis=-1)


def breaks(u: Numbers, about: int = 30) -> Numbers:
    """Return candidate break points, evenly spaced, with at least two points on either side."""
    ordered = np.unique(u)
    if len(ordered) < 4:
        return np.array([0.5])
    inner = ordered[1:-1]
    return np.unique(np.r_[np.linspace(inner[0], inner[-1], about), (inner[:-1] + inner[1:]) / 2])


def fit(name: str, curve: Curve) -> FittedShape:
    """Fit a shape: solve for its linear parameters and search the others over a grid."""
    num_parameters, design = shapes_for(curve.axis_kind)[name]
    u = coordinate(curve.x, curve.axis_kind)
    raw = coordinate(curve.x, "plain")
    columns, breaks_at = design(u, raw)
    base = np.where(np.isfinite(curve.error), curve.error, 0.0) ** 2
    known = curve.seed_sd is not None and bool(np.isfinite(curve.error).all())
    # A fit through all points would have zero error and an infinite likelihood: the scatter is at least 0.001 of the range.
    least = (1e-3 * float(np.ptp(curve.y)) + 1e-12) ** 2
    scatter = (curve.seed_sd or 0.0) ** 2 if known else least
    # The scatter and the fit depend on each other, so they are estimated in turn.
    chosen, fitted = 0, curve.y
    for _ in range(1 if known else ROUNDS):
        variance = np.maximum(base + scatter, least)
        chosen, fitted = best_of(columns, curve.y, variance)
        if not known:
            scatter = maximum_likelihood_scatter((curve.y - fitted) ** 2, base, least)
    variance = np.maximum(base + scatter, least)
    loss = float(np.sum((curve.y - fitted) ** 2 / variance + np.log(variance)))
    count = num_parameters + (0 if known else 1)
    return FittedShape(
        name, count, loss, loss + aicc_penalty(count, len(u)), float(np.sqrt(scatter)),
        None if breaks_at is None else axis_value(float(breaks_at[chosen]), u, curve.x), fitted,
    )  # fmt: skip


def best_of(columns: Numbers, y: Numbers, variance: Numbers) -> tuple[int, Numbers]:
    """Return the index of the design [G, N, K] with the smallest weighted squares, and its values [N]."""
    weighted = columns / variance[:, None]
    gram = np.swapaxes(weighted, 1, 2) @ columns  # [G, K, K]
    size = gram.shape[-1]
    scale = np.trace(gram, axis1=1, axis2=2)[:, None, None] / size
    targets = np.swapaxes(weighted, 1, 2) @ y  # [G, K]
    coefficients = np.linalg.solve(gram + RIDGE * scale * np.eye(size), targets[..., None])
    values = (columns @ coefficients)[..., 0]  # [G, N]
    chosen = int(np.argmin(((y - values) ** 2 / variance).sum(axis=1)))
    return chosen, values[chosen]


def maximum_likelihood_scatter(squares: Numbers, base: Numbers, least: float) -> float:
    """Return the variance in addition to `base` that maximizes the likelihood of the residuals, on a fine grid."""
    grid = np.r_[least, np.geomspace(least, max(float(squares.max()), least) * 1.01, 60)]
    total = base[None] + grid[:, None]
    return float(grid[np.argmin((squares / total + np.log(total)).sum(axis=1))])


@cache
def aicc_penalty(num_parameters: int, num: int) -> float:
    """2k + 2k(k + 1) / (n - k - 1) (Hurvich & Tsai 1989, Biometrika 76:297-307); infinite where n <= k + 1."""
    left = num - num_parameters - 1
    return 2 * num_parameters + 2 * num_parameters * (num_parameters + 1) / left if left > 0 else float("inf")


def axis_value(position: float, u: Numbers, x: Numbers) -> float:
    """Convert a position on [0, 1] to a value of x by linear interpolation between the points around it."""
    order = np.argsort(u, kind="stable")
    return float(np.interp(position, u[order], x[order]))
