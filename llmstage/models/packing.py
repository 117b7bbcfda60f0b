"""Packed rows: give the body of a model its masks and positions in the form that keeps the documents of a row apart.

data.encoding.collate.pack() makes one block mask [B, 1, T, T] of bools for all layers, and positions that start at 0 in each document.
Most models read them as they are. Some add the mask to the scores, so that it must be a number; some need one mask for each type of
layer (sliding windows); some build their masks from the positions alone; some count positions from behind the padding id.
models/packing_proof.py finds the form that is exact for a model.
"""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn

from llmstage.kernels.comparison import is_causal
from llmstage.kernels.transformers_internals import attention_implementation

Masks = Literal["block", "layers", "positions", "pairs"]


@dataclass(slots=True, frozen=True)
class PackedForm:
    """How a model is given the masks and the positions of packed rows."""

    masks: Masks = "block"
    """block: one mask for all layers; layers: one for each type of layer, so that windows stay; positions: none, because
    transformers builds the masks of each layer from the positions (masking_utils.find_packed_sequence_indices); pairs: a block mask
    [B, T, T] of 0 and 1, which models without masking_utils convert themselves (get_extended_attention_mask)."""
    additive: bool = False
    """Numbers to add to the scores in place of bools: eager attention adds what it gets, and True would be added as 1."""
    causal: bool = False
    """Hide later tokens too: the model is a decoder and the task gives masks with both sides."""
    offset: int = 0
    """Added to the positions: models after fairseq count from behind the padding id, also where the caller passes positions."""

    def __str__(self) -> str:
        return (
            self.masks
            + ", additive" * self.additive
            + ", causal" * self.causal
            + (f", positions + {self.offset}" if self.offset else "")
        )


def read_packed_rows(model: Any) -> None:
    """Let the body of `model` convert packed batches to the form of packed_form(), which the proof may change."""
    body = getattr(model, "base_model", model)
    body.packed_form = default_form(model)
    body.register_forward_pre_hook(convert_packed_rows, with_kwargs=True)


def packed_form(model: Any) -> PackedForm:
    """The form in which the body of `model` gets packed batches."""
    form: PackedForm = getattr(model, "base_model", model).packed_form
    return form


def default_form(model: Any) -> PackedForm:
    """The form before any proof: encoders with sliding layers (ModernBERT) get one mask for each type of layer."""
    config = model.config.get_text_config()
    sliding = "sliding_attention" in (getattr(config, "layer_types", None) or ())
    masks: Masks = "layers" if sliding and not is_causal(model) else "block"
    return PackedForm(masks, additive=attention_implementation(config) == "eager")


def position_offsets(model: Any) -> list[int]:
    """Offsets that this model may add to positions: 0, and those that its position embeddings or its padding id suggest."""
    embeddings = [
        module.padding_idx
        for name, module in model.named_modules()
        if isinstance(module, nn.Embedding) and "position" in name and module.padding_idx is not None
    ]
    pad_id = getattr(model.config, "pad_token_id", None)
    candidates = [*embeddings, *([pad_id] if isinstance(pad_id, int) and pad_id >= 0 else [])]
    return list(dict.fromkeys([0, *(index + 1 for index in candidates)]))


def convert_packed_rows(body: nn.Module, args: Any, kwargs: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """Convert a packed batch to the form of its model, before the forward pass. Every other batch passes as it is."""
    mask, positions = kwargs.get("attention_mask"), kwargs.get("position_ids")
    if not isinstance(mask, Tensor) or mask.ndim != 4 or positions is None:
        return args, kwargs
    form: Any = body.packed_form
    if form.causal and mask.dtype == torch.bool:
        mask = mask & torch.ones(mask.shape[-2:], dtype=torch.bool, device=mask.device).tril()
    dtype = next(body.parameters()).dtype
    converted: dict[str, Any] = {"position_ids": positions + form.offset if form.offset else positions}
    if form.masks == "positions":
        # transformers looks for documents in the positions only where there is neither a mask nor a cache.
        converted["attention_mask"] = None
        if "use_cache" in inspect.signature(body.forward).parameters:
            converted["use_cache"] = False
    elif form.masks == "pairs":
        converted["attention_mask"] = mask[:, 0].long()
    elif form.masks == "layers":
        config: Any = body.config
        masks = masks_by_layer(mask, config.get_text_config(), positions)
        converted["attention_mask"] = (
            {name: additive(value, dtype) for name, value in masks.items()} if form.additive else masks
        )
    else:
        converted["attention_mask"] = additive(mask, dtype) if form.additive else mask
    return args, {**kwargs, **converted}


def additive(mask: Tensor, dtype: torch.dtype) -> Tensor:
    """0 where a query sees a key, the lowest number of the type elsewhere."""
    if mask.dtype != torch.bool:
        return mask
    return torch.zeros(mask.shape, dtype=dtype, device=mask.device).masked_fill_(~mask, torch.finfo(dtype).min)


def masks_by_layer(mask: Tensor, config: Any, positions: Tensor) -> dict[str, Tensor]:
    """One mask for each type of layer, from the block mask [B, 1, T, T] of bools and the positions [B, T] in each document.

    Tokens of one document are neighbours, so their distance in the row is their distance in the document.
    """
    types = list(dict.fromkeys(config.layer_types))
    if mask.dtype != torch.bool:  # cumulative lengths of kernels/varlen_attention.py, which applies the window itself
        return dict.fromkeys(types, mask)
    index = torch.arange(mask.shape[-1], device=mask.device)
    distance = index[:, None] - index[None, :]  # [T, T]
    masks = {}
    for layer_type in types:
        masks[layer_type] = mask
        if layer_type == "sliding_attention":
            # As in transformers' masks: a decoder's window holds the token itself, an encoder's does not, and has two sides.
            causal = not bool((mask & (distance < 0)).any())
            near = distance < config.sliding_window if causal else distance.abs() <= config.sliding_window
            masks[layer_type] = mask & near
        elif layer_type == "chunked_attention":
            chunk = positions // config.attention_chunk_size  # [B, T]
            masks[layer_type] = mask & (chunk[:, None, :, None] == chunk[:, None, None, :])
    return masks
