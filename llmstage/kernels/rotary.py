"""Rotary positions for training in bf16 on a CPU: four passes over queries and keys instead of about a dozen in fp32.

transformers turns queries and keys in fp32 (ModernBERT by a cast, Llama because autocast leaves cosines in fp32) and, in
eager mode, writes each intermediate to memory: a fifth of a training step of bert_small at 128 tokens. Here each half of the
head is one product and one fused multiply-add in bf16, as in a model that is held in bf16 altogether. Everything else
(fp32, scoring, generation, GPUs, compiled bodies) goes to transformers' own function.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

KNOWN = ("modernbert", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose cosines and sines are the same for both halves of a head, the halves being the pairs that turn."""

CHANGED: list[Any] = []
"""Modules of transformers in which the function was exchanged."""

Rotate = Callable[..., tuple[Tensor, Tensor]]


def turn(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """states [B, H, T, D], cos and sin [B or 1, 1, T, D / 2]: dimension d turned with d + D / 2."""
    first, second = states.chunk(2, -1)
    out = torch.empty(states.shape, dtype=states.dtype)
    left, right = out.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return out


class Turn(torch.autograd.Function):
    """The gradient of a turn is the turn back, so nothing but the angles is kept for it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return turn(states, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return turn(gradient, cos, -sin), None, None


def faster(original: Rotate) -> Rotate:
    def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        ours = q.device.type == "cpu" and q.dtype == k.dtype == torch.bfloat16 and torch.is_grad_enabled()
        if not ours or cos.shape[-1] != q.shape[-1] or torch.compiler.is_compiling():
            return original(q, k, cos, sin, unsqueeze_dim)
        half = q.shape[-1] // 2
        cos, sin = (part[..., :half].unsqueeze(unsqueeze_dim).to(q.dtype) for part in (cos, sin))
        return Turn.apply(q, cos, sin), Turn.apply(k, cos, sin)

    rotate.original = original  # type: ignore[attr-defined]
    return rotate


def use_turns(model: Any) -> None:
    """Let the layers of a transformers model turn by `turn` above: they look the function up in their module, which offers
    no other place for it. Nothing of it is saved with the model."""
    for part in (model, getattr(model, "base_model", model), getattr(model.base_model, "language_model", model)):
        module = sys.modules[type(part).__module__]
        original = getattr(module, "apply_rotary_pos_emb", None)
        if part.config.model_type in KNOWN and original is not None and not hasattr(original, "original"):
            module.apply_rotary_pos_emb = faster(original)  # type: ignore[attr-defined]
            CHANGED.append(module)


def give_back_turns() -> None:
    """Transformers' own functions in their places again: the next job of a sweep starts clean."""
    while CHANGED:
        module: Any = CHANGED.pop()
        module.apply_rotary_pos_emb = module.apply_rotary_pos_emb.original
