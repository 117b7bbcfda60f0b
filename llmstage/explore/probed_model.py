"""Load the model that stage=explore probes: by path alone, without rows and without a task."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from llmstage.config import ModelConfig
from llmstage.errors import ModelError
from llmstage.models.build import build_model
from llmstage.models.families import model_family
from llmstage.models.loading import max_positions
from llmstage.paths import locate_model, read_run_yaml
from llmstage.tokenization.tokenizer import Processor, load_processor
from llmstage.tokenization.vision import vision_spec_of
from llmstage.training.setup import load_model_config, quiet_libraries

AUTO_CLASSES = {
    "gpt": "AutoModelForCausalLM",
    "t5": "AutoModelForSeq2SeqLM",
    "bert": "AutoModelForMaskedLM",
    "vlm": "AutoModelForImageTextToText",
    "clip": "AutoModel",
}
CHAT_TASKS = ("dialogue", "captioning", "visual_reasoning")
"""Tasks whose models answer the turn of a user."""


@dataclass(slots=True)
class ProbedModel:
    """A model with its tokenizer and the form of its prompts."""

    name: str
    model: Any
    processor: Processor
    model_family: str
    """gpt, t5, bert, vlm or clip (two towers, which compare images with texts)."""
    context: int
    """Tokens that the model can read."""
    chat: bool
    """Whether prompts are turns of a user."""


def load_probed_model(
    path: str, *, offline: bool, device: torch.device, form: str = "auto", name: str | None = None
) -> ProbedModel:
    """Load the model, its tokenizer and its text-model head.

    `form`: plain, chat, or auto. auto takes chat where a conversation task trained the model, and plain elsewhere.
    Raises ModelError where the checkpoint has no weights for the language-model head.
    """
    quiet_libraries(offline=offline)
    source = locate_model(path)
    config = load_model_config(source, offline=offline)
    family_of_model = model_family(config)
    local = offline or source.model_dir is not None
    sees = family_of_model in ("vlm", "clip")
    processor = load_processor(str(source.model_dir or source.hub_id), local=local, sees=sees)
    if family_of_model == "vlm":
        processor.vision = vision_spec_of(config)
    context = max_positions(config) or 512
    auto_class = AUTO_CLASSES[family_of_model]
    model = build_model(ModelConfig(path=path), auto_class, processor, context, {}, source, offline=offline)
    if model.new_weights:
        raise ModelError(
            f"model.path={path} has no trained language-model head ({', '.join(model.new_weights[:3])} are missing), so it gives "
            f"no answer a probability. Probes need a model of task=causal_lm, dialogue or masked_lm, or one that writes."
        )
    task = str((read_run_yaml(source.run_dir).get("task") or {}).get("name", "")) if source.run_dir else ""
    trained_on_turns = task in CHAT_TASKS or family_of_model == "vlm"
    chat = family_of_model in ("gpt", "vlm") and (form == "chat" or (form == "auto" and trained_on_turns))
    return ProbedModel(name or path, model.to(device), processor, family_of_model, context, chat)


def untrained(probed: ProbedModel, seed: int) -> ProbedModel:
    """Return the same architecture with random weights from `seed`."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = type(probed.model)(copy.deepcopy(probed.model.config)).eval()
    model.split_head = getattr(probed.model, "split_head", False)
    model.generation_config = getattr(probed.model, "generation_config", None)
    device = next(probed.model.parameters()).device
    return ProbedModel(
        f"untrained, seed {seed}", model.to(device), probed.processor, probed.model_family, probed.context, probed.chat
    )


def digest_of(model: Any) -> str:
    """sha256 of all weights and of the non-default values of the config."""
    digest = hashlib.sha256(str(sorted(model.config.to_diff_dict().items(), key=str)).encode())
    for name, value in sorted(model.state_dict().items()):
        digest.update(name.encode())
        digest.update(value.detach().cpu().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()
