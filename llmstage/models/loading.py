"""Load pretrained weights: the options of the task in the config, the new parts that start untrained, and damaged files.

Weights are read from safetensors alone, and code that comes with a model never runs.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import nn
from transformers import AutoConfig

from llmstage.errors import ModelError
from llmstage.kernels.transformers_internals import loading_types, tied_weight_names
from llmstage.models.adapter import adapter_base, config_folder, is_adapter, load_adapter
from llmstage.models.families import base_prefix, in_base
from llmstage.models.weight_types import HALF, held_weights, hold, loaded_dtype
from llmstage.paths import ModelSource, explain_unloadable

IsFrozen = Callable[[Any, str], bool]
"""(model, name of a weight) -> whether the weight is not trained."""


def load_model(
    auto: Any,
    model_source: ModelSource,
    options: dict[str, Any],
    dropout: float,
    *,
    offline: bool,
    quantized: dict[str, Any],
    dtype: str = "auto",
    is_frozen: IsFrozen | None = None,
    rope: tuple[str, float] = ("none", 1.0),
) -> Any:
    """Return the model with loaded weights, its adapter included, in fp32; `model.new_weights` lists what starts untrained.

    `options`: keys of the model config that the task sets. `dtype`: model.dtype; `model.saved_dtype` is the type in which the
    model will be saved. `is_frozen`: whether a weight is not trained, so that it is held in that type. `rope`: see
    set_rope(). Raise ModelError.
    """
    source = str(model_source.model_dir) if model_source.model_dir is not None else str(model_source.hub_id)
    adapter = (
        model_source.model_dir if model_source.model_dir is not None and is_adapter(model_source.model_dir) else None
    )
    base = adapter_base(adapter) if adapter else source
    local = Path(base).is_dir() or offline
    try:
        config = AutoConfig.from_pretrained(
            config_folder(adapter) if adapter else source, trust_remote_code=False, local_files_only=local
        )
        saved_dtype = loaded_dtype(Path(base) if Path(base).is_dir() else None, config, dtype, is_adapter=bool(adapter))
        set_options(config, options)
        set_dropout(config, dropout)
        set_rope(config, *rope)
        held: set[str] = set()

        def weights_to_hold(model: Any) -> tuple[set[str], torch.dtype]:
            if is_frozen is not None and saved_dtype in HALF and not quantized:
                held.update(held_weights(model, partial(is_frozen, model)))
            return held, saved_dtype

        with quiet(), loading_types(weights_to_hold):
            model, report = auto.from_pretrained(
                base,
                config=config,
                trust_remote_code=False,
                use_safetensors=True,
                local_files_only=local,
                dtype=torch.float32,
                ignore_mismatched_sizes=True,  # new_weights() says which may have another size than the saved one
                output_loading_info=True,
                **quantized,
            )
    except (OSError, ValueError, KeyError, RuntimeError, ImportError, SafetensorError) as error:
        if adapter and not Path(base).is_dir():  # the base on the hub is what cannot be loaded
            model_source = ModelSource(None, hub_id=base)
        raise ModelError(explain_unloadable(model_source, str(error), offline=offline)) from None
    model.new_weights = new_weights(model, report, source, new_head="num_labels" in options or adapter is not None)
    model.saved_dtype = saved_dtype
    if held:
        hold(model, saved_dtype, held)
    if adapter:
        load_adapter(model, adapter)
    return model


def max_positions(config: Any) -> int | None:
    """Return the longest input in tokens that a model was made for; None where its config names no limit (XLNet writes -1)."""
    limit = getattr(config.get_text_config(), "max_position_embeddings", None)
    return int(limit) if isinstance(limit, int) and limit > 0 else None


def set_options(config: Any, options: dict[str, Any]) -> None:
    """Set the options of the task in a loaded config.

    from_pretrained() would drop each option that the class of the config does not know, such as `llmstage`. What an earlier
    task saved under `llmstage` says nothing about the present one.
    """
    if hasattr(config, "llmstage"):
        del config.llmstage
    for name, value in options.items():
        setattr(config, name, value)


def set_dropout(config: Any, dropout: float) -> None:
    """Set every dropout rate of a config and its parts; 0 keeps the rates that the model was saved with. Raise ModelError where
    the architecture has none."""
    if not dropout:
        return
    parts = [config, *(getattr(config, name, None) for name in getattr(config, "sub_configs", {}))]
    names = [(part, name) for part in parts if part is not None for name in vars(part) if is_dropout(part, name)]
    if not names:
        raise ModelError(f"model.dropout={dropout}: a model of type {config.model_type} has no dropout. Leave it out.")
    for part, name in names:
        setattr(part, name, dropout)


def set_rope(config: Any, rope_type: str, factor: float) -> None:
    """Stretch the rotary positions of a config so that they cover `factor` times the context it was made for; `none` keeps them.

    Where layers of different types have positions of their own (Gemma 3), those with full attention are stretched. Raise
    ModelError where the model has no rotary positions.
    """
    if rope_type == "none":
        return
    text = config.get_text_config()
    rope, limit = getattr(text, "rope_parameters", None), max_positions(config)
    if not rope or limit is None:
        raise ModelError(
            f"model.rope_scaling={rope_type}: a model of type {config.model_type} has no rotary positions. Leave it out."
        )
    by_layer = "full_attention" in rope
    present = rope["full_attention"] if by_layer else rope
    original = int(present.get("original_max_position_embeddings") or limit)
    scaled = {**present, "rope_type": rope_type, "factor": float(factor), "original_max_position_embeddings": original}
    text.rope_parameters = {**rope, "full_attention": scaled} if by_layer else scaled
    text.max_position_embeddings = int(original * factor)


def is_dropout(config: Any, name: str) -> bool:
    """Return whether an attribute of a config is a rate of dropout, as transformers' classes name them."""
    value = getattr(config, name)
    is_rate = value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
    return is_rate and ("dropout" in name or name.endswith("_pdrop"))


