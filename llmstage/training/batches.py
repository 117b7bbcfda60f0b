"""The batches of a step, made from features, from the cursor on."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch.utils.data import DataLoader, Dataset

from llmstage.data.encoding.order import BatchOrder, Rows, micro_batches
from llmstage.data.encoding.store import ExampleStore
from llmstage.evaluation.eval_loop import make_batch
from llmstage.kernels.varlen_attention import places
from llmstage.tasks.base import Batch, Task


@dataclass(slots=True)
class StepBatch:
    epoch: int
    batch: int
    rows: int
    """Rows as the model sees them (features); several may share a row of a packed batch."""
    parts: list[Batch]
    order: Rows
    """The features of each row, by index: what the parts are made of."""

    def pin_memory(self) -> Self:
        """Called by a DataLoader with pin_memory=True, which knows types of its own only."""
        self.parts = [part.pin_memory() for part in self.parts]
        return self


class StepDataset(Dataset[StepBatch]):
    """Batches by their feature indices; collating happens here, in a worker where there are any."""

    def __init__(
        self, task: Task, store: ExampleStore, micro_batch_size: int, seed: int, *, documents: bool = False
    ) -> None:
        """`documents`: block masks are exchanged for the places where features begin (models/documents.py)."""
        self.task, self.store, self.size, self.seed, self.documents = task, store, micro_batch_size, seed, documents

    def __getitem__(self, key: Any) -> StepBatch:
        epoch, batch, rows = key
        return StepBatch(epoch, batch, sum(map(len, rows)), self.parts(epoch, rows), rows)

    def parts(self, epoch: int, rows: Rows) -> list[Batch]:
        made = [
            make_batch(self.task, self.store, part, (self.seed, epoch))
            for part in micro_batches(rows, self.size, self.store.lengths)
        ]
        if self.documents:
            for batch in made:
                batch.inputs = places(batch.inputs)
        return made


def stream(
    dataset: StepDataset, keys: Iterator[tuple[int, int, Rows]], *, workers: int, pinned: bool
) -> Iterator[StepBatch]:
    """Batches in the order of `keys`, prepared by `workers` processes where there are any."""
    yield from DataLoader(
        dataset,
        sampler=keys,
        batch_size=None,
        num_workers=workers,
        pin_memory=pinned,
        prefetch_factor=4 if workers else None,
        # A generator of its own: DataLoader otherwise draws from the global one, and a resumed run draws another time.
        generator=torch.Generator().manual_seed(0),
    )


def cursor(
    order: BatchOrder, epoch: int, batch: int, excluded: set[tuple[int, int]]
) -> Iterator[tuple[int, int, Rows]]:
    """(epoch, batch, rows) from a place on, epoch after epoch. The order is a pure function of (seed, epoch)."""
    while True:
        for number, rows in enumerate(order.epoch(epoch)):
            if number >= batch and (epoch, number) not in excluded:
                yield epoch, number, rows
        epoch, batch = epoch + 1, 0
