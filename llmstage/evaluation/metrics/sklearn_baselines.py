"""Simple baselines by scikit-learn on texts, columns or counts: a model should score better than these.

Each function takes the training rows first and the rows to predict last, and returns probabilities or values. The task turns
them into predictions and scores them. At most `MAX_ROWS` training rows (a seeded sample) are used: a linear model gains little
from more and would take long. name_with_sample() puts the number into the name of the method.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

MAX_ROWS = 50_000
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


def tfidf(train_texts: Sequence[str], texts: Sequence[str]) -> tuple[Any, Any]:
    """Return sparse TF-IDF matrices of both: words 1-2, or characters 1-3 if the training texts are mostly Chinese.

    Salton & Buckley (1988), IP&M 24:513-523, as in scikit-learn's TfidfVectorizer (smooth idf, L2 norm).
    """
    from scipy.sparse import csr_matrix
    from sklearn.feature_extraction.text import TfidfVectorizer

    chinese = mostly_chinese(train_texts)
    vectorizer = TfidfVectorizer(analyzer="char" if chinese else "word", ngram_range=(1, 3) if chinese else (1, 2))
    try:
        train_matrix = vectorizer.fit_transform(train_texts)
    except ValueError:  # "empty vocabulary": no text contains a word
        return csr_matrix((len(train_texts), 1)), csr_matrix((len(texts), 1))
    return train_matrix, vectorizer.transform(texts)


def tfidf_name(train_texts: Sequence[str]) -> str:
    return "TF-IDF (characters 1-3)" if mostly_chinese(train_texts) else "TF-IDF (words 1-2)"


def concat_features(*parts: Any) -> Any:
    """Return the concatenation of feature matrices of the same rows; sparse if one of them is sparse."""
    from scipy.sparse import hstack, issparse

    if any(issparse(part) for part in parts):
        return hstack(parts, format="csr")
    return np.hstack([np.asarray(part, dtype=np.float64) for part in parts])


def logistic(x_train: Any, labels: Sequence[str], x: Any) -> tuple[list[str], NDArray[np.float64]]:
    """Return (classes, probabilities [N, C]) of a logistic regression with C=1 and at most 1,000 iterations."""
    from sklearn.linear_model import LogisticRegression

    if len(set(labels)) < 2:
        return majority(labels, x.shape[0])
    model = LogisticRegression(max_iter=1000).fit(x_train, list(labels))
    return [str(name) for name in model.classes_], np.asarray(model.predict_proba(x), dtype=np.float64)


def logistic_multilabel(x_train: Any, labels: ArrayLike, x: Any) -> NDArray[np.float64]:
    """Return probabilities [N, K] of one logistic regression for each label; `labels` [rows, K] is 0 or 1."""
    from sklearn.linear_model import LogisticRegression

    label_matrix = np.asarray(labels)
    probabilities = np.empty((x.shape[0], label_matrix.shape[1]))
    for column in range(label_matrix.shape[1]):
        if label_matrix[:, column].min() == label_matrix[:, column].max():
            probabilities[:, column] = label_matrix[0, column]
        else:
            fitted = LogisticRegression(max_iter=1000).fit(x_train, label_matrix[:, column])
            probabilities[:, column] = fitted.predict_proba(x)[:, 1]
    return probabilities


def ridge(x_train: Any, values: ArrayLike, x: Any) -> NDArray[np.float64]:
    """Return values [N] of a ridge regression with alpha=1."""
    from sklearn.linear_model import Ridge

    return np.asarray(Ridge().fit(x_train, np.asarray(values, dtype=np.float64)).predict(x), dtype=np.float64)


def majority(train_labels: Sequence[str], num_rows: int) -> tuple[list[str], NDArray[np.float64]]:
    """Return (sorted classes, probabilities [N, C]): each row gets the label frequencies of the training split."""
    counts = Counter(train_labels)
    classes = sorted(counts)
    frequencies = np.array([counts[name] for name in classes], dtype=np.float64) / len(train_labels)
    return classes, np.tile(frequencies, (num_rows, 1))
