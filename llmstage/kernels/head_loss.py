"""Output layer and cross-entropy in one, some tokens at a time: logits of all tokens never stand in memory.

The gradient is computed in the forward pass, where the logits are at hand, and written over them, as in Liger's fused
linear cross-entropy (Hsu 2024, arXiv 2410.10989; the idea of chunks is Wijmans 2024, arXiv 2411.09009). On a CPU each chunk
passes the softmax in blocks that stay in its cache.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.matmul import weight_gradient

CHUNK_BYTES = 64 * 2**20
"""Logits in fp32 that may stand in memory at once on a CPU; on a GPU eight times as much."""
CACHED = 2**18
"""Logits of a block on a CPU."""


def chunk_of(setting: str | int, vocabulary: int, device: torch.device) -> int:
    """Tokens at once for trainer.head_chunk; 0: all of them, through the plain loss."""
    if setting == "off":
        return 0
    if setting != "auto":
        return int(setting)
    return max(1, CHUNK_BYTES * (8 if device.type == "cuda" else 1) // (4 * vocabulary))


def spread(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Loss [N] in fp32 of logits [N, V], which are overwritten by its gradient: softmax minus the wanted distribution."""
    vocabulary = logits.shape[1]
    size = max(1, CACHED // vocabulary) if logits.device.type == "cpu" else max(1, len(logits))
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for block, wanted, loss in zip(logits.split(size), target.split(size), losses.split(size), strict=True):
        scores = block.float() if block.dtype != torch.float32 else block.clone()
        scores -= scores.amax(-1, keepdim=True)
        truth = scores.gather(1, wanted[:, None])
        even = scores.mean(-1, keepdim=True) if smoothing else None
        total = scores.exp_().sum(-1, keepdim=True)
        found = total.log() - (1 - smoothing) * truth
        if even is not None:
            found -= smoothing * even
        loss.copy_(found[:, 0])
        scores /= total
        if smoothing:
            scores -= smoothing / vocabulary
        scores.scatter_add_(1, wanted[:, None], torch.full_like(truth, smoothing - 1))
        block.copy_(scores)
    return losses


def losses_and_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, chunk: int,
    share: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(losses [N], gradients of hidden, weight and bias) of the sum of losses, each weighted by `share` [N] where given."""
    kind = hidden.device.type
    half = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    states, table = hidden.to(half), weight.to(half)
    offset = None if bias is None else bias.to(half)
    losses, d_hidden = [], torch.empty_like(states)
    d_weight, d_bias = None, None if bias is None else torch.zeros_like(bias)
    for start in range(0, len(hidden), chunk):
        part = states[start : start + chunk]
        logits = F.linear(part, table, offset)
        losses.append(spread(logits, target[start : start + chunk], smoothing))
        if share is not None:
            logits *= share[start : start + chunk, None]
        torch.mm(logits, table, out=d_hidden[start : start + chunk])
        change = weight_gradient(logits, part).to(weight.dtype)
        d_weight = change if d_weight is None else d_weight.add_(change)
        if d_bias is not None:
            d_bias += logits.sum(0, dtype=d_bias.dtype)
    found = torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
    return found, d_hidden, torch.zeros_like(weight) if d_weight is None else d_weight, d_bias


class HeadLoss(torch.autograd.Function):
    """hidden [N, D], target [N] -> -log p(target) [N], fp32."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, chunk: int
    ) -> Tensor:
        losses, d_hidden, d_weight, d_bias = losses_and_gradients(hidden, weight, bias, target, smoothing, chunk)
        ctx.save_for_backward(hidden, weight, bias, target, d_hidden, d_weight, d_bias)
        kind = hidden.device.type
        ctx.settings = smoothing, chunk, kind, torch.is_autocast_enabled(kind), torch.get_autocast_dtype(kind)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        hidden, weight, bias, target, d_hidden, d_weight, d_bias = ctx.saved_tensors
        if len(gradient) and gradient.stride(0) != 0:  # not the gradient of a sum: each token weighs another, so again
            smoothing, chunk, kind, enabled, half = ctx.settings
            with torch.autocast(kind, half, enabled=enabled):
                _, *found = losses_and_gradients(hidden, weight, bias, target, smoothing, chunk, gradient)
            d_hidden, d_weight, d_bias = found
        elif len(gradient) and not (gradient.device.type == "cpu" and float(gradient[0]) == 1):
            scale = gradient[0]
            d_hidden, d_weight = d_hidden * scale, d_weight * scale
            d_bias = None if d_bias is None else d_bias * scale
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None


def head_losses(head: nn.Linear, hidden: Tensor, target: Tensor, smoothing: float, chunk: int) -> Tensor:
    """-log p(target) [N] of hidden states [N, D], for training."""
    losses: Tensor = HeadLoss.apply(hidden, head.weight, head.bias, target, smoothing, chunk)
    return losses


def takes_chunks(head: Any) -> bool:
    """Whether the head is a plain linear layer whose weights, if they are trained, are trained as such."""
    return type(head) is nn.Linear and head.weight.requires_grad
