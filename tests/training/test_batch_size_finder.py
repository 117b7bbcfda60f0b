"""trainer.micro_batch_size=auto on a GPU: the search, with a made-up memory, and what it measures, on a CPU."""

from __future__ import annotations

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from llmstage.data.encoding.order import BatchOrder
from llmstage.training import batches
from llmstage.training.batches import (
    find_micro_batch_size,
    largest_batch,
    largest_micro_batch_size,
    step_memory,
)
from llmstage.training.machine import Machine


def linear(base: float, row: float):
    tried: list[int] = []

    def memory(size: int) -> float:
        tried.append(size)
        return base + row * size

    return memory, tried


@pytest.mark.parametrize(
    ("most", "limit", "size"),
    [(64, 1000, 64), (64, 430, 32), (64, 250, 13), (64, 120, 2), (64, 115, 1), (64, 105, 1), (1, 0, 1), (7, 150, 4)],
)
def test_the_largest_that_fits_and_even_parts(most: int, limit: float, size: int) -> None:
    memory, tried = linear(100, 10)
    assert largest_micro_batch_size(memory, most, limit) == size
    assert len(tried) <= 4


def test_memory_that_grows_faster_than_foretold_is_halved() -> None:
    assert largest_micro_batch_size(lambda size: size**2, 64, 100) == 8
    assert largest_micro_batch_size(lambda size: math.inf if size > 5 else size, 64, 100) == 4
    assert largest_micro_batch_size(lambda size: math.inf, 64, 100) == 1


def test_the_largest_batch_has_the_most_padded_tokens() -> None:
    order = BatchOrder(np.array([5, 5, 90, 3, 80, 4]), 0, 128, False, 2)
    assert largest_batch(order) == [[2], [4]]


@pytest.fixture
def task_and_store(tiny_task):
    tiny = tiny_task("causal_lm", "gpt")
    store = SimpleNamespace(lengths=np.array([len(example.input_ids) for example in tiny.features]))
    store.features = lambda index: tiny.features[index]
    return tiny, store


def test_measuring_leaves_the_model_as_it_was(task_and_store, monkeypatch: pytest.MonkeyPatch) -> None:
    tiny, store = task_and_store
    model = tiny.model()
    monkeypatch.setattr(
        batches,
        "make_batch",
        lambda task, store, rows, key: tiny.batch([tiny.features[row[0]] for row in rows]),
    )
    seen: list[list[torch.Tensor | None]] = []

    def peak(step) -> int:
        step()
        seen.append([parameter.grad for parameter in model.parameters()])
        torch.rand(3)
        return 7

    machine = Machine(torch.device("cpu"), 1, "fp32", "")
    state = torch.get_rng_state()
    memory = step_memory(tiny.task, model, store, [[index] for index in range(4)], 0, machine, peak)
    assert memory(2) == 7.0
    assert all(gradient is not None for gradient in seen[0]), "a whole step is measured"
    assert all(parameter.grad is None for parameter in model.parameters()) and not model.training
    assert torch.equal(torch.get_rng_state(), state)

    def short(step) -> int:
        raise torch.OutOfMemoryError("CUDA out of memory")

    assert step_memory(tiny.task, model, store, [[0]], 0, machine, short)(1) == math.inf


def test_the_card_and_the_moments_bound_it(task_and_store, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that fits whole lets every batch pass whole; else the size that fits its longest rows."""
    tiny, _ = task_and_store
    order = BatchOrder(np.array([50, 50, 50, 50, 2, 2, 2, 2, 2]), 0, 64, False, None, 200)
    model = tiny.model()
    trained = sum(parameter.numel() for parameter in model.parameters())
    machine = Machine(torch.device("cuda"), 1, "bf16", "")
    for limit, expected in ((1_000, 9), (250, 2)):
        total = (limit + batches.OPTIMIZER_BYTES * trained) / batches.USABLE_SHARE
        card = SimpleNamespace(total_memory=total)
        monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device, card=card: card)
        monkeypatch.setattr(batches, "step_memory", lambda *args: lambda size: 100 * size)
        result = find_micro_batch_size(tiny.task, model, SimpleNamespace(), order, machine)
        assert result == max(len(batch) for batch in order.epoch(0)) if expected == 9 else result == expected
