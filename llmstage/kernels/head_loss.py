"""Output layer and cross-entropy in one function, a chunk of tokens at a time: the logits of all tokens are never in memory at once.

It replaces `cross_entropy(head(hidden))` in training, on every machine, for models whose head is a plain linear layer
(trainer.head_chunk). The gradient is computed in the forward pass, where the logits are at hand, and written over them, as in
Liger's fused linear cross-entropy (Hsu 2024, arXiv 2410.10989; the idea of chunks is Wijmans 2024, arXiv 2411.09009). On a CPU
each chunk passes through the softmax in blocks that fit its cache. When it is enabled, losses and gradients are compared with
the plain ones for random hidden states and the model's own output weights; where they differ, the plain loss is used.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.comparison import Difference, Values, arithmetic, largest_difference
from llmstage.kernels.matmul import weight_gradient

CHUNK_BYTES = 64 * 2**20
"""Logits in fp32 that may be in memory at once on a CPU; on a GPU eight times as much."""
CACHED = 2**18
"""Logits of a block on a CPU."""
COMPARED_TOKENS, COMPARED_ENTRIES = 24, 4096
"""Tokens, and entries of the vocabulary, on which the loss is compared with the plain one."""


def chunk_size(setting: str | int, vocab_size: int, device: torch.device) -> int:
    """Tokens in a chunk for trainer.head_chunk; 0: all of them at once, by the plain loss."""
    if setting == "off":
        return 0
    if setting != "auto":
        return int(setting)
    return max(1, CHUNK_BYTES * (8 if device.type == "cuda" else 1) // (4 * vocab_size))


def losses_and_logit_gradients(logits: Tensor, target: Tensor, smoothing: float) -> Tensor:
    """Loss [N] in fp32 of logits [N, V], which are overwritten by its gradient: softmax minus the target distribution."""
    vocab_size = logits.shape[1]
    size = max(1, CACHED // vocab_size) if logits.device.type == "cpu" else max(1, len(logits))
    losses = torch.empty(len(logits), dtype=torch.float32, device=logits.device)
    for block, ids, loss in zip(logits.split(size), target.split(size), losses.split(size), strict=True):
        scores = block.float() if block.dtype != torch.float32 else block.clone()
        scores -= scores.amax(-1, keepdim=True)
        target_score = scores.gather(1, ids[:, None])
        mean_score = scores.mean(-1, keepdim=True) if smoothing else None
        total = scores.exp_().sum(-1, keepdim=True)
        nll = total.log() - (1 - smoothing) * target_score
        if mean_score is not None:
            nll -= smoothing * mean_score
        loss.copy_(nll[:, 0])
        # From here on `scores` becomes the gradient: probabilities, minus what the target distribution gives to each entry.
        scores /= total
        if smoothing:
            scores -= smoothing / vocab_size
        scores.scatter_add_(1, ids[:, None], torch.full_like(target_score, smoothing - 1))
        block.copy_(scores)
    return losses


def losses_and_gradients(
    hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, chunk: int,
    token_weights: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:  # fmt: skip
    """(losses [N], gradients of hidden, weight and bias) of the sum of losses, each weighted by `token_weights` [N] if given."""
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
    states, table = hidden.to(dtype), weight.to(dtype)
    offset = None if bias is None else bias.to(dtype)
    losses, d_hidden = [], torch.empty_like(states)
    d_weight, d_bias = None, None if bias is None else torch.zeros_like(bias)
    for start in range(0, len(hidden), chunk):
        part = states[start : start + chunk]
        logits = F.linear(part, table, offset)
        losses.append(losses_and_logit_gradients(logits, target[start : start + chunk], smoothing))
        # `logits` now holds the gradient of the logits.
        if token_weights is not None:
            logits *= token_weights[start : start + chunk, None]
        torch.mm(logits, table, out=d_hidden[start : start + chunk])
        change = weight_gradient(logits, part).to(weight.dtype)
        d_weight = change if d_weight is None else d_weight.add_(change)
        if d_bias is not None:
            d_bias += logits.sum(0, dtype=d_bias.dtype)
    all_losses = torch.cat(losses) if losses else hidden.new_zeros(0, dtype=torch.float32)
    return all_losses, d_hidden, torch.zeros_like(weight) if d_weight is None else d_weight, d_bias


class HeadLoss(torch.autograd.Function):
    """hidden [N, D], target [N] -> -log p(target) [N], fp32."""

    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, bias: Tensor | None, target: Tensor, smoothing: float, chunk: int
    ) -> Tensor:
        losses, d_hidden, d_weight, d_bias = losses_and_gradients(hidden, weight, bias, target, smoothing, chunk)
        ctx.save_for_backward(hidden, weight, bias, target, d_hidden, d_weight, d_bias)
        device = hidden.device.type
        ctx.settings = smoothing, chunk, device, torch.is_autocast_enabled(device), torch.get_autocast_dtype(device)
        return losses

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Any:
        hidden, weight, bias, target, d_hidden, d_weight, d_bias = ctx.saved_tensors
        if len(gradient) and gradient.stride(0) != 0:
            # This is not the gradient of a sum: each token has a weight of its own, so the chunks are computed again.
            smoothing, chunk, device, enabled, dtype = ctx.settings
            with torch.autocast(device, dtype, enabled=enabled):
                _, d_hidden, d_weight, d_bias = losses_and_gradients(
                    hidden, weight, bias, target, smoothing, chunk, gradient
                )
        elif len(gradient) and not (gradient.device.type == "cpu" and float(gradient[0]) == 1):
            scale = gradient[0]
            d_hidden, d_weight = d_hidden * scale, d_weight * scale
            d_bias = None if d_bias is None else d_bias * scale
        return d_hidden.to(hidden.dtype), d_weight, d_bias, None, None, None


def head_losses(head: nn.Linear, hidden: Tensor, target: Tensor, smoothing: float, chunk: int) -> Tensor:
    """-log p(target) [N] of hidden states [N, D], for training."""
    losses: Tensor = HeadLoss.apply(hidden, head.weight, head.bias, target, smoothing, chunk)
    return losses


def supports_chunks(head: Any) -> bool:
    """Whether the head is a plain linear layer with trained weights."""
    return type(head) is nn.Linear and head.weight.requires_grad


def head_difference(head: nn.Linear, dtype: torch.dtype) -> Difference:
    """Compare chunked losses and gradients with the plain ones, for random hidden states and the head's own weights.

    The first COMPARED_ENTRIES of the vocabulary are enough: the function treats all entries alike.
    """
    device, width = head.weight.device, head.weight.shape[1]
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(COMPARED_TOKENS, width, generator=generator).to(device)
    parameters = {"weight": head.weight.detach()[:COMPARED_ENTRIES].float().requires_grad_(True)}
    if head.bias is not None:
        parameters["bias"] = head.bias.detach()[:COMPARED_ENTRIES].float().requires_grad_(True)
    weight, bias = parameters["weight"], parameters.get("bias")
    target = torch.randint(0, len(weight), (COMPARED_TOKENS,), generator=generator).to(device)

    def values(dtype: torch.dtype, chunk: int) -> Values:
        states = hidden.clone().requires_grad_(True)
        with torch.enable_grad(), arithmetic(device, dtype):
            if chunk:
                losses = HeadLoss.apply(states, weight, bias, target, 0.1, chunk)
            else:
                logits = F.linear(states, weight, bias).float()
                losses = F.cross_entropy(logits, target, reduction="none", label_smoothing=0.1)
        gradients = torch.autograd.grad(losses.sum(), [states, *parameters.values()])
        return Values({"loss": losses.detach(), **dict(zip(["hidden", *parameters], gradients, strict=True))})

    chunk = COMPARED_TOKENS // 3 + 1  # three chunks, the last one shorter
    exact = values(torch.float32, 0)
    plain = exact if dtype == torch.float32 else values(dtype, 0)
    return largest_difference(exact, plain, values(dtype, chunk), dtype)
