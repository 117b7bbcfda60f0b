"""Laws of the order of the data and of packing."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest

from llmstage.data.encoding.order import BatchOrder, best_fit, micro_batches, scoring_batches, split_by_length

CONTEXT = 128
LENGTHS = np.random.default_rng(7).integers(2, CONTEXT + 1, size=700)
ORDERS = [
    BatchOrder(LENGTHS, 3, CONTEXT, packing=True, batch_rows=4),
    BatchOrder(LENGTHS, 3, CONTEXT, packing=True, batch_rows=None, batch_tokens=600),
    BatchOrder(LENGTHS, 3, CONTEXT, packing=False, batch_rows=4),
    BatchOrder(LENGTHS, 3, CONTEXT, packing=False, batch_rows=None, batch_tokens=600),
]
each_order = pytest.mark.parametrize("order", ORDERS, ids=["packed-rows", "packed-tokens", "rows", "tokens"])


def flat(batches) -> list[int]:
    return [index for batch in batches for row in batch for index in row]


@each_order
def test_every_feature_comes_once_in_an_epoch(order):
    for epoch in (0, 1, 5):
        assert sorted(flat(order.epoch(epoch))) == list(range(len(LENGTHS)))


@each_order
def test_the_order_is_a_function_of_seed_and_epoch(order):
    again = BatchOrder(LENGTHS.copy(), 3, CONTEXT, order.packing, order.batch_rows, order.batch_tokens)
    other = BatchOrder(LENGTHS, 4, CONTEXT, order.packing, order.batch_rows, order.batch_tokens)
    assert list(order.epoch(2)) == list(again.epoch(2))
    assert flat(order.epoch(2)) != flat(order.epoch(3))
    assert flat(order.epoch(2)) != flat(other.epoch(2))


@each_order
def test_features_meet_other_neighbours_in_another_epoch(order):
    def company(epoch: int) -> set[frozenset[int]]:
        return {frozenset(index for row in batch for index in row) for batch in order.epoch(epoch)}

    assert company(2) == company(2) and not company(2) & company(3)


@each_order
def test_a_resumed_pass_skips_to_what_the_undisturbed_one_saw(order):
    list(order.epoch(0))  # an earlier pass leaves no trace
    assert list(islice(order.epoch(1), 9, None)) == list(order.epoch(1))[9:]
    assert order.count(1) == len(list(order.epoch(1)))


@each_order
def test_no_row_and_no_batch_is_over_its_capacity(order):
    batches = list(order.epoch(0))
    for batch in batches:
        assert all(LENGTHS[row].sum() <= CONTEXT for row in batch)
        if order.batch_rows:
            assert len(batch) <= order.batch_rows
        elif order.packing:
            assert len(batch) * CONTEXT <= order.batch_tokens
        else:
            assert len(batch) * max(LENGTHS[row[0]] for row in batch) <= order.batch_tokens
    if order.batch_rows and order.packing:
        assert all(len(batch) == order.batch_rows for batch in batches[:-1])


def test_rows_without_packing_hold_one_feature_of_like_length():
    order = ORDERS[2]
    assert all(len(row) == 1 for batch in order.epoch(0) for row in batch)
    padded = sum(len(batch) * max(LENGTHS[row[0]] for row in batch) for batch in order.epoch(0))
    assert LENGTHS.sum() / padded > 0.9


def test_a_feature_longer_than_the_batch_still_comes():
    order = BatchOrder(np.array([50, 3, 3]), 0, 64, packing=False, batch_rows=None, batch_tokens=10)
    assert sorted(flat(order.epoch(0))) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(5))
def test_packing_wastes_less_than_a_twentieth(seed):
    lengths = np.random.default_rng(seed).integers(8, 200, size=2000)
    rows = best_fit(range(len(lengths)), lengths, 256)
    assert sorted(index for row in rows for index in row) == list(range(len(lengths)))
    assert all(lengths[row].sum() <= 256 for row in rows)
    assert lengths.sum() / (len(rows) * 256) > 0.95


def test_packing_finds_the_best_fit():
    assert len(best_fit(range(4), np.array([60, 50, 50, 40]), 100)) == 2


def test_micro_batches_hold_the_same_rows():
    batch = [[index] for index in range(10)]
    for size in (1, 3, 10, 99):
        parts = micro_batches(batch, size, LENGTHS)
        assert sorted(flat(parts)) == list(range(10))
        assert all(len(part) <= size for part in parts)
    assert micro_batches(batch, 10, LENGTHS) == [batch]


@pytest.mark.parametrize("packing", [True, False])
def test_scoring_batches_hold_what_was_chosen_within_the_budget(packing):
    chosen = list(range(5, 400, 3))
    batches = scoring_batches(LENGTHS, chosen, 512, packing=packing, context=CONTEXT)
    assert sorted(flat(batches)) == chosen
    for batch in batches:
        width = max(LENGTHS[row].sum() for row in batch)
        assert len(batch) * width <= 512 and width <= CONTEXT
    assert batches == scoring_batches(LENGTHS, chosen, 512, packing=packing, context=CONTEXT)


def test_rows_of_unlike_length_are_parted_where_that_costs_least():
    from itertools import combinations

    rng = np.random.default_rng(0)
    for call in (1, 30, 200):
        for _ in range(20):
            lengths = np.sort(rng.integers(1, 100, 9))[::-1]
            batch = [[index] for index in range(len(lengths))]

            def cost(parts, lengths=lengths, call=call):
                return sum(call + len(part) * lengths[part[0][0]] for part in parts)

            every = (
                [batch[start:stop] for start, stop in zip((0, *cuts), (*cuts, len(batch)), strict=True)]
                for count in range(len(batch))
                for cuts in combinations(range(1, len(batch)), count)
            )
            parts = split_by_length(batch, lengths, call)
            assert [row for part in parts for row in part] == batch
            assert cost(parts) == min(cost(found) for found in every)
