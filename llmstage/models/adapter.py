"""Low-rank adapters (LoRA, Hu 2021) by peft, injected into the layers of the model, whose class stays that of transformers.

This is the only module that imports peft, and it does so when an adapter is requested: the import takes seconds.
"""

from __future__ import annotations

import copy
import json
import os
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmstage.config.run import AdapterConfig
from llmstage.errors import ModelError, UserError
from llmstage.kernels.transformers_internals import BODY_EXCLUDED, Conv1D
from llmstage.models.families import in_base, task_heads
from llmstage.models.weight_types import called_layers, config_types, release_trained, without_numbers
from llmstage.tokenization.tokenizer import Processor

TASK_TYPES = {
    "AutoModelForCausalLM": "CAUSAL_LM",
    "AutoModelForSeq2SeqLM": "SEQ_2_SEQ_LM",
    "AutoModelForSequenceClassification": "SEQ_CLS",
    "AutoModelForTokenClassification": "TOKEN_CLS",
    "AutoModelForQuestionAnswering": "QUESTION_ANS",
}
"""peft's task type of each transformers class."""
CONFIG, WEIGHTS, EXTRA = "adapter_config.json", "adapter_model.safetensors", "extra.safetensors"
LOW_RANK = re.compile(r"\.lora_[AB]\.default\.weight$")
PREFIX = "base_model.model."
"""What peft puts before the model's own names of weights."""


def peft() -> Any:
    """The package peft. Raise UserError where it is missing, or too old for the installed transformers."""
    try:
        import peft
    except ModuleNotFoundError as error:
        if error.name != "peft":
            raise
        raise UserError("adapter=lora needs the package peft: pip install 'llmstage[lora]'") from None
    except ImportError as error:
        raise UserError(
            f"The installed peft does not work with the installed transformers ({error}). pip install -U peft"
        ) from None
    return peft


def is_adapter(folder: Path) -> bool:
    """Whether a folder has an adapter, whose base model is elsewhere."""
    return (folder / CONFIG).is_file()


def has_adapter(model: Any) -> bool:
    """Whether low-rank updates are in the model."""
    return bool(getattr(model, "peft_config", None))


def add_adapter(model: Any, cfg: AdapterConfig, auto_model: str, base: str) -> None:
    """Freeze the model except its heads and new weights, and inject low-rank updates into the layers of its body.

    `base`: where the frozen weights come from; it is saved with the adapter, for those who load it later.
    """
    full = sorted({*fully_trained_modules(model), *modules_called(model, cfg.modules_to_save)})
    config = peft().LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        lora_dropout=cfg.dropout,
        target_modules=targets(model, cfg.targets, full),
        task_type=TASK_TYPES.get(auto_model),
        base_model_name_or_path=base,
        use_dora=cfg.dora,
        use_rslora=cfg.rslora,
        init_lora_weights="pissa" if cfg.init == "pissa" else True,
    )
    inject(model, config, full)
    if cfg.init == "pissa":
        model.initial_updates = {
            name: value.clone() for name, value in trained_weights(model).items() if LOW_RANK.search(name)
        }


def inject(model: Any, config: Any, full: list[str]) -> None:
    """Inject the updates that `config` describes; train these and the modules `full`, and nothing else."""
    config.modules_to_save = None  # peft would copy these modules; they are trained in place
    peft().inject_adapter_in_model(config, model)
    config.modules_to_save = [name for name in full if name != "extra"] or None
    trained = {  # by identity, because a weight may have two names
        id(parameter)
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if ".lora_" in name or any(name.startswith(f"{module}.") for module in full)
    }
    for parameter in model.parameters():
        parameter.requires_grad = id(parameter) in trained
    release_trained(model)


def fully_trained_modules(model: Any) -> list[str]:
    """Modules without pretrained weights, and the task's heads."""
    names = set(task_heads(model))
    for parameter in getattr(model, "new_weights", []):
        # A part of the body that the checkpoint lacks is trained alone; of a head, all is.
        names.add(parameter.rpartition(".")[0] if in_base(model, parameter) else parameter.partition(".")[0])
    return sorted(names)


