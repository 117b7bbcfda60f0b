"""Scores of ordered classes: how far off a prediction is, not only whether it is right."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.classification import count_pairs
from llmstage.evaluation.metrics.intervals import RESAMPLES, SEED, bootstrap_score, mean, proportion
from llmstage.evaluation.metrics.regression import spearman
from llmstage.evaluation.metrics.score import Score

Places = NDArray[np.int64]


def ordinal_scores(
    predicted: Places, expected: Places, num_levels: int, values: NDArray[np.float64]
) -> dict[str, Score]:
    """`qwk mae spearman accuracy` of levels [N] counted from 0; `values` [N] are expected levels, finer than `predicted`.

    qwk: kappa with quadratic weights (Cohen 1968, Psychological Bulletin 70:213-220) by scikit-learn. mae is the mean
    distance in levels. spearman ranks by `values`.
    """
    from sklearn.metrics import cohen_kappa_score

    levels = list(range(num_levels))
    kappa = math.nan
    if len({*predicted.tolist(), *expected.tolist()}) > 1:
        kappa = float(cohen_kappa_score(expected, predicted, weights="quadratic", labels=levels))
    resampled = bootstrap_kappa(predicted, expected, num_levels)
    return {
        "qwk": bootstrap_score(kappa, resampled, len(expected)),
        "mae": mean(np.abs(predicted - expected), higher_is_better=False),
        "spearman": spearman(values, expected.astype(np.float64)),
        "accuracy": proportion(predicted == expected),
    }


def bootstrap_kappa(predicted: Places, expected: Places, num_levels: int) -> NDArray[np.float64]:
    """Quadratic kappa of 1000 seeded resamples, drawn as confusion matrices (see `bootstrap_confusion`)."""
    cells = count_pairs(expected, predicted, num_levels).reshape(-1).astype(np.float64)
    drawn = np.random.default_rng(SEED).multinomial(len(expected), cells / cells.sum(), size=RESAMPLES)
    matrices = drawn.reshape(RESAMPLES, num_levels, num_levels).astype(np.float64)
    return quadratic_kappa(matrices)


def quadratic_kappa(matrices: NDArray[np.float64]) -> NDArray[np.float64]:
    """Kappa [R] of confusion matrices [R, C, C]; NaN where all rows fell into one cell of the diagonal."""
    level = np.arange(matrices.shape[1])
    weights = (level[:, None] - level[None]).astype(np.float64) ** 2
    truth, guess = matrices.sum(axis=2), matrices.sum(axis=1)
    chance = np.einsum("ri,rj,ij->r", truth, guess, weights) / matrices.sum(axis=(1, 2))
    with np.errstate(invalid="ignore", divide="ignore"):
        return 1 - (matrices * weights).sum(axis=(1, 2)) / chance  # type: ignore[no-any-return]
