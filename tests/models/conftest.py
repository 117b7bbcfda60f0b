"""Tiny checkpoints of other people's architectures, with random weights, as `from_pretrained()` reads them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers

from llmstage.demo.dialogue import dialogue_rows
from llmstage.tokenization.tokenizer import Processor, train_processor

SIZES: dict[str, int] = {
    "hidden_size": 32, "d_model": 32, "dim": 32, "n_embd": 32, "embedding_size": 32, "emb_dim": 32, "word_embed_proj_dim": 32,
    "intermediate_size": 48, "d_ff": 48, "ffn_dim": 48, "d_inner": 48, "hidden_dim": 48, "n_inner": 48, "ffn_hidden_size": 48,
    "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "num_hidden_layers": 2, "n_layer": 2, "n_layers": 2, "num_layers": 2, "encoder_layers": 2, "decoder_layers": 2,
    "num_decoder_layers": 2,
    "num_attention_heads": 2, "num_key_value_heads": 2, "n_head": 2, "n_heads": 2, "num_heads": 2, "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "head_dim": 16, "d_kv": 16, "max_position_embeddings": 160, "n_positions": 160, "state_size": 8,
}  # fmt: skip
"""Sizes of a tiny model by the names that the configs of transformers have for them; those that a config knows are set."""


def tiny_processor(family: str, vocab_size: int = 400) -> Processor:
    """Return a tokenizer that is trained on the demo conversations."""
    texts = (message["content"] for row in dialogue_rows(60, 0) for message in row["messages"])
    return train_processor(texts, vocab_size, family, 128)


def tiny_config(model_type: str, processor: Processor, **keys: Any) -> Any:
    """Return a config of a model type in which every known size is tiny, and the special tokens are those of the tokenizer."""
    default = transformers.AutoConfig.for_model(model_type)
    known = {name: size for name, size in SIZES.items() if name not in keys and takes(default, name, size)}
    tokens = {f"{name}_token_id": getattr(processor.tokenizer, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    tokens = {name: token for name, token in tokens.items() if hasattr(default, name)}
    if getattr(default, "is_encoder_decoder", False):
        tokens["decoder_start_token_id"] = processor.pad_id
    # As in real checkpoints, the table of embeddings has spare rows.
    return transformers.AutoConfig.for_model(
        model_type, **{**known, **tokens, "vocab_size": len(processor) + 16, **keys}
    )


def takes(config: Any, name: str, value: int) -> bool:
    """Return whether a config has this size and lets it be set."""
    try:
        setattr(copy.copy(config), name, value if hasattr(config, name) else None)
    except (AttributeError, NotImplementedError):
        return False
    return hasattr(config, name)


def write_checkpoint(
    folder: Path,
    model_type: str,
    family: str,
    auto_class: str = "AutoModel",
    *,
    dtype: torch.dtype = torch.float32,
    **keys: Any,
) -> Processor:
    """Write a checkpoint with random weights and its tokenizer, as a pretrained model of this type comes.

    `auto_class`: the class that it is saved from; AutoModel has no head. `dtype`: the type of its weights.
    """
    processor = tiny_processor(family)
    torch.manual_seed(0)
    model = getattr(transformers, auto_class).from_config(tiny_config(model_type, processor, **keys))
    model.to(dtype).save_pretrained(folder)
    processor.save(folder)
    return processor


@pytest.fixture
def save_checkpoint() -> Callable[..., Processor]:
    """`save_checkpoint(folder, "distilbert", "bert")`: see write_checkpoint()."""
    return write_checkpoint
