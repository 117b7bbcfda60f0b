"""How much of a representation is the sum of its parts, and how much stands in their combination."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

Array = NDArray[np.float64]


def interaction_share(grid: ArrayLike) -> float:
    """Of states [A, B, D] over every combination of two parts: |Z - mean - A_a - B_b|² / |Z - mean|², a two-way analysis
    of variance without replicates (Fisher 1925). 0: the sum of an effect of each part; 1: nothing but combination."""
    states = np.asarray(grid, dtype=np.float64)
    if states.ndim == 2:
        states = states[..., None]
    whole = states - states.mean((0, 1))
    rest = whole - whole.mean(1, keepdims=True) - whole.mean(0, keepdims=True)
    total = float((whole**2).sum())
    # States that do not depend on the parts at all have nothing to be explained; rounding is no interaction.
    if total <= 1e-24 * max(1.0, float((states**2).sum())):
        return 0.0
    return float((rest**2).sum()) / total


def bag_of_words(sentences: Sequence[Sequence[int]], vocabulary: Sequence[int], *, positions: int = 0) -> Array:
    """[N, V (+ V * positions)] how often each word stands in each sentence; with `positions`, at which place as well."""
    column = {word: number for number, word in enumerate(vocabulary)}
    counts = np.zeros((len(sentences), len(vocabulary) * (1 + positions)))
    for row, sentence in enumerate(sentences):
        for place, word in enumerate(sentence):
            if word in column:
                counts[row, column[word]] += 1
                if place < positions:
                    counts[row, len(vocabulary) * (1 + place) + column[word]] += 1
    return counts


def additive_share(
    states: ArrayLike, sentences: Sequence[Sequence[int]], *, positions: int = 0, folds: int = 5, seed: int = 0
) -> float:
    """R² on held-out sentences of z(s) = Σ v_w + c, fitted by ridge on the words (and their places) of other sentences.

    `states` [N, D]. Ridge's strength is chosen inside each training part (scikit-learn's RidgeCV). Never above 1; below 0
    where the words tell less than the mean.
    """
    from sklearn.linear_model import RidgeCV
    from sklearn.model_selection import KFold

    z = np.asarray(states, dtype=np.float64)
    words = sorted({word for sentence in sentences for word in sentence})
    counts = bag_of_words(sentences, words, positions=positions)
    missed = spread = 0.0
    for train, test in KFold(folds, shuffle=True, random_state=seed).split(z):
        fitted = RidgeCV(np.logspace(-3, 3, 7)).fit(counts[train], z[train])
        missed += float(((z[test] - fitted.predict(counts[test]).reshape(z[test].shape)) ** 2).sum())
        spread += float(((z[test] - z[train].mean(0)) ** 2).sum())
    return 1 - missed / spread if spread else 0.0
