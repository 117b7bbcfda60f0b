"""Simple baselines by scikit-learn on texts, columns or counts: a model should score better than these.

Each function takes the training rows first and the rows to predict last, and returns probabilities or values. The task turns
them into predictions and scores them. Regularisation, class weights and thresholds are chosen on the validation split, as a
practitioner would choose them: scikit-learn's defaults make a baseline that is too easy to beat. At most `MAX_ROWS` training rows (a seeded sample) are used: a linear model gains little
from more and would take long. name_with_sample() puts the number into the name of the method.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from llmstage.evaluation.metrics.binary_ranking import best_threshold

MAX_ROWS = 50_000
MAX_VALIDATION_ROWS = 2000
"""Validation rows that choose the settings."""
CHINESE = re.compile(r"[㐀-鿿豈-﫿]")
"""Han characters, extension A and compatibility forms included."""


def subsample(num_rows: int, max_rows: int = MAX_ROWS, seed: int = 0) -> NDArray[np.int64]:
    """Return the sorted indices of the training rows to use: all, or a seeded sample of `max_rows`."""
    if num_rows <= max_rows:
        return np.arange(num_rows)
    return np.sort(np.random.default_rng(seed).choice(num_rows, max_rows, replace=False))


def name_with_sample(name: str, num_rows: int, max_rows: int = MAX_ROWS) -> str:
    """Return the name of a method, with the number of its training rows if these are a sample."""
    return name if num_rows <= max_rows else f"{name} ({max_rows:,} of {num_rows:,} rows)"


def most_frequent(groups: Sequence[str], values: Sequence[str], requested: Sequence[str]) -> list[str]:
    """Return the most frequent training value for each requested group; that of all rows for an unknown group."""
    counts: dict[str | None, Counter[str]] = {None: Counter(values)}
    for group, value in zip(groups, values, strict=True):
        counts.setdefault(group, Counter())[value] += 1
    return [counts.get(group, counts[None]).most_common(1)[0][0] for group in requested]


def mostly_chinese(texts: Sequence[str], sample: int = 1000) -> bool:
    """Return whether at least a third of the letters of the first `sample` texts are Chinese, which has no spaces."""
    letters = [character for text in texts[:sample] for character in text[:500] if character.isalpha()]
    return bool(letters) and sum(bool(CHINESE.match(character)) for character in letters) * 3 >= len(letters)


def tfidf(train_texts: Sequence[str], *texts: Sequence[str]) -> tuple[Any, ...]:
    """Return sparse TF-IDF matrices of all texts: words 1-2, or characters 1-3 if the training texts are mostly Chinese.

    Salton & Buckley (1988), IP&M 24:513-523, as in scikit-learn's TfidfVectorizer (smooth idf, L2 norm).
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    chinese = mostly_chinese(train_texts)
    vectorizer = TfidfVectorizer(analyzer="char" if chinese else "word", ngram_range=(1, 3) if chinese else (1, 2))
    try:
        train_matrix = vectorizer.fit_transform(train_texts)
    except ValueError:  # "empty vocabulary": no text contains a word
        return tuple(csr_matrix((len(part), 1)) for part in (train_texts, *texts))
    return (train_matrix, *(vectorizer.transform(part) for part in texts))


def tfidf_name(train_texts: Sequence[str]) -> str:
    return "TF-IDF (characters 1-3)" if mostly_chinese(train_texts) else "TF-IDF (words 1-2)"


def concat_features(*parts: Any) -> Any:
    """Return the concatenation of feature matrices of the same rows; sparse if one of them is sparse."""
    from scipy.sparse import hstack, issparse

    if any(issparse(part) for part in parts):
        return hstack(parts, format="csr")
    return np.hstack([np.asarray(part, dtype=np.float64) for part in parts])


Setting = tuple[float, str | None]
"""C of a logistic regression, the inverse of its regularisation, and its class weights: None or `balanced`."""
SETTINGS: tuple[Setting, ...] = ((1.0, None), (10.0, None), (100.0, None), (10.0, "balanced"))
"""Settings to choose from. TF-IDF rows have length 1, so that scikit-learn's default, C=1, shrinks most weights too much."""
ALPHAS = (0.1, 1.0, 10.0, 100.0)
HELD_OUT_SHARE = 0.2
"""Share of the training rows that choose the setting where there is no validation split."""

Rows = tuple[Any, Any]
"""(features, targets) of the same rows."""
Quality = tuple[float, float]
"""(score, threshold): the score to choose by, higher is better, and the threshold with which it was reached."""


def choose_by_validation(
    train: Rows, validation: Rows | None, settings: Iterable[Any], fit: Callable[[Any, Any, Any], Any],
    quality: Callable[[Any, Any, Any], Quality],
) -> tuple[Any, float]:  # fmt: skip
    """Return the model of the setting that predicts the validation rows best, and its threshold.

    `fit(x, targets, setting)` returns a model; `quality(model, x, targets)` judges it; of two equal ones the earlier is taken.
    Without validation rows a fifth of the training rows takes their place, and the chosen setting is fitted again to all.
    """
    x, targets = train
    has_validation = validation is not None and validation[0].shape[0] > 0
    fitted, judged = train, validation
    if not has_validation:
        order = np.random.default_rng(0).permutation(x.shape[0])
        rest, chosen = np.split(order, [x.shape[0] - max(1, int(HELD_OUT_SHARE * x.shape[0]))])
        fitted, judged = (x[rest], targets[rest]), (x[chosen], targets[chosen])
    assert judged is not None
    models = [(setting, fit(*fitted, setting)) for setting in settings]
    results = [quality(model, *judged) for _, model in models]
    best = max(range(len(models)), key=lambda index: results[index][0])
    setting, model = models[best]
    return model if has_validation else fit(x, targets, setting), results[best][1]


