"""Attention of packed rows on a GPU: each feature of a row by flash attention, with no mask of T x T in memory.

A row that holds several features comes with a block mask, [B, 1, T, T] of bools, which keeps torch's flash kernel away and
must be carried to the GPU. Here the mask is exchanged for the places where features begin, and the kernel for rows of
varying length (torch.nn.attention.varlen, FlashAttention-2, arXiv 2307.08691) reads the batch as one row of B * T tokens.
What the kernel is not made for (a CPU, fp32, dropout of weights, heads of odd width) gets its mask back from those places.
"""

from __future__ import annotations

import inspect
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention.varlen import varlen_attn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "llmstage_documents"
ROUND = 64
"""Places are filled up to a multiple of this, so that a compiled body sees few shapes."""
WIDEST = 256
"""Dimensions of a head that the kernel takes."""
KNOWN = {"window_size", "enable_gqa"} <= set(inspect.signature(varlen_attn).parameters)
"""Whether this torch's kernel takes windows and grouped keys: 2.10's did not yet."""


def places(inputs: dict[str, Tensor]) -> dict[str, Tensor]:
    """The inputs of a packed batch with its block mask [B, 1, T, T] exchanged for the places where features begin.

    They stand where the mask stood, int32 [1, 1, 1, N + 1]: first tokens counted through all rows, then B * T, which fills the
    rest (features of no length). A token of padding is a feature of its own. Other batches are handed back as they are.
    """
    mask, positions = inputs.get("attention_mask"), inputs.get("position_ids")
    if mask is None or positions is None or mask.ndim != 4 or mask.dtype != torch.bool:
        return inputs
    first = (positions.reshape(-1) == 0).nonzero().squeeze(1)
    filled = ROUND * (len(first) // ROUND + 1)
    out = torch.full((1, 1, 1, filled), positions.numel(), dtype=torch.int32)
    out[..., : len(first)] = first
    return {**inputs, "attention_mask": out}


def are_places(mask: Any) -> bool:
    return isinstance(mask, Tensor) and mask.dtype == torch.int32 and mask.ndim == 4


def mask_of(found: Tensor, batch: int, length: int, *, causal: bool, reach: int = -1) -> Tensor:
    """[B, 1, T, T] of bools, as data.collate.block_mask made it; `reach`: tokens that a query sees to each side."""
    place = torch.arange(batch * length, dtype=torch.int32, device=found.device)
    owner = torch.searchsorted(found.reshape(-1).contiguous(), place, right=True).view(batch, length)
    mask = owner[:, :, None] == owner[:, None, :]
    apart = place[:length, None] - place[None, :length]
    if causal:
        mask &= apart >= 0
    if reach >= 0:
        mask &= apart.abs() <= reach
    return mask[:, None]


def flashes(query: Tensor, dropout: float) -> torch.dtype | None:
    """The type in which the kernel reads queries [B, H, T, D]; None where it cannot."""
    device = query.device.type
    kind = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else query.dtype
    width = query.shape[-1]
    fits = KNOWN and device == "cuda" and not dropout and width <= WIDEST and width % 8 == 0
    return kind if fits and kind in (torch.float16, torch.bfloat16) else None


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
    """query [B, H, T, D], key and value [B, G, T, D], mask as places() left it -> [B, T, H, D].

    `sliding_window`: as transformers hands it to its flash attention, one more than the tokens seen to a side.
    """
    if attention_mask is None or not are_places(attention_mask):
        out, _ = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, is_causal=is_causal, **kwargs
        )
        return out, None
    batch, heads, length, _ = query.shape
    causal = bool(getattr(module, "is_causal", True)) if is_causal is None else is_causal
    reach = -1 if sliding_window is None else sliding_window - 1
    kind = flashes(query, dropout)
    if kind is None:
        mask = mask_of(attention_mask, batch, length, causal=causal, reach=reach)
        out, _ = sdpa_attention_forward(
            module, query, key, value, mask, dropout=dropout, scaling=scaling, is_causal=False, **kwargs
        )
        return out, None
    q, k, v = (part.transpose(1, 2).flatten(0, 1).to(kind) for part in (query, key, value))  # [B * T, H or G, D]
    found = attention_mask.reshape(-1)
    seen = varlen_attn(
        q, k, v, found, found, length, length, scale=scaling, window_size=(reach, 0 if causal else reach),
        enable_gqa=k.shape[1] != heads,
    )  # fmt: skip
    assert isinstance(seen, Tensor)
    return seen.view(batch, length, heads, -1), None


def use_documents(model: Any) -> None:
    """Let a transformers model attend by `attention` above. Nothing of it is saved with the model."""
    AttentionInterface.register(NAME, attention)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        model.set_attn_implementation(NAME)


def reads_places(model: Any) -> bool:
    """Whether packed batches of this model are to be handed through places()."""
    return getattr(getattr(model, "config", None), "_attn_implementation", None) == NAME
