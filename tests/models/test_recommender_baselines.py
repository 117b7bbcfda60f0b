"""The simple methods against dense arithmetic written out."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from llmstage.models.recommender_baselines import SHRINKAGE, item_neighbours, popularity, text_neighbours

USERS, ITEMS = [0, 0, 0, 1, 1, 2, 2, 3], [0, 1, 2, 0, 1, 1, 2, 3]


def test_item_knn_is_the_shrunk_cosine_of_the_matrix():
    matrix = np.zeros((4, 5))
    matrix[USERS, ITEMS] = 1
    norms = np.sqrt(matrix.sum(0))
    like = matrix.T @ matrix / (np.outer(norms, norms) + SHRINKAGE)
    np.fill_diagonal(like, 0)
    (scores, nothing) = item_neighbours(USERS, ITEMS, 5, [[0, 2], []])
    assert scores == pytest.approx(like[[0, 2]].sum(0), abs=1e-8)
    assert nothing.max() < 1e-8
    plain = cosine_similarity(matrix.T)
    assert np.argsort(-scores)[0] == np.argsort(-(plain[[0, 2]].sum(0) - np.eye(5)[0] - np.eye(5)[2]))[0] == 1


def test_popularity_counts_and_ties_favour_nobody():
    (scores,) = popularity(np.array([3, 1, 1, 0]), 1)
    assert np.argsort(-scores)[0] == 0 and np.argsort(-scores)[-1] == 3
    assert (scores - [3, 1, 1, 0] < 0.5).all() and scores[1] != scores[2]


def test_words_find_like_titles_in_both_languages():
    titles = ["Song of the Sea", "Under the Sea", "Bread and Honey", "海港之歌", "最后的海港", "面包"]
    english, chinese = text_neighbours(titles, [[0], [3]])
    assert np.argsort(-english)[:2].tolist() == [0, 1]
    assert np.argsort(-chinese)[:2].tolist() == [3, 4]
