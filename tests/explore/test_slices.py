"""Weak slices: the search against evaluating every conjunction, the tests against other libraries, planted weaknesses."""

from __future__ import annotations

from itertools import combinations

import numpy as np
import pytest
from scipy.stats import fisher_exact

from llmstage.explore.slice_search import search
from llmstage.explore.slices import auto_support, find_slices, halve, marks, one_sided, outermost


def score(rows, errors, alpha):
    size, mean = rows.sum(), errors.mean()
    return alpha * (errors[rows].mean() / mean - 1) - (1 - alpha) * (len(errors) / size - 1)


def brute(masks, columns, errors, max_order, min_support, alpha):
    scores = {}
    for order in range(1, max_order + 1):
        for member in combinations(range(len(masks)), order):
            if len({columns[at] for at in member}) < order:
                continue
            rows = np.logical_and.reduce(masks[list(member)])
            if rows.sum() >= min_support and errors[rows].sum() > 0 and score(rows, errors, alpha) > 0:
                scores[member] = score(rows, errors, alpha)
    return scores


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.parametrize("error_type", ["binary", "losses"])
def test_the_search_equals_evaluating_every_conjunction(seed, error_type):
    rng = np.random.default_rng(seed)
    num, columns = 160, [column for column in range(5) for _ in range(3)]
    values = rng.integers(0, 3, (5, num))
    masks = np.array([values[column] == value for column in range(5) for value in range(3)])
    odds = 0.1 + 0.6 * (values[0] == 1) * (values[1] == 2) + 0.3 * (values[2] == 0)
    errors = (rng.random(num) < odds).astype(float) if error_type == "binary" else rng.exponential(odds)
    everything = brute(masks, columns, errors, 3, 5, 0.95)
    best = sorted(everything.values(), reverse=True)
    for keep in (3, 20, 10_000):
        candidates, _ = search(masks, columns, errors, max_order=3, min_support=5, alpha=0.95, keep=keep)
        assert [each.score for each in candidates] == pytest.approx(best[:keep])
        assert all(everything[each.conditions] == pytest.approx(each.score) for each in candidates)
        for each in candidates:
            rows = np.logical_and.reduce(masks[list(each.conditions)])
            assert (each.size, each.error_sum) == (rows.sum(), pytest.approx(errors[rows].sum()))
    _, all_of_them = search(masks, columns, errors, max_order=3, min_support=5, alpha=0.95, keep=10_000)
    pruned, few = search(masks, columns, errors, max_order=3, min_support=5, alpha=0.95, keep=3)
    assert few < all_of_them and len(pruned) == 3  # the bound prunes


def test_order_support_and_the_penalty_for_size_follow_the_keys():
    rng = np.random.default_rng(0)
    masks = rng.random((8, 300)) < 0.3
    errors = (rng.random(300) < 0.2 + 0.6 * (masks[0] & masks[1])).astype(float)
    options = {"max_order": 3, "min_support": 10, "alpha": 0.95, "keep": 50}
    candidates = search(masks, range(8), errors, **options)[0]
    assert max(len(each.conditions) for each in candidates) > 1
    assert {len(each.conditions) for each in search(masks, range(8), errors, **{**options, "max_order": 1})[0]} == {1}
    assert min(each.size for each in search(masks, range(8), errors, **{**options, "min_support": 25})[0]) >= 25
    assert min(each.size for each in candidates) < 25
    large = search(masks, range(8), errors, **{**options, "alpha": 0.5})[0]
    assert not large or min(each.size for each in large) > min(each.size for each in candidates)


def world(num=3000, seed=0, plant=True):
    """Four operations x lengths 2 to 8; reverse from length 6 on is wrong."""
    rng = np.random.default_rng(seed)
    operation = rng.choice(["copy", "rev", "sort", "succ"], num)
    length = rng.integers(2, 9, num)
    weak = (operation == "rev") & (length >= 6) if plant else np.zeros(num, dtype=bool)
    errors = (rng.random(num) < np.where(weak, 0.85, 0.03)).astype(float)
    table = {
        "op": operation.tolist(),
        "len": [tuple(f">= {least}" for least in range(3, 9) if value >= least) for value in length],
        "colour": rng.choice(["red", "green", "blue"], num).tolist(),
    }
    return table, errors, weak


