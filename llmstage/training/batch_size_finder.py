"""trainer.micro_batch_size=auto on a GPU: the largest micro-batch that fits, found by trying a few sizes before training.

The search compares the memory that torch itself allocates with that of the card. Other processes and timing have no influence.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import islice
from typing import Any

import torch

from llmstage.config import RunConfig
from llmstage.data.encoding.order import BatchOrder, Rows
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.scoring import make_batch
from llmstage.kernels.varlen_attention import uses_cu_seqlens, with_cu_seqlens
from llmstage.models.build import count_parameters
from llmstage.tasks.base import Task
from llmstage.training.batches import RandomState, backward_parts
from llmstage.training.machine import Machine

USABLE_SHARE = 0.85
"""Share of the card's memory for weights, gradients and activations. Fragments and the CUDA context need the rest."""
OPTIMIZER_BYTES = 8
"""Bytes that AdamW keeps for each trained parameter from the first step on."""
FIRST_BATCHES = 2000
"""Batches of the first epoch that are searched for the largest one."""


def searches_micro_batch_size(run: RunConfig, machine: Machine, saved: dict[str, Any], *, additive: bool) -> bool:
    """Return whether the run searches for its micro-batch size: on a GPU, once, unless the config sets one."""
    is_set = run.trainer.micro_batch_size != "auto" or saved.get("micro_batch_size")
    return machine.device.type == "cuda" and additive and not is_set


def largest_micro_batch_size(memory: Callable[[int], float], num_rows: int, limit: float) -> int:
    """Return the largest number of rows, at most `num_rows`, whose peak `memory` (bytes) is within `limit`; at least 1.

    Memory grows linearly with the rows. Two small sizes predict the largest one; it is tried, and halved while it is too
    large. The batch is then cut into parts of equal size, because a last micro-batch of a few rows wastes the card.
    """
    if num_rows <= 1:
        return 1
    one_row, two_rows = memory(1), memory(2)
    if not two_rows <= limit:
        return 1
    size = max(2, min(num_rows, 1 + int((limit - one_row) / max(1.0, two_rows - one_row))))
    while size > 2 and not memory(size) <= limit:
        size //= 2
    return math.ceil(num_rows / math.ceil(num_rows / size))


def find_micro_batch_size(task: Task, model: Any, store: ExampleStore, order: BatchOrder, machine: Machine) -> int:
    """Return the rows of a micro-batch that fit on the GPU, by the largest batch of the first epoch."""
    total = torch.cuda.get_device_properties(machine.device).total_memory
    limit = USABLE_SHARE * total - OPTIMIZER_BYTES * count_parameters(model, trained=True)
    batch = largest_batch(order)
    memory = step_memory(task, model, store, batch, order.seed, machine, peak_gpu_memory)
    size = largest_micro_batch_size(memory, len(batch), limit)
    # If the largest batch fits at once, so does every other one, however many rows it has.
    return size if size < len(batch) else max(map(len, islice(order.epoch(0), FIRST_BATCHES)))


def largest_batch(order: BatchOrder) -> Rows:
    """Return the batch with the most tokens, padding included, its longest rows first."""

    def length(row: Sequence[int]) -> int:
        return sum(int(order.lengths[index]) for index in row)

    batch = max(islice(order.epoch(0), FIRST_BATCHES), key=lambda rows: max(map(length, rows)) * len(rows))
    return sorted(batch, key=length, reverse=True)


def step_memory(
    task: Task, model: Any, store: ExampleStore, rows: Rows, seed: int, machine: Machine,
    peak: Callable[[Callable[[], None]], int],
) -> Callable[[int], float]:  # fmt: skip
    """Return a function that measures the peak memory, in bytes, of loss and gradient of the first so many rows.

    It returns infinity where memory runs out. It leaves no gradients, and the random numbers are as they were before.
    """

    def measure(size: int) -> float:
        part = make_batch(task, store, rows[:size], (seed, 0))
        part.inputs = with_cu_seqlens(part.inputs) if uses_cu_seqlens(model) else part.inputs
        part = part.to(machine.device)
        random_state, was_training = RandomState(model), model.training
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
            model.train(was_training)
            random_state.restore()

    return measure


def peak_gpu_memory(step: Callable[[], None]) -> int:
    """Return the most memory that torch allocates on the GPU during a step, in bytes."""
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    step()
    return int(torch.cuda.max_memory_allocated())
