"""Is the negative share of a window above what the same hours of the past lead one to expect?

A window of `n` items with `x` negative ones is compared with the past windows of the same topic. Three things make a plain
binomial test of shares raise false alarms, and each has its part here:

* the share follows the clock: what is expected is the share of the past windows at the same time of day (the design of
  Farrington et al. 1996 and Noufaily et al. 2013 for outbreaks of disease, which compares a week with the same weeks of other
  years), drawn towards the share of all hours while there are few of them;
* windows differ more than chance alone explains, since news comes in stories: items of a window are correlated by `rho`
  (Skellam 1948; Williams 1982), estimated by the method of moments from how the past windows scatter around the shares of
  their hours, and taken at the upper end of an interval, so that a short past makes the test careful and not bold;
* the expected share is itself an estimate from few items: its uncertainty is part of the prediction.

Together the count is predicted by a beta-binomial distribution, whose upper tail is the p-value: exact for small counts.
Over topics Holm's step-down procedure (1979) holds the level of one window; over windows the level is spent evenly.

  Farrington, Andrews, Beale, Catchpole: A statistical algorithm for the early detection of outbreaks of infectious disease.
    J. R. Statist. Soc. A 159 (1996) 547-563.
  Noufaily et al.: An improved algorithm for outbreak detection in multiple surveillance systems. Stat. Med. 32 (2013) 1206-1222.
  Williams: Extra-binomial variation in logistic linear models. Appl. Statist. 31 (1982) 144-148.
  Holm: A simple sequentially rejective multiple test procedure. Scand. J. Statist. 6 (1979) 65-70.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.config.monitor import LEAST_PAST

Counts = NDArray[np.int64]
Shares = NDArray[np.float64]

PULL = 10.0
"""The share of all hours counts for that of one hour like so many items."""
UPPER = 0.8
"""The correlation is taken from the upper end of a one-sided interval of this level."""


@dataclass(slots=True, frozen=True)
class Expectation:
    """What the past says of one window: its count is beta-binomial with this mean share and correlation."""

    share: float
    correlation: float
    """Of two items of the window: what windows share beyond their hour, and what is not known of the hour."""

    def p_value(self, items: int, negative: int) -> float:
        """The chance of so many negative items or more: the tail summed term by term, since 1 - cdf ends at 1e-16."""
        from scipy.stats import binom

        if negative <= 0:
            return 1.0
        counts = np.arange(negative, items + 1, dtype=np.float64)
        if self.correlation <= 0:
            return float(min(1.0, np.exp(binom.logpmf(counts, items, self.share)).sum()))
        strength = 1 / self.correlation - 1
        good, bad = (1 - self.share) * strength, self.share * strength
        terms = log_beta(counts + bad, items - counts + good) - log_beta(bad, good)
        ways = -np.log(items + 1.0) - log_beta(items - counts + 1, counts + 1)
        return float(min(1.0, np.exp(terms + ways).sum()))


def log_beta(a: Any, b: Any) -> Any:
    """Not scipy's betaln (nor its betabinom, which rests on it): where a run flushes subnormal numbers to zero, as the session
    does, that gives -inf for some a and b, and the tail is then 0 without a warning."""
    from scipy.special import gammaln

    return gammaln(a) + gammaln(b) - gammaln(a + b)


def expect(items: Counts, negative: Counts, hours: Counts, hour: int) -> Expectation | None:
    """`items`, `negative`, `hours` [L]: the past windows of a topic that hold items, and the number of the hour of each (the
    part of the day; the same for all where a window is a day or longer). `hour`: that of the window to be tested. None where
    the past is too short."""
    num_hours = int(max(hour, hours.max(initial=0))) + 1
    total = np.bincount(hours, items, num_hours)
    bad = np.bincount(hours, negative, num_hours)
    seen = np.bincount(hours, minlength=num_hours) > 0
    freedom = len(items) - int(seen.sum())
    if freedom < LEAST_PAST or not total.any():
        return None
    overall = (bad.sum() + 0.5) / (total.sum() + 1)
    shares = (bad + PULL * overall) / (total + PULL)  # [hours]
    left = 1 - 2 * items / (total + PULL)[hours] + items * total[hours] / (total + PULL)[hours] ** 2
    rho = correlation(items, negative, shares[hours], left, freedom)
    own = hours == hour
    # Items that say as much of the hour's share as these correlated ones do.
    worth = float((items[own] / (1 + (items[own] - 1) * rho)).sum()) + PULL
    return Expectation(float(shares[hour]), rho + (1 - rho) / (worth + 1))


def correlation(items: Counts, negative: Counts, shares: Shares, left: Shares, freedom: int) -> float:
    """Upper end of an interval for the correlation within windows, by moments. `left` [L]: the part of a window's variance that
    is left when the share of its hour was estimated from it as well. Pearson's term of a window of n items has the
    expectation 1 + (n - 1) rho. Terms are weighted by n - 1, since large windows tell more of rho; their sum is spread like a
    chi-square whose degrees of freedom are fewer where few negative items are expected."""
    from scipy.stats import chi2

    spread, weights = shares * (1 - shares), items - 1.0
    total = float(weights.sum())
    if total <= 0:
        return 0.0
    terms = (negative - items * shares) ** 2 / (items * spread * left)
    variances = 2 + (1 - 6 * spread) / (items * spread)
    worth = max(2 * total**2 / float((weights**2 * variances).sum()) * freedom / len(items), 1.0)
    upper = float((weights * terms).sum()) * worth / float(chi2.ppf(1 - UPPER, worth))
    return float(np.clip((upper - total) / float((weights**2).sum()), 0.0, 0.9))


def above(p_values: Shares, level: float) -> NDArray[np.bool_]:
    """Holm: which of the p-values [K] of one window are rejected at a family-wise `level`; NaN is not tested."""
    order = np.argsort(p_values)  # NaN last
    tested = int((~np.isnan(p_values)).sum())
    out = np.zeros(len(p_values), dtype=bool)
    for rank, index in enumerate(order[:tested]):
        if not p_values[index] <= level / (tested - rank):
            break
        out[index] = True
    return out