@pytest.mark.parametrize("seed", range(3))
def test_a_planted_slice_is_confirmed_in_the_fewest_conditions_and_nothing_else(seed):
    table, errors, weak = world(seed=seed)
    search = find_slices(table, errors, strata=table["op"], seed=seed)
    assert [weak_slice.conditions for weak_slice in search.confirmed] == [{"op": "rev", "len": ">= 6"}]
    weak_slice = search.confirmed[0]
    assert (weak_slice.rows == weak).all()
    rows = search.confirm
    mine, others = errors[rows][weak[rows]], errors[rows][~weak[rows]]
    assert (weak_slice.n, weak_slice.error, weak_slice.rest) == (
        len(mine),
        pytest.approx(mine.mean()),
        pytest.approx(others.mean()),
    )
    assert weak_slice.gap.low < mine.mean() - others.mean() < weak_slice.gap.high
    assert weak_slice.priority == pytest.approx((mine.mean() - others.mean()) * len(mine) / len(rows))
    assert weak_slice.p_holm < 1e-50


@pytest.mark.parametrize("seed", range(6))
def test_where_nothing_is_planted_nothing_is_reported(seed):
    table, errors, _ = world(seed=seed, plant=False)
    errors = (np.random.default_rng(seed).random(len(errors)) < 0.2).astype(float)
    assert find_slices(table, errors, strata=table["op"], seed=seed).confirmed == []


def test_a_weak_value_is_reported_once_and_not_again_as_a_cluster_of_the_same_rows():
    rng = np.random.default_rng(1)
    label = rng.choice([f"intent {at}" for at in range(20)], 4000)
    errors = (rng.random(4000) < np.where(label == "intent 3", 0.8, 0.05)).astype(float)
    group = np.where(rng.random(4000) < 0.97, label, "intent 0")  # the same rows, nearly
    table = {"label": label.tolist(), "cluster": group.tolist(), "colour": rng.choice(["red", "blue"], 4000).tolist()}
    result = find_slices(table, errors, strata=label.tolist(), min_support=auto_support(4000))
    assert [each.conditions for each in result.confirmed] == [{"label": "intent 3"}]


def test_the_keys_of_find_slices_decide_what_is_reported():
    table, errors, weak = world()
    assert find_slices(table, errors, min_gap=0.95).confirmed == []
    assert find_slices(table, errors, min_gap=0.5).confirmed
    assert find_slices(table, errors, top_k=0).confirmed == []
    assert find_slices(table, errors, level=0.0).not_confirmed  # discovered, and no p-value is small enough
    assert find_slices(table, errors, fdr=0.0).not_confirmed == []
    assert find_slices(table, errors, min_support=2000).confirmed == []
    assert find_slices(table, errors, max_order=1).confirmed[0].conditions in ({"op": "rev"}, {"len": ">= 6"})
    label = {"topic": np.where(weak, "group 1", "group 2").tolist()}
    assert find_slices({**label, **table}, errors).confirmed[0].conditions == {"topic": "group 1"}
    assert find_slices({**label, **table}, errors, last=["topic"]).confirmed[0].conditions == {
        "op": "rev",
        "len": ">= 6",
    }
    rows = list(range(len(errors)))
    given = find_slices(table, errors, halves=(rows[:1000], rows[1000:]))
    assert len(given.discover) == 1000 and given.confirmed[0].conditions == {"op": "rev", "len": ">= 6"}


