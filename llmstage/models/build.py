"""Models: presets from scratch as transformers configs, or loaded by path. Only safetensors, never remote code."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from llmstage.config import ModelConfig
from llmstage.errors import ModelError
from llmstage.models.adapter import CONFIG, adapter_base, load_adapter
from llmstage.models.lm_loss import last_hidden, masked_head
from llmstage.models.packing import read_packed_rows
from llmstage.models.presets import preset_config
from llmstage.models.towers import freeze_towers, take_tower
from llmstage.paths import ModelSource
from llmstage.tokenization.tokenizer import ASSISTANT, END, Processor


def build_model(
    cfg: ModelConfig,
    auto_model: str,
    processor: Processor,
    context: int,
    options: dict[str, Any],
    place: ModelSource | None,
    *,
    offline: bool,
    extra: Callable[[Any], nn.Module | None] = lambda config: None,
    quantized: dict[str, Any] | None = None,
) -> Any:
    """The model with its head, fp32, in eval mode. Weights are seeded by torch's generator where none are loaded.

    `extra`: makes the task's own module from the model's config; it becomes `model.extra`. `quantized`: how base weights
    are held in fewer bits, for transformers.
    """
    auto = getattr(transformers, auto_model)
    if place is None:
        config = preset_config(cfg, processor, context, options)
        model = auto.from_config(config, attn_implementation="sdpa")
        if (
            cfg.family == "t5"
        ):  # made for Adafactor, T5's embeddings have size 1 at the start; as for gpt, logits should have
            with torch.no_grad():
                model.get_input_embeddings().weight.mul_(cfg.hidden_size**-0.5)
        if cfg.vision.path is not None:
            take_tower(model, cfg.vision)
    else:
        model = load_model(auto, place, options, cfg.dropout, offline=offline, quantized=quantized or {})
        rows = vocabulary_rows(model)
        if len(processor) > rows:
            raise ModelError(
                f"The tokenizer has {len(processor)} entries but the model at {cfg.path} has embeddings for {rows}. "
                f"They do not belong together: save the model with its own tokenizer."
            )
    module = extra(model.config)
    if module is not None:
        model.extra = module
        if place is not None:
            load_extra(model, place)
    if (
        getattr(model.config, "pad_token_id", None) is None
    ):  # transformers' classifiers look for it to find the last token
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
    """Entries of the embedding; CLIP's text tower keeps it to itself."""
    body = getattr(model, "text_model", model)
    return int(body.get_input_embeddings().weight.shape[0])


