"""Low-rank adapters (LoRA, Hu 2021) by peft, injected into the layers of the model, whose class stays that of transformers.

This is the only module that imports peft, and it does so when an adapter is requested: the import takes seconds.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn

from llmstage.config.run import AdapterConfig
from llmstage.errors import ModelError, UserError
from llmstage.kernels.transformers_internals import BODY_EXCLUDED, TASK_HEADS, Conv1D
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


def has_adapter(model: Any) -> bool:
    """Whether low-rank updates are in the model."""
    return bool(getattr(model, "peft_config", None))


def add_adapter(model: Any, cfg: AdapterConfig, auto_model: str, base: str) -> None:
    """Freeze the model except its heads and new weights, and inject low-rank updates into the layers of its body.

    `base`: where the frozen weights come from; it is saved with the adapter, for those who load it later.
    """
    heads = fully_trained_modules(model)
    config = peft().LoraConfig(
        r=cfg.rank,
        lora_alpha=cfg.alpha,
        lora_dropout=cfg.dropout,
        target_modules=targets(model, cfg.targets),
        task_type=TASK_TYPES.get(auto_model),
        base_model_name_or_path=base,
    )
    inject(model, config, heads)


def inject(model: Any, config: Any, heads: list[str]) -> None:
    """Inject the updates that `config` describes; train these and the heads, and nothing else."""
    config.modules_to_save = None  # peft would copy the heads; they are trained in place
    peft().inject_adapter_in_model(config, model)
    config.modules_to_save = [name for name in heads if name != "extra"] or None
    for name, parameter in model.named_parameters():
        parameter.requires_grad = ".lora_" in name or any(name.startswith(f"{head}.") for head in heads)


def fully_trained_modules(model: Any) -> list[str]:
    """Modules without pretrained weights, and the task's heads."""
    names = {name for name, _ in model.named_children() if name in TASK_HEADS}
    for parameter in getattr(model, "new_weights", []):
        inside = parameter.startswith(f"{model.base_model_prefix}.")  # a part of the body that the checkpoint lacks
        names.add(parameter.rpartition(".")[0] if inside else parameter.partition(".")[0])
    return sorted(names)


def targets(model: Any, requested: str | list[str]) -> list[str]:
    """Names for peft's `target_modules`: last parts of names where these match exactly the chosen layers, else full names.

    `requested`: adapter.targets, a list of layer names or `auto`. Raise UserError for names that match no layer.
    """
    layers = [name for name, module in model.named_modules() if isinstance(module, (nn.Linear, Conv1D))]
    output = model.get_output_embeddings()
    body = [
        name
        for name in layers
        if not set(BODY_EXCLUDED) & set(name.split(".")) and model.get_submodule(name) is not output
    ]
    chosen = body
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
    config = next(iter(model.peft_config.values()))
    inference, config.inference_mode = config.inference_mode, True
    config.save_pretrained(str(folder))
    config.inference_mode = inference
    trained = trained_weights(model)
    extra = {name: value for name, value in trained.items() if name.startswith("extra.")}
    named = {
        PREFIX + re.sub(r"\.default\.weight$", ".weight", name): value
        for name, value in trained.items()
        if name not in extra
    }
    save_file(named, folder / WEIGHTS, metadata={"format": "pt"})
    if extra:
        save_file(extra, folder / EXTRA)
    model.config.save_pretrained(folder)
    processor.save(folder)
    for path in folder.iterdir():
        path.chmod(0o644)


def save_checkpoint(model: Any, processor: Processor, folder: Path) -> None:
    """Write the adapter, and the same weights by the model's own names for a resumed run."""
    save_adapter(model, processor, folder)
    save_file(trained_weights(model), folder / "model.safetensors")


def adapter_base(folder: Path) -> str:
    """The folder or hub id of an adapter's frozen weights. Raise ModelError where there is none."""
    base = str(json.loads((folder / CONFIG).read_text(encoding="utf-8")).get("base_model_name_or_path") or "")
    if not base:
        raise ModelError(f"{folder / CONFIG} does not say which model it was trained on (base_model_name_or_path).")
    if base.startswith("/") and not Path(base).is_dir():
        raise ModelError(f"{folder} is an adapter for the model in {base}, which is not there any more.")
    return base


def load_adapter(model: Any, folder: Path) -> None:
    """Load a saved adapter and its heads into the model that it was trained on. Raise ModelError where they do not fit."""
    config = peft().LoraConfig.from_pretrained(str(folder))
    saved = load_file(folder / WEIGHTS)
    weights = {
        re.sub(r"\.(lora_[AB])\.weight$", r".\1.default.weight", name.removeprefix(PREFIX)): value
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
