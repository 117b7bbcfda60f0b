"""Build a model with its head: a preset from scratch, or weights that are loaded by path, and save it.

Weights are read from safetensors alone, and code that comes with a model never runs.
"""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

from llmstage.config import ModelConfig
from llmstage.errors import ModelError
from llmstage.models.lm_loss import last_hidden, masked_head
from llmstage.models.loading import IsFrozen, load_extra, load_model
from llmstage.models.packing import read_packed_rows
from llmstage.models.presets import freeze_towers, preset_config, take_tower
from llmstage.models.vocabulary import extend_embeddings
from llmstage.models.weight_types import DTYPES, saved_types
from llmstage.paths import ModelSource
from llmstage.tokenization.tokenizer import Processor


def build_model(
    cfg: ModelConfig,
    auto_model: str,
    processor: Processor,
    context: int,
    options: dict[str, Any],
    model_source: ModelSource | None,
    *,
    offline: bool,
    extra: Callable[[Any], nn.Module | None] = lambda config: None,
    quantized: dict[str, Any] | None = None,
    is_frozen: IsFrozen | None = None,
) -> Any:
    """The model with its head, fp32, in eval mode. Weights that are not loaded are drawn from torch's generator.

    `extra`: builds the task's own module from the model's config; it becomes `model.extra`. `quantized`: arguments of
    from_pretrained() that load the base weights in fewer bits. `is_frozen`: see load_model(). Raise ModelError.
    """
    auto = getattr(transformers, auto_model)
    if model_source is None:
        config = preset_config(cfg, processor, context, options)
        model = auto.from_config(config, attn_implementation="sdpa")
        if cfg.family == "t5":
            # T5 is made for Adafactor, and its embeddings start with size 1; here logits start with size 1, as for gpt.
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(cfg.hidden_size**-0.5)
        if cfg.vision.path is not None:
            take_tower(model, cfg.vision)
        model.saved_dtype = torch.float32 if cfg.dtype == "auto" else DTYPES[cfg.dtype]
    else:
        model = load_model(
            auto, model_source, options, cfg.dropout, offline=offline, quantized=quantized or {}, dtype=cfg.dtype, is_frozen=is_frozen,
            rope=(cfg.rope_scaling, cfg.rope_factor),
        )  # fmt: skip
        rows = vocabulary_rows(model)
        if processor.new_tokens or (cfg.resize_embeddings and len(processor) > rows):
            extend_embeddings(model, max(rows, len(processor)), processor.new_tokens)
        elif len(processor) > rows:
            raise ModelError(
                f"The tokenizer has {len(processor)} entries but the model at {cfg.path} has embeddings for {rows}. "
                f"Do they belong together? If so, model.resize_embeddings=true adds the missing rows; if not, save the model with its own "
                f"tokenizer."
            )
    module = extra(model.config)
    if module is not None:
        model.extra = module
        if model_source is not None:
            load_extra(model, model_source)
    if getattr(model.config, "pad_token_id", None) is None:  # transformers' classifiers find the last token by it
        model.config.pad_token_id = processor.pad_id
    freeze_towers(model, cfg.freeze)
    if auto_model in ("AutoModelForCausalLM", "AutoModelForSeq2SeqLM", "AutoModelForImageTextToText"):
        set_generation(model, processor)
        model.split_head = head_is_plain(model)
    if auto_model == "AutoModelForMaskedLM":
        model.split_head = head_is_plain(model, masked_head(model))
    read_packed_rows(model)
    model.eval()
    return model


def vocabulary_rows(model: Any) -> int:
    """Entries of the input embedding; that of CLIP is in its text tower."""
    body = getattr(model, "text_model", model)
    try:
        embedding = body.get_input_embeddings()
    except NotImplementedError:  # CANINE hashes characters into a few tables, so that any id is one of its tokens
        return sys.maxunicode + 1
    if not hasattr(embedding, "weight"):  # Perceiver gives its latent vectors
        return int(model.config.vocab_size)
    return int(embedding.weight.shape[0])


def set_generation(model: Any, processor: Processor) -> None:
    """Let generate() end at the end of a document and at the end of a turn."""
    from llmstage.tokenization.chat_template import stop_ids  # here: a model with a head for labels has no turns

    ends: list[int | None] = [*stop_ids(processor)]
    configured = model.generation_config.eos_token_id
    ends += configured if isinstance(configured, list) else [configured]
    model.generation_config.eos_token_id = sorted({end for end in ends if end is not None}) or None
    model.generation_config.pad_token_id = processor.pad_id


def head_is_plain(model: Any, head: Any = None) -> bool:
    """Whether logits are just head(last hidden state), so that the head can be applied to positions with a target only.

    `head`: the layers that compute the logits, by default the output embeddings. For models that scale or cap their logits
    (Gemma 2, Cohere, Granite, the first T5) the answer is no, and their own forward is used.
    """
    ids = torch.arange(1, 9).unsqueeze(0) % vocabulary_rows(model)
    with torch.no_grad():
        try:
            inputs = {"input_ids": ids}
            if model.config.is_encoder_decoder:
                inputs["decoder_input_ids"] = ids.flip(1)
            hidden = last_hidden(model, inputs)
            logits = (head or model.get_output_embeddings())(hidden)
            return torch.allclose(logits, model(**inputs).logits, atol=1e-5)
        except (AttributeError, TypeError, RuntimeError):  # ALBERT's head has another width than its body
            return False


def save_model(model: Any, processor: Processor, folder: Path, *, native_names: bool = False) -> None:
    """Write a Hugging Face directory that loads with transformers alone.

    For some models (LLaVA) transformers writes an older form of the names of weights, for other tools. `native_names`: write the
    names that the model itself has, and the weights in the type that they are trained in, as a resumed run needs them.
    """
    with contextlib.nullcontext() if native_names else saved_types(model):
        model.save_pretrained(folder, save_original_format=not native_names)
    processor.save(folder)
    for path in folder.iterdir():  # safetensors writes mode 0600 whatever the umask is
        path.chmod(0o644)


def count_parameters(model: nn.Module, *, trained: bool = False) -> int:
    """The number of parameters: all of them, or those that are trained."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trained)
