"""The batches of training steps: which examples each has, collated into micro-batches, and the gradient of a batch.

backward_parts() adds the gradient micro-batch by micro-batch, also where the rows of a batch are each other's negatives.
find_micro_batch_size() finds the largest micro-batch that fits in memory.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from llmstage.config import RunConfig
from llmstage.data.encoding.order import BatchOrder, Rows, micro_batches, of_one_length
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.scoring import make_batch
from llmstage.kernels.varlen_attention import uses_cu_seqlens, with_cu_seqlens
from llmstage.models.build import count_parameters
from llmstage.tasks.base import Batch, LossSum, Task
from llmstage.tasks.base_contract import check_loss
from llmstage.training.machine import Machine

BatchKey = tuple[int, int, Rows]
"""(epoch, number of the batch in it, indices of the examples in each row)."""


@dataclass(slots=True)
class StepBatch:
    """The batch of one optimizer step."""

    epoch: int
    batch: int
    """The number of the batch in its epoch."""
    rows: int
    """Examples; several may share a row of a packed batch."""
    parts: list[Batch]
    """The micro-batches."""
    order: Rows
    """The indices of the examples in each row, of which the parts consist."""

    def pin_memory(self) -> Self:
        """Pin the memory of all micro-batches. A DataLoader calls this, as it cannot pin a type that it does not know."""
        self.parts = [part.pin_memory() for part in self.parts]
        return self


class StepDataset(Dataset[StepBatch]):
    """Collates the batch of a key; a DataLoader may do it in worker processes."""

    def __init__(
        self, task: Task, store: ExampleStore, micro_batch_size: int, seed: int, *, cu_seqlens: bool = False
    ) -> None:
        """`cu_seqlens`: give the starts of the examples in a packed row instead of a block mask (kernels/varlen_attention.py)."""
        self.task, self.store, self.seed = task, store, seed
        self.micro_batch_size, self.cu_seqlens = micro_batch_size, cu_seqlens

    def __getitem__(self, key: BatchKey) -> StepBatch:
        epoch, batch, rows = key
        return StepBatch(epoch, batch, sum(map(len, rows)), self.collate_parts(epoch, rows), rows)

    def collate_parts(self, epoch: int, rows: Rows) -> list[Batch]:
        """Return the micro-batches of a batch."""
        groups = of_one_length(rows, self.store.lengths) if self.task.reads_padding else [rows]
        parts = [
            make_batch(self.task, self.store, part, (self.seed, epoch))
            for group in groups
            for part in micro_batches(group, self.micro_batch_size, self.store.lengths)
        ]
        if self.cu_seqlens:
            for batch in parts:
                batch.inputs = with_cu_seqlens(batch.inputs)
        return parts


def load_batches(
    dataset: StepDataset, keys: Iterator[BatchKey], *, workers: int, pin_memory: bool
) -> Generator[StepBatch, None, None]:
    """Yield the batches of `keys` in their order, collated by `workers` processes where there are any."""
    yield from DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        pin_memory=pin_memory,
        prefetch_factor=4 if workers else None,
        # Without a generator, DataLoader draws from the global one once more in a resumed run than in an undisturbed one.
        generator=torch.Generator().manual_seed(0),
    )


def batch_keys(order: BatchOrder, epoch: int, batch: int, excluded: set[tuple[int, int]]) -> Iterator[BatchKey]:
    """Yield the keys of all batches from a position on, epoch after epoch, without the `excluded` (epoch, batch).

    The order is a pure function of (seed, epoch), so a resumed run sees the batches that an undisturbed one sees.
    """
    while True:
        for number, rows in enumerate(order.epoch(epoch)):
            if number >= batch and (epoch, number) not in excluded:
                yield epoch, number, rows
        epoch, batch = epoch + 1, 0


Autocast = Callable[[], AbstractContextManager[None]]


def backward_parts(
    task: Task, model: nn.Module, parts: Sequence[Batch], autocast: Autocast, scale: Callable[[Tensor], Tensor]
) -> Iterator[LossSum]:
    """Add the gradient of all micro-batches to the weights, and yield their losses. `scale`: the loss scaling of fp16."""
    if not task.additive_loss and len(parts) > 1:
        yield cached_backward(task, model, parts, autocast, scale)
        return
    for part in parts:
        with autocast():
            loss = check_loss(task, task.loss(model, part))
        scale(loss.total).backward()
        yield loss


def cached_backward(
    task: Task, model: nn.Module, parts: Sequence[Batch], autocast: Autocast, scale: Callable[[Tensor], Tensor]
) -> LossSum:
    """Compute the gradient of the whole batch with the memory of one micro-batch (GradCache: Gao 2021, arXiv 2101.06983)."""
    # 1. Embed all micro-batches and drop their graphs.
    embeddings: list[tuple[Tensor, ...]] = []
    random_states: list[RandomState] = []
    for part in parts:
        random_states.append(RandomState(model))
        with autocast():
            # Not under no_grad, by which some kernels are chosen: both passes must round and draw alike.
            embeddings.append(tuple(tensor.detach().requires_grad_() for tensor in task.embed(model, part)))
    final_state = RandomState(model)

    # 2. The loss over all embeddings gives the gradient of each embedding.
    batch_embeddings = tuple(torch.cat(tensors) for tensors in zip(*embeddings, strict=True))
    with autocast():
        loss = check_loss(task, task.pair_loss(model, batch_embeddings, parts))
    scale(loss.total).backward()

    # 3. Embed each micro-batch again, with the same random numbers, and pass the gradient of its embeddings on.
    for part, random_state, cached in zip(parts, random_states, embeddings, strict=True):
        random_state.restore()
        with autocast():
            again = task.embed(model, part)
        pairs = [(tensor, leaf.grad) for tensor, leaf in zip(again, cached, strict=True) if tensor.requires_grad]
        if pairs:  # none where both towers are frozen
            torch.autograd.backward([tensor for tensor, _ in pairs], [gradient for _, gradient in pairs])
    final_state.restore()
    return LossSum(loss.total.detach(), loss.count, loss.logs)


class RandomState:
    """The state of torch's random numbers on the CPU and on the model's GPU, at the time when it is made."""

    def __init__(self, model: nn.Module) -> None:
        self.device = next(model.parameters()).device
        self.cpu = torch.get_rng_state()
        self.gpu = torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else None

    def restore(self) -> None:
        """Put the random numbers back into this state."""
        torch.set_rng_state(self.cpu)
        if self.gpu is not None:
            torch.cuda.set_rng_state(self.gpu, self.device)


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
