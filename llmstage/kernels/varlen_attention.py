"""Attention of packed rows on a GPU: each document of a row by flash attention, with no mask of T x T in memory.

It replaces the `sdpa` attention of every transformers model that uses it, on CUDA in bf16 or fp16. A row that holds several documents
comes with a block mask, [B, 1, T, T] of bools, which excludes torch's flash kernel and must be copied to the GPU. Here the
mask is replaced by the cumulative lengths of the documents (`cu_seqlens`), and the kernel for rows of varying length
(torch.nn.attention.varlen, FlashAttention-2, arXiv 2307.08691) reads the batch as one row of B * T tokens. Where the kernel
does not apply (a CPU, fp32, dropout of weights, heads of odd width) the mask is rebuilt from the cumulative lengths, for `sdpa`.
When it is enabled, outputs and gradients of a packed batch are compared with those under the block mask (kernels/comparison.py).
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn

from llmstage.kernels.transformers_internals import (
    attention_implementation,
    register_attention,
    sdpa_attention,
    use_attention,
)

NAME = "llmstage_varlen"
ROUND = 64
"""The number of cumulative lengths is rounded up to a multiple of this, so that a compiled body sees few shapes."""
MAX_HEAD_DIM = 256
"""Dimensions of a head that the kernel takes."""
HAS_WINDOWS = {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)
"""Whether this torch's kernel takes windows and grouped keys: that of 2.10 does not."""


def with_cu_seqlens(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a packed batch with its block mask [B, 1, T, T] replaced by the cumulative lengths of its documents.

    They take the place of the mask as int32 [1, 1, 1, N + 1]: the index of each document's first token, counted through all rows,
    then B * T, which fills the rest (documents of no length). A padding token is a document of its own. Other batches are
    returned unchanged.
    """
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is None or positions is None or mask.ndim != 4 or mask.dtype != torch.bool:
        return inputs
    starts = (positions.reshape(-1) == 0).nonzero().squeeze(1)
    size = ROUND * (len(starts) // ROUND + 1)
    cu_seqlens = torch.full((1, 1, 1, size), positions.numel(), dtype=torch.int32, device=mask.device)
    cu_seqlens[..., : len(starts)] = starts
    return {**inputs, "attention_mask": cu_seqlens}


def is_cu_seqlens(mask: Any) -> bool:
    """Whether an attention mask is in truth the cumulative lengths of with_cu_seqlens()."""
    return isinstance(mask, Tensor) and mask.dtype == torch.int32 and mask.ndim == 4


def mask_from_cu_seqlens(cu_seqlens: Tensor, batch: int, length: int, *, causal: bool, window: int = -1) -> Tensor:
    """[B, 1, T, T] of bools, as data.encoding.collate.block_mask makes it; `window`: tokens that a query sees to each side."""
    index = torch.arange(batch * length, dtype=torch.int32, device=cu_seqlens.device)
    document = torch.searchsorted(cu_seqlens.reshape(-1).contiguous(), index, right=True).view(batch, length)
    mask = document[:, :, None] == document[:, None, :]
    distance = index[:length, None] - index[None, :length]
    if causal:
        mask &= distance >= 0
    if window >= 0:
        mask &= distance.abs() <= window
    return mask[:, None]


def kernel_dtype(query: Tensor, dropout: float) -> torch.dtype | None:
    """The type in which the kernel reads queries [B, H, T, D]; None where it does not apply."""
    device = query.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    width = query.shape[-1]
    fits = HAS_WINDOWS and device == "cuda" and not dropout and width <= MAX_HEAD_DIM and width % 8 == 0
    return dtype if fits and dtype in (torch.float16, torch.bfloat16) else None


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    sliding_window: int | None = None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """query [B, H, T, D], key and value [B, G, T, D], mask as with_cu_seqlens() left it -> [B, T, H, D].

    `sliding_window`: as transformers passes it to its flash attention, one more than the tokens seen to a side.
    """
    if attention_mask is None or not is_cu_seqlens(attention_mask):
        out = sdpa_attention(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return out, None
    batch, heads, length, _ = query.shape
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    window = -1 if sliding_window is None else sliding_window - 1
    dtype = kernel_dtype(query, dropout)
    if dtype is None:
        mask = mask_from_cu_seqlens(attention_mask, batch, length, causal=causal, window=window)
        out = sdpa_attention(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=False, **kwargs
        )
        return out, None
    q, k, v = (states.transpose(1, 2).flatten(0, 1).to(dtype) for states in (query, key, value))  # [B * T, H or G, D]
    cu_seqlens = attention_mask.reshape(-1)
    states = varlen_attn(
        q, k, v, cu_seqlens, cu_seqlens, length, length, scale=scaling, window_size=(window, 0 if causal else window),
        enable_gqa=k.shape[1] != heads,
    )  # fmt: skip
    assert isinstance(states, Tensor)
    return states.view(batch, length, heads, -1), None


def use_varlen_attention(model: Any) -> bool:
    """Let a transformers model that uses `sdpa` compute `attention` above; returns whether it does. Nothing of it is saved."""
    register_attention(NAME, attention)
    return use_attention(model, NAME)


def uses_cu_seqlens(model: Any) -> bool:
    """Whether packed batches of this model go through with_cu_seqlens()."""
    return attention_implementation(getattr(model, "config", None)) == NAME
