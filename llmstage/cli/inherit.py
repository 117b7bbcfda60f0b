"""Take from the run folder in model.path what the command line does not set: the task, its rows, and how they are
scored."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from llmstage.cli.overrides import Words
from llmstage.config import stage_config
from llmstage.errors import Refused
from llmstage.paths import locate_model, read_run_yaml

INHERITED = ("task", "data", "generation", "seed")
"""Groups and keys that a stage with a trained model inherits from its run folder, where the command line does not set
them."""

SCORING_KEYS = ("eval_precision", "eval_batch_tokens", "packing")
"""Keys of the trainer that decide how scores are computed. They are inherited too, so that the scores are the same."""


def folder_of(path: Any) -> Path | None:
    """Return the run folder around a local model."""
    return locate_model(path).run_dir if isinstance(path, str) and path and Path(path).expanduser().exists() else None


def choose_task(words: Words) -> None:
    """Choose the task of a command line that names none: that of its run folder, or no task where the stage needs
    none."""
    stage = stage_config(words.choice("stage"))
    alone = any(words.typed.get(stage.alone, [])) and not any(words.typed.get("model.path", []))
    can_do_without = not stage.needs_task or alone
    if "task" in words.typed or not (stage.inherits or can_do_without):
        return
    run_dir = folder_of((words.typed.get("model.path") or [None])[0]) if stage.inherits else None
    if run_dir is not None:
        name = str(read_run_yaml(run_dir).get("task", {}).get("name", ""))
        if "." in name:
            raise Refused(
                f"The run {run_dir} used a task outside llmstage, '{name}'. Name it again: --config-dir <folder with "
                f"task/<option>.yaml> task=<option>"
            )
        if name:
            words.typed["task"] = [name]
            words.for_hydra.append(f"task={name}")
            return
    if can_do_without:
        words.without_task = True
        words.for_hydra += ["~task", "hydra.run.dir=outputs/${stage.name}/${now:%Y-%m-%d_%H-%M-%S-%f}"][
            : 1 if any(line.startswith("hydra.run.dir=") for line in words.for_hydra) else 2
        ]


def inherit(plain: dict[str, Any], words: Words) -> dict[str, Any]:
    """Return the config of a stage that uses a trained model, with task, data, generation and seed of its run folder,
    except for keys that were typed."""
    stage = stage_config(str((plain.get("stage") or {}).get("name", "")))
    run_dir = folder_of((plain.get("model") or {}).get("path")) if stage.inherits else None
    if run_dir is None:
        return plain
    before = read_run_yaml(run_dir)
    names_data = any(key in words.typed for key in ("data.path", "data.train", "data.validation", "data.test"))
    for group in INHERITED:
        old = before.get(group)
        if group == "seed":
            if "seed" not in words.typed:
                plain["seed"] = old
        elif group == "data" and any(words.typed.get("experiment", [])):
            continue  # a recipe that is typed with the model names its own rows
        elif isinstance(old, dict) and (group != "task" or old.get("name") == plain["task"].get("name")):
            for key, value in old.items():
                if f"{group}.{key}" in stage.leaves:
                    continue
                names_rows = group == "data" and key in ("path", "train", "validation", "test", "name")
                if key == "train" and stage.keeps_pool and "data.path" not in words.typed:
                    names_rows = False  # keep the pool that the model was trained on, together with new rows to score
                if key in plain[group] and not (names_rows and names_data):
                    plain[group][key] = below_typed(f"{group}.{key}", value, plain[group][key], words)
    for key in SCORING_KEYS:
        old = (before.get("trainer") or {}).get(key)
        if old is not None and f"trainer.{key}" not in words.typed:
            plain["trainer"][key] = old
    if "data.context" not in words.typed:
        plain["data"]["context"] = before.get("resolved", {}).get("context", plain["data"]["context"])
    return plain


def below_typed(key: str, old: Any, new: Any, words: Words) -> Any:
    """Return the `old` value, except for typed keys: the key itself, or keys inside it (data.columns.text,
    task.features.numbers)."""
    if key in words.typed:
        return new
    if isinstance(old, dict) and isinstance(new, dict) and any(typed.startswith(f"{key}.") for typed in words.typed):
        return {
            name: below_typed(f"{key}.{name}", old[name], new.get(name), words) if name in old else new[name]
            for name in {**old, **new}
        }
    return old
