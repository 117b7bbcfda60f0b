"""The training data of a variant, old rows and rows of weak slices in a given share, and a KL loss against the old model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from llmstage.data.encoding.order import BatchOrder
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row, digest_of
from llmstage.errors import ModelError
from llmstage.models.lm_loss import decoder_inputs, targets_of
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, Task

SHIFTED = ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText")
"""Models whose logits at a position predict the next token."""


class JoinedSource(RowSource):
    """The rows of the pool, then the new examples."""

    def __init__(self, pool: RowSource, extra: RowSource | None) -> None:
        self.split, self.pool, self.extra = "train", pool, extra
        self.identity, self.mapping = pool.identity, pool.mapping
        self.base = pool  # Bad rows are reported there.

    @property
    def description(self) -> str:
        """Name the files of both parts."""
        return self.pool.description + (f" and {self.extra.description}" if self.extra is not None else "")

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        yield from self.pool
        if self.extra is not None:
            yield from self.extra

    def digest(self) -> str:
        """Return a digest of both parts."""
        return digest_of(["joined", self.pool.digest(), self.extra.digest() if self.extra is not None else None])


@dataclass(slots=True, frozen=True)
class MixedOrder(BatchOrder):
    """Batches with a given share of examples of the weak slices, whatever their share of the pool."""

    target: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Indices of examples of the weak slices."""
    replay: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, dtype=np.int64))
    """Indices of examples of the pool."""
    share: float = 0.0
    """Share of `target`; 0 is more of the same, 1 the weak slices alone."""

    def shuffled(self, epoch: int) -> NDArray[np.int64]:
        """Return as many examples as the larger part has, in the order of an epoch.

        Each part uses all of its examples before one repeats, so that a small part is repeated evenly, and a large part is
        complete after several epochs.
        """
        size = max(len(self.target) if self.share > 0 else 0, len(self.replay) if self.share < 1 else 0)
        num_target = round(size * self.share)
        parts = [
            dealt(self.target, epoch * num_target, num_target, (self.seed, 1)),
            dealt(self.replay, epoch * (size - num_target), size - num_target, (self.seed, 2)),
        ]
        both: NDArray[np.int64] = np.concatenate(parts)
        return both[np.random.default_rng((self.seed, epoch)).permutation(len(both))]


def dealt(cards: NDArray[np.int64], start: int, count: int, seed: tuple[int, int]) -> NDArray[np.int64]:
    """Return `count` elements from position `start` of an endless sequence of shuffled copies of `cards`."""
    if count == 0:
        return cards[:0]
    first, last = start // len(cards), (start + count - 1) // len(cards)
    packs = [cards[np.random.default_rng((*seed, number)).permutation(len(cards))] for number in range(first, last + 1)]
    at = start - first * len(cards)
    return np.concatenate(packs)[at : at + count]


class KLPenaltyTask:
    """Wrap a task so that its loss includes beta * KL(p_old || p_new) at the targets of replayed rows (EMERGENCE.md 2.5).

    The term is a sum over targets like the loss, divided by the same count, so that micro-batches still add up.
    """

    def __init__(self, task: Task, old: Any, beta: float, is_target: Sequence[bool]) -> None:
        self.task, self.old, self.beta, self.is_target = task, old.eval().requires_grad_(False), beta, is_target

    def __getattr__(self, name: str) -> Any:
        return getattr(self.task, name)

    def collate(self, rows: list[list[Example]]) -> Batch:
        """Collate; `refs` then says of each example whether it is replayed: training does not read refs otherwise."""
        batch = self.task.collate(rows)
        batch.refs = [not self.is_target[example.row] for row in rows for example in row]
        return batch

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """Return the loss of the task plus the KL term."""
        loss = self.task.loss(model, batch)
        loss.total = loss.total + self.beta * self.divergence(model, batch)
        return loss

    def divergence(self, model: Any, batch: Batch) -> Tensor:
        """Return the sum of KL(p_old || p_new) in nats, over the targets of replayed examples."""
        inputs = dict(batch.inputs)
        if getattr(model.config, "is_encoder_decoder", False):
            assert batch.labels is not None
            inputs["decoder_input_ids"] = decoder_inputs(model, batch.labels, IGNORE_INDEX)
        with torch.no_grad():
            before = self.old(**inputs).logits
        after = model(**inputs).logits
        where = self.replayed(batch, after)
        p_old, p_new = (logits.flatten(0, -2)[where].float().log_softmax(-1) for logits in (before, after))
        return F.kl_div(p_new, p_old, reduction="sum", log_target=True)

    def replayed(self, batch: Batch, logits: Tensor) -> Tensor:
        """Return the rows of the flattened logits [B * T, V] or [B, C] that predict a target of a replayed example."""
        flags = torch.tensor(batch.refs, dtype=torch.bool, device=logits.device)
        if logits.dim() == 2:
            return flags.nonzero().flatten()
        assert batch.labels is not None
        if self.task.auto_model in SHIFTED:
            index, _ = targets_of(batch.labels, IGNORE_INDEX)
        else:
            index = (batch.labels.reshape(-1) != IGNORE_INDEX).nonzero().flatten()
        rows = torch.arange(len(batch.labels), device=logits.device)
        owner = batch.segments if batch.segments is not None else rows[:, None].expand_as(batch.labels)
        return index[flags[owner.reshape(-1)[index]]]


def check_kl_penalty(task: Task, model: Any) -> None:
    """Raise ModelError unless the logits are the whole output of the model: next or masked tokens, tags, or one label."""
    problem_type = getattr(model.config, "problem_type", None)
    single = problem_type in (None, "single_label_classification") and getattr(model, "extra", None) is None
    if not (single and task.additive_loss and task.auto_model.startswith(("AutoModelFor", *SHIFTED))) or any(
        word in task.auto_model for word in ("Question", "AutoModelForZeroShot")
    ):
        raise ModelError(
            f"stage.improve.kl compares the logits of the old and the new model, and the output of task={task.cfg.name} "
            f"depends on more than those. Leave it at 0; replayed rows and the guard remain."
        )
