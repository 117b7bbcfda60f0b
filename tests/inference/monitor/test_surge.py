"""The test behind an alert: its false alarms on counts with a daily rhythm, its power, and its parts beside scipy's."""

from __future__ import annotations

from datetime import UTC

import numpy as np
import pytest
from scipy import stats
from streams import DAY, HOUR, counts

from llmstage.inference.monitor.aggregation import WindowCounts, WindowResult
from llmstage.inference.monitor.surge import correlation, expect, holm_rejections


def judged(items: np.ndarray, negative: np.ndarray, alpha: float = 0.01) -> list[WindowResult]:
    """Every verdict on hourly counts [hours, topics]."""
    windows = WindowCounts(items.shape[1], HOUR, 0, 28 * DAY, 6 * HOUR, alpha, 10, UTC)
    found = []
    for hour, both in enumerate(np.stack([items, negative], axis=2)):
        windows.open[hour * HOUR] = both
        found += windows.close(end_of_input=True)
    return found


def planted(seed: int, days: int, at: int) -> tuple[np.ndarray, np.ndarray]:
    """Three hours from `at` on in which 8 of 10 items of the second topic are negative."""
    items, negative = counts(seed, days)
    rng = np.random.default_rng((seed, 1))
    items[at : at + 3, 1] = rng.poisson(70, 3)
    negative[at : at + 3, 1] = rng.binomial(items[at : at + 3, 1], 0.8)
    return items, negative


def check_seeds(seeds: range, days: int) -> None:
    """No false alert, exactly the planted one, and p-values that are small no more often than they say."""
    at = (days - 2) * 24 + 14
    p_values: list[float] = []
    for seed in seeds:
        calm = judged(*counts(seed, days))
        p_values += [one.p_value for one in calm if one.p_value is not None]
        assert not [one for one in calm if one.raises_alert], f"seed {seed}"
        raised = [(one.start, one.topic) for one in judged(*planted(seed, days, at)) if one.raises_alert]
        assert raised == [(at * HOUR, 1)], f"seed {seed}"
    found = np.array(p_values)
    assert len(found) > 50 * days * len(seeds) / 2
    for level in (0.05, 0.01, 0.001):
        allowed = stats.binom.ppf(0.999, len(found), level)
        assert (found <= level).sum() <= allowed, f"{(found <= level).mean():.4f} of the p-values are at most {level}"
    # A test whose p-values are never small would pass all this: half of what they say is still used.
    assert (found <= 0.2).mean() > 0.05


def test_planted_surges_are_found_and_nothing_else() -> None:
    check_seeds(range(3), days=16)


@pytest.mark.slow
def test_planted_surges_are_found_and_nothing_else_over_twenty_seeds() -> None:
    check_seeds(range(20), days=42)


def test_a_test_that_ignores_the_hour_or_the_scatter_raises_false_alarms() -> None:
    """The counts of this file are hard: a binomial test against the share of all hours fails on them."""
    items, negative = counts(0, 16, rhythm=1.0, rho=0.05, volume=60)
    share = negative.sum() / items.sum()
    naive = stats.binom.sf(negative - 1, items, share)
    ours = [one.p_value for one in judged(items, negative) if one.p_value is not None]
    assert (naive < 1e-4).mean() > 0.01
    assert not [p for p in ours if p < 1e-4]


def test_small_counts_raise_no_alarm_and_large_ones_do() -> None:
    hours = np.tile(np.arange(24), 20)
    items = np.full(480, 12)
    negative = np.random.default_rng(0).binomial(items, 0.1)
    past = expect(items, negative, hours, 9)
    assert past is not None and past.share == pytest.approx(0.1, abs=0.03)
    assert past.p_value(3, 2) > 1e-3 and past.p_value(2, 2) > 1e-3
    assert past.p_value(40, 24) < 1e-6 and past.p_value(40, 4) > 0.3
    assert past.p_value(40, 0) == 1


def test_the_tail_is_that_of_scipys_beta_binomial_and_of_the_binomial_without_correlation() -> None:
    from llmstage.inference.monitor.surge import Expectation

    simulated = np.random.default_rng(0).beta(0.2 * 19, 0.8 * 19, 200_000)
    counted = np.random.default_rng(1).binomial(30, simulated)
    assert Expectation(0.2, 0.05).p_value(30, 12) == pytest.approx((counted >= 12).mean(), abs=0.003)
    assert Expectation(0.2, 0.0).p_value(30, 12) == pytest.approx(stats.binomtest(12, 30, 0.2, "greater").pvalue)


@pytest.mark.parametrize("share", [0.05, 0.264])
def test_the_tail_is_scipys_to_the_last_digits_also_where_subnormal_numbers_are_flushed(share: float) -> None:
    import torch

    from llmstage.inference.monitor.surge import Expectation

    for rho in (0.0058, 0.03, 0.3):
        strength = 1 / rho - 1
        tails = [stats.betabinom.sf(x - 1, 15, share * strength, (1 - share) * strength) for x in range(16)]
        ours = Expectation(share, rho)
        assert [ours.p_value(15, x) for x in range(16)] == pytest.approx(tails, rel=1e-6, abs=1e-11)
        assert torch.set_flush_denormal(True)
        try:
            assert [ours.p_value(15, x) for x in range(16)] == pytest.approx(tails, rel=1e-6, abs=1e-11)
        finally:
            torch.set_flush_denormal(False)
    assert 0 < Expectation(0.1, 0.001).p_value(200, 190) < 1e-50


def test_the_expected_share_is_that_of_the_same_hour() -> None:
    hours = np.tile(np.arange(24), 28)
    items = np.full(len(hours), 100)
    negative = np.where(hours == 9, 40, 10)
    noon, nine = expect(items, negative, hours, 12), expect(items, negative, hours, 9)
    assert noon and nine
    assert noon.share == pytest.approx(0.1, abs=0.005) and nine.share == pytest.approx(0.4, abs=0.005)
    assert nine.p_value(100, 45) > 0.05 and noon.p_value(100, 45) < 1e-9


def test_scatter_beyond_chance_is_measured_and_taken_at_its_upper_end() -> None:
    shares = np.full(2000, 0.2)
    items = np.full(2000, 50)
    for rho in (0.0, 0.05):
        found = []
        for seed in range(20):
            rng = np.random.default_rng(seed)
            p = rng.beta(0.2 * (1 / rho - 1), 0.8 * (1 / rho - 1), 2000) if rho else shares
            found.append(correlation(items, rng.binomial(items, p), shares, np.ones(2000), 2000))
        assert rho <= np.mean(found) < rho + 0.012
        assert np.mean(np.array(found) >= rho) >= 0.8
    rng = np.random.default_rng(0)
    few = correlation(items[:24], rng.binomial(items[:24], 0.2), shares[:24], np.ones(24), 24)
    assert few > 0.003, "a short past cannot exclude scatter"


def test_a_past_that_is_too_short_judges_nothing() -> None:
    hours = np.arange(40) % 24
    assert expect(np.full(40, 50), np.full(40, 5), hours, 3) is None
    assert expect(np.full(48, 50), np.full(48, 5), np.arange(48) % 24, 3) is not None


def test_holm_is_that_of_its_definition() -> None:
    p = np.array([0.012, np.nan, 0.001, 0.04, 0.02])
    assert holm_rejections(p, 0.05).tolist() == [True, False, True, True, True]
    p = np.array([0.012, np.nan, 0.001, 0.04, 0.03])
    assert holm_rejections(p, 0.05).tolist() == [True, False, True, False, False]
    assert not holm_rejections(np.array([np.nan]), 0.05).any()
