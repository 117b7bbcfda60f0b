"""Rules between keys. Each check returns complaints, so that all of them are reported together."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from llmstage.config.key_conditions import TRAINING_STAGES, ReadBy
from llmstage.config.run import RunConfig, stage_config, task_config
from llmstage.config.task import TaskConfig
from llmstage.config.typed import walk_fields

DECODERS = (
    "llama",
    "gpt2",
    "qwen2",
    "qwen3",
    "mistral",
    "gemma",
    "gemma2",
    "gemma3_text",
    "phi3",
    "gpt_neox",
    "opt",
    "olmo2",
)
ENCODERS = (
    "bert",
    "roberta",
    "modernbert",
    "distilbert",
    "deberta-v2",
    "electra",
    "albert",
    "xlm-roberta",
    "camembert",
)
ENCODER_DECODERS = (
    "t5",
    "mt5",
    "umt5",
    "longt5",
    "bart",
    "mbart",
    "pegasus",
    "marian",
    "m2m_100",
    "blenderbot",
    "led",
    "prophetnet",
)
TWO_TOWERS = ("clip",)
SEEING = ("llava",)
"""Model types whose family is known without loading them; for others the model classes decide."""


def check_run(run: RunConfig, typed: Iterable[str]) -> list[str]:
    """Return every complaint about a composed run; `typed` are the keys that the user set."""
    return [
        *check_stage_fits_task(run),
        *check_model_fits_task(run),
        *check_budget(run),
        *check_preset(run),
        *check_split(run),
        *check_data_root(run),
        *check_adapter(run),
        *check_read(run, typed),
    ]


def check_stage_fits_task(run: RunConfig) -> list[str]:
    """Return complaints about a task that the stage does not support, and those of the stage."""
    stage, task = run.stage.name, run.task
    if stage in ("pretrain", "finetune") and stage not in task.stages:
        return [f"task={task.name} does not go with stage={stage}. It goes through: {', '.join(task.stages)}."]
    return run.stage.check(run)


def check_model_fits_task(run: RunConfig) -> list[str]:
    """Return a complaint where the task does not support the model family."""
    model_family: str | None = run.model.family
    model_text = f"model={run.model.name}"
    if run.model.path:
        model_family, model_text = local_model_family(Path(run.model.path).expanduser()), f"model.path={run.model.path}"
    if model_family and run.task.name and model_family not in run.task.takes():
        return [explain_misfit(run.task, model_family, model_text)]
    return []


def explain_misfit(task: TaskConfig, model_family: str, model_text: str) -> str:
    """Return why a task does not take a model, which families it takes, and the keys under which it takes this one."""
    fits = " or ".join(f"model={name}_tiny" for name in task.takes())
    # A family that the task knows is kept out by one of its other keys.
    keys = [f"task.{key}={value}" for key, value in choices_for_family(task, model_family)]
    hint = f" With {' or '.join(keys)} it does." if keys else ""
    present = ", ".join(f"task.{key}={getattr(task, key)}" for key, _ in choices_for_family(task, model_family))
    under = f" with {present}" if present else ""
    return (
        f"task={task.name}{under} does not fit {model_text} (family {model_family}). It takes: {fits}, or a model.path of that "
        f"family.{hint}"
    )


def choices_for_family(task: TaskConfig, model_family: str) -> list[tuple[str, Any]]:
    """(key, value) of each single choice under which the task would take this family."""
    choices = []
    for key, annotation in get_type_hints(type(task), include_extras=False).items():
        for value in get_args(annotation) if get_origin(annotation) is Literal else ():
            if model_family in replace(task, **{key: value}).takes():
                choices.append((key, value))
    return choices


def local_model_family(path: Path) -> str | None:
    """Family of a local model by its config.json; None where it cannot be told without loading."""
    for folder in (path, path / "model", path / "adapter"):
        try:
            model_type = json.loads((folder / "config.json").read_text(encoding="utf-8")).get("model_type")
        except (OSError, ValueError, AttributeError):
            continue
        families = {"gpt": DECODERS, "bert": ENCODERS, "t5": ENCODER_DECODERS, "clip": TWO_TOWERS, "vlm": SEEING}
        return next((name for name, known in families.items() if model_type in known), None)
    return None


def check_budget(run: RunConfig) -> list[str]:
    """Return complaints where not exactly one budget, or not exactly one batch size, is set."""
    trainer, complaints = run.trainer, []
    budgets = {"max_steps": trainer.max_steps, "epochs": trainer.epochs, "max_tokens": trainer.max_tokens}
    given = [f"trainer.{key}={value}" for key, value in budgets.items() if value is not None]
    if len(given) != 1:
        complaints.append(
            f"Exactly one of trainer.max_steps, epochs, max_tokens must be set; seen: {', '.join(given) or 'none'}."
        )
    if (trainer.batch_size is None) == (trainer.batch_tokens is None):
        complaints.append("Exactly one of trainer.batch_size and trainer.batch_tokens must be set.")
    return complaints


def check_preset(run: RunConfig) -> list[str]:
    """Return complaints about sizes of a preset that do not fit together."""
    model = run.model
    if model.path is None and model.hidden_size % model.num_attention_heads:
        return [
            f"model.hidden_size={model.hidden_size} is not a multiple of model.num_attention_heads={model.num_attention_heads}."
        ]
    if model.path is None and model.family not in ("t5", "clip") and model.hidden_size // model.num_attention_heads % 2:
        return [
            f"model.hidden_size/model.num_attention_heads={model.hidden_size // model.num_attention_heads} is odd; rotary positions need an even head size."
        ]
    vision, complaints = model.vision, []
    if model.path is None and run.task.reads_images and vision.path is None:
        if vision.size % vision.patch:
            complaints.append(
                f"model.vision.size={vision.size} is not a multiple of model.vision.patch={vision.patch}."
            )
        if vision.hidden_size % vision.num_attention_heads:
            complaints.append(
                f"model.vision.hidden_size={vision.hidden_size} is not a multiple of model.vision.num_attention_heads={vision.num_attention_heads}."
            )
    return complaints


def check_split(run: RunConfig) -> list[str]:
    """Return complaints about keys of data.split that need or exclude each other."""
    split = run.data.split
    if split.by == "time" and not split.time:
        return ["data.split.by=time needs the column that says when a row was: data.split.time=<column>."]
    if split.by == "time" and split.group:
        # A group has rows of many times: whole groups and a clean border in time cannot both be had.
        return [f"data.split.by=time and data.split.group={split.group} exclude each other. Leave one of them out."]
    return []


def check_data_root(run: RunConfig) -> list[str]:
    """Return a complaint where a recipe reads from a data_root that does not exist."""
    paths = run.data.below(run.data_root)
    if not paths or Path(run.data_root).expanduser().is_dir():
        return []
    return [
        f"data_root={run.data_root}: there is no such folder (seen from {Path.cwd()}), and this recipe reads {paths[0]}. "
        f"Name the folder that holds the data sets: data_root=<folder>. docs/recipes says where each set comes from."
    ]


def check_adapter(run: RunConfig) -> list[str]:
    """Return a complaint where an adapter has nothing to adapt."""
    if run.adapter.name == "none":
        return []
    if run.stage.name not in TRAINING_STAGES:
        return [
            f"adapter={run.adapter.name}: stage={run.stage.name} does not train; model.path=<run> brings its own adapter."
        ]
    if run.model.add_tokens and not run.adapter.merge:
        return [
            "adapter.merge=false saves updates of the base model, which has no rows for model.add_tokens. Leave adapter.merge out."
        ]
    if run.adapter.init == "pissa" and run.adapter.quantize != "none":
        return [
            f"adapter.init=pissa takes its start from the weights, which adapter.quantize={run.adapter.quantize} rounds. Leave one out."
        ]
    if run.adapter.init == "pissa" and run.adapter.dora:
        return ["adapter.init=pissa and adapter.dora start from different parts of a weight. Leave one of them out."]
    if run.model.path is None:
        return [
            f"adapter={run.adapter.name} trains small updates to weights that stay as they are, and random weights are not "
            f"worth keeping. Give model.path=<trained model>, or leave adapter={run.adapter.name} out."
        ]
    return []


def check_read(run: RunConfig, typed: Iterable[str]) -> list[str]:
    """Return a complaint for each key that the user set and this run does not use."""
    annotations = dict(walk_fields(RunConfig))
    annotations.update(walk_fields(stage_config(run.stage.name), "stage"))
    annotations.update(walk_fields(task_config(run.task.name), "task"))
    complaints = []
    for key in typed:
        annotation = annotations.get(key) or annotations.get(key.rpartition(".")[0])
        for condition in conditions_of(annotation):
            reason = condition.unread(run)
            if reason:
                complaints.append(f"{key} is not read here: {reason}. Leave it out.")
                break
    return complaints


def conditions_of(annotation: Any) -> list[ReadBy]:
    """The marks of a field, also of the parts of a union."""
    conditions = (
        [extra for extra in get_args(annotation)[1:] if isinstance(extra, ReadBy)]
        if get_origin(annotation) is Annotated
        else []
    )
    return conditions + [
        item for part in get_args(annotation) if get_origin(part) is Annotated for item in conditions_of(part)
    ]