def test_losses_that_are_no_right_or_wrong_are_tested_too():
    table, _, weak = world()
    losses = np.random.default_rng(3).exponential(np.where(weak, 3.0, 1.0))
    weak_slice = find_slices(table, losses).confirmed[0]
    assert (
        weak_slice.conditions == {"op": "rev", "len": ">= 6"} and weak_slice.test == "Welch" and weak_slice.error > 2.5
    )


def test_the_tests_agree_with_those_of_scipy():
    mine, others = np.array([1.0] * 9 + [0] * 5), np.array([1.0] * 30 + [0] * 170)
    p, name = one_sided(mine, others)
    assert p == pytest.approx(fisher_exact([[9, 5], [30, 170]], alternative="greater").pvalue) and name == "Fisher"
    few = np.array([5.0, 6, 7, 8, 1])  # four of five above the median of the others
    p, name = one_sided(few, np.arange(10.0) / 2)
    assert p == pytest.approx(fisher_exact([[4, 1], [5, 5]], alternative="greater").pvalue) and name == "Fisher"
    assert one_sided(np.array([]), others)[0] == 1.0


def test_halves_have_as_many_rows_of_each_stratum_and_every_row_once():
    strata = ["a"] * 21 + ["b"] * 40 + ["c"]
    first, second = halve(62, strata, 5)
    assert sorted(first + second) == list(range(62)) and abs(len(first) - len(second)) <= 1
    for name in "ab":
        assert abs(sum(strata[row] == name for row in first) - sum(strata[row] == name for row in second)) <= 1
    assert halve(62, strata, 5) == (first, second) != halve(62, strata, 6)


def test_values_of_the_same_rows_or_of_all_rows_are_no_conditions():
    table = {
        "language": ["en", "zh", "en"],
        "script": ["latin", "chinese", "latin"],
        "set": ["x", "x", "x"],
        "empty": [None] * 3,
    }
    conditions = [(each.column, each.value) for each in marks(table)]
    assert conditions == [("language", "en"), ("language", "zh")]


def test_few_rows_and_no_errors_raise_no_error():
    assert find_slices({"a": []}, []).confirmed == []
    assert find_slices({"a": ["x", "y"] * 100}, [0.0] * 200).confirmed == []
    with pytest.raises(ValueError, match="finite"):
        find_slices({"a": ["x"]}, [float("nan")])


@pytest.mark.parametrize("seed", range(4))
def test_a_class_of_many_that_is_hardly_ever_right_is_reported(seed):
    """Of 77 classes of 40 rows: its score is below 0, because it is small and the mean error is not; the test is sure of it."""
    rng = np.random.default_rng(seed)
    labels = np.repeat([f"intent {number:02}" for number in range(77)], 40)
    rates = np.repeat([1.0] * 4 + [0.85] + [0.15] * 72, 40)
    errors = (rng.random(len(labels)) < rates).astype(float)
    table = {"label": labels.tolist(), "length": rng.choice(["short", "long"], len(labels)).tolist()}
    result = find_slices(table, errors, strata=table["label"], min_support=10, seed=seed)
    assert [each.conditions for each in result.confirmed] == [{"label": f"intent {number:02}"} for number in range(5)]
    assert result.confirmed[-1].error < 1


def test_a_slice_inside_a_wider_one_is_not_reported_with_it():
    rng = np.random.default_rng(0)
    length = rng.integers(1, 40, 3000)
    errors = (rng.random(3000) < np.where(length >= 34, 0.75, np.where(length >= 24, 0.5, 0.1))).astype(float)
    cells = [tuple(f">= {border}" for border in (24, 34) if value >= border) for value in length]
    result = find_slices({"length": cells}, errors, min_support=30)
    assert [each.conditions for each in result.confirmed] == [{"length": ">= 24"}]
    wide, narrow = (
        find_slices({"length": [cell if border in cell else () for cell in cells]}, errors).confirmed
        for border in (">= 24", ">= 34")
    )
    assert outermost([*wide, *narrow]) == outermost([*narrow, *wide]) == wide and outermost(narrow) == narrow
