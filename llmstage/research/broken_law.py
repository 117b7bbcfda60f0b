"""Fit a power law with one break: y = a + b x^-c0 (1 + (x / d)^(1/f))^(-c1 f) (Caballero et al. 2022, arXiv
2210.14891).

A power law with a constant, y = a + b x^-c, is fitted beside it for comparison. As in the paper, the fit minimizes
squared differences of log(y + 1). The reported errors are differences of log y.
"""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from llmstage.research.curves import Numbers

MIN_POINTS = 10
"""Points that one break needs: it has six parameters."""
NUM_REFINED_STARTS = 6
"""Starting points, the best of the grid, from which the least-squares search runs."""


@dataclass(slots=True)
class BrokenLaw:
    """Parameters and errors of a fit. The held-out points take no part in the fit."""

    num: int
    held_out: int
    a: float
    b: float
    c0: float
    c1: float
    d1: float
    """x at the break."""
    f1: float
    """Width of the break in log x; near 0 the curve has a kink."""
    rmsle: float
    """Root mean squared difference of log y on the fitted points."""
    rmsle_held_out: float | None
    """The same on the held-out points; None without any."""
    power_rmsle: float
    """Error of the power law with a constant on the fitted points."""
    power_rmsle_held_out: float | None
    """Error of that power law on the held-out points."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_broken_law(x: Numbers, y: Numbers, *, held_out: int = 0) -> BrokenLaw:
    """Fit x, y [P], both positive and ordered by x. The last `held_out` points are only predicted."""
    fitted = slice(0, len(x) - held_out)
    x_scale = float(np.exp(np.log(x[fitted]).mean()))  # exponents and powers of x stay near 1
    scaled = x / x_scale
    best = fit_from_many_starts(scaled[fitted], y[fitted])
    power = fit_power_law(scaled[fitted], y[fitted])
    c0, c1, log_d, log_f = best[2:]
    d, f = float(np.exp(log_d)), float(np.exp(log_f))
    return BrokenLaw(
        len(x[fitted]), held_out, float(best[0]), float(np.exp(best[1]) * x_scale**c0), float(c0), float(c1), d * x_scale, f,
        rmsle(broken_law(best, scaled[fitted]), y[fitted]), held_out_rmsle(broken_law(best, scaled), y, held_out),
        rmsle(power_law(power, scaled[fitted]), y[fitted]), held_out_rmsle(power_law(power, scaled), y, held_out),
    )  # fmt: skip


def broken_law(point: Numbers, x: Numbers) -> Numbers:
    """Evaluate the broken law at x; `point` is a, log b, c0, c1, log d, log f."""
    a, log_b, c0, c1, log_d, log_f = point
    f = np.exp(log_f)
    bend = np.logaddexp(0.0, (np.log(x) - log_d) / f)
    return np.asarray(a + np.exp(log_b - c0 * np.log(x) - c1 * f * bend))


def power_law(point: Numbers, x: Numbers) -> Numbers:
    """Evaluate a + b x^-c at x; `point` is a, log b, c."""
    return np.asarray(point[0] + np.exp(point[1] - point[2] * np.log(x)))


def log_residuals(values: Numbers, y: Numbers) -> Numbers:
    # log(y + 1) is not defined for predictions below -1, which the search may try: they count as the worst prediction.
    """Return the differences of log(y + 1) that the fit minimizes."""
    return np.log1p(np.maximum(values, -1 + 1e-9)) - np.log1p(y)


def rmsle(values: Numbers, y: Numbers) -> float:
    """Return the root mean squared difference of log y."""
    return float(np.sqrt(np.mean((np.log(np.maximum(values, 1e-12)) - np.log(y)) ** 2)))


def held_out_rmsle(values: Numbers, y: Numbers, held_out: int) -> float | None:
    """Return the error on the last `held_out` points; None without any."""
    return rmsle(values[-held_out:], y[-held_out:]) if held_out else None


def fit_from_many_starts(x: Numbers, y: Numbers) -> Numbers:
    """Return the best fit from a grid of starts: break points between the points, sharp and wide breaks. At each start,
    a and b are solved for."""
    break_points = np.log(x[1:-1])
    # One start for each combination of c0, c1, break and width. For fixed values of these, a and b are linear.
    grid = itertools.product((0.02, 0.1, 0.5), (0.5, 2.0, 6.0), break_points, np.log([0.03, 0.1, 0.4, 1.0]))
    starts = []
    for c0, c1, log_d, log_f in grid:
        shape = broken_law(np.array([0.0, 0.0, c0, c1, log_d, log_f]), x)
        sign = 1.0 if y[0] >= y[-1] else -1.0
        (a, b), *_ = np.linalg.lstsq(np.stack([np.ones_like(x), shape], axis=1), y, rcond=None)
        start = np.array([a, np.log(max(abs(b), 1e-6)), sign * c0, sign * c1, log_d, log_f])
        starts.append((rmsle(broken_law(start, x), y), start))
    starts.sort(key=lambda candidate: candidate[0])
    fits = [
        least_squares(lambda point: log_residuals(broken_law(point, x), y), start, jac=lambda point: jacobian(point, x), x_scale="jac",
                      ftol=1e-10, xtol=1e-10, gtol=1e-14, max_nfev=80, bounds=bounds(x))
        for _, start in starts[:NUM_REFINED_STARTS]
    ]  # fmt: skip
    best = min(fits, key=lambda candidate: candidate.cost)
    return np.asarray(
        least_squares(lambda point: log_residuals(broken_law(point, x), y), best.x, jac=lambda point: jacobian(point, x), x_scale="jac",
                      ftol=1e-15, xtol=1e-13, gtol=1e-15, max_nfev=2000, bounds=bounds(x)).x
    )  # fmt: skip


def jacobian(point: Numbers, x: Numbers) -> Numbers:
    """Derivatives [P, 6] of log(y + 1) by a, log b, c0, c1, log d, log f."""
    a, log_b, c0, c1, log_d, log_f = point
    f = np.exp(log_f)
    distance = (np.log(x) - log_d) / f
    bend, share = np.logaddexp(0.0, distance), 1 / (1 + np.exp(-np.clip(distance, -500, 500)))
    term = np.exp(log_b - c0 * np.log(x) - c1 * f * bend)
    columns = [
        np.ones_like(x),
        term,
        -term * np.log(x),
        -term * f * bend,
        term * c1 * share,
        -term * c1 * f * (bend - share * distance),
    ]
    return np.asarray(np.stack(columns, axis=1) / np.maximum(1 + a + term, 1e-9)[:, None])


def bounds(x: Numbers) -> tuple[list[float], list[float]]:
    """Return the bounds of the search: the break lies among the points, and its width in log x is at least 0.001."""
    low, high = float(np.log(x[0])), float(np.log(x[-1]))
    return [-np.inf, -50, -20, -50, low, np.log(1e-3)], [np.inf, 50, 20, 50, high, np.log(20.0)]


def fit_power_law(x: Numbers, y: Numbers) -> Numbers:
    """Return a, log b, c of the best power law with a constant, from several starts."""
    starts = [np.array([floor, np.log(max(float(np.ptp(y)), 1e-6)), c]) for c in (-1, -0.2, 0.05, 0.3, 1.0, 3.0) for floor in (0.0, float(y.min()))]  # fmt: skip
    fits = [least_squares(lambda point: log_residuals(power_law(point, x), y), start, x_scale="jac", max_nfev=200) for start in starts]  # fmt: skip
    return np.asarray(min(fits, key=lambda candidate: candidate.cost).x)
