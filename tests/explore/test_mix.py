"""The mix of rows is a pure function of (seed, epoch) with even repetition; the KL term adds up and starts at zero."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from llmstage.data.row_source import ListSource
from llmstage.explore.mix import JoinedSource, KLPenaltyTask, MixedOrder


def order(share, num_target=30, num_replay=200, seed=0, packing=False):
    lengths = np.full(num_target + num_replay, 10)
    return MixedOrder(
        lengths,
        seed,
        40,
        packing,
        8,
        target=np.arange(num_replay, num_target + num_replay),
        replay=np.arange(num_replay),
        share=share,
    )


def indices(batches):
    return [index for batch in batches for row in batch for index in row]


@pytest.mark.parametrize("packing", [False, True])
@pytest.mark.parametrize("share", [0.0, 0.25, 0.5, 1.0])
def test_a_pass_has_the_requested_share_of_weak_rows(share, packing):
    drawn = indices(order(share, packing=packing).epoch(3))
    assert sum(index >= 200 for index in drawn) == pytest.approx(share * len(drawn), abs=1)


def test_every_row_comes_before_one_repeats():
    mixed = order(0.5)
    counts = Counter(index for epoch in range(4) for index in indices(mixed.epoch(epoch)))
    replay, target = ([counts[index] for index in part] for part in (range(200), range(200, 230)))
    assert sum(replay) == sum(target) == 400
    assert max(replay) - min(replay) <= 1 and max(target) - min(target) <= 1


def test_a_pass_is_the_same_each_time_and_another_under_another_seed():
    assert indices(order(0.5).epoch(7)) == indices(order(0.5).epoch(7))
    assert indices(order(0.5).epoch(7)) != indices(order(0.5, seed=1).epoch(7))


def test_joined_rows_are_the_pool_and_then_the_new_ones():
    pool, new = (ListSource(name, [{"text": name}], name) for name in ("train", "new"))
    joined = JoinedSource(pool, new)
    assert [row["text"] for row, _ in joined] == ["train", "new"]
    assert joined.digest() != JoinedSource(pool, None).digest()


@pytest.mark.parametrize(
    ("name", "model_family"),
    [("causal_lm", "gpt"), ("masked_lm", "bert"), ("translation", "t5"), ("classification", "bert")],
)
def test_kl_is_zero_for_the_same_model_adds_up_over_parts_and_leaves_weak_rows_alone(tiny_task, name, model_family):
    import torch

    tiny = tiny_task(name, model_family)
    old, new = tiny.model(0), tiny.model(1)
    for number, item in enumerate(tiny.features):
        item.row, item.draw = number, (0, 0, number)
    count = len(tiny.features)
    rows = [[item] for item in tiny.features]
    penalised = KLPenaltyTask(tiny.task, old, 0.5, [False] * count)
    batch = penalised.collate(rows)
    assert float(penalised.divergence(old, batch)) == pytest.approx(0, abs=1e-5)
    total = float(penalised.divergence(new, batch).detach())
    assert total > 0.01
    parts = [penalised.collate(rows[: count // 2]), penalised.collate(rows[count // 2 :])]
    assert sum(float(penalised.divergence(new, part).detach()) for part in parts) == pytest.approx(total, rel=1e-4)
    plain, loss = tiny.task.loss(new, batch), penalised.loss(new, batch)
    assert float((loss.total - plain.total).detach()) == pytest.approx(0.5 * total, rel=1e-3)
    assert loss.count == plain.count
    loss.total.backward()
    assert all(parameter.grad is None for parameter in old.parameters())
    weak = KLPenaltyTask(tiny.task, old, 0.5, [True] * count)
    assert float(weak.divergence(new, weak.collate(rows)).detach()) == 0
    assert torch.is_tensor(loss.total)