def logistic(
    x_train: Any, labels: Sequence[str], x: Any, validation: Rows | None = None,
    score: Callable[[Sequence[str], Sequence[str]], float] | None = None,
) -> tuple[list[str], NDArray[np.float64]]:  # fmt: skip
    """Return (classes, probabilities [N, C]) of one logistic regression for each class.

    C and class weights are those with the best `score(predicted labels, labels)` on the validation rows, by default macro F1.
    One regression for each class takes a quarter of the time of a multinomial one (77 classes, 9,000 rows) and is as good.
    """
    if len(set(labels)) < 2:
        return majority(labels, x.shape[0])

    def quality(model: OneAgainstRest, features: Any, truth: Sequence[str]) -> Quality:
        return (score or macro_f1)(model.predict(features), list(truth)), 0.5

    train = (x_train, np.asarray(labels, dtype=object))
    model, _ = choose_by_validation(train, validation, SETTINGS, OneAgainstRest, quality)
    return model.classes, model.probabilities(x)


class OneAgainstRest:
    """A logistic regression for each class against all others; the probabilities are scaled to a sum of 1."""

    def __init__(self, x: Any, labels: NDArray[np.object_], setting: Setting) -> None:
        self.classes = sorted(set(labels))
        # Of two classes, one regression gives the probabilities of both.
        targets = self.classes[1:] if len(self.classes) == 2 else self.classes
        self.models = [fit_binary(x, labels == name, setting) for name in targets]

    def probabilities(self, x: Any) -> NDArray[np.float64]:
        values = np.stack([probability(model, x) for model in self.models], axis=1)  # [N, C]
        if len(self.classes) == 2:
            return np.hstack([1 - values, values])
        return np.asarray(values / np.maximum(values.sum(axis=1, keepdims=True), 1e-300))

    def predict(self, x: Any) -> list[str]:
        return [self.classes[int(index)] for index in self.probabilities(x).argmax(axis=1)]


def fit_binary(x: Any, truth: NDArray[np.bool_], setting: Setting) -> Any:
    """Return a logistic regression, or the constant probability where all rows have one value."""
    from sklearn.linear_model import LogisticRegression

    if truth.all() or not truth.any():
        return float(truth.all())
    c, class_weight = setting
    return LogisticRegression(C=c, class_weight=class_weight, solver="liblinear", max_iter=200).fit(x, truth)


def probability(model: Any, x: Any) -> NDArray[np.float64]:
    """Return the probability [N] that each row is positive."""
    return np.full(x.shape[0], model) if isinstance(model, float) else np.asarray(model.predict_proba(x)[:, 1])


def macro_f1(predicted: Sequence[str], truth: Sequence[str]) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(list(truth), list(predicted), average="macro", zero_division=0))


def accuracy(predicted: Sequence[str], truth: Sequence[str]) -> float:
    return float(np.mean([guess == label for guess, label in zip(predicted, truth, strict=True)]))


def logistic_multilabel(
    x_train: Any, labels: ArrayLike, x: Any, validation: Rows | None = None
) -> tuple[NDArray[np.float64], float]:
    """Return (probabilities [N, K], threshold) of one logistic regression for each label; `labels` [rows, K] is 0 or 1.

    C, class weights and the threshold, one for all labels, are those with the best micro F1 on the validation rows.
    """
    truth = np.asarray(labels, dtype=bool)

    def fit(features: Any, targets: NDArray[np.bool_], setting: Setting) -> list[Any]:
        return [fit_binary(features, targets[:, column], setting) for column in range(targets.shape[1])]

    def probabilities(models: list[Any], features: Any) -> NDArray[np.float64]:
        return np.stack([probability(model, features) for model in models], axis=1)

    def quality(models: list[Any], features: Any, targets: NDArray[np.bool_]) -> Quality:
        shares, expected = probabilities(models, features).ravel(), np.asarray(targets, dtype=bool).ravel()
        threshold = best_threshold(expected, shares)  # the F1 of all cells together is the micro F1
        hits = shares >= threshold
        return float(2 * (hits & expected).sum() / max(1, hits.sum() + expected.sum())), threshold

    models, threshold = choose_by_validation((x_train, truth), validation, SETTINGS, fit, quality)
    return probabilities(models, x), threshold


def ridge(x_train: Any, values: ArrayLike, x: Any, validation: Rows | None = None) -> NDArray[np.float64]:
    """Return values [N] of a ridge regression whose regularisation has the least absolute error on the validation rows."""
    from sklearn.linear_model import Ridge

    def fit(features: Any, targets: Any, alpha: float) -> Any:
        return Ridge(alpha=alpha).fit(features, np.asarray(targets, dtype=np.float64))

    def quality(model: Any, features: Any, targets: Any) -> Quality:
        return -float(np.abs(model.predict(features) - np.asarray(targets, dtype=np.float64)).mean()), 0.5

    train = (x_train, np.asarray(values, dtype=np.float64))
    model, _ = choose_by_validation(train, validation, ALPHAS, fit, quality)
    return np.asarray(model.predict(x), dtype=np.float64)


def majority(train_labels: Sequence[str], num_rows: int) -> tuple[list[str], NDArray[np.float64]]:
    """Return (sorted classes, probabilities [N, C]): each row gets the label frequencies of the training split."""
    counts = Counter(train_labels)
    classes = sorted(counts)
    frequencies = np.array([counts[name] for name in classes], dtype=np.float64) / len(train_labels)
    return classes, np.tile(frequencies, (num_rows, 1))
