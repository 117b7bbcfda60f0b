"""Attention for training in bf16 on a CPU: batched matrix products in place of torch's tiled kernel.

It replaces the `sdpa` attention of every transformers model that uses it, while a model trains in bf16 on a CPU, in rows of up
to MAX_TOKENS tokens. torch's tiled CPU kernel saves memory and has slow gradients: at 256 and 1,024 tokens, forward and
backward by three batched products took about half and three quarters of its time. Scores are rounded to bf16 before the
softmax, as in transformers' own eager attention. Everything else (scoring, generation, GPUs, long rows) goes to `sdpa`.
When it is enabled, outputs and gradients of the model are compared with those of `sdpa` (kernels/comparison.py).
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.transformers_internals import register_attention, repeat_groups, sdpa_attention, use_attention

NAME = "llmstage_matmul"
MAX_TOKENS = 1024
"""Longest row whose scores of all heads are kept in memory at once; beyond, memory grows and the gain shrinks."""


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, D], key and value [B, G, T, D], mask bool [B, 1, T, T] or None -> [B, T, H, D]."""
    length = query.shape[2]
    fits = query.device.type == "cpu" and length == key.shape[2] <= MAX_TOKENS
    if not (fits and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        out = sdpa_attention(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return out, None
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_groups(key, groups), repeat_groups(value, groups)
    batch, heads, _, width = query.shape
    q, k, v = (states.to(torch.bfloat16).reshape(batch * heads, length, width) for states in (query, key, value))
    scale = width**-0.5 if scaling is None else scaling
    # Scores of all heads [B * H, T, T], with the mask added in the same pass where there is one.
    bias = mask_bias(attention_mask, length, causal=causal)
    if bias is None:
        scores = torch.bmm(q * scale, k.transpose(1, 2))
    else:
        expanded = bias.expand(batch, heads, length, length).reshape(batch * heads, length, length)
        scores = torch.baddbmm(expanded, q, k.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, -1, dtype=torch.bfloat16)  # computed in fp32 inside, rounded at the end
    if dropout:
        weights = F.dropout(weights, dropout, module.training)
    out = torch.bmm(weights, v).view(batch, heads, length, width)
    return out.transpose(1, 2).contiguous(), None


def mask_bias(mask: Tensor | None, length: int, *, causal: bool) -> Tensor | None:
    """[B or 1, 1, T, T] in bf16 to add to scores: 0 where a query sees a key, very negative elsewhere; None if it sees every key."""
    if mask is None and not causal:
        return None
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    if mask.dtype != torch.bool:
        return mask.to(torch.bfloat16)
    return torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill_(~mask, torch.finfo(torch.bfloat16).min)


def use_matmul_attention(model: Any) -> bool:
    """Let a transformers model that uses `sdpa` compute `attention` above; returns whether it does. Nothing of it is saved."""
    register_attention(NAME, attention)
    return use_attention(model, NAME)
