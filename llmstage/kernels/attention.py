"""Attention for training in bf16 on a CPU: batched matrix products instead of the tiled kernel.

torch's tiled CPU kernel pays for its small memory with slow gradients: at 256 and 1,024 tokens, forward and backward by
three batched products took about half and three quarters of its time. Scores are rounded to bf16 before the softmax, as
in transformers' own eager attention; everything else (scoring, generation, GPUs, long rows) goes to transformers' sdpa.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "llmstage_products"
LONGEST = 1024
"""Tokens in a row up to which the scores of all heads may stand in memory; beyond, memory grows and the gain shrinks."""


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
    fits = query.device.type == "cpu" and length == key.shape[2] <= LONGEST
    if not (fits and torch.is_grad_enabled() and torch.is_autocast_enabled("cpu")):
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return out, None
    causal = is_causal if is_causal is not None else getattr(module, "is_causal", True)
    groups = getattr(module, "num_key_value_groups", 1)
    if groups > 1:
        key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    batch, heads, _, width = query.shape
    q, k, v = (part.to(torch.bfloat16).reshape(batch * heads, length, width) for part in (query, key, value))
    scale = width**-0.5 if scaling is None else scaling
    bias = mask_bias(attention_mask, length, causal=causal)
    if bias is None:
        scores = torch.bmm(q * scale, k.transpose(1, 2))
    else:
        spread = bias.expand(batch, heads, length, length).reshape(batch * heads, length, length)
        scores = torch.baddbmm(spread, q, k.transpose(1, 2), alpha=scale)
    weights = torch.softmax(scores, -1, dtype=torch.bfloat16)  # computed in fp32 inside, rounded at the end
    if dropout:
        weights = F.dropout(weights, dropout, module.training)
    out = torch.bmm(weights, v).view(batch, heads, length, width)
    return out.transpose(1, 2).contiguous(), None


def mask_bias(mask: Tensor | None, length: int, *, causal: bool) -> Tensor | None:
    """[B or 1, 1, T, T] in bf16, 0 where a query may look and very negative where not; None where it may look anywhere."""
    if mask is None and not causal:
        return None
    if mask is None:
        mask = torch.ones(length, length, dtype=torch.bool).tril()[None, None]
    if mask.dtype != torch.bool:
        return mask.to(torch.bfloat16)
    return torch.zeros(mask.shape, dtype=torch.bfloat16).masked_fill_(~mask, torch.finfo(torch.bfloat16).min)


def use_products(model: Any) -> None:
    """Let a transformers model attend by `attention` above. Nothing of it is saved with the model."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(NAME)
