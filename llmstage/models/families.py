"""The family of a pretrained model, the classes that it has, and which of its weights are the base model: as transformers says it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

from llmstage.errors import ModelError
from llmstage.kernels.transformers_internals import class_names, mapped_types

ModelFamily = Literal["gpt", "bert", "t5", "clip", "vlm"]

TASKS = {
    "AutoModelForCausalLM": "causal_lm, dialogue",
    "AutoModelForMaskedLM": "masked_lm",
    "AutoModelForSeq2SeqLM": "translation, summarization",
    "AutoModelForSequenceClassification": "classification",
    "AutoModelForTokenClassification": "token_classification",
    "AutoModelForQuestionAnswering": "question_answering",
    "AutoModelForImageTextToText": "captioning, visual_reasoning",
    "AutoModelForZeroShotImageClassification": "contrastive",
}
"""The tasks of each transformers class, for the message about a model that lacks one."""


def model_families(config: Any) -> list[ModelFamily]:
    """Return the families that a model can be loaded as, the usual one first: Gemma 3 is a model of images and text whose text part
    is a decoder, too.

    transformers maps encoders such as BERT to a causal class as well, which is theirs where `is_decoder` is set.
    """
    model_type = config.model_type
    causal, masked = (model_type in mapped_types(f"AutoModelFor{name}") for name in ("CausalLM", "MaskedLM"))
    has_images = getattr(config, "vision_config", None) is not None
    families: list[ModelFamily] = []
    if has_images and model_type in mapped_types("AutoModelForZeroShotImageClassification"):
        families.append("clip")
    if has_images and model_type in mapped_types("AutoModelForImageTextToText"):
        families.append("vlm")
    if getattr(config, "is_encoder_decoder", False):
        families.append("t5")
    elif masked and not (causal and getattr(config, "is_decoder", False)):
        families.append("bert")
    elif causal:
        families.append("gpt")
    if families:
        return families
    # A type without a language-model head is an encoder of its own kind, such as CANINE and Splinter.
    heads = ("TokenClassification", "QuestionAnswering")
    return ["bert" if any(model_type in mapped_types(f"AutoModelFor{head}") for head in heads) else "gpt"]


def model_family(config: Any, takes: Sequence[str] = ()) -> ModelFamily:
    """Return the family of the model that a transformers config describes: the first that the task takes, else the usual one."""
    families = model_families(config)
    return next((name for name in families if name in takes), families[0])


def check_class(config: Any, auto_model: str, task: str, path: str) -> None:
    """Raise ModelError where transformers has no class with the head of the task for this type of model."""
    if config.model_type in mapped_types(auto_model, default=config.model_type):
        return
    possible = [tasks for name, tasks in TASKS.items() if config.model_type in mapped_types(name)]
    names = f"Tasks that it has a class for: {', '.join(possible)}." if possible else "It has none for any task here."
    raise ModelError(
        f"model.path={path} is a model of type {config.model_type}, and transformers has no {class_names(auto_model)} for it, "
        f"which task={task} needs. {names}"
    )


def base_prefix(model: Any) -> str:
    """Return what the names of the base model's weights begin with; empty where the model itself is the base model."""
    prefix = str(model.base_model_prefix)
    return f"{prefix}." if prefix and model.base_model is not model else ""


def in_base(model: Any, name: str) -> bool:
    """Return whether a weight belongs to the base model. Where the model itself is the base model (T5), its output layer does not."""
    prefix = base_prefix(model)
    if prefix:
        return name.startswith(prefix)
    head = model.get_output_embeddings()
    return head is None or not any(
        name.startswith(f"{part}.") for part, module in model.named_modules() if module is head
    )


def in_body(model: Any, name: str) -> bool:
    """Return whether a weight is pretrained: one of the base model, or of the head of a language model, which is no head of a task."""
    return in_base(model, name) or model.get_output_embeddings() is not None


def task_heads(model: Any) -> list[str]:
    """Return the modules outside the base model that belong to a task, such as `classifier`; a language model has none."""
    heads = ["extra"] if hasattr(model, "extra") else []
    if base_prefix(model) and model.get_output_embeddings() is None:
        heads += [
            name
            for name, module in model.named_children()
            if f"{name}." != base_prefix(model) and name != "extra" and any(True for _ in module.parameters())
        ]
    return sorted(heads)
