"""Rotary position embedding for training in bf16 on a CPU: four passes over queries and keys instead of about a dozen in fp32.

It replaces `apply_rotary_pos_emb` of the MODEL_TYPES below while a model trains in bf16 on a CPU. transformers rotates queries and
keys in fp32 (ModernBERT by a cast, Llama because autocast leaves cosines in fp32) and, in eager mode, writes each intermediate
to memory: a fifth of a training step of bert_small at 128 tokens. Here each half of the head is one product and one fused
multiply-add in bf16, as in a model whose weights are all bf16. Everything else (fp32, scoring, generation, GPUs,
compiled bodies) goes to transformers' own function. When it is enabled, outputs and gradients of the model are compared with those
of the plain function (kernels/comparison.py).
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

MODEL_TYPES = ("modernbert", "llama", "mistral", "qwen2", "qwen3")
"""Model types whose cosines and sines are the same for both halves of a head; dimension d is rotated with d + D / 2."""

PATCHED: list[Any] = []
"""Modules of transformers whose function is replaced at the moment."""

Rotary = Callable[..., tuple[Tensor, Tensor]]


def rotate(states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """states [B, H, T, D], cos and sin [B or 1, 1, T, D / 2]: dimension d rotated with d + D / 2."""
    first, second = states.chunk(2, -1)
    out = torch.empty(states.shape, dtype=states.dtype)
    left, right = out.chunk(2, -1)
    torch.mul(first, cos, out=left).addcmul_(second, sin, value=-1)
    torch.mul(second, cos, out=right).addcmul_(first, sin)
    return out


class Rotation(torch.autograd.Function):
    """The gradient of a rotation is the rotation back, so only the angles are saved for it."""

    @staticmethod
    def forward(ctx: Any, states: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        ctx.save_for_backward(cos, sin)
        return rotate(states, cos, sin)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        cos, sin = ctx.saved_tensors
        return rotate(gradient, cos, -sin), None, None


def with_fast_path(original: Rotary) -> Rotary:
    """`apply_rotary_pos_emb` that uses Rotation where it fits, and `original` elsewhere."""

    def apply_rotary(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1) -> tuple[Tensor, Tensor]:
        fits = q.device.type == "cpu" and q.dtype == k.dtype == torch.bfloat16 and torch.is_grad_enabled()
        if not fits or cos.shape[-1] != q.shape[-1] or torch.compiler.is_compiling():
            return original(q, k, cos, sin, unsqueeze_dim)
        half = q.shape[-1] // 2
        cos, sin = (angle[..., :half].unsqueeze(unsqueeze_dim).to(q.dtype) for angle in (cos, sin))
        return Rotation.apply(q, cos, sin), Rotation.apply(k, cos, sin)

    apply_rotary.original = original  # type: ignore[attr-defined]
    return apply_rotary


def use_fast_rotary(model: Any) -> bool:
    """Replace the function in the modules of this model's classes; returns whether any of them now has the fast path.

    The layers look the function up in their module, and transformers offers no other place to replace it. Nothing of it is
    saved with the model.
    """
    replaced = False
    for part in (model, getattr(model, "base_model", model), getattr(model.base_model, "language_model", model)):
        module = sys.modules[type(part).__module__]
        original = getattr(module, "apply_rotary_pos_emb", None)
        if part.config.model_type not in MODEL_TYPES or original is None:
            continue
        replaced = True
        if not hasattr(original, "original"):
            module.apply_rotary_pos_emb = with_fast_path(original)  # type: ignore[attr-defined]
            PATCHED.append(module)
    return replaced


def restore_rotary() -> None:
    """Put transformers' own functions back: the next job of a sweep starts with them."""
    while PATCHED:
        module: Any = PATCHED.pop()
        module.apply_rotary_pos_emb = module.apply_rotary_pos_emb.original
