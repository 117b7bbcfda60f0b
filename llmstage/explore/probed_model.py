"""The model that is looked at: loaded by path, without rows and without a task."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from llmstage.config import ModelConfig
from llmstage.errors import ModelError
from llmstage.models.build import build_model
from llmstage.paths import locate_model, read_run_yaml
from llmstage.tokenization.tokenizer import Processor, load_processor
from llmstage.tokenization.vision import eyes_of
from llmstage.training.setup import family, model_config, quiet_libraries

AUTO_MODELS = {
    "gpt": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "bert": "AutoModelForMaskedLM",
    "vlm": "AutoModelForImageTextToText",
    "clip": "AutoModel",
}
CHAT_TASKS = ("dialogue", "captioning", "visual_reasoning")
"""Tasks whose models answer a user's turn."""


@dataclass(slots=True)
class Subject:
    """A model with its tokenizer, and how it is spoken to."""

    name: str
    model: Any
    processor: Processor
    kind: str
    """gpt, t5, bert, vlm or clip (two towers, which compare pictures with texts)."""
    context: int
    """Tokens that it can read."""
    chat: bool
    """Whether prompts are user's turns."""


def load_subject(
    path: str, *, offline: bool, device: torch.device, form: str = "auto", name: str | None = None
) -> Subject:
    """`form`: plain, chat, or auto (chat where the run that trained it was a conversation's)."""
    quiet_libraries(offline=offline)
    place = locate_model(path)
    config = model_config(place, offline=offline)
    kind = family(config)
    local = offline or place.model_dir is not None
    processor = load_processor(str(place.model_dir or place.hub_id), local=local, sees=kind in ("vlm", "clip"))
    if kind == "vlm":
        processor.eyes = eyes_of(config)
    most = getattr(config.get_text_config(), "max_position_embeddings", None) or 512
    model = build_model(ModelConfig(path=path), AUTO_MODELS[kind], processor, int(most), {}, place, offline=offline)
    if model.new_weights:
        raise ModelError(
            f"model.path={path} has no trained language-model head ({', '.join(model.new_weights[:3])} are missing), so it gives "
            f"no answer a probability. Probes need a model of task=causal_lm, dialogue or masked_lm, or one that writes."
        )
    task = str((read_run_yaml(place.run_dir).get("task") or {}).get("name", "")) if place.run_dir else ""
    chat = kind in ("gpt", "vlm") and (form == "chat" or (form == "auto" and (task in CHAT_TASKS or kind == "vlm")))
    return Subject(name or path, model.to(device), processor, kind, int(most), chat)


def untrained(subject: Subject, seed: int) -> Subject:
    """The same architecture with weights that never saw anything."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(subject.model)(copy.deepcopy(subject.model.config)).eval()
    model.split_head = getattr(subject.model, "split_head", False)
    model.generation_config = getattr(subject.model, "generation_config", None)
    device = next(subject.model.parameters()).device
    return Subject(
        f"untrained, seed {seed}", model.to(device), subject.processor, subject.kind, subject.context, subject.chat
    )


def digest_of(model: Any) -> str:
    """sha256 of all weights and of what the config says of them."""
    found = hashlib.sha256(str(sorted(model.config.to_diff_dict().items(), key=str)).encode())
    for name, value in sorted(model.state_dict().items()):
        found.update(name.encode())
        found.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return found.hexdigest()
