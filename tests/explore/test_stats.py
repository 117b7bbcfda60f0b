"""Statistics against scipy, against printed tables, and against their promised coverage."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from llmstage.explore import stats


def test_an_interval_at_nothing_or_everything_is_exact_and_else_wilsons() -> None:
    none, some, every = stats.share_interval(0, 20), stats.share_interval(5, 20), stats.share_interval(20, 20)
    assert (none.method, some.method, every.method) == ("clopper_pearson", "wilson", "clopper_pearson")
    assert none.high == pytest.approx(1 - 0.025 ** (1 / 20)) and every.low == pytest.approx(0.025 ** (1 / 20))
    expected = scipy_stats.binomtest(5, 20).proportion_ci(0.95, "wilson")
    assert (some.low, some.high) == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("hits", "num"), [(0, 7), (3, 10), (10, 10)])
def test_clopper_pearson_is_the_beta_quantile(hits: int, num: int) -> None:
    low, high = stats.clopper_pearson(hits, num)
    assert low == pytest.approx(scipy_stats.beta.ppf(0.025, hits, num - hits + 1) if hits else 0.0)
    assert high == pytest.approx(scipy_stats.beta.ppf(0.975, hits + 1, num - hits) if hits < num else 1.0)


def test_none_of_200_means_at_most_one_and_a_half_percent() -> None:
    assert stats.upper_bound(0, 200) == pytest.approx(1 - 0.05 ** (1 / 200))
    assert stats.below_resolution(0, 200) == "0/200, ≤ 1.5 %"


def test_mcnemar_is_a_sign_test_on_what_changed() -> None:
    before = [True] * 50 + [False] * 20
    after = [True] * 48 + [False] * 2 + [True] * 12 + [False] * 8
    assert stats.mcnemar(before, after) == pytest.approx(2 * scipy_stats.binom.cdf(2, 14, 0.5))
    assert stats.mcnemar(before, before) == 1.0


def test_a_paired_difference_is_narrower_than_two_samples_and_covers() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for trial in range(100):
        level = rng.normal(size=200)
        gap = stats.paired_difference(level, level + 0.1 + 0.2 * rng.normal(size=200), resamples=400, seed=trial)
        held += gap.low <= 0.1 <= gap.high
        assert gap.high - gap.low < 0.08  # unpaired it would be about 0.39
    assert 88 <= held <= 100


def test_the_p_value_of_a_difference_asks_about_its_threshold() -> None:
    before, after = np.zeros(400), np.r_[np.full(4, -1.0), np.full(2, 1.0), np.zeros(394)]
    assert stats.paired_difference(before, after).p_not_above > 0.5
    assert stats.noninferior(before, after, 0.05).p_not_above < 0.01
    assert stats.noninferior(before, after, 0.05).threshold == -0.05


def test_holm_and_benjamini_hochberg_on_published_p_values() -> None:
    # The 15 p-values of Benjamini & Hochberg (1995), section 3.2: 4 are rejected by theirs at 0.05, 3 by Bonferroni/Holm.
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1,
    ]
    assert (stats.benjamini_hochberg(p) <= 0.05).sum() == 4
    assert (stats.holm(p) <= 0.05).sum() == 3
    assert stats.holm([0.04, 0.01, 0.03]) == pytest.approx([0.06, 0.03, 0.06])
    assert len(stats.benjamini_hochberg([])) == 0


def test_items_of_one_seed_do_not_count_as_many() -> None:
    rng = np.random.default_rng(1)
    seeds = np.repeat(np.arange(5), 200)
    values = rng.normal(size=5)[seeds] + 0.1 * rng.normal(size=1000)
    nested, flat = stats.hierarchical(values, [seeds]), stats.hierarchical(values, [])
    assert nested.high - nested.low > 8 * (flat.high - flat.low)
    uneven = stats.hierarchical(np.r_[np.zeros(90), np.ones(10)], [["a"] * 90 + ["b"] * 10])
    assert uneven.value == pytest.approx(0.5)


def test_a_nested_bootstrap_of_two_levels_has_the_width_of_its_widest_level() -> None:
    rng = np.random.default_rng(2)
    seeds, templates = np.repeat(np.arange(6), 100), np.tile(np.repeat(np.arange(10), 10), 6)
    values = rng.normal(size=6)[seeds] + 0.01 * rng.normal(size=600)
    score = stats.hierarchical(values, [seeds, templates])
    means = np.array([values[seeds == seed].mean() for seed in range(6)])
    assert (score.high - score.low) / 3.92 == pytest.approx(means.std() / np.sqrt(6), rel=0.15)


@pytest.mark.parametrize(
    ("rate", "drop", "tests", "items"),
    [(0.9, 0.1, 1, 69), (0.9, 0.1, 50, 160), (0.9, 0.1, 500, 211), (0.9, 0.2, 1, 20), (0.9, 0.2, 50, 44),
     (0.9, 0.2, 500, 57), (0.5, 0.1, 1, 153), (0.5, 0.1, 50, 384), (0.5, 0.1, 500, 517)],
)  # fmt: skip
def test_items_for_a_drop(rate: float, drop: float, tests: int, items: int) -> None:
    assert stats.items_for_drop(rate, drop, tests=tests) == items


@pytest.mark.parametrize(("discordance", "items"), [(0.005, 309), (0.01, 618), (0.02, 1236), (0.05, 3091)])
def test_items_for_non_inferiority_and_back(discordance: float, items: int) -> None:
    assert stats.items_for_noninferiority(0.01, discordance) - items in (0, 1)  # the table rounds, we round up
    assert stats.margin_of(items, discordance) == pytest.approx(0.01, rel=2e-3)


def test_a_slice_of_a_few_rows_is_judged_exactly() -> None:
    assert stats.fisher_worse(1, 10, 95, 100) == pytest.approx(scipy_stats.hypergeom.cdf(1, 110, 96, 10))
    assert stats.too_few_items(30) is None and "12 items" in (stats.too_few_items(12) or "")


def test_above_chance_is_the_binomial_tail() -> None:
    assert stats.above_chance(60, 200, 0.25) == pytest.approx(scipy_stats.binom.sf(59, 200, 0.25))
