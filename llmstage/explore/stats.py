"""Statistics of stage=explore beyond metrics/intervals.py: exact intervals and tests, paired and nested bootstraps,
corrections for many tests, and how many items a claim needs. scipy does the distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from llmstage.evaluation.metrics.intervals import wilson
from llmstage.evaluation.metrics.score import Score
from llmstage.explore.wording import say

RESAMPLES = 2000
CHUNK = 4_000_000
"""Draws held in memory at once."""
FEWEST_ITEMS = 30
"""Below so many items only an exact test may claim anything."""

Numbers = NDArray[np.float64]


@dataclass(slots=True, frozen=True)
class Difference:
    """After minus before on the same items."""

    value: float
    low: float
    high: float
    num: int
    p_not_above: float
    """One-sided p-value of "the true difference is not above `threshold`"; small: it is above."""
    threshold: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


# Shares


def share_interval(hits: int, num: int) -> Score:
    """Share of hits with its 95 % interval: Wilson, and Clopper-Pearson where all or none hit (EMERGENCE 2.6).

    At 0 and n Wilson's interval is too narrow on the side that matters; Clopper & Pearson (1934), Biometrika 26:404-413,
    covers at least 95 % for every true share.
    """
    if num == 0:
        return Score(math.nan)
    exact = hits in (0, num)
    low, high = clopper_pearson(hits, num) if exact else wilson(hits / num, num)
    return Score(hits / num, low, high, num, "clopper_pearson" if exact else "wilson")


def clopper_pearson(hits: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """The exact two-sided interval of a share."""
    found = stats.binomtest(hits, num).proportion_ci(level, "exact")
    return float(found.low), float(found.high)


def upper_bound(hits: int, num: int, level: float = 0.95) -> float:
    """The exact one-sided upper bound of a share: 0 of 200 gives 0.0149, near the rule of three 3/n."""
    return float(stats.binomtest(hits, num, alternative="less").proportion_ci(level, "exact").high)


def below_resolution(hits: int, num: int) -> str:
    """How little `hits` of `num` can tell, for a sentence: `0/200, ≤ 1.5 %`."""
    return f"{hits}/{num}, ≤ {upper_bound(hits, num) * 100:.1f} %"


def above_chance(hits: int, num: int, chance: float) -> float:
    """One-sided exact binomial p-value of seeing so many hits or more under `chance`."""
    return float(stats.binomtest(hits, num, chance, alternative="greater").pvalue)


def fisher_worse(hits: int, num: int, rest_hits: int, rest_num: int) -> float:
    """One-sided exact p-value that a slice hits no less often than the rest (Fisher); for slices of any size."""
    table = [[hits, num - hits], [rest_hits, rest_num - rest_hits]]
    return float(stats.fisher_exact(table, alternative="less").pvalue)


# Before and after


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """Two-sided exact p-value of McNemar (1947) for right/wrong on the same items: a sign test on those that changed."""
    old, new = np.asarray(before, dtype=bool), np.asarray(after, dtype=bool)
    won, lost = int(np.count_nonzero(new & ~old)), int(np.count_nonzero(old & ~new))
    return float(stats.binomtest(won, won + lost).pvalue) if won + lost else 1.0


def paired_difference(
    before: ArrayLike,
    after: ArrayLike,
    *,
    threshold: float = 0.0,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """Mean of after - before [N] with the percentile bootstrap over items, drawn in pairs.

    `threshold` is what `p_not_above` asks about: 0 for a gain, -delta for non-inferiority. The p-value counts the
    observed sample as one of the resamples, so it is never 0 (Davison & Hinkley 1997, section 4.2.5).
    """
    gaps = np.asarray(after, dtype=np.float64) - np.asarray(before, dtype=np.float64)
    if len(gaps) == 0:
        return Difference(math.nan, math.nan, math.nan, 0, 1.0, threshold)
    drawn = resample(gaps, lambda rows: rows.mean(axis=-1), resamples, seed)
    low, high = np.quantile(drawn, [(1 - level) / 2, (1 + level) / 2])
    below = (int(np.count_nonzero(drawn <= threshold)) + 1) / (resamples + 1)
    return Difference(float(gaps.mean()), float(low), float(high), len(gaps), below, threshold)


def noninferior(
    before: ArrayLike, after: ArrayLike, delta: float, *, resamples: int = RESAMPLES, seed: int = 0
) -> Difference:
    """`paired_difference` whose p-value is that of "after is worse by delta or more": small means nothing was lost."""
    return paired_difference(before, after, threshold=-delta, resamples=resamples, seed=seed)


def resample(
    values: Numbers, statistic: Callable[[Numbers], Numbers], resamples: int = RESAMPLES, seed: int = 0
) -> Numbers:
    """`statistic` of `resamples` seeded bootstrap samples [R] of `values` [N]; it gets samples [r, N] at a time."""
    rng = np.random.default_rng(seed)
    step = max(1, CHUNK // max(1, len(values)))
    parts = []
    for start in range(0, resamples, step):
        size = (min(step, resamples - start), len(values))
        parts.append(statistic(values[rng.integers(0, len(values), size=size)]))
    return np.concatenate(parts)


def hierarchical(
    values: ArrayLike, levels: Sequence[Sequence[Any]], *, resamples: int = RESAMPLES, seed: int = 0
) -> Score:
    """Mean of `values` [N] with a bootstrap that draws groups before items: `levels` are labels [N] each, the widest
    first (seed, template).

    Items of one seed or template rise and fall together; drawing items alone makes the interval too narrow (Davison &
    Hinkley 1997, section 3.8). The mean is that of the group means, level by level, so that a group with more items
    weighs no more. No interval where no level has two groups and there is one item.
    """
    numbers = np.asarray(values, dtype=np.float64)
    if len(numbers) == 0:
        return Score(math.nan)
    rng = np.random.default_rng(seed)
    drawn = _nested(numbers, [np.asarray(level) for level in levels], resamples, rng)
    value = float(_nested(numbers, [np.asarray(level) for level in levels], 0, rng)[0])
    if len(numbers) < 2 or np.ptp(drawn) == 0:
        return Score(value, None, None, len(numbers))
    low, high = np.quantile(drawn, [0.025, 0.975])
    return Score(value, float(low), float(high), len(numbers), "hierarchical bootstrap")


def _nested(values: Numbers, levels: list[NDArray[Any]], resamples: int, rng: np.random.Generator) -> Numbers:
    """Resampled means [R] of nested groups; with resamples=0 the plain mean of means [1]."""
    if not levels:
        if resamples == 0:
            return np.full(1, values.mean())
        sampled: Numbers = values[rng.integers(0, len(values), size=(resamples, len(values)))].mean(axis=1)
        return sampled
    groups = [levels[0] == name for name in dict.fromkeys(levels[0].tolist())]
    inside = np.stack([_nested(values[own], [one[own] for one in levels[1:]], resamples, rng) for own in groups])
    if resamples == 0:
        return np.full(1, inside.mean())
    chosen = rng.integers(0, len(groups), size=(resamples, len(groups)))  # [R, G]
    # A group drawn twice must not bring the same items twice: its second draw takes another resample's mean.
    lanes = rng.integers(0, resamples, size=chosen.shape)
    means: Numbers = inside[chosen, lanes].mean(axis=1)
    return means


# Many tests at once


def holm(p_values: ArrayLike) -> Numbers:
    """Adjusted p-values of Holm (1979), Scand. J. Statist. 6:65-70: family-wise error, for confirmation and guard."""
    p = np.asarray(p_values, dtype=np.float64)
    order = np.argsort(p, kind="stable")
    stepped = np.maximum.accumulate(p[order] * np.arange(len(p), 0, -1))
    adjusted = np.empty_like(p)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted


def benjamini_hochberg(p_values: ArrayLike) -> Numbers:
    """Adjusted p-values (q) of Benjamini & Hochberg (1995), J. R. Statist. Soc. B 57:289-300: for discovery."""
    p = np.asarray(p_values, dtype=np.float64)
    return np.asarray(stats.false_discovery_control(p, method="bh"), dtype=np.float64) if len(p) else p


# How many items a claim needs


def items_for_drop(rate: float, drop: float, *, tests: int = 1, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items with which a fall from `rate` by `drop` is seen with `power`, one-sided, Bonferroni over `tests`.

    Normal approximation of the one-sample test (Fleiss, Levin & Paik 2003, section 2.5): 69 items see 0.9 fall to 0.8.
    """
    worse = rate - drop
    z_alpha, z_power = stats.norm.isf(alpha / tests), stats.norm.ppf(power)
    spread = z_alpha * math.sqrt(rate * (1 - rate)) + z_power * math.sqrt(worse * (1 - worse))
    return math.ceil(float(spread / drop) ** 2 - 1e-9)


def items_for_noninferiority(delta: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Items with which a paired test excludes a loss of `delta` when a share `discordance` of items changes by luck."""
    z = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    return math.ceil(discordance * (z / delta) ** 2)


def margin_of(num: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """The smallest delta that `num` items resolve: `items_for_noninferiority` the other way round."""
    if num == 0:
        return math.inf
    return float((stats.norm.isf(alpha) + stats.norm.ppf(power)) * math.sqrt(discordance / num))


def too_few_items(num: int) -> str | None:
    """Why a claim on so few items is refused, or None where they are enough."""
    if num >= FEWEST_ITEMS:
        return None
    return say("too_few_items", num=num, least=FEWEST_ITEMS, drop=items_for_drop(0.9, 0.1))
