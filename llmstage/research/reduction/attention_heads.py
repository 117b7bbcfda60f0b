"""Find the attention heads that copy: their attention on repeated random tokens, and the loss without them.

Prefix-matching, previous-token and in-context-learning scores follow Olsson et al. (2022, In-context Learning and
Induction Heads). A head is ablated by replacing its output by its mean (mean ablation), which keeps the scale of the
residual stream.
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


def prefix_matching_scores(patterns: Sequence[Tensor], period: Tensor) -> NDArray[np.float64]:
    """[layers, heads] mean attention from a token to the tokens that followed its earlier occurrences.

    Rows repeat every `period` [B] tokens. The attention to all such tokens is summed, from the second repetition on.
    """
    length = patterns[0].shape[-1]
    positions = torch.arange(length)
    distance = positions[:, None] - positions  # [T, T] how far back
    follows_occurrence = (distance[None] + 1) % period[
        :, None, None
    ] == 0  # [B, T, T] the token after an occurrence of this one
    is_match = follows_occurrence & (distance[None] > 0)
    is_repeat = (positions[None] >= period[:, None]).double()  # [B, T]
    scores = []
    for layer in patterns:
        mass = (layer.double() * is_match[:, None]).sum(-1)  # [B, H, T]
        scores.append(((mass * is_repeat[:, None]).sum((0, 2)) / is_repeat.sum()).tolist())
    return np.array(scores)


def repeated_token_loss(logits: Tensor, ids: Tensor, period: Tensor) -> tuple[float, float]:
    """Return (mean loss, accuracy) of the tokens that occurred in the row before, given all tokens before them.

    `logits` [B, T, V] predict the next token. The first predictable token is the one after the first repeated token.
    """
    nll = -logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)  # [B, T-1]
    correct = logits[:, :-1].argmax(-1) == ids[:, 1:]
    predictable = torch.arange(1, ids.shape[1])[None] > period[:, None]
    return float(nll[predictable].mean()), float(correct[predictable].double().mean())


def in_context_score(logits: Tensor, ids: Tensor, early: slice = slice(4, 8), late: int = 4) -> float:
    """Return the in-context-learning score in nats: mean loss of the last tokens minus that of early ones. Negative:
    context helps."""
    nll = -logits[:, :-1].double().log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    return float(nll[:, -late:].mean() - nll[:, early.start - 1 : early.stop - 1].mean())


@contextlib.contextmanager
def without_heads(projections: Sequence[nn.Module], heads: Sequence[Head], num_heads: int) -> Iterator[None]:
    """Ablate heads inside the block: the output projection reads their mean over rows and positions of the batch.

    `projections`: for each layer, the module that reads the concatenated outputs of the heads.
    """
    hooks = []
    for layer in sorted({layer for layer, _ in heads}):
        head_indices = [head for head_layer, head in heads if head_layer == layer]

        def replace_by_mean(
            _: nn.Module, inputs: tuple[Tensor, ...], head_indices: list[int] = head_indices
        ) -> tuple[Tensor, ...]:
            by_head = inputs[0].reshape(*inputs[0].shape[:-1], num_heads, -1).clone()  # [B, T, H, D/H]
            for head in head_indices:
                by_head[..., head, :] = by_head[..., head, :].mean((0, 1))
            return (by_head.reshape(inputs[0].shape), *inputs[1:])

        hooks.append(projections[layer].register_forward_pre_hook(replace_by_mean))
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


@dataclass(slots=True)
class HeadScores:
    """Scores and ablation costs of the heads of one model."""

    previous: NDArray[np.float64]
    """[layers, heads]"""
    prefix: NDArray[np.float64]
    """[layers, heads]"""
    loss: float
    """Loss on repeated tokens, nats."""
    accuracy: float
    gain: float
    """In-context-learning score, nats."""
    cost: NDArray[np.float64]
    """[layers, heads] loss in nats on repeated tokens that is added without this head."""
    groups: dict[str, dict[str, Any]]
    """Heads of one type, ablated together: {heads, cost, share}; share: of the loss that is added without all heads."""

    @property
    def previous_token_head(self) -> Head:
        """Among the heads with a high previous-token score, the one that costs most; else the one with the highest
        score."""
        attends_back = self.previous >= 0.5 * self.previous.max()
        layer, head = np.unravel_index(int(np.where(attends_back, self.cost, -np.inf).argmax()), self.cost.shape)
        return int(layer), int(head)

    def as_dict(self) -> dict[str, Any]:
        return {
            "previous_token": self.previous.tolist(), "prefix_matching": self.prefix.tolist(),
            "ablation_cost": self.cost.tolist(), "repeated_loss": self.loss, "repeated_accuracy": self.accuracy,
            "context_gain": self.gain, "groups": self.groups, "previous_token_head": list(self.previous_token_head),
        }  # fmt: skip


INDUCTION, PREVIOUS = 0.3, 0.3
"""Mean attention from which a head is called an induction or previous-token head."""


@torch.no_grad()
def score_heads(
    forward: Forward, patterns: Sequence[Tensor], projections: Sequence[nn.Module], ids: Tensor, period: Tensor
) -> HeadScores:
    """Score every head, and measure the loss on repeated tokens without each head, without each type, and without any."""
    num_heads = patterns[0].shape[1]
    previous, prefix = previous_token_scores(patterns), prefix_matching_scores(patterns, period)
    logits = forward(ids)
    loss, accuracy = repeated_token_loss(logits, ids, period)

    def cost(heads: Sequence[Head]) -> float:
        with without_heads(projections, heads, num_heads):
            return repeated_token_loss(forward(ids), ids, period)[0] - loss

    all_heads = [(layer, head) for layer in range(len(patterns)) for head in range(num_heads)]
    costs = np.array([cost([head]) for head in all_heads]).reshape(prefix.shape)
    cost_of_all = cost(all_heads)
    groups = {}
    for name, scores, threshold in (("previous-token", previous, PREVIOUS), ("induction", prefix, INDUCTION)):
        members = [(int(layer), int(head)) for layer, head in np.argwhere(scores >= threshold)]
        group_cost = cost(members) if members else 0.0
        share = group_cost / cost_of_all if cost_of_all > 0 else 0.0
        groups[name] = {"heads": [list(head) for head in members], "cost": group_cost, "share": share}
    groups["all"] = {"heads": [list(head) for head in all_heads], "cost": cost_of_all, "share": 1.0}
    return HeadScores(previous, prefix, loss, accuracy, in_context_score(logits, ids), costs, groups)
