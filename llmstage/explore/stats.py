"""Statistics of stage=explore that evaluation/metrics/score.py lacks: exact intervals and tests, paired and nested
bootstraps, corrections for many tests, and the number of items that a claim needs. scipy computes the distributions."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats

from llmstage.evaluation.metrics.score import Score, wilson
from llmstage.explore.wording import sentence

RESAMPLES = 2000
CHUNK = 4_000_000
"""Number of draws in memory at a time."""
FEWEST_ITEMS = 30
"""Below this number of items only an exact test may support a claim."""

Numbers = NDArray[np.float64]


@dataclass(slots=True, frozen=True)
class Difference:
    """The mean of after - before on the same items, with its 95 % interval."""

    value: float
    low: float
    high: float
    num: int
    p_not_above: float
    """One-sided p-value of "the true difference is not above `threshold`": small where it is above."""
    threshold: float = 0.0

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object."""
        return asdict(self)


# Shares


def share_interval(hits: int, num: int) -> Score:
    """Return the share of hits with its 95 % interval: Wilson, and Clopper-Pearson where all or none hit (EMERGENCE 2.6).

    At 0 and n Wilson's interval is too narrow on the side that matters; Clopper & Pearson (1934), Biometrika 26:404-413,
    covers at least 95 % for every true share.
    """
    if num == 0:
        return Score(math.nan)
    exact = hits in (0, num)
    low, high = clopper_pearson(hits, num) if exact else wilson(hits / num, num)
    return Score(hits / num, low, high, num, "clopper_pearson" if exact else "wilson")


def clopper_pearson(hits: int, num: int, level: float = 0.95) -> tuple[float, float]:
    """Return the exact two-sided interval of a share."""
    interval = stats.binomtest(hits, num).proportion_ci(level, "exact")
    return float(interval.low), float(interval.high)


def upper_bound(hits: int, num: int, level: float = 0.95) -> float:
    """Return the exact one-sided upper bound of a share: 0 of 200 gives 0.0149, near the rule of three 3/n."""
    return float(stats.binomtest(hits, num, alternative="less").proportion_ci(level, "exact").high)


def below_resolution(hits: int, num: int) -> str:
    """Return the upper bound of a share as text: `0/200, ≤ 1.5 %`."""
    return f"{hits}/{num}, ≤ {upper_bound(hits, num) * 100:.1f} %"


def above_chance(hits: int, num: int, chance: float) -> float:
    """Return the one-sided exact binomial p-value of at least so many hits under `chance`."""
    return float(stats.binomtest(hits, num, chance, alternative="greater").pvalue)


def fisher_worse(hits: int, num: int, rest_hits: int, rest_num: int) -> float:
    """Return the one-sided exact p-value that a slice hits no less often than the rest (Fisher); for slices of any size."""
    table = [[hits, num - hits], [rest_hits, rest_num - rest_hits]]
    return float(stats.fisher_exact(table, alternative="less").pvalue)


# Before and after


def mcnemar(before: ArrayLike, after: ArrayLike) -> float:
    """Two-sided exact p-value of McNemar (1947) for right/wrong on the same items: a sign test on the items that changed."""
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
    """Return the mean of after - before [N] with the percentile bootstrap over items, drawn in pairs.

    `threshold` is the border of `p_not_above`: 0 for a gain, -delta for non-inferiority. The p-value counts the observed
    sample as one of the resamples, so it is never 0 (Davison & Hinkley 1997, section 4.2.5).
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
    """Return `paired_difference` with the p-value of "after is worse by delta or more": small means no such loss."""
    return paired_difference(before, after, threshold=-delta, resamples=resamples, seed=seed)


def resample(
    values: Numbers, statistic: Callable[[Numbers], Numbers], resamples: int = RESAMPLES, seed: int = 0
) -> Numbers:
    """Return `statistic` of `resamples` seeded bootstrap samples [R] of `values` [N]; it gets samples [r, N] at a time."""
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
    """Return the mean of `values` [N] with a bootstrap that draws groups before items.

    `levels` are labels [N] each, the widest group first (seed, template). Items of one seed or template vary together;
    drawing items alone makes the interval too narrow (Davison & Hinkley 1997, section 3.8). The mean is that of the group
    means, level by level, so that a group with more items has no more weight. No interval where no level has two groups
    and there is one item.
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
    """Return resampled means [R] of nested groups; with resamples=0 the plain mean of means [1]."""
    if not levels:
        if resamples == 0:
            return np.full(1, values.mean())
        sampled: Numbers = values[rng.integers(0, len(values), size=(resamples, len(values)))].mean(axis=1)
        return sampled
    groups = [levels[0] == name for name in dict.fromkeys(levels[0].tolist())]
    inside = np.stack(
        [_nested(values[group], [level[group] for level in levels[1:]], resamples, rng) for group in groups]
    )
    if resamples == 0:
        return np.full(1, inside.mean())
    chosen = rng.integers(0, len(groups), size=(resamples, len(groups)))  # [R, G]
    # A group that is drawn twice must not give the same items twice: its second draw takes another resample's mean.
    lanes = rng.integers(0, resamples, size=chosen.shape)
    means: Numbers = inside[chosen, lanes].mean(axis=1)
    return means


# Many tests at once


def holm(p_values: ArrayLike) -> Numbers:
    """Adjusted p-values of Holm (1979), Scand. J. Statist. 6:65-70: family-wise error rate, for confirmation and guard."""
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
    """Number of items that detect a fall from `rate` by `drop` with `power`; one-sided, Bonferroni over `tests`.

    Normal approximation of the one-sample test (Fleiss, Levin & Paik 2003, section 2.5): 69 items detect 0.9 → 0.8.
    """
    worse = rate - drop
    z_alpha, z_power = stats.norm.isf(alpha / tests), stats.norm.ppf(power)
    spread = z_alpha * math.sqrt(rate * (1 - rate)) + z_power * math.sqrt(worse * (1 - worse))
    return math.ceil(float(spread / drop) ** 2 - 1e-9)


def items_for_noninferiority(delta: float, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> int:
    """Number of items with which a paired test excludes a loss of `delta` where a share `discordance` changes by chance."""
    z = float(stats.norm.isf(alpha) + stats.norm.ppf(power))
    return math.ceil(discordance * (z / delta) ** 2)


def margin_of(num: int, discordance: float, *, power: float = 0.8, alpha: float = 0.05) -> float:
    """Return the smallest delta that `num` items can exclude: the inverse of `items_for_noninferiority`."""
    if num == 0:
        return math.inf
    return float((stats.norm.isf(alpha) + stats.norm.ppf(power)) * math.sqrt(discordance / num))


def too_few_items(num: int) -> str | None:
    """Return why a claim on so few items is refused, or None where there are enough."""
    if num >= FEWEST_ITEMS:
        return None
    return sentence("too_few_items", num=num, least=FEWEST_ITEMS, drop=items_for_drop(0.9, 0.1))