def modules_called(model: Any, requested: list[str]) -> list[str]:
    """Full names of the modules that adapter.modules_to_save names by their last parts, and of those that share their weights.

    Raise UserError for a name that no module with weights has.
    """
    modules = {
        name: module for name, module in model.named_modules() if name and any(True for _ in module.parameters())
    }
    chosen: set[str] = set()
    for word in requested:
        matches = [name for name in modules if f".{name}".endswith(f".{word}")]
        if not matches:
            known = ", ".join(sorted({last(name) for name in modules if not last(name).isdigit()})[:30])
            raise UserError(f"adapter.modules_to_save: no module of this model is called {word}. Known: {known}.")
        chosen.update(matches)
    weights = {id(parameter) for name in chosen for parameter in modules[name].parameters()}
    tied = {
        name
        for name, module in modules.items()
        if any(id(parameter) in weights for parameter in module._parameters.values())
    }
    return sorted(chosen | {name for name in tied if not any(name.startswith(f"{parent}.") for parent in chosen)})


def targets(model: Any, requested: str | list[str], full: Sequence[str] = ()) -> list[str]:
    """Names for peft's `target_modules`: last parts of names where these match exactly the chosen layers, else full names.

    `requested`: adapter.targets, a list of layer names or `auto`; `full`: modules that are trained as a whole. Raise UserError
    for names that match no layer.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    output = model.get_output_embeddings()
    body = [
        name
        for name in layers
        if in_base(model, f"{name}.weight")
        and not set(BODY_EXCLUDED) & set(name.split("."))
        and model.get_submodule(name) is not output
        and not any(f"{name}.".startswith(f"{module}.") for module in full)
    ]
    if not body:
        raise UserError(
            f"adapter=lora: {type(model).__name__} has no linear layers in its body. Leave adapter=lora out."
        )
    called = called_layers(
        model
    )  # Mamba reads the weights of some layers directly: an update of these would do nothing
    chosen = [name for name in body if without_numbers(name) in called and peft_takes(model, last(name))] or body
    if isinstance(requested, list):
        unmatched = [word for word in requested if not any(f".{name}".endswith(f".{word}") for name in body)]
        if unmatched or not requested:
            known = ", ".join(sorted({last(name) for name in body}))
            raise UserError(
                f"adapter.targets: no layer of this model is called {', '.join(unmatched)}. Known: {known}."
            )
        chosen = [name for name in body if any(f".{name}".endswith(f".{word}") for word in requested)]
    short = sorted({last(name) for name in chosen})
    return short if [name for name in layers if last(name) in short] == chosen else chosen


def peft_takes(model: Any, name: str) -> bool:
    """Whether peft adapts layers of this name in this model; it refuses some of Mamba's."""
    try:
        from peft import LoraConfig
        from peft.tuners.tuners_utils import _check_lora_target_modules_mamba as check
    except ImportError:
        return True
    try:
        check(LoraConfig(), model, name)
    except ValueError:
        return False
    return True


def last(name: str) -> str:
    """The part of a dotted name behind its last dot."""
    return name.rpartition(".")[2]


def trained_weights(model: nn.Module) -> dict[str, torch.Tensor]:
    """Trained weights by the model's own names: what a checkpoint must contain, since all other weights stay as loaded."""
    return {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }


