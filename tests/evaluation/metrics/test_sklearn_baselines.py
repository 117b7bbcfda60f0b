"""Simple methods: what they learn, when characters are used, and the cap that is told."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from llmstage.evaluation.metrics.sklearn_baselines import (
    concat_features,
    logistic,
    logistic_multilabel,
    majority,
    mostly_chinese,
    name_with_sample,
    ridge,
    subsample,
    tfidf,
)

ENGLISH = ["the kettle is broken", "refund my money", "a broken lamp", "money back please", "refund the lamp"]
CHINESE = ["水壶坏了", "请退款", "台灯是坏的", "把钱退给我", "台灯退款"]
LABELS = ["complaint", "refund", "complaint", "refund", "refund"]


def tfidf_logistic(train_texts, labels, texts):
    """The two steps as a head takes them."""
    known, asked = tfidf(train_texts, texts)
    return logistic(known, labels, asked)


@pytest.mark.parametrize(
    ("texts", "settings"),
    [(ENGLISH, {"ngram_range": (1, 2)}), (CHINESE, {"analyzer": "char", "ngram_range": (1, 3)})],
)
def test_tfidf_logistic_is_scikit_learns_pipeline(texts, settings):
    classes, shares = tfidf_logistic(texts, LABELS, texts[::-1])
    theirs = make_pipeline(TfidfVectorizer(**settings), LogisticRegression(max_iter=1000)).fit(texts, LABELS)
    assert classes == list(theirs.classes_)
    np.testing.assert_allclose(shares, theirs.predict_proba(texts[::-1]), atol=1e-9)


def test_a_third_of_chinese_letters_asks_for_characters():
    assert mostly_chinese(CHINESE) and not mostly_chinese(ENGLISH) and not mostly_chinese(["123", ""])
    assert mostly_chinese(["iPhone 手机壳"]) and not mostly_chinese(["the word 水 means water"])


def test_one_regression_a_label_as_scikit_learn_does_it():
    known, asked = tfidf(ENGLISH, ENGLISH)
    hits = np.array([[1, 0, 1], [0, 1, 1], [1, 0, 1], [0, 1, 1], [0, 1, 1]])
    shares = logistic_multilabel(known, hits, asked)
    theirs = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(known, hits[:, :2])
    np.testing.assert_allclose(shares[:, :2], theirs.predict_proba(asked), atol=1e-9)
    assert (shares[:, 2] == 1).all()  # a label that all rows have needs no regression


def test_majority_gives_the_shares_of_training():
    classes, shares = majority(LABELS, 2)
    assert classes == ["complaint", "refund"] and shares.tolist() == [[0.4, 0.6]] * 2


def test_one_label_in_training_and_texts_without_words_are_no_accident():
    classes, shares = tfidf_logistic(["a b", "c"], ["x", "x"], ["d"])
    assert classes == ["x"] and shares.tolist() == [[1.0]]
    classes, shares = tfidf_logistic(["", "?"], ["x", "y"], ["!"])
    assert classes == ["x", "y"] and shares[0] == pytest.approx([0.5, 0.5])


def test_many_rows_are_thinned_by_a_seeded_draw_and_told():
    used = subsample(100, 10)
    assert len(used) == 10 and (np.diff(used) > 0).all() and (used == subsample(100, 10)).all()
    assert subsample(5, 10).tolist() == [0, 1, 2, 3, 4]
    assert name_with_sample("x", 100, 10) == "x (10 of 100 rows)" and name_with_sample("x", 5, 10) == "x"


def test_ridge_and_parts_side_by_side():
    numbers = np.array([[1.0], [2.0], [3.0], [4.0], [5.0]])
    known, _ = tfidf(ENGLISH, ENGLISH)
    both = concat_features(known, numbers)
    assert both.shape == (5, known.shape[1] + 1) and concat_features(numbers, numbers).shape == (5, 2)
    assert ridge(numbers, [2, 4, 6, 8, 10], numbers) == pytest.approx([2, 4, 6, 8, 10], abs=0.5)
