"""Item vectors from what was clicked close together."""

from __future__ import annotations

import numpy as np
import pytest

from llmstage.models.recommender import WINDOW, ItemCooccurrence


def seen(users: list[list[str]]) -> ItemCooccurrence:
    cooccurrence = ItemCooccurrence()
    for items in users:
        for end in range(1, len(items) + 1):
            cooccurrence.add_click(items[:end])
    return cooccurrence


def test_counts_are_one_over_the_distance_within_the_window():
    items = [f"i{n}" for n in range(WINDOW + 3)]
    found = seen([items])
    names = list(found.names)
    pairs = {
        frozenset((names[a], names[b])): weight
        for a, b, weight in zip(found.left, found.right, found.weight, strict=True)
    }
    assert pairs[frozenset(("i0", "i1"))] == 1 and pairs[frozenset(("i0", "i4"))] == pytest.approx(1 / 4)
    assert frozenset(("i0", f"i{WINDOW + 1}")) not in pairs
    assert len(pairs) == sum(min(place, WINDOW) for place in range(len(items)))


@pytest.mark.parametrize("width", [6, 40])  # the iterative solver, and the dense one where directions are many
def test_products_of_vectors_are_the_best_approximation_of_log_counts(width):
    draw = np.random.default_rng(0)
    users = [[f"i{n}" for n in draw.permutation(30)[:12]] for _ in range(60)]
    found = seen(users)
    known = sorted(found.names)
    vectors = found.vectors(known, width)
    counts = np.zeros((30, 30))
    for a, b, weight in zip(found.left, found.right, found.weight, strict=True):
        i, j = (known.index(list(found.names)[at]) for at in (a, b))
        counts[i, j] += weight
        counts[j, i] += weight
    values, directions = np.linalg.eigh(np.log1p(counts))
    values, directions = values[-width:], directions[:, -width:]
    wanted = (directions * np.maximum(values, 0)) @ directions.T
    products = vectors @ vectors.T
    np.testing.assert_allclose(products / np.trace(products), wanted / np.trace(wanted), atol=1e-5)
    assert (vectors**2).sum(1).mean() == pytest.approx(1.0, rel=1e-5)
    np.testing.assert_array_equal(vectors, seen(users).vectors(known, width))


def test_items_of_one_taste_lie_closer_than_items_of_two():
    users = [
        ["a1", "a2", "a3", "a4"],
        ["a2", "a1", "a4"],
        ["b1", "b2", "b3"],
        ["b3", "b1", "b2", "b4"],
        ["a3", "b4"],
    ] * 4
    vectors = seen(users).vectors(["a1", "a2", "b1", "b2"], 3)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] and vectors[2] @ vectors[3] > vectors[1] @ vectors[3]


def test_without_pairs_there_is_nothing_to_begin_from():
    assert seen([["a"], ["b"]]).vectors(["a", "b", "c"], 4) is None
    assert ItemCooccurrence().vectors([], 4) is None
