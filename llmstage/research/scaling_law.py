"""Fit the scaling law L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3).

The fit follows Besiroglu et al. 2024 (arXiv 2404.10102): the optimizer runs to convergence, because one that stops
early makes the confidence intervals too narrow.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from llmstage.research.curves import Numbers

DELTA = 1e-3
"""Residual in log loss at which Huber's loss turns from quadratic to linear."""
SCALE = 1e3
"""Factor on the objective. It is about 1e-3, and optimizers stop early on such small numbers."""
STARTS = (
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), (-1.0, -0.5, 0.0, 0.5, 1.0),
    (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0),
)  # fmt: skip
"""The grid of starts of Hoffmann et al., table A.3: a = log A, b = log B, e = log E, alpha, beta."""
NUM_REFINED_STARTS = 24
"""Starting points, the best of the grid, from which the optimizer runs."""


@dataclass(slots=True)
class ScalingLaw:
    """A fitted law with bootstrap intervals [low, high]."""

    num: int
    objective: float
    """Sum, not mean, of Huber losses."""
    A: float
    B: float
    E: float
    alpha: float
    beta: float
    size_exponent: float
    """beta / (alpha + beta): the compute-optimal N grows as compute to this power."""
    intervals: dict[str, list[float]]
    resamples: int

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_scaling_law(
    sizes: Numbers, tokens: Numbers, losses: Numbers, *, resamples: int = 300, seed: int = 0
) -> ScalingLaw:
    """Fit N, D, loss [P] from the best starts of the grid, and again on `resamples` bootstrap samples of the points."""
    size, token = np.log(sizes), np.log(tokens)
    means = (float(size.mean()), float(token.mean()))
    # With centered logarithms, a and alpha are nearly independent, and every optimizer is many times faster.
    logs = (size - means[0], token - means[1], np.log(losses))
    starts = np.array(list(itertools.product(*STARTS)))  # [S, 5]
    starts[:, 0] -= starts[:, 3] * means[0]
    starts[:, 1] -= starts[:, 4] * means[1]
    # Evaluate all starts in chunks, to bound the memory, and refine the best.
    values = np.concatenate([objectives(chunk, *logs) for chunk in np.array_split(starts, 20)])
    ranked = starts[np.argsort(values)]
    minima = [minimize_from(start, *logs) for start in distinct_starts(ranked)]
    best = min(minima, key=lambda result: result.fun)
    best = refine(best.x, *logs)
    # Bootstrap over points: each resample starts from the optimum, so one refinement is enough.
    rng = np.random.default_rng(seed)
    bootstrap = np.empty((resamples, 6))
    for number in range(resamples):
        rows = rng.integers(0, len(losses), len(losses))
        point = uncentered(refine(best.x, *(chunk[rows] for chunk in logs), max_restarts=1).x, means)
        bootstrap[number] = [*point, point[4] / (point[3] + point[4])]
    a, b, e, alpha, beta = uncentered(best.x, means)
    names = ("A", "B", "E", "alpha", "beta", "size_exponent")
    quantiles = np.percentile(bootstrap, [2.5, 97.5], axis=0) if resamples else np.full((2, 6), np.nan)
    quantiles[:, :3] = np.exp(quantiles[:, :3])
    return ScalingLaw(
        num=len(losses), objective=float(best.fun) / SCALE, A=float(np.exp(a)), B=float(np.exp(b)), E=float(np.exp(e)),
        alpha=float(alpha), beta=float(beta), size_exponent=float(beta / (alpha + beta)),
        intervals={name: quantiles[:, k].tolist() for k, name in enumerate(names)}, resamples=resamples,
    )  # fmt: skip


def uncentered(point: Numbers, means: tuple[float, float]) -> Numbers:
    """Convert parameters fitted on centered logarithms to log A and log B of the plain ones."""
    a, b, e, alpha, beta = point
    return np.array([a + alpha * means[0], b + beta * means[1], e, alpha, beta])


def distinct_starts(ranked: Numbers) -> list[Numbers]:
    """Return the best starts, no two with the same alpha and beta."""
    chosen: dict[tuple[float, float], Numbers] = {}
    for start in ranked:
        chosen.setdefault((float(start[3]), float(start[4])), start)
        if len(chosen) == NUM_REFINED_STARTS:
            break
    return list(chosen.values())


def log_terms(point: Numbers, size: Numbers, token: Numbers) -> Numbers:
    """Return log A - alpha log N, log B - beta log D, log E: [..., 3, P]."""
    a, b, e, alpha, beta = (part[..., None] for part in np.moveaxis(point, -1, 0))
    return np.stack(np.broadcast_arrays(a - alpha * size, b - beta * token, e + 0.0 * size), axis=-2)


def objectives(points: Numbers, size: Numbers, token: Numbers, loss: Numbers) -> Numbers:
    """Return the unscaled objective at many points [S, 5] → [S]."""
    residuals = np.logaddexp.reduce(log_terms(points, size, token), axis=-2) - loss
    is_linear = np.abs(residuals) > DELTA
    return np.asarray(np.where(is_linear, DELTA * (np.abs(residuals) - DELTA / 2), residuals**2 / 2).sum(axis=-1))


def objective_and_gradient(point: Numbers, size: Numbers, token: Numbers, loss: Numbers) -> tuple[float, Numbers]:
    """Return the scaled objective and its gradient [5] at one point."""
    components = log_terms(point, size, token)
    log_prediction = np.logaddexp.reduce(components, axis=0)
    residuals = log_prediction - loss
    clipped = np.clip(residuals, -DELTA, DELTA)  # Huber's derivative
    shares = np.exp(components - log_prediction) * clipped  # [3, P]
    is_linear = np.abs(residuals) > DELTA
    value = np.where(is_linear, DELTA * (np.abs(residuals) - DELTA / 2), residuals**2 / 2).sum()
    sums = shares.sum(axis=1)
    gradient = np.array([sums[0], sums[1], sums[2], -(shares[0] @ size), -(shares[1] @ token)])
    return SCALE * float(value), SCALE * gradient


def minimize_from(start: Numbers, *logs: Numbers) -> Any:
    """Minimize the objective from one start with L-BFGS."""
    options = {"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-8}
    return minimize(objective_and_gradient, start, args=logs, jac=True, method="L-BFGS-B", options=options)


def refine(start: Numbers, *logs: Numbers, max_restarts: int = 5) -> Any:
    """Continue with BFGS from where L-BFGS stopped, at most `max_restarts` times and only while the objective falls."""
    best: Any = None
    for _ in range(max_restarts):
        result = minimize(objective_and_gradient, start if best is None else best.x, args=logs, jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 2000})  # fmt: skip
        improved = best is None or result.fun < best.fun - 1e-13
        best = result if improved else best
        if not improved:
            break
    return best
