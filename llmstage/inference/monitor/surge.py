"""Tests whether the negative share of a window is above the share that the same hours of the past predict.

A window of `n` items with `x` negative ones is compared with the past windows of the same topic. A plain binomial test of shares
raises false alarms for three reasons, and this module handles each of them:

* The share depends on the time of day. The expected share is the share of the past windows at the same time of day, as in
  Farrington et al. 1996 and Noufaily et al. 2013, who compare a week with the same weeks of other years to detect outbreaks of
  disease. With few past items the expected share is shrunk towards the share of all hours.
* Windows differ more than chance explains, since news comes in stories. Items of a window have the correlation `rho` (Skellam
  1948; Williams 1982). The method of moments estimates it from the scatter of the past windows around the shares of their hours.
  The test uses the upper end of an interval, so that a short past makes it conservative.
* The expected share is an estimate from few items. Its uncertainty is a part of the prediction.

Together these give a beta-binomial distribution of the count. Its upper tail is the p-value, which is exact for small counts.
Holm's step-down procedure (1979) controls the error rate of one window over its topics; the error rate is divided evenly over
the windows.

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

SHRINKAGE = 10.0
"""Weight of the share of all hours in the share of one hour, in items."""
CONFIDENCE = 0.8
"""Level of the one-sided interval whose upper end is the correlation."""


@dataclass(slots=True, frozen=True)
class Expectation:
    """The prediction for one window: its negative count is beta-binomial with this mean share and correlation."""

    share: float
    correlation: float
    """Correlation of two items of the window, including the uncertainty of the share."""

    def p_value(self, items: int, negative: int) -> float:
        """Return the probability of at least this many negative items.

        The tail is summed term by term, since 1 - cdf cannot go below 1e-16.
        """
        from scipy.stats import binom

        if negative <= 0:
            return 1.0
        counts = np.arange(negative, items + 1, dtype=np.float64)
        if self.correlation <= 0:
            return float(min(1.0, np.exp(binom.logpmf(counts, items, self.share)).sum()))
        strength = 1 / self.correlation - 1
        alpha, beta = self.share * strength, (1 - self.share) * strength
        log_ratio = log_beta(counts + alpha, items - counts + beta) - log_beta(alpha, beta)
        log_combinations = -np.log(items + 1.0) - log_beta(items - counts + 1, counts + 1)
        return float(min(1.0, np.exp(log_ratio + log_combinations).sum()))


def log_beta(a: Any, b: Any) -> Any:
    """Return the logarithm of the beta function.

    scipy's betaln, and betabinom which uses it, return -inf for some arguments where subnormal numbers are flushed to zero, as
    training.session does. The tail would then be 0 without a warning.
    """
    from scipy.special import gammaln

    return gammaln(a) + gammaln(b) - gammaln(a + b)


def expect(items: Counts, negative: Counts, hours: Counts, hour: int) -> Expectation | None:
    """Return the prediction for a window; None where the past is too short.

    `items`, `negative`, `hours` [L]: a topic's past windows with items, and the hour number of each (the part of the day; the
    same for all where windows are days or longer). `hour`: the hour number of the window to test.
    """
    num_hours = int(max(hour, hours.max(initial=0))) + 1
    items_of_hour = np.bincount(hours, items, num_hours)
    negative_of_hour = np.bincount(hours, negative, num_hours)
    has_windows = np.bincount(hours, minlength=num_hours) > 0
    degrees_of_freedom = len(items) - int(has_windows.sum())
    if degrees_of_freedom < LEAST_PAST or not items_of_hour.any():
        return None
    # The share of each hour, shrunk towards the share of all.
    overall = (negative_of_hour.sum() + 0.5) / (items_of_hour.sum() + 1)
    pseudo_items = items_of_hour + SHRINKAGE
    shares = (negative_of_hour + SHRINKAGE * overall) / pseudo_items  # [hours]
    # The variance of a window around a share that was estimated from the window itself is smaller by this factor.
    residual = 1 - 2 * items / pseudo_items[hours] + items * items_of_hour[hours] / pseudo_items[hours] ** 2
    rho = correlation(items, negative, shares[hours], residual, degrees_of_freedom)
    same_hour = hours == hour
    # The number of independent items that determine the share of the hour as well as these correlated ones do.
    effective_items = float((items[same_hour] / (1 + (items[same_hour] - 1) * rho)).sum()) + SHRINKAGE
    return Expectation(float(shares[hour]), rho + (1 - rho) / (effective_items + 1))


def correlation(items: Counts, negative: Counts, shares: Shares, residual: Shares, degrees_of_freedom: int) -> float:
    """Return the upper end of an interval for the correlation within windows, by the method of moments.

    `residual` [L]: the part of a window's variance that remains after its share was estimated from it as well. Pearson's term of
    a window of n items has the expectation 1 + (n - 1) rho. Terms have the weight n - 1, since large windows determine rho
    better. The sum has approximately a chi-square distribution, with fewer degrees of freedom where few negative items are
    expected.
    """
    from scipy.stats import chi2

    variance, weights = shares * (1 - shares), items - 1.0
    weight_sum = float(weights.sum())
    if weight_sum <= 0:
        return 0.0
    terms = (negative - items * shares) ** 2 / (items * variance * residual)
    variances = 2 + (1 - 6 * variance) / (items * variance)
    effective_freedom = 2 * weight_sum**2 / float((weights**2 * variances).sum()) * degrees_of_freedom / len(items)
    effective_freedom = max(effective_freedom, 1.0)
    upper = float((weights * terms).sum()) * effective_freedom / float(chi2.ppf(1 - CONFIDENCE, effective_freedom))
    return float(np.clip((upper - weight_sum) / float((weights**2).sum()), 0.0, 0.9))


def holm_rejections(p_values: Shares, level: float) -> NDArray[np.bool_]:
    """Return which p-values [K] Holm's procedure rejects at a family-wise `level`; NaN marks a topic that was not tested."""
    order = np.argsort(p_values)  # NaN last
    num_tested = int((~np.isnan(p_values)).sum())
    rejected = np.zeros(len(p_values), dtype=bool)
    for rank, index in enumerate(order[:num_tested]):
        if not p_values[index] <= level / (num_tested - rank):
            break
        rejected[index] = True
    return rejected
