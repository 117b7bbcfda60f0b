"""Add layers to a trained model without changing what it computes: new blocks whose outputs are zero.

A pre-norm block adds both halves to its input, `x + attention(norm(x))` and `x + mlp(norm(x))`. With their last
matrices at zero the block returns x unchanged, while gradients reach those matrices from the first step (Chen 2016,
Net2Net, arXiv 1511.05641; zero-initialised residual branches: Goyal 2017, arXiv 1706.02677).
"""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import nn

from llmstage.errors import ModelError

SEQUENTIAL = {
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "phi3"), ("layers", ("self_attn.o_proj", "mlp.down_proj"))),
    "gpt2": ("h", ("attn.c_proj", "mlp.c_proj")),
    "gpt_neox": ("layers", ("attention.dense", "mlp.dense_4h_to_h")),
    "modernbert": ("layers", ("attn.Wo", "mlp.Wo")),
}
"""Model type to (its list of blocks, the matrices that write to the residual stream). Post-norm models (BERT, RoBERTa) are
missing: they normalise after the addition, so that no block returns its input unchanged."""
FIRST_NORM_MISSING = ("modernbert",)
"""Model types that normalise their embeddings, so that the first block has no norm before its attention. No block can be added below
it: as the second block it would get a norm when the model is loaded, and compute something else."""


def deepen(model: Any) -> str:
    """Add half as many blocks again, at least one, in place; return where: `below` the only block of a decoder, else `behind` the last.

    A model of one layer lacks a layer that copies information about earlier tokens, which a later layer can match (induction heads:
    Olsson 2022, arXiv 2209.11895). What its layer has learned reads the embeddings, so the new block goes below it.
    """
    num = model.config.num_hidden_layers
    below = num == 1 and model.config.model_type not in FIRST_NORM_MISSING
    grow_depth(model, max(1, num // 2), below=below)
    return "below" if below else "behind"


def grow_depth(model: Any, extra: int, *, below: bool = False) -> Any:
    """Add `extra` blocks at the end, or `below` all others, with unchanged logits; the model is changed in place and returned.

    A new block is a copy of its neighbour, so that it starts from trained features, with its outputs at zero.
    Raise ModelError for a model type for which this is not known to work.
    """
    model_type = model.config.model_type
    if model_type not in SEQUENTIAL or (below and model_type in FIRST_NORM_MISSING):
        known = [name for name in SEQUENTIAL if not (below and name in FIRST_NORM_MISSING)]
        raise ModelError(
            f"Blocks cannot be added {'below' if below else 'to'} a model of type {model_type} without changing what it computes; that is "
            f"known for {', '.join(known)}. Set stage.improve.structure=suggest, or train a larger model from scratch."
        )
    name, writers = SEQUENTIAL[model_type]
    blocks: nn.ModuleList = getattr(model.base_model, name)
    for _ in range(extra):
        block = copy.deepcopy(blocks[0 if below else -1])
        with torch.no_grad():
            for path in writers:
                for parameter in block.get_submodule(path).parameters():  # a bias is added too
                    parameter.zero_()
        if isinstance(getattr(block, "attn_norm", None), nn.Identity):
            # ModernBERT normalises its embeddings, so its first block has no norm of its own; every later one has.
            block.attn_norm = copy.deepcopy(block.mlp_norm)
        blocks.insert(0 if below else len(blocks), block)
    for number, block in enumerate(blocks):
        for part in block.modules():
            if isinstance(getattr(part, "layer_idx", None), int):
                setattr(part, "layer_idx", number)  # noqa: B010 - typed as a module's part; where its keys and values stand in the cache
    config = model.config
    pattern = getattr(config, "layer_types", None)
    config.num_hidden_layers = len(blocks)
    if pattern is not None:
        # The copies attend as the block beside them does; a class would otherwise go on with its own pattern when it is loaded.
        config.layer_types = [*[pattern[0]] * extra, *pattern] if below else [*pattern, *[pattern[-1]] * extra]
    return model
