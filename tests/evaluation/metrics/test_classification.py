"""Classification scores against scikit-learn, and the bootstrap's own formulas against it too."""

from __future__ import annotations

import math

import numpy as np
import pytest
from sklearn import metrics

from llmstage.errors import DataError
from llmstage.evaluation.metrics.classification import (
    bootstrap_confusion,
    calibration_error,
    classification_report_text,
    classification_scores,
    confusion,
    scores_of_sums,
)

LABELS = ["好", "坏", "so so", "never seen"]


def guesses(num: int, seed: int = 0) -> tuple[list[str], list[str], np.ndarray]:
    rng = np.random.default_rng(seed)
    expected = rng.choice(3, size=num, p=[0.6, 0.3, 0.1])
    predicted = np.where(rng.random(num) < 0.7, expected, rng.integers(0, 3, size=num))
    shares = rng.dirichlet(np.ones(4), size=num)
    return [LABELS[k] for k in predicted], [LABELS[k] for k in expected], shares


def test_values_are_those_of_scikit_learn() -> None:
    predicted, expected, shares = guesses(300)
    scores = classification_scores(predicted, expected, LABELS, shares)
    assert scores["accuracy"].value == metrics.accuracy_score(expected, predicted)
    assert scores["micro_f1"].value == pytest.approx(scores["accuracy"].value)
    for name in ("macro", "weighted"):
        assert scores[f"{name}_f1"].value == pytest.approx(metrics.f1_score(expected, predicted, average=name))
    assert scores["mcc"].value == pytest.approx(metrics.matthews_corrcoef(expected, predicted))
    truth = np.array([[label == name for name in LABELS] for label in expected])
    assert scores["brier"].value == pytest.approx(((shares - truth) ** 2).sum(axis=1).mean())
    for name, score in scores.items():
        assert score.count == 300
        assert name == "ece" or (score.low or 0) < score.value < (score.high or 0)
    assert list(scores) == ["accuracy", "macro_f1", "micro_f1", "weighted_f1", "mcc", "ece", "brier"]


@pytest.mark.parametrize("seed", range(5))
def test_formulas_on_confusion_matrices_equal_scikit_learn(seed: int) -> None:
    predicted, expected, _ = guesses(25, seed)
    table = np.array(confusion(predicted, expected, LABELS), dtype=float)
    scores = scores_of_sums(np.diag(table)[None], table.sum(axis=1)[None], table.sum(axis=0)[None])
    assert scores["macro_f1"][0] == pytest.approx(
        metrics.f1_score(expected, predicted, average="macro", zero_division=0)
    )
    assert scores["weighted_f1"][0] == pytest.approx(metrics.f1_score(expected, predicted, average="weighted"))
    assert scores["mcc"][0] == pytest.approx(metrics.matthews_corrcoef(expected, predicted))


def test_drawing_cells_spreads_as_drawing_rows_does() -> None:
    predicted, expected, _ = guesses(120)
    truth, guess = np.array([LABELS.index(v) for v in expected]), np.array([LABELS.index(v) for v in predicted])
    drawn = bootstrap_confusion(truth, guess, len(LABELS))["macro_f1"]
    rng = np.random.default_rng(7)
    rows = [rng.integers(0, 120, size=120) for _ in range(150)]
    direct = [metrics.f1_score(truth[row], guess[row], average="macro") for row in rows]
    assert drawn.mean() == pytest.approx(np.mean(direct), abs=0.02)
    assert drawn.std() == pytest.approx(np.std(direct), rel=0.25)


def test_calibration_error_worked_by_hand() -> None:
    shares = np.array([[0.9, 0.1], [0.9, 0.1], [0.4, 0.6], [0.0, 1.0]])
    truth = np.array([0, 1, 1, 1])
    # bin of 0.9: two rows, half right, gap 0.4; bin of 0.6: gap 0.4; bin of 1.0: gap 0
    assert calibration_error(shares, truth).value == pytest.approx((2 * 0.4 + 0.4 + 0) / 4)


def test_a_perfect_model() -> None:
    names = ["a", "b"] * 20
    scores = classification_scores(names, names, ["a", "b"], np.eye(2)[[0, 1] * 20])
    assert {name: score.value for name, score in scores.items()} == {
        "accuracy": 1, "macro_f1": 1, "micro_f1": 1, "weighted_f1": 1, "mcc": 1, "ece": 0, "brier": 0,
    }  # fmt: skip
    assert scores["macro_f1"].low is None  # forty alike rows do not prove that there is no other
    assert scores["accuracy"].low is not None and scores["accuracy"].low < 1


def test_single_precision_probabilities_and_one_class_in_the_split_are_fine() -> None:
    shares = np.random.default_rng(0).dirichlet(np.ones(4), size=50).astype(np.float32)
    scores = classification_scores(["好"] * 50, ["好"] * 50, LABELS, shares)
    assert scores["mcc"].value == 0 and 0 < scores["brier"].value < 2


def test_no_rows_and_strange_labels() -> None:
    assert all(math.isnan(score.value) for score in classification_scores([], [], LABELS).values())
    with pytest.raises(DataError, match="'中性'"):
        classification_scores(["中性"], ["好"], LABELS)


def test_report_and_confusion_are_scikit_learn_s() -> None:
    predicted, expected, _ = guesses(60)
    shown = classification_report_text(predicted, expected)
    assert shown == metrics.classification_report(expected, predicted, digits=4, zero_division=0) and "坏" in shown
    assert (
        confusion(predicted, expected, LABELS) == metrics.confusion_matrix(expected, predicted, labels=LABELS).tolist()
    )
