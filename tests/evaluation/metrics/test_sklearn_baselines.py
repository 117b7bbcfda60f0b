"""Simple methods: what they learn, when characters are used, and the cap that is told."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.feature_extraction.text import TfidfVectorizer
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import f1_score
from sklearn.multiclass import OneVsRestClassifier
from sklearn.pipeline import make_pipeline

from llmstage.evaluation.metrics.sklearn_baselines import (
    SETTINGS,
    OneAgainstRest,
    concat_features,
    logistic,
    logistic_multilabel,
    macro_f1,
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
def test_tfidf_logistic_is_one_of_scikit_learns_pipelines(texts, settings):
    known, asked = tfidf(texts, texts[::-1])
    for c, class_weight in SETTINGS:
        ours = OneAgainstRest(known, np.asarray(LABELS, dtype=object), (c, class_weight))
        binary = LogisticRegression(C=c, class_weight=class_weight, solver="liblinear", max_iter=200)
        theirs = make_pipeline(TfidfVectorizer(**settings), binary).fit(texts, LABELS)
        assert ours.classes == list(theirs.classes_)
        np.testing.assert_allclose(ours.probabilities(asked), theirs.predict_proba(texts[::-1]), atol=1e-9)


def test_three_classes_are_scikit_learns_one_against_the_rest():
    known, asked = tfidf(ENGLISH, ENGLISH[::-1])
    labels = ["a", "b", "a", "c", "c"]
    ours = OneAgainstRest(known, np.asarray(labels, dtype=object), (10.0, "balanced"))
    binary = LogisticRegression(C=10.0, class_weight="balanced", solver="liblinear", max_iter=200)
    theirs = OneVsRestClassifier(binary).fit(known, labels)
    np.testing.assert_allclose(ours.probabilities(asked), theirs.predict_proba(asked), atol=1e-9)


def noisy_rows(count, seed):
    """Texts of a frequent and a rare class; the rare one is named by one word in six."""
    draw = np.random.default_rng(seed)
    labels = ["rare" if draw.random() < 0.15 else "common" for _ in range(count)]
    texts = [
        " ".join([*(f"w{number}" for number in draw.integers(0, 60, 5)), f"{label}{draw.integers(0, 12)}"])
        for label in labels
    ]
    return texts, labels


def test_the_setting_is_that_with_the_best_score_on_validation():
    """scikit-learn's default, C=1, never predicts the rare class here; a practitioner would choose another."""
    (texts, labels), (valid, truth), (asked, expected) = noisy_rows(150, 0), noisy_rows(100, 1), noisy_rows(300, 2)
    known, judged, x = tfidf(texts, valid, asked)
    classes, shares = logistic(known, labels, x, (judged, truth))
    predicted = [classes[index] for index in shares.argmax(1)]
    default = LogisticRegression(max_iter=1000).fit(known, labels)
    assert macro_f1(predicted, expected) > macro_f1(default.predict(x), expected) + 0.2
    by_hand = {
        setting: macro_f1(OneAgainstRest(known, np.asarray(labels, dtype=object), setting).predict(judged), truth)
        for setting in SETTINGS
    }
    best = OneAgainstRest(known, np.asarray(labels, dtype=object), max(by_hand, key=by_hand.__getitem__))
    np.testing.assert_allclose(shares, best.probabilities(x), atol=1e-9)


def test_without_validation_rows_a_fifth_of_training_chooses_and_all_rows_are_fitted():
    (texts, labels), (asked, expected) = noisy_rows(300, 0), noisy_rows(300, 2)
    known, x = tfidf(texts, asked)
    classes, shares = logistic(known, labels, x)
    fits = [OneAgainstRest(known, np.asarray(labels, dtype=object), setting).probabilities(x) for setting in SETTINGS]
    assert any(np.allclose(shares, fit) for fit in fits), "fitted to all training rows"
    assert macro_f1([classes[index] for index in shares.argmax(1)], expected) > 0.7


def test_a_third_of_chinese_letters_asks_for_characters():
    assert mostly_chinese(CHINESE) and not mostly_chinese(ENGLISH) and not mostly_chinese(["123", ""])
    assert mostly_chinese(["iPhone 手机壳"]) and not mostly_chinese(["the word 水 means water"])


def test_several_labels_take_threshold_and_weights_from_validation():
    """With 20 rare labels, C=1 and a threshold of 0.5 predict next to nothing."""
    draw = np.random.default_rng(0)

    def rows(count):
        hits = draw.random((count, 20)) < 0.08
        texts = [
            " ".join([*(f"w{n}" for n in draw.integers(0, 40, 4)), *(f"label{k}" for k in np.flatnonzero(row))])
            for row in hits
        ]
        return texts, hits

    (texts, hits), (valid, truth), (asked, expected) = rows(150), rows(80), rows(150)
    known, judged, x = tfidf(texts, valid, asked)
    shares, threshold = logistic_multilabel(known, hits, x, (judged, truth))
    default = OneVsRestClassifier(LogisticRegression(max_iter=1000)).fit(known, hits)
    plain = f1_score(expected, default.predict(x), average="micro", zero_division=0)
    chosen = f1_score(expected, shares >= threshold, average="micro", zero_division=0)
    assert plain < 0.2 and chosen > 0.6
    shares, _ = logistic_multilabel(known, np.ones((150, 1)), x, None)
    assert (shares == 1).all(), "a label that all rows have needs no regression"


def test_majority_gives_the_shares_of_training():
    classes, shares = majority(LABELS, 2)
    assert classes == ["complaint", "refund"] and shares.tolist() == [[0.4, 0.6]] * 2


def test_one_label_in_training_and_texts_without_words_are_no_accident():
    classes, shares = tfidf_logistic(["a b", "c"], ["x", "x"], ["d"])
    assert classes == ["x"] and shares.tolist() == [[1.0]]
    classes, shares = tfidf_logistic(["", "?"], ["x", "y"], ["!"])
    assert classes == ["x", "y"] and shares[0] == pytest.approx([0.5, 0.5])
    assert tfidf_logistic(["", "?", "!"], ["x", "y", "y"], ["."])[0] == ["x", "y"]


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
