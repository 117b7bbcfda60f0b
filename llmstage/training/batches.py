"""The batches of training steps: which examples each has, collated into micro-batches from a given position on."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from dataclasses import dataclass
from typing import Self

import torch
from torch.utils.data import DataLoader, Dataset

from llmstage.data.encoding.order import BatchOrder, Rows, micro_batches
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.eval_loop import make_batch
from llmstage.kernels.varlen_attention import with_cu_seqlens
from llmstage.tasks.base import Batch, Task

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
        parts = [
            make_batch(self.task, self.store, part, (self.seed, epoch))
            for part in micro_batches(rows, self.micro_batch_size, self.store.lengths)
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
