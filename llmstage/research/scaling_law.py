"""L(N, D) = E + A / N^alpha + B / D^beta (Hoffmann et al. 2022, approach 3), fitted as Besiroglu et al. 2024 (arXiv
2404.10102) do: to the end, because an optimiser that stops early makes the interval too narrow."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize

from llmstage.research.curves import Numbers

DELTA = 1e-3
"""Where Huber's loss turns from squares to absolute values, in log-loss."""
SCALE = 1e3
"""The objective is about 1e-3; optimisers stop early on such numbers."""
STARTS = (
    (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), (0.0, 5.0, 10.0, 15.0, 20.0, 25.0), (-1.0, -0.5, 0.0, 0.5, 1.0),
    (0.0, 0.25, 0.5, 0.75, 1.0), (0.0, 0.25, 0.5, 0.75, 1.0),
)  # fmt: skip
"""a = log A, b = log B, e = log E, alpha, beta: the grid of Hoffmann et al., table A.3."""
CLIMBS = 24


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
    """Fit N, D, loss [P] from the grid's best starts, and again on `resamples` bootstrap samples of whole points."""
    size, token = np.log(sizes), np.log(tokens)
    middles = (float(size.mean()), float(token.mean()))
    # Around the middle of the points a and alpha hardly depend on each other, and every optimiser is many times faster.
    logs = (size - middles[0], token - middles[1], np.log(losses))
    starts = np.array(list(itertools.product(*STARTS)))  # [S, 5]
    starts[:, 0] -= starts[:, 3] * middles[0]
    starts[:, 1] -= starts[:, 4] * middles[1]
    values = np.concatenate([objective_of(part, *logs) for part in np.array_split(starts, 20)])
    ranked = starts[np.argsort(values)]
    climbed = [climb(start, *logs) for start in spread_out(ranked)]
    best = min(climbed, key=lambda found: found.fun)
    best = finish(best.x, *logs)
    rng = np.random.default_rng(seed)
    drawn = np.empty((resamples, 6))
    for number in range(resamples):
        rows = rng.integers(0, len(losses), len(losses))
        point = uncentred(finish(best.x, *(part[rows] for part in logs), again=1).x, middles)
        drawn[number] = [*point, point[4] / (point[3] + point[4])]
    a, b, e, alpha, beta = uncentred(best.x, middles)
    names = ("A", "B", "E", "alpha", "beta", "size_exponent")
    ends = np.percentile(drawn, [2.5, 97.5], axis=0) if resamples else np.full((2, 6), np.nan)
    ends[:, :3] = np.exp(ends[:, :3])
    return ScalingLaw(
        num=len(losses), objective=float(best.fun) / SCALE, A=float(np.exp(a)), B=float(np.exp(b)), E=float(np.exp(e)),
        alpha=float(alpha), beta=float(beta), size_exponent=float(beta / (alpha + beta)),
        intervals={name: ends[:, k].tolist() for k, name in enumerate(names)}, resamples=resamples,
    )  # fmt: skip


def uncentred(point: Numbers, middles: tuple[float, float]) -> Numbers:
    """From logarithms around their means back to log A and log B."""
    a, b, e, alpha, beta = point
    return np.array([a + alpha * middles[0], b + beta * middles[1], e, alpha, beta])


def spread_out(ranked: Numbers) -> list[Numbers]:
    """The best starts, no two with the same alpha and beta."""
    chosen: dict[tuple[float, float], Numbers] = {}
    for start in ranked:
        chosen.setdefault((float(start[3]), float(start[4])), start)
        if len(chosen) == CLIMBS:
            break
    return list(chosen.values())


def terms(point: Numbers, size: Numbers, token: Numbers) -> Numbers:
    """log A - alpha log N, log B - beta log D, log E: [..., 3, P]."""
    a, b, e, alpha, beta = (part[..., None] for part in np.moveaxis(point, -1, 0))
    return np.stack(np.broadcast_arrays(a - alpha * size, b - beta * token, e + 0.0 * size), axis=-2)


def objective_of(points: Numbers, size: Numbers, token: Numbers, loss: Numbers) -> Numbers:
    """The objective, not scaled, at many points [S, 5] → [S]."""
    gaps = np.logaddexp.reduce(terms(points, size, token), axis=-2) - loss
    far = np.abs(gaps) > DELTA
    return np.asarray(np.where(far, DELTA * (np.abs(gaps) - DELTA / 2), gaps**2 / 2).sum(axis=-1))


def value_and_slope(point: Numbers, size: Numbers, token: Numbers, loss: Numbers) -> tuple[float, Numbers]:
    """Scaled objective and its gradient [5] at one point."""
    parts = terms(point, size, token)
    whole = np.logaddexp.reduce(parts, axis=0)
    gaps = whole - loss
    pull = np.clip(gaps, -DELTA, DELTA)  # Huber's derivative
    shares = np.exp(parts - whole) * pull  # [3, P]
    far = np.abs(gaps) > DELTA
    value = np.where(far, DELTA * (np.abs(gaps) - DELTA / 2), gaps**2 / 2).sum()
    sums = shares.sum(axis=1)
    slope = np.array([sums[0], sums[1], sums[2], -(shares[0] @ size), -(shares[1] @ token)])
    return SCALE * float(value), SCALE * slope


def climb(start: Numbers, *logs: Numbers) -> Any:
    options = {"maxiter": 2000, "ftol": 1e-12, "gtol": 1e-8}
    return minimize(value_and_slope, start, args=logs, jac=True, method="L-BFGS-B", options=options)


def finish(start: Numbers, *logs: Numbers, again: int = 5) -> Any:
    """BFGS from where L-BFGS stopped, up to `again` times while it still gains."""
    best: Any = None
    for _ in range(again):
        found = minimize(value_and_slope, start if best is None else best.x, args=logs, jac=True, method="BFGS", options={"gtol": 1e-8, "maxiter": 2000})  # fmt: skip
        gained = best is None or found.fun < best.fun - 1e-13
        best = found if gained else best
        if not gained:
            break
    return best
