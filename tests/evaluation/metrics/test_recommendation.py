"""Ranking scores and click scores against scikit-learn and formulas worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn.metrics import log_loss, ndcg_score, roc_auc_score

from llmstage.evaluation.metrics.recommendation import click_scores, rank_of, ranking_scores, weighted_auc


def test_ndcg_equals_scikit_learn_on_whole_rankings():
    rng = np.random.default_rng(0)
    scores = rng.normal(size=(40, 60))
    targets = rng.integers(0, 60, 40)
    truth = np.eye(60)[targets]
    ranks = [rank_of(row, int(target)) for row, target in zip(scores, targets, strict=True)]
    metrics = ranking_scores(ranks, [str(number) for number in range(40)])
    assert metrics["ndcg@10"].value == pytest.approx(ndcg_score(truth, scores, k=10))
    assert metrics["hit@5"].value == pytest.approx(np.mean([np.argsort(-row)[:5].tolist().count(t) for row, t in zip(scores, targets, strict=True)]))  # fmt: skip
    assert metrics["ndcg@10"].low < metrics["ndcg@10"].value < metrics["ndcg@10"].high


def test_scores_by_hand():
    scores = ranking_scores([1, 3, 20], ["a", "b", "c"])
    assert scores["ndcg@10"].value == pytest.approx((1 + 0.5) / 3)
    assert scores["mrr"].value == pytest.approx((1 + 1 / 3 + 1 / 20) / 3)
    assert [scores[f"hit@{cut}"].value for cut in (1, 5, 10)] == pytest.approx([1 / 3, 2 / 3, 2 / 3])
    assert ranking_scores([], []) == {}


def test_ties_are_broken_by_place_and_the_best_is_one():
    scores = np.array([0.5, 0.9, 0.5, 0.1])
    assert [rank_of(scores, at) for at in range(4)] == [2, 1, 3, 4]


def test_intervals_are_over_users_not_rows():
    ranks = [1, 20] * 50
    one_user_each = ranking_scores(ranks, [str(number) for number in range(100)])["hit@1"]
    two_users = ranking_scores(ranks, ["a", "b"] * 50)["hit@1"]
    assert one_user_each.value == two_users.value == 0.5
    assert two_users.high - two_users.low > 2 * (one_user_each.high - one_user_each.low)


def test_auc_and_log_loss_equal_scikit_learn_ties_included():
    rng = np.random.default_rng(1)
    p = np.round(rng.random(300), 1)  # many ties
    y = rng.random(300) < 0.3
    users = [str(number % 30) for number in range(300)]
    scores = click_scores(p.tolist(), y.tolist(), users)
    assert scores["auc"].value == pytest.approx(roc_auc_score(y, p))
    assert scores["log_loss"].value == pytest.approx(log_loss(y, np.clip(p, 1e-15, 1 - 1e-15)))
    assert not scores["log_loss"].higher_is_better and scores["auc"].low < scores["auc"].value < scores["auc"].high
    weights = rng.integers(0, 4, 300).astype(float)
    assert weighted_auc(p, y, weights) == pytest.approx(roc_auc_score(y, p, sample_weight=weights))


def test_without_both_outcomes_there_is_no_click_score():
    assert click_scores([0.5, 0.6], [True, True], ["a", "b"]) == {}
    assert math.isnan(weighted_auc(np.array([0.5]), np.array([True]), np.ones(1)))
