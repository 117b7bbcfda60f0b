"""The guard by its laws: what it accepts, what it refuses, when it cannot decide."""

from __future__ import annotations

import numpy as np
import pytest

from llmstage.explore.guard import Scores, discordance_of, gain, judge, margin_for, rows_for


def verdict(before, after, families=None, margins=None, nats=(None, None), lm_loss=0.02, needed=None):
    before, after = np.asarray(before, dtype=float), np.asarray(after, dtype=float)
    everything = np.ones(len(before), dtype=bool)
    families = families or {"all": everything}
    return judge(
        Scores(before, nats[0]), Scores(after, nats[1]), families, margins or dict.fromkeys(families, 0.01),
        delta=0.01, lm_loss=lm_loss, rest=everything, needed=needed,
    )  # fmt: skip


def wrong(n, share):
    return (np.arange(n) < share * n).astype(float)


def test_no_change_passes_and_half_lost_is_refused():
    assert verdict(wrong(1000, 0.02), wrong(1000, 0.02)).passed
    lost = verdict(wrong(1000, 0.02), wrong(1000, 0.5))
    assert not lost.passed and "is not excluded" in lost.why and lost.families[0].change == pytest.approx(-0.48)


def test_a_loss_within_the_margin_passes_and_one_beyond_it_does_not():
    assert verdict(np.zeros(5000), wrong(5000, 0.004)).passed
    assert not verdict(np.zeros(5000), wrong(5000, 0.011)).passed


def test_each_row_group_is_tested_and_holm_counts_them():
    n = 3000
    first = np.arange(n) < n // 2
    families = {"first": first, "second": ~first}
    after = np.where(~first, wrong(n, 0.0), 0.0) + (first & (np.arange(n) < 45))
    guard = verdict(np.zeros(n), after, families)
    assert [group.passed for group in guard.families] == [False, True] and guard.why.startswith("first:")
    assert guard.families[0].p_holm >= guard.families[1].p_holm


def test_few_rows_cannot_decide():
    assert "guard cannot decide at n = 29" in verdict(np.zeros(29), np.zeros(29)).why
    assert "resolve no loss below 0.050" in verdict(np.zeros(200), np.zeros(200), margins={"all": 0.05}).why


def test_the_loss_of_a_language_model_may_rise_by_a_limit():
    flat = np.zeros(100)
    rises = [verdict(flat, flat, nats=(flat + 1, flat + 1 + rise)) for rise in (0.01, 0.03)]
    assert [guard.passed for guard in rises] == [True, False]
    assert rises[1].lm_loss["rise"] == pytest.approx(0.03) and "nats a token" in rises[1].why
    assert verdict(flat, flat, nats=(flat + 1, flat + 2), lm_loss=None).passed


def test_the_margin_widens_with_luck_and_with_few_rows():
    """EMERGENCE.md 2.6: .01 needs 309, 618, 1,236, 3,091 rows at a discordance of .005, .01, .02, .05."""
    for n, discordance in ((309, 0.005), (618, 0.01), (1236, 0.02), (3091, 0.05)):
        assert margin_for(n, discordance, 0.01, share=True) == pytest.approx(0.01, abs=1e-4)
    assert margin_for(100, 0.0, 0.01, share=True) == pytest.approx(1 - 0.05 ** (1 / 100))  # what 0 of 100 excludes
    assert margin_for(100, 0.0, 0.02, share=False) == 0.02


def test_a_refusal_says_how_many_rows_are_needed():
    """0 of n lost excludes 1 - .05 ** (1 / n): 3 % takes 99 rows; EMERGENCE.md 2.6 for rows that change by chance."""
    assert rows_for(0.0, 0.01, share=True) == 99 and margin_for(99, 0.0, 0.01, share=True) <= 0.03
    assert margin_for(98, 0.0, 0.01, share=True) > 0.03
    assert rows_for(0.05, 0.01 / 3, share=True) in (3091, 3092) and rows_for(0.0, 0.5, share=True) == 30
    assert rows_for(0.0, 0.01, share=False) == 30
    few = verdict(np.zeros(29), np.zeros(29), needed={"all": 99})
    assert "fewer than 30 rows; it takes 99" in few.why and few.families[0].undecided
    lost = verdict(np.zeros(400), wrong(400, 0.005))  # two rows: a loss of .01 is not excluded, and may not be there
    assert not lost.passed and "; 1,237 rows would exclude it" in lost.why and not lost.families[0].undecided
    assert "would exclude" not in verdict(wrong(1000, 0.02), wrong(1000, 0.5)).why


def test_discordance_is_the_share_of_rows_on_which_two_seeds_differ():
    rows = np.array([True, True, True, True, False])
    assert discordance_of(np.array([0, 1, 0, 1, 0.0]), np.array([0, 1, 1, 1, 1.0]), rows) == 0.25


def test_a_gain_is_paired_and_above_zero_where_errors_fall():
    rows = np.ones(200, dtype=bool)
    rows[100:] = False
    difference = gain(wrong(200, 0.5), np.zeros(200), rows)
    assert difference.value == 1 and difference.low > 0.9 and difference.num == 100
