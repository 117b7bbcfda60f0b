"""Rows that hold several features, as each kind of encoder wants to be told of them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

SHIFTED_POSITIONS = ("roberta", "xlm-roberta", "camembert")
"""Their positions are counted from the padding id on (fairseq's way), also where we count them ourselves."""


def read_packed_rows(model: Any) -> None:
    """Let the body of `model` read the block mask [B, 1, T, T] and the positions that data.collate.pack gives."""
    if model.config.model_type == "modernbert":
        model.base_model.register_forward_pre_hook(mask_by_layer, with_kwargs=True)
    elif model.config.model_type in SHIFTED_POSITIONS:
        model.base_model.register_forward_pre_hook(shift_positions, with_kwargs=True)


def mask_by_layer(body: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """ModernBERT takes a mask of four dimensions for all its layers alike, so that local layers would see far tokens.

    Tokens of one feature stand side by side, so their distance in the row is their distance in the feature.
    """
    mask = kwargs.get("attention_mask")
    if not isinstance(mask, Tensor) or mask.ndim != 4:
        return args, kwargs
    if mask.dtype != torch.bool:  # places of features (models/documents.py): attention there knows its own reach
        return args, {**kwargs, "attention_mask": {"full_attention": mask, "sliding_attention": mask}}
    config: Any = body.config
    place = torch.arange(mask.shape[-1], device=mask.device)
    near = (place[:, None] - place[None, :]).abs() <= config.sliding_window  # [T, T], as in transformers' own mask
    return args, {**kwargs, "attention_mask": {"full_attention": mask, "sliding_attention": mask & near}}


def shift_positions(body: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    config: Any = body.config
    if kwargs.get("position_ids") is None:
        return args, kwargs
    return args, {**kwargs, "position_ids": kwargs["position_ids"] + config.pad_token_id + 1}