def new_weights(model: Any, report: dict[str, Any], source: str, *, new_head: bool) -> list[str]:
    """Return the names of the weights that start untrained. Raise ModelError where weights of the base model are missing.

    What the checkpoint lacks outside the base model is a new head, which is what finetuning is for. Inside it, only a pooler may
    be missing: a part of which the checkpoint has nothing and on which the last hidden states do not depend. `new_head`: the
    task sets the size of the head, which may then differ from the saved one.
    """
    tied = tied_weight_names(model)
    missing = sorted(name for name in report["missing_keys"] if name not in tied)
    mismatched = sorted(str(name[0]) for name in report["mismatched_keys"])
    if wrong := [name for name in mismatched if in_base(model, name) or not new_head]:
        raise ModelError(
            f"{source}: weights and config.json disagree about the size of {', '.join(wrong[:4])}. Save the model again."
        )
    in_body = [name for name in missing if in_base(model, name)]
    if in_body:
        poolers = unused_parts(model, in_body)
        if damaged := [name for name in in_body if name not in poolers]:
            raise ModelError(
                f"{source} lacks weights of its base model ({type(model.base_model).__name__}): {', '.join(damaged[:4])}"
                f"{f' and {len(damaged) - 4} more' if len(damaged) > 4 else ''}. The files are damaged, or belong to another "
                f"architecture than config.json names. Download or save the model again."
            )
    return sorted({*missing, *mismatched})


def unused_parts(model: Any, missing: list[str]) -> set[str]:
    """Return those weights of the base model that the last hidden states do not depend on, of parts that are missing as a whole."""
    prefix, base = base_prefix(model), model.base_model
    parameters = {f"{prefix}{name}": value for name, value in base.named_parameters()}
    ids = torch.arange(1, 9).unsqueeze(0) % base.get_input_embeddings().weight.shape[0]
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    try:
        with torch.enable_grad():
            hidden = base(**inputs).last_hidden_state
            gradients = torch.autograd.grad(hidden.sum(), list(parameters.values()), allow_unused=True)
    except (
        AttributeError,
        TypeError,
        ValueError,
        RuntimeError,
    ):  # a base model that needs other inputs, such as images
        return set()
    unused = {name for name, gradient in zip(parameters, gradients, strict=True) if gradient is None}

    def part(name: str) -> str:
        return name.removeprefix(prefix).partition(".")[0]

    present = {part(name) for name in parameters if name not in missing or name not in unused}
    return {name for name in missing if part(name) not in present}


def load_extra(model: Any, model_source: ModelSource) -> None:
    """Load the task's own weights, which are saved with the model's as `extra.*`; where there are none, they start untrained."""
    files = sorted(model_source.model_dir.glob("*.safetensors")) if model_source.model_dir is not None else []
    saved = {name: value for file in files for name, value in load_file(file).items() if name.startswith("extra.")}
    expected = model.extra.state_dict(prefix="extra.")
    shapes = [{name: value.shape for name, value in weights.items()} for weights in (saved, expected)]
    if saved and shapes[0] == shapes[1]:
        model.extra.load_state_dict({name.removeprefix("extra."): value for name, value in saved.items()})
    else:
        model.new_weights = sorted({*model.new_weights, *(expected or ["extra"])})


def new_modules(model: nn.Module) -> list[str]:
    """Return the names of the modules that start untrained, for the plan line; none for a model from scratch."""
    names = getattr(model, "new_weights", [])
    return sorted({name.rpartition(".")[0] or name for name in names})


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers, which reports untrained heads on standard error; the plan line says it here."""
    logger = logging.getLogger("transformers")
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)
