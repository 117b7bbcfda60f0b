"""trainer.micro_batch_size=auto on a GPU: the largest micro-batch that fits, found by trying a few sizes before training.

What is compared with the card's memory is what torch allocated, so other processes and timing have no say in it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import islice
from typing import Any

import torch

from llmstage.data.encoding.order import BatchOrder, Rows
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.eval_loop import make_batch
from llmstage.kernels.varlen_attention import places, reads_places
from llmstage.models.build import count_parameters
from llmstage.tasks.base import Task
from llmstage.training.gradient_cache import Randomness, backward_parts
from llmstage.training.machine import Machine

SHARE = 0.85
"""Of the card's memory, for weights, gradients and activations: the rest is fragments and the context of CUDA."""
MOMENTS = 8
"""Bytes of a trained parameter that AdamW keeps, from the first step on."""
BATCHES = 2000
"""Batches of the first pass among which the largest is looked for."""


def largest_micro(memory: Callable[[int], float], most: int, room: float) -> int:
    """The largest number of rows, at most `most`, whose peak `memory` (bytes) is within `room`; at least 1.

    Memory grows linearly with rows: two small sizes foretell it, the size they give is tried, and halved while it is too
    large. Batches are then cut evenly, because a last micro-batch of a few rows wastes the card.
    """
    if most <= 1:
        return 1
    one, two = memory(1), memory(2)
    if not two <= room:
        return 1
    size = max(2, min(most, 1 + int((room - one) / max(1.0, two - one))))
    while size > 2 and not memory(size) <= room:
        size //= 2
    return math.ceil(most / math.ceil(most / size))


def probe_micro(task: Task, model: Any, store: ExampleStore, order: BatchOrder, machine: Machine) -> int:
    """Rows of a micro-batch that fit in the GPU, judged by the largest batch of the first pass."""
    total = torch.cuda.get_device_properties(machine.device).total_memory
    room = SHARE * total - MOMENTS * count_parameters(model, trained=True)
    batch = largest_batch(order)
    found = largest_micro(step_memory(task, model, store, batch, order.seed, machine, peak_of_gpu), len(batch), room)
    # Where the largest batch fits whole, so does every other, however many rows it has.
    return found if found < len(batch) else max(map(len, islice(order.epoch(0), BATCHES)))


def largest_batch(order: BatchOrder) -> Rows:
    """Its rows, the longest first."""

    def length(row: list[int]) -> int:
        return sum(int(order.lengths[index]) for index in row)

    batch = max(islice(order.epoch(0), BATCHES), key=lambda rows: max(map(length, rows)) * len(rows))
    return sorted(batch, key=length, reverse=True)


def step_memory(
    task: Task, model: Any, store: ExampleStore, rows: Rows, seed: int, machine: Machine,
    peak: Callable[[Callable[[], None]], int],
) -> Callable[[int], float]:  # fmt: skip
    """Bytes at the peak of loss and gradient of the first `size` rows; infinite where memory runs out. The model is left
    without gradients and random numbers stand where they stood."""

    def measured(size: int) -> float:
        part = make_batch(task, store, rows[:size], (seed, 0))
        part.inputs = places(part.inputs) if reads_places(model) else part.inputs
        part = part.to(machine.device)
        before, training = Randomness(model), model.training
        model.train()

        def step() -> None:
            for _ in backward_parts(
                task, model, [part], lambda: machine.autocast(machine.precision), lambda loss: loss
            ):
                pass

        try:
            return float(peak(step))
        except torch.OutOfMemoryError:
            return math.inf
        finally:
            model.zero_grad(set_to_none=True)
            model.train(training)
            before.set()

    return measured


def peak_of_gpu(step: Callable[[], None]) -> int:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    return int(torch.cuda.max_memory_allocated())
