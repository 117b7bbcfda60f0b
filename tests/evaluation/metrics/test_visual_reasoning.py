"""When two answers are the same, what counts as true, and what the picture adds."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import bootstrap
from sklearn.metrics import accuracy_score

from llmstage.evaluation.metrics.visual_reasoning import image_gain, macro_over_types, normalize_answer, truth_of


@pytest.mark.parametrize(
    ("one", "two", "same"),
    [
        ("The  Left.", "the left", True),
        ("ＲＥＤ", "red", True),
        ("红色。", "红色", True),
        ("“是”", "是", True),
        ("-3", "3", False),
        ("3.5", "35", False),
        ("3.", "3", True),
        ("red blue", "redblue", False),
        ("+", "?", False),
        ("", " ", True),
    ],
)
def test_answers_are_the_same_but_for_case_spaces_and_punctuation(one, two, same):
    assert (normalize_answer(one) == normalize_answer(two)) is same


def test_truth_is_spelled_in_many_ways():
    assert {truth_of(word) for word in ("True", "yes", "1", "是", "对", " TRUE. ")} == {"true"}
    assert {truth_of(word) for word in ("false", "No", "0", "否", "错")} == {"false"}
    assert {truth_of(word) for word in ("", "ture", "2", "maybe", "红")} == {None}


def test_the_gain_is_paired():
    rng = np.random.default_rng(0)
    blind = rng.random(300) < 0.4
    right = blind | (rng.random(300) < 0.3)  # what the blind one knows, this one knows too
    gain = image_gain(right, blind)
    assert gain.value == pytest.approx(right.mean() - blind.mean())
    scipys = bootstrap(
        (right.astype(float), blind.astype(float)), lambda a, b, axis: a.mean(axis) - b.mean(axis), paired=True,
        n_resamples=4000, method="percentile", rng=0,
    ).confidence_interval  # fmt: skip
    assert (gain.low, gain.high) == pytest.approx((scipys.low, scipys.high), abs=0.01)
    unpaired = np.sqrt(right.var() / 300 + blind.var() / 300) * 2 * 1.96
    assert gain.high - gain.low < 0.9 * unpaired
    assert image_gain([1, 0], [1, 0]).low is None


def test_kinds_count_the_same():
    right, kinds = [1, 1, 1, 1, 0, 1], ["a", "a", "a", "a", "b", "b"]
    score = macro_over_types(right, kinds)
    each = [accuracy_score([1] * 4, right[:4]), accuracy_score([1] * 2, right[4:])]
    assert score is not None and score.value == pytest.approx(np.mean(each)) and score.count == 6
    assert score.low is not None and score.low < score.value < score.high
    assert macro_over_types([1, 0], ["a", None]) is None
