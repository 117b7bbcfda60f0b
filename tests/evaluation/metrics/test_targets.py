"""Scores of several labels, of grades, of numbers and of rankings, against scikit-learn and scipy."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy.optimize import minimize
from scipy.stats import spearmanr
from sklearn import metrics

from llmstage.evaluation.metrics.binary_ranking import best_threshold, curve_items, ranking_scores, weighted_ranking
from llmstage.evaluation.metrics.calibration import fit_temperature, fit_temperature_multilabel, reliability
from llmstage.evaluation.metrics.classification import (
    bootstrap_labels,
    label_table,
    multilabel_scores,
    ordinal_scores,
    quadratic_kappa,
)
from llmstage.evaluation.metrics.regression import quantile_items, regression_scores, spearman


@pytest.fixture
def rng():
    return np.random.default_rng(7)


def test_several_labels_equal_scikit_learn(rng):
    expected, shares = rng.random((90, 6)) < 0.3, rng.random((90, 6))
    expected[:, 5] = False  # a label that the split does not have
    predicted = shares > 0.6
    predicted[:, 5] = False
    scores = multilabel_scores(predicted, expected, shares)
    for average in ("micro", "macro", "weighted", "samples"):
        used = slice(0, 5)
        theirs = metrics.f1_score(expected[:, used], predicted[:, used], average=average, zero_division=0)
        assert scores[f"{average}_f1"].value == pytest.approx(theirs)
    assert scores["subset_accuracy"].value == pytest.approx(metrics.accuracy_score(expected, predicted))
    assert scores["hamming_loss"].value == pytest.approx(metrics.hamming_loss(expected, predicted))
    assert not scores["hamming_loss"].higher_is_better
    for average in ("micro", "macro"):
        theirs = metrics.average_precision_score(expected[:, :5], shares[:, :5], average=average)
        assert scores[f"average_precision_{average}"].value == pytest.approx(theirs)
    for name in ("micro_f1", "macro_f1", "weighted_f1", "samples_f1"):
        assert scores[name].low < scores[name].value < scores[name].high
    resampled = bootstrap_labels(predicted, expected)
    assert resampled["macro"].mean() == pytest.approx(scores["macro_f1"].value, abs=0.05)
    rows = label_table(predicted, expected, list("abcdef"), [0.5] * 6)["rows"]
    assert rows[0][1] == f"{metrics.precision_score(expected[:, 0], predicted[:, 0]):.3f}"


def test_grades_equal_scikit_learn_and_scipy(rng):
    expected = rng.integers(0, 5, 200)
    values = np.clip(expected + rng.normal(0, 1, 200), 0, 4)
    predicted = values.round().astype(np.int64)
    scores = ordinal_scores(predicted, expected, 5, values)
    assert scores["qwk"].value == pytest.approx(metrics.cohen_kappa_score(expected, predicted, weights="quadratic"))
    assert scores["mae"].value == pytest.approx(metrics.mean_absolute_error(expected, predicted))
    assert scores["spearman"].value == pytest.approx(spearmanr(values, expected).statistic)
    matrix = metrics.confusion_matrix(expected, predicted).astype(float)
    assert quadratic_kappa(matrix[None])[0] == pytest.approx(scores["qwk"].value)
    assert scores["qwk"].low < scores["qwk"].value < scores["qwk"].high
    one = ordinal_scores(np.zeros(3, int), np.zeros(3, int), 5, np.zeros(3))
    assert math.isnan(one["qwk"].value) and one["accuracy"].value == 1


def test_numbers_equal_scikit_learn(rng):
    expected = rng.normal(2020, 5, 300)  # large values with a small spread must not cancel
    predicted = expected + rng.normal(0, 3, 300)
    scores = regression_scores(predicted, expected)
    assert scores["mae"].value == pytest.approx(metrics.mean_absolute_error(expected, predicted))
    assert scores["rmse"].value == pytest.approx(metrics.root_mean_squared_error(expected, predicted))
    assert scores["r2"].value == pytest.approx(metrics.r2_score(expected, predicted))
    for score in scores.values():
        assert score.low < score.value < score.high
    assert not scores["mae"].higher_is_better and scores["r2"].higher_is_better
    assert spearman(np.ones(9), np.arange(9.0)).value == 0
    assert math.isnan(regression_scores(np.ones(3), np.ones(3))["r2"].value)
    model, exact = quantile_items(predicted, expected)[0]["series"]
    assert len(model["x"]) == 20 and exact["x"] == exact["y"]


def test_ranking_equals_scikit_learn_with_ties_and_for_every_resample(rng):
    truth, score = rng.random(120) < 0.15, rng.random(120).round(1)
    scores = ranking_scores(truth, score)
    assert scores["average_precision"].value == pytest.approx(metrics.average_precision_score(truth, score))
    assert scores["roc_auc"].value == pytest.approx(metrics.roc_auc_score(truth, score))
    assert scores["roc_auc"].low < scores["roc_auc"].value < scores["roc_auc"].high
    counts = np.stack([np.bincount(rng.integers(0, 120, 120), minlength=120) for _ in range(5)])
    average, area = weighted_ranking(truth, score, counts.astype(float))
    for row, weight in enumerate(counts):
        assert average[row] == pytest.approx(metrics.average_precision_score(truth, score, sample_weight=weight))
        assert area[row] == pytest.approx(metrics.roc_auc_score(truth, score, sample_weight=weight))
    assert math.isnan(ranking_scores(np.zeros(3, bool), np.ones(3))["roc_auc"].value)
    assert [one["title"] for one in curve_items(truth, score, "yes")][1] == "ROC curve of 'yes'"
    assert curve_items(np.ones(3, bool), np.ones(3), "yes") == []


def test_the_best_threshold_beats_every_other(rng):
    truth = rng.random(400) < 0.1
    score = np.clip(rng.normal(0.1 + 0.2 * truth, 0.1), 0, 1)
    chosen = best_threshold(truth, score)
    best = max(metrics.f1_score(truth, score >= other) for other in np.linspace(0, 1, 501))
    assert metrics.f1_score(truth, score >= chosen) >= best - 1e-9
    assert chosen != 0.5 and best_threshold(np.array([True, False]), np.ones(2)) == 0.5


def test_the_temperature_is_the_one_of_least_log_loss(rng):
    logits, truth = 4 * rng.normal(size=(300, 3)), rng.integers(0, 3, 300)
    logits[np.arange(300), truth] += 3

    def shares(t):
        scaled = np.exp(logits / t)
        return scaled / scaled.sum(axis=1, keepdims=True)

    theirs = minimize(lambda t: metrics.log_loss(truth, shares(t[0])), [2.0], method="Nelder-Mead").x[0]
    assert fit_temperature(logits, truth) == pytest.approx(theirs, rel=1e-2)
    hits = rng.random((300, 3)) < 1 / (1 + np.exp(-logits / 3))
    assert fit_temperature_multilabel(logits, hits) == pytest.approx(3, rel=0.15)


def test_reliability_counts_every_row_once(rng):
    confidence = rng.random(500)
    chart, table = reliability(confidence, rng.random(500) < confidence)
    assert sum(int(row[1]) for row in table["rows"]) == 500
    curve = chart["series"][0]
    assert np.abs(np.subtract(curve["x"], curve["y"])).mean() < 0.1  # it was right as often as it said
