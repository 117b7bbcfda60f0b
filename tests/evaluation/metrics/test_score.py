"""Intervals against published numbers and against what they promise: to hold the truth 95 times of 100."""

from __future__ import annotations

import math
import time

import numpy as np
import pytest

from llmstage.evaluation.metrics.score import bootstrap_score, mean, proportion, ratio, resampled_sums


@pytest.mark.parametrize(
    ("hits", "num", "low", "high"),
    [  # Newcombe (1998), Statistics in Medicine 17:857-872, table I, method 3 (Wilson without continuity correction)
        (81, 263, 0.2553, 0.3662),
        (15, 148, 0.0624, 0.1605),
        (0, 20, 0.0000, 0.1611),
        (1, 29, 0.0061, 0.1718),
    ],
)
def test_wilson_gives_the_published_intervals(hits: int, num: int, low: float, high: float) -> None:
    score = proportion([True] * hits + [False] * (num - hits))
    assert (round(score.low or 0, 4), round(score.high or 0, 4)) == (low, high)
    assert score.value == hits / num and score.count == num and score.method == "wilson"


def test_wilson_at_the_ends_stays_inside_and_has_a_width() -> None:
    none, every = proportion([False] * 5), proportion([True] * 5)
    assert none.low == 0 and none.high is not None and none.high > 0.4
    assert every.high == 1 and every.low is not None and every.low < 0.6
    assert math.isnan(proportion([]).value) and proportion([]).low is None


def test_ratio_is_the_ratio_of_sums_and_not_the_mean_of_ratios() -> None:
    assert ratio([1, 9], [1, 1000]).value == 10 / 1001
    assert ratio([math.log(4), math.log(4)], [1, 1], np.exp).value == pytest.approx(4)
    assert math.isnan(ratio([], []).value) and math.isnan(ratio([0.0], [0.0]).value)


def test_no_interval_is_claimed_where_rows_cannot_tell() -> None:
    for score in (mean([3.0]), mean([0.1] * 50), bootstrap_score(1.0, np.full(1000, np.nan), 3)):
        assert score.low is None and score.high is None and score.method == ""


def test_a_seeded_interval_repeats() -> None:
    values = np.random.default_rng(5).normal(size=100)
    assert mean(values) == mean(values)


def test_bootstrap_width_is_the_standard_error() -> None:
    values = np.random.default_rng(1).normal(10, 2, size=2000)
    score = mean(values)
    assert score.low is not None and score.high is not None
    assert (score.high - score.low) / (2 * 1.96 * values.std() / math.sqrt(2000)) == pytest.approx(1, abs=0.08)


def test_bootstrap_holds_the_truth_as_often_as_it_says() -> None:
    rng, held = np.random.default_rng(2), 0
    for _ in range(300):
        tokens = rng.integers(5, 50, size=100)
        rate = rng.gamma(4, 0.5, size=100)  # mean 2, independent of the length: the true ratio is 2
        score = ratio(rate * tokens, tokens)
        held += (score.low or 0) <= 2 <= (score.high or 0)
    assert 0.90 <= held / 300 <= 0.98


def test_groups_of_rows_give_the_interval_of_rows() -> None:
    rng = np.random.default_rng(3)
    tokens = rng.integers(5, 200, size=40_000).astype(float)
    losses = np.sort(tokens * rng.gamma(3, 1, size=40_000))  # sorted rows: groups by order would be far too alike
    score = ratio(losses, tokens)
    middle = losses.sum() / tokens.sum()
    error = (losses - middle * tokens).std() / (math.sqrt(40_000) * tokens.mean())
    assert score.low is not None and score.high is not None
    assert (score.high - score.low) / (2 * 1.96 * error) == pytest.approx(1, abs=0.1)
    assert resampled_sums(np.ones((10_001, 1))).mean() == pytest.approx(10_001, rel=1e-3)


def test_a_million_rows_take_about_a_second() -> None:
    rows = np.random.default_rng(4).gamma(2, 1, size=1_000_000)
    start = time.process_time()
    ratio(rows, np.ones_like(rows), np.exp)
    assert time.process_time() - start < 3
