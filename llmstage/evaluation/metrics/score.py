"""The value that every metric returns, a number with its 95 % interval, and how the interval is computed.

It is the Wilson score interval of a share, and the percentile bootstrap over rows of ratios of sums.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(slots=True, frozen=True)
class Score:
    """The value of a metric, its interval, and the number of items."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    """Number of items: rows, tokens, replies."""
    method: str = ""
    """Method of the interval, e.g. `wilson` or `bootstrap`; empty without an interval."""
    higher_is_better: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of report.json."""
        return asdict(self)


Z95 = 1.959963984540054
"""Normal quantile of 97.5 %: every interval of this project is a 95 % one."""
RESAMPLES = 1000
GROUPS = 8192
SEED = 0
CHUNK = 4_000_000
"""Random draws in memory at once (int64: 32 MB)."""

Transform = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def proportion(hits: Sequence[bool] | NDArray[np.bool_]) -> Score:
    """Return the share of true values with its Wilson score interval (95 %); NaN without an interval for no values.

    Wilson (1927), JASA 22:209-212, `(p + z²/2n ± z sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n)`; recommended by Brown, Cai &
    DasGupta (2001), Statistical Science 16:101-133. The interval is inside [0, 1] and has a positive width even at 0 and 1.
    """
    num = len(hits)
    if num == 0:
        return Score(math.nan)
    share = int(np.count_nonzero(np.asarray(hits, dtype=bool))) / num
    low, high = wilson(share, num)
    return Score(share, low, high, num, "wilson")


def wilson(share: float, num: int) -> tuple[float, float]:
    """Return the Wilson interval of a share of `num` > 0 rows; see `proportion`."""
    square = Z95 * Z95 / num
    middle = share + square / 2
    half = math.sqrt(square * share * (1 - share) + square * square / 4)
    low, high = (middle - half) / (1 + square), (middle + half) / (1 + square)
    # At 0 and 1 a bound equals the share; rounding could put it 1e-17 outside.
    return max(0.0, min(low, share)), min(1.0, max(high, share))


def mean(values: ArrayLike, *, higher_is_better: bool = True) -> Score:
    """Return the mean of one number for each row, with a bootstrap interval over rows."""
    numbers = np.asarray(values, dtype=np.float64)
    return ratio(numbers, np.ones_like(numbers), higher_is_better=higher_is_better)


def ratio(
    numerators: ArrayLike,
    denominators: ArrayLike,
    transform: Transform | None = None,
    *,
    count: int | None = None,
    higher_is_better: bool = True,
) -> Score:
    """Return `transform(sum of numerators / sum of denominators)`, one pair for each row [N], with a bootstrap interval.

    Rows are resampled, not tokens: tokens of one row depend on each other. `count`: the number of items, if it is not the
    number of rows. Percentile bootstrap: Efron & Tibshirani (1993), An Introduction to the Bootstrap,
    chapter 13. NaN if the denominators sum to 0; no interval if `bootstrap_score` gives none.
    """
    rows = np.stack([np.asarray(numerators, dtype=np.float64), np.asarray(denominators, dtype=np.float64)], axis=1)
    apply: Transform = transform if transform is not None else (lambda values: values)
    num = len(rows) if count is None else count
    with np.errstate(all="ignore"):  # 0/0 is NaN and exp of a large loss is inf: both are valid values
        value = float(apply(np.asarray(np.divide(*rows.sum(axis=0))))) if len(rows) else math.nan
        if len(rows) < 2 or not math.isfinite(value):
            return Score(value, None, None, num, "", higher_is_better)
        sums = resampled_sums(rows)
        return bootstrap_score(value, apply(sums[:, 0] / sums[:, 1]), num, higher_is_better=higher_is_better)


def bootstrap_score(
    value: float, resampled: NDArray[np.float64], count: int, *, higher_is_better: bool = True
) -> Score:
    """Return `value` with the 2.5 % and 97.5 % points of its resamples [R]; NaN resamples are left out.

    There is no interval if all resamples agree: equal rows (two correct answers of two) contain no information about the
    variance, and a width of zero would claim certainty.
    """
    known = resampled[~np.isnan(resampled)]
    if known.size == 0 or math.isclose(known.min(), known.max(), rel_tol=1e-9, abs_tol=1e-12):
        return Score(value, None, None, count, "", higher_is_better)
    low, high = np.percentile(known, [2.5, 97.5])
    return Score(value, float(low), float(high), count, "bootstrap", higher_is_better)


def resampled_sums(rows: NDArray[np.float64], resamples: int = RESAMPLES, seed: int = SEED) -> NDArray[np.float64]:
    """Return the column sums [R, K] of `resamples` seeded bootstrap samples of `rows` [N, K], drawn in chunks.

    More than 8192 rows are first put into 8192 random groups of equal size (+-1), and the sums of the groups are resampled.
    The variance of a sum of independent rows is the same, the estimated width has a relative standard error of
    1/sqrt(2 * 8192) = 0.8 %, and a million rows take as long as 8192 (random groups: Wolter (2007), Introduction to
    Variance Estimation, chapter 2).
    """
    rng = np.random.default_rng(seed)
    if len(rows) > GROUPS:
        order = rng.permutation(len(rows))
        starts = np.linspace(0, len(rows), GROUPS, endpoint=False).astype(np.int64)
        rows = np.add.reduceat(rows[order], starts, axis=0)
    sums = np.empty((resamples, rows.shape[1]))
    step = max(1, CHUNK // len(rows))
    for start in range(0, resamples, step):
        stop = min(start + step, resamples)
        drawn = rng.integers(0, len(rows), size=(stop - start, len(rows)))
        for column in range(rows.shape[1]):
            sums[start:stop, column] = rows[:, column][drawn].sum(axis=1)
    return sums
