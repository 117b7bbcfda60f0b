"""Which attention heads carry copying: where they look on repeated random tokens, and what is lost without them.

Prefix matching, previous-token and in-context-learning scores after Olsson et al. (2022, In-context Learning and Induction
Heads). A head is taken out by putting its mean output in its place (mean ablation), which leaves the state's size as it is.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

Head = tuple[int, int]
"""(layer, head), both from 0."""
Forward = Callable[[Tensor], Tensor]
"""ids [B, T] -> logits [B, T, V]."""


def previous_token_scores(patterns: Sequence[Tensor]) -> NDArray[np.float64]:
    """[layers, heads] mean attention from a token to the one before it. `patterns` by layer, [B, H, T, T]."""
    return np.array([layer.diagonal(-1, -2, -1).double().mean((0, 2)).tolist() for layer in patterns])


def prefix_scores(patterns: Sequence[Tensor], period: Tensor) -> NDArray[np.float64]:
    """[layers, heads] mean attention from a token to those that followed its earlier occurrences: in rows that repeat
    every `period` [B] tokens, the sum over all of them, from the second time on."""
    length = patterns[0].shape[-1]
    place = torch.arange(length)
    back = place[:, None] - place  # [T, T] how far back
    phase = (back[None] + 1) % period[:, None, None] == 0  # [B, T, T] the token after an occurrence of this one
    wanted = phase & (back[None] > 0)
    again = (place[None] >= period[:, None]).double()  # [B, T]
    found = []
    for layer in patterns:
        mass = (layer.double() * wanted[:, None]).sum(-1)  # [B, H, T]
        found.append(((mass * again[:, None]).sum((0, 2)) / again.sum()).tolist())
    return np.array(found)


def repeated_loss(logits: Tensor, ids: Tensor, period: Tensor) -> tuple[float, float]:
    """(mean loss, accuracy) of the tokens that the row has shown before, given what stands before them.

    `logits` [B, T, V] speak about the next token; the first that can be foretold is the one after the first repeat.
    """
    nll = -logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)  # [B, T-1]
    right = logits[:, :-1].argmax(-1) == ids[:, 1:]
    known = torch.arange(1, ids.shape[1])[None] > period[:, None]
    return float(nll[known].mean()), float(right[known].double().mean())


def context_gain(logits: Tensor, ids: Tensor, early: slice = slice(4, 8), late: int = 4) -> float:
    """In-context-learning score, nats: mean loss of the last tokens minus that of early ones. Negative: context helps."""
    nll = -logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return float(nll[:, -late:].mean() - nll[:, early.start - 1 : early.stop - 1].mean())


@contextlib.contextmanager
def without_heads(projections: Sequence[nn.Module], heads: Sequence[Head], num_heads: int) -> Iterator[None]:
    """Heads taken out while the block runs: what the output projection reads of them becomes its mean over rows and places
    of the batch. `projections`: of each layer, the module that reads the heads side by side."""
    hooks = []
    for layer in sorted({layer for layer, _ in heads}):
        chosen = [head for at, head in heads if at == layer]

        def mean_instead(_: nn.Module, inputs: tuple[Tensor, ...], chosen: list[int] = chosen) -> tuple[Tensor, ...]:
            side_by_side = inputs[0].reshape(*inputs[0].shape[:-1], num_heads, -1).clone()  # [B, T, H, D/H]
            for head in chosen:
                side_by_side[..., head, :] = side_by_side[..., head, :].mean((0, 1))
            return (side_by_side.reshape(inputs[0].shape), *inputs[1:])

        hooks.append(projections[layer].register_forward_pre_hook(mean_instead))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(slots=True)
class HeadFindings:
    """What is known of the heads of one model."""

    previous: NDArray[np.float64]
    """[layers, heads]"""
    prefix: NDArray[np.float64]
    """[layers, heads]"""
    loss: float
    """Of repeated tokens, nats."""
    accuracy: float
    gain: float
    """In-context-learning score, nats."""
    cost: NDArray[np.float64]
    """[layers, heads] nats lost on repeated tokens without this head."""
    groups: dict[str, dict[str, Any]]
    """Heads of a kind taken out together: {heads, cost, share}; share: of the loss between the whole model and none."""

    @property
    def previous_token_head(self) -> Head:
        """Of the heads that look one back more than elsewhere, the one that costs most; else the strongest by its look."""
        looks = self.previous >= 0.5 * self.previous.max()
        layer, head = np.unravel_index(int(np.where(looks, self.cost, -np.inf).argmax()), self.cost.shape)
        return int(layer), int(head)

    def as_dict(self) -> dict[str, Any]:
        return {
            "previous_token": self.previous.tolist(), "prefix_matching": self.prefix.tolist(),
            "ablation_cost": self.cost.tolist(), "repeated_loss": self.loss, "repeated_accuracy": self.accuracy,
            "context_gain": self.gain, "groups": self.groups, "previous_token_head": list(self.previous_token_head),
        }  # fmt: skip


INDUCTION, PREVIOUS = 0.3, 0.3
"""A head is called an induction or previous-token head from this mean attention on."""


@torch.no_grad()
def examine_heads(
    forward: Forward, patterns: Sequence[Tensor], projections: Sequence[nn.Module], ids: Tensor, period: Tensor
) -> HeadFindings:
    """Scores of every head, and the loss on repeated tokens without each head, without each kind, and without any."""
    num_heads = patterns[0].shape[1]
    previous, prefix = previous_token_scores(patterns), prefix_scores(patterns, period)
    logits = forward(ids)
    loss, accuracy = repeated_loss(logits, ids, period)

    def cost(heads: Sequence[Head]) -> float:
        with without_heads(projections, heads, num_heads):
            return repeated_loss(forward(ids), ids, period)[0] - loss

    every = [(layer, head) for layer in range(len(patterns)) for head in range(num_heads)]
    alone = np.array([cost([head]) for head in every]).reshape(prefix.shape)
    none = cost(every)
    groups = {}
    for name, scores, border in (("previous-token", previous, PREVIOUS), ("induction", prefix, INDUCTION)):
        members = [(int(layer), int(head)) for layer, head in np.argwhere(scores >= border)]
        lost = cost(members) if members else 0.0
        share = lost / none if none > 0 else 0.0
        groups[name] = {"heads": [list(head) for head in members], "cost": lost, "share": share}
    groups["all"] = {"heads": [list(head) for head in every], "cost": none, "share": 1.0}
    return HeadFindings(previous, prefix, loss, accuracy, context_gain(logits, ids), alone, groups)