def save_adapter(model: Any, processor: Processor, folder: Path) -> None:
    """Write the adapter in peft's format, with the model's config and tokenizer, so that the folder says which model it is for."""
    folder.mkdir(parents=True, exist_ok=True)
    config = copy.copy(next(iter(model.peft_config.values())))
    config.inference_mode = True
    # Weights that share one table are in the file under each of their names, as peft reads them.
    trained = {
        name: parameter.detach().cpu().contiguous()
        for name, parameter in model.named_parameters(remove_duplicate=False)
        if parameter.requires_grad
    }
    if hasattr(model, "initial_updates"):
        trained = as_plain_update(config, trained, model.initial_updates)
    config.save_pretrained(str(folder))
    extra = {name: value for name, value in trained.items() if name.startswith("extra.")}
    named = {
        PREFIX + re.sub(r"\.default(\.weight)?$", "" if ".lora_magnitude" in name else ".weight", name): value.clone()
        for name, value in trained.items()
        if name not in extra
    }
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    if extra:
        save_file(extra, folder / EXTRA)
    with config_types(model):
        model.config.save_pretrained(folder)
    processor.save(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def as_plain_update(
    config: Any, trained: dict[str, torch.Tensor], initial: dict[str, torch.Tensor]
) -> dict[str, torch.Tensor]:
    """Return an adapter for the weights as they were before PiSSA took its initial update out of them, and adapt the config.

    W - s B0 A0 + s B A = W + s [B, -B0] [A; A0]: twice the rank, with the same scale s (Meng 2024, PiSSA, appendix C).
    """
    converted = dict(trained)
    for name, before in initial.items():
        after = trained[name]
        converted[name] = torch.cat([after, before], 0) if ".lora_A." in name else torch.cat([after, -before], 1)
    # The scale is alpha / rank, and alpha / sqrt(rank) with rsLoRA.
    config.lora_alpha = config.lora_alpha * (2**0.5 if config.use_rslora else 2)
    config.r, config.init_lora_weights = 2 * config.r, True
    return converted


def save_checkpoint(model: Any, processor: Processor, folder: Path) -> None:
    """Write the adapter, and the same weights by the model's own names for a resumed run."""
    save_adapter(model, processor, folder)
    save_file(trained_weights(model), folder / "model.safetensors")


def adapter_base(folder: Path) -> str:
    """The folder or hub id of an adapter's frozen weights. Raise ModelError where there is none."""
    base = str(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    if not base:
        raise ModelError(f"{folder / CONFIG} does not say which model it was trained on (base_model_name_or_path).")
    if not Path(base).is_dir() and (
        base.startswith(("/", ".", "~")) or os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0")
    ):
        raise ModelError(
            f"{folder} is an adapter for the model {base}, which is not here. Write where it is now into "
            f"base_model_name_or_path of {folder / CONFIG}, or download it there."
        )
    return base


def config_folder(folder: Path) -> str:
    """The folder or hub id with the config of the model: of an adapter from elsewhere, which has none, that of its base."""
    return adapter_base(folder) if is_adapter(folder) and not (folder / "config.json").is_file() else str(folder)


def load_adapter(model: Any, folder: Path) -> None:
    """Load a saved adapter and its heads into the model that it was trained on. Raise ModelError where they do not fit."""
    config = peft().LoraConfig.from_pretrained(str(folder))
    saved = load_file(folder / WEIGHTS)
    weights = {
        re.sub(
            r"\.(lora_[AB]|lora_magnitude_vector)(\.weight)?$", r".\1.default.weight", name.removeprefix(PREFIX)
        ): value
        for name, value in saved.items()
    }
    inject(model, config, config.modules_to_save or [])
    _, unexpected = model.load_state_dict(weights, strict=False)
    missing = [name for name in model.state_dict() if ".lora_" in name and name not in weights]
    if unexpected or missing:
        raise ModelError(f"{folder} does not fit its model: {', '.join([*unexpected, *missing][:4])}.")
    model.new_weights = [name for name in getattr(model, "new_weights", []) if name not in weights]


def merge_adapter(model: Any) -> None:
    """Add the low-rank updates to their weights and remove the adapter, in place: the model is then a plain one."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for name, module in list(model.named_modules()):
        if isinstance(module, BaseTunerLayer):
            module.merge()
            parent = model.get_submodule(name.rpartition(".")[0])
            setattr(parent, last(name), module.get_base_layer())
    del model.peft_config
    vars(model).pop("initial_updates", None)
    model.requires_grad_(True)


def quantization(mode: str, device: torch.device) -> dict[str, Any]:
    """Arguments of from_pretrained() that load the base weights in 8 or 4 bits (QLoRA, Dettmers 2023).

    Raise UserError without a GPU or without bitsandbytes.
    """
    if mode == "none":
        return {}
    remedy = "Leave adapter.quantize out: then the base weights stay as they are."
    if device.type != "cuda":
        raise UserError(f"adapter.quantize={mode} needs a GPU; this run is on {device}. {remedy}")
    try:
        import bitsandbytes  # noqa: F401
    except ImportError:
        raise UserError(
            f"adapter.quantize={mode} needs the package bitsandbytes: pip install bitsandbytes. {remedy}"
        ) from None
    from transformers import BitsAndBytesConfig

    four = {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4", "bnb_4bit_compute_dtype": torch.bfloat16}
    settings = four if mode == "4bit" else {"load_in_8bit": True}
    return {"quantization_config": BitsAndBytesConfig(**settings), "device_map": {"": device}}
