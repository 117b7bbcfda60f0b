"""y = a + b x^-c0 (1 + (x / d)^(1/f))^(-c1 f): a power law with one break (Caballero et al. 2022, arXiv 2210.14891), beside
a power law with a constant. Fitted on log(y + 1), as there; errors are told of log y."""

from __future__ import annotations

import itertools
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from scipy.optimize import least_squares

from llmstage.research.curves import Numbers

FEWEST = 10
"""Points for one break: it has six parameters."""
CLIMBS = 6


@dataclass(slots=True)
class BrokenLaw:
    """A fit on the points that were not held out."""

    num: int
    held_out: int
    a: float
    b: float
    c0: float
    c1: float
    d1: float
    """Where it breaks, on the x axis."""
    f1: float
    """How sharply, in log x: near 0 is a kink."""
    rmsle: float
    """Root of the mean squared difference of log y on the fitted points."""
    rmsle_held_out: float | None
    power_rmsle: float
    """The same of a power law with a constant."""
    power_rmsle_held_out: float | None

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def fit_broken_law(x: Numbers, y: Numbers, *, held_out: int = 0) -> BrokenLaw:
    """Fit x, y [P], both positive and ordered by x; the last `held_out` points are only predicted."""
    seen = slice(0, len(x) - held_out)
    unit = float(np.exp(np.log(x[seen]).mean()))  # exponents and powers of x stay near 1
    scaled = x / unit
    best = climb_all(scaled[seen], y[seen])
    power = climb_power(scaled[seen], y[seen])
    c0, c1, log_d, log_f = best[2:]
    d, f = float(np.exp(log_d)), float(np.exp(log_f))
    return BrokenLaw(
        len(x[seen]), held_out, float(best[0]), float(np.exp(best[1]) * unit**c0), float(c0), float(c1), d * unit, f,
        rmsle(broken(best, scaled[seen]), y[seen]), held(broken(best, scaled), y, held_out),
        rmsle(power_law(power, scaled[seen]), y[seen]), held(power_law(power, scaled), y, held_out),
    )  # fmt: skip


def broken(point: Numbers, x: Numbers) -> Numbers:
    a, log_b, c0, c1, log_d, log_f = point
    f = np.exp(log_f)
    bend = np.logaddexp(0.0, (np.log(x) - log_d) / f)
    return np.asarray(a + np.exp(log_b - c0 * np.log(x) - c1 * f * bend))


def power_law(point: Numbers, x: Numbers) -> Numbers:
    return np.asarray(point[0] + np.exp(point[1] - point[2] * np.log(x)))


def gaps(values: Numbers, y: Numbers) -> Numbers:
    # A value below -1 has no logarithm; one near it is as bad as it gets.
    return np.log1p(np.maximum(values, -1 + 1e-9)) - np.log1p(y)


def rmsle(values: Numbers, y: Numbers) -> float:
    return float(np.sqrt(np.mean((np.log(np.maximum(values, 1e-12)) - np.log(y)) ** 2)))


def held(values: Numbers, y: Numbers, held_out: int) -> float | None:
    return rmsle(values[-held_out:], y[-held_out:]) if held_out else None


def climb_all(x: Numbers, y: Numbers) -> Numbers:
    """The best of many starts: bends between the points, sharp and wide; a and b solved for at each start."""
    places = np.log(x[1:-1])
    grid = itertools.product((0.02, 0.1, 0.5), (0.5, 2.0, 6.0), places, np.log([0.03, 0.1, 0.4, 1.0]))
    starts = []
    for c0, c1, log_d, log_f in grid:
        shape = broken(np.array([0.0, 0.0, c0, c1, log_d, log_f]), x)
        sign = 1.0 if y[0] >= y[-1] else -1.0
        (a, b), *_ = np.linalg.lstsq(np.stack([np.ones_like(x), shape], axis=1), y, rcond=None)
        start = np.array([a, np.log(max(abs(b), 1e-6)), sign * c0, sign * c1, log_d, log_f])
        starts.append((rmsle(broken(start, x), y), start))
    starts.sort(key=lambda one: one[0])
    found = [
        least_squares(lambda point: gaps(broken(point, x), y), start, jac=lambda point: slopes(point, x), x_scale="jac",
                      ftol=1e-10, xtol=1e-10, gtol=1e-14, max_nfev=80, bounds=bounds(x))
        for _, start in starts[:CLIMBS]
    ]  # fmt: skip
    best = min(found, key=lambda one: one.cost)
    return np.asarray(
        least_squares(lambda point: gaps(broken(point, x), y), best.x, jac=lambda point: slopes(point, x), x_scale="jac",
                      ftol=1e-15, xtol=1e-13, gtol=1e-15, max_nfev=2000, bounds=bounds(x)).x
    )  # fmt: skip


def slopes(point: Numbers, x: Numbers) -> Numbers:
    """Derivatives [P, 6] of log(y + 1) by a, log b, c0, c1, log d, log f."""
    a, log_b, c0, c1, log_d, log_f = point
    f = np.exp(log_f)
    far = (np.log(x) - log_d) / f
    bend, share = np.logaddexp(0.0, far), 1 / (1 + np.exp(-np.clip(far, -500, 500)))
    term = np.exp(log_b - c0 * np.log(x) - c1 * f * bend)
    by = [
        np.ones_like(x),
        term,
        -term * np.log(x),
        -term * f * bend,
        term * c1 * share,
        -term * c1 * f * (bend - share * far),
    ]
    return np.asarray(np.stack(by, axis=1) / np.maximum(1 + a + term, 1e-9)[:, None])


def bounds(x: Numbers) -> tuple[list[float], list[float]]:
    """The break lies among the points, and is no sharper than a thousandth in log x."""
    low, high = float(np.log(x[0])), float(np.log(x[-1]))
    return [-np.inf, -50, -20, -50, low, np.log(1e-3)], [np.inf, 50, 20, 50, high, np.log(20.0)]


def climb_power(x: Numbers, y: Numbers) -> Numbers:
    starts = [np.array([least, np.log(max(float(np.ptp(y)), 1e-6)), c]) for c in (-1, -0.2, 0.05, 0.3, 1.0, 3.0) for least in (0.0, float(y.min()))]  # fmt: skip
    found = [least_squares(lambda point: gaps(power_law(point, x), y), start, x_scale="jac", max_nfev=200) for start in starts]  # fmt: skip
    return np.asarray(min(found, key=lambda one: one.cost).x)