def load_model(
    auto: Any, place: ModelSource, options: dict[str, Any], dropout: float, *, offline: bool, quantized: dict[str, Any]
) -> Any:
    source = str(place.model_dir) if place.model_dir is not None else str(place.hub_id)
    adapter = place.model_dir if place.model_dir is not None and (place.model_dir / CONFIG).is_file() else None
    base = adapter_base(adapter) if adapter else source
    local = Path(base).is_dir() or offline
    keys = {**options, **({name: dropout for name in ("attention_dropout", "dropout_rate") if dropout})}
    try:
        config = AutoConfig.from_pretrained(source, trust_remote_code=False, local_files_only=local, **keys)
        with quiet():
            model, found = auto.from_pretrained(
                base,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=local,
                dtype=torch.float32,
                ignore_mismatched_sizes=bool(options) or adapter is not None,
                output_loading_info=True,
                **quantized,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        raise ModelError(explain(source, place, str(error), offline=offline)) from None
    missing = [name for name in found["missing_keys"] if not name.startswith(HEADS)]
    if missing:
        raise ModelError(
            f"{source} lacks weights of {auto.__name__}: {', '.join(sorted(missing)[:4])}. Is it another kind of model?"
        )
    # With options, a head of another size may start anew; a body of another size is damage, not a new head.
    misfit = [str(name[0]) for name in found["mismatched_keys"] if not str(name[0]).startswith(HEADS)]
    if misfit:
        raise ModelError(
            f"{source}: weights and config.json disagree about the size of {', '.join(sorted(misfit)[:4])}. Save the model again."
        )
    tied = set(getattr(model, "all_tied_weights_keys", None) or ())
    started_anew = [name for name in found["missing_keys"] if name not in tied]
    model.new_weights = sorted({*started_anew, *(str(name[0]) for name in found["mismatched_keys"])})
    if adapter:
        load_adapter(model, adapter)
    return model


def load_extra(model: Any, place: ModelSource) -> None:
    """The task's own weights, which lie beside the model's as `extra.*`; where there are none, they start anew."""
    files = sorted(place.model_dir.glob("*.safetensors")) if place.model_dir is not None else []
    saved = {name: value for file in files for name, value in load_file(file).items() if name.startswith("extra.")}
    mine = model.extra.state_dict(prefix="extra.")
    if saved and {name: value.shape for name, value in saved.items()} == {
        name: value.shape for name, value in mine.items()
    }:
        model.extra.load_state_dict({name.removeprefix("extra."): value for name, value in saved.items()})
    else:
        model.new_weights = sorted({*model.new_weights, *(mine or ["extra"])})


HEADS = ("classifier", "score", "head", "qa_outputs", "lm_head", "cls", "decoder")
"""Weights that a task may start anew on a pretrained body."""


def explain(source: str, place: ModelSource, error: str, *, offline: bool) -> str:
    first = error.strip().splitlines()[0] if error.strip() else "unknown reason"
    if place.model_dir is not None:
        return f"No model can be loaded from {source}: {first}"
    why = "offline=true forbids asking a hub" if offline else "and as a hub id it could not be fetched"
    return f"model.path={source} is no folder here, {why}: {first}"


@contextlib.contextmanager
def quiet() -> Any:
    """transformers reports new heads on standard error by itself; we tell it in our own words."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def set_generation(model: Any, processor: Processor) -> None:
    """generate() ends at the end of a document and at the end of a turn."""
    ends = [processor.eos_id]
    end_of_turn = processor.tokenizer.convert_tokens_to_ids(END)
    if isinstance(end_of_turn, int) and ASSISTANT in processor.tokenizer.get_added_vocab():
        ends.append(end_of_turn)
    known = model.generation_config.eos_token_id
    ends += known if isinstance(known, list) else [known]
    model.generation_config.eos_token_id = sorted({end for end in ends if end is not None}) or None
    model.generation_config.pad_token_id = processor.pad_id


def head_is_plain(model: Any, head: Any = None) -> bool:
    """Whether logits are just head(last hidden state): then the head need only run where there are targets.

    `head`: what makes the logits; the output embeddings where it is not given.

    Models that scale or cap their logits (Gemma 2, Cohere, Granite, the first T5) are not, and go through their own forward.
    """
    ids = torch.arange(1, 9).unsqueeze(0) % vocabulary_rows(model)
    with torch.no_grad():
        try:
            inputs = {"input_ids": ids}
            if model.config.is_encoder_decoder:
                inputs["decoder_input_ids"] = ids.flip(1)
            hidden = last_hidden(model, inputs)
            made = (head or model.get_output_embeddings())(hidden)
            return torch.allclose(made, model(**inputs).logits, atol=1e-5)
        except (AttributeError, TypeError):
            return False


def save_model(model: Any, processor: Processor, folder: Path, *, own_names: bool = False) -> None:
    """A Hugging Face directory that loads with transformers alone. Of some models (LLaVA) transformers writes the weights by
    names of an older form, for other tools; `own_names`: by the names that the model itself has, as a resumed run needs."""
    model.save_pretrained(folder, save_original_format=not own_names)
    processor.save(folder)
    for path in folder.iterdir():  # safetensors writes mode 0600 whatever the umask says (RELIABILITY, finding 8)
        path.chmod(0o644)


def count_parameters(model: nn.Module, *, trained: bool = False) -> int:
    """All of them, or those that training changes."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad or not trained)
