"""Packed rows: adapt encoders whose transformers classes read block masks or position ids in another way."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Model types whose positions start behind the padding id, as in fairseq, also where the caller passes them."""


def read_packed_rows(model: Any) -> None:
    """Let the body of `model` read the block mask [B, 1, T, T] and the positions of data.encoding.collate.pack."""
    if model.config.model_type == "modernbert":
        model.base_model.register_forward_pre_hook(mask_by_layer, with_kwargs=True)
    elif model.config.model_type in SHIFTED_POSITIONS:
        model.base_model.register_forward_pre_hook(shift_positions, with_kwargs=True)


def mask_by_layer(body: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Give ModernBERT one mask for each attention type: it takes one 4-D mask for all layers, and local layers would see far tokens.

    Tokens of one example are neighbours, so their distance in the row is their distance in the example.
    """
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return args, kwargs
    if mask.dtype != torch.bool:  # cumulative lengths of kernels/varlen_attention.py, which applies the window itself
        return args, {**kwargs, "attention_mask": {"full_attention": mask, "sliding_attention": mask}}
    config: Any = body.config
    index = torch.arange(mask.shape[-1], device=mask.device)
    near = (index[:, None] - index[None, :]).abs() <= config.sliding_window  # [T, T], as in transformers' own mask
    return args, {**kwargs, "attention_mask": {"full_attention": mask, "sliding_attention": mask & near}}


def shift_positions(body: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Add the offset of the padding id to positions that start at 0."""
    config: Any = body.config
    if kwargs.get("position_ids") is None:
        return args, kwargs
    return args, {**kwargs, "position_ids": kwargs["position_ids"] + config.pad_token_id + 1}
