"""Add what the command line leaves out: the overrides of a plan, and the task, rows and scoring of the run in model.path.

plan=<file> names a plan.yaml, which stage=explore writes; its overrides are below those of the command line.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import yaml

from llmstage.cli.experiment import leaves
from llmstage.cli.overrides import ONE_OF, Words
from llmstage.config import GROUPS, stage_config
from llmstage.config.renamed_keys import key_of, present_key
from llmstage.errors import Refused, UserError
from llmstage.paths import display_path, locate_model, read_run_yaml

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
                    note_inherited(f"{group}.{key}", value, run_dir, words)
                    plain[group][key] = below_typed(f"{group}.{key}", value, plain[group][key], words)
    for key in SCORING_KEYS:
        old = (before.get("trainer") or {}).get(key)
        if old is not None and f"trainer.{key}" not in words.typed:
            plain["trainer"][key] = old
    if "data.context" not in words.typed:
        plain["data"]["context"] = before.get("resolved", {}).get("context", plain["data"]["context"])
    return plain


def note_inherited(key: str, value: Any, run_dir: Path, words: Words) -> None:
    """Remember which run folder a key comes from, for messages about its value."""
    keys = [f"{key}.{name}" for name in value] if isinstance(value, dict) else [key]
    words.inherited |= {name: run_dir for name in keys if name not in words.typed}


def explain_inherited(message: str, words: Words) -> str:
    """Return a line for each key of a message whose value comes from a run folder and was not typed."""
    keys = dict.fromkeys(re.findall(r"\b((?:data|task|generation)(?:\.\w+)+)=", message))
    return "".join(
        f"\n{key} comes from {display_path(words.inherited[key])}/run.yaml, the run of model.path. Type the key to replace it."
        for key in keys
        if key in words.inherited
    )


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


PLAN = "plan"
NAMES_CODE = (*GROUPS, "experiment", "task.name", "stage.name", "data.format")
"""Keys whose value may name a module outside llmstage. Only the command line may set such a value."""
KNOWN = ("overrides", "weaknesses")
"""Keys of a plan.yaml."""
LITERALS = ("true", "false", "null", "nan", "inf")
"""Texts that Hydra would parse as values of another type."""


def with_plan(arguments: list[str]) -> list[str]:
    """Return the overrides of a command line with those of its plan; an override of the command line replaces that of
    the plan."""
    named = [word.partition("=")[2] for word in arguments if word.partition("=")[0] == PLAN]
    if not named or named[-1] in ("", "null"):
        return arguments
    typed = {present_key(key_of(word)) for word in arguments}
    path = Path(named[-1].strip("'\"")).expanduser()
    typed |= {
        key for keys in ONE_OF if typed.intersection(keys) for key in keys
    }  # typed epochs replace the steps of the plan
    planned = [(key, value) for key, value in read_plan(path) if present_key(key) not in typed]
    return [*(f"{key}={in_words(value)}" for key, value in planned), *arguments]


def read_plan(path: Path) -> list[tuple[str, Any]]:
    """Return (key, value) of each override of a plan. Raise UserError for an invalid file, Refused for one that names
    code."""
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(
            f"plan={path}: there is no such file. stage=explore writes plan.yaml into its run folder."
        ) from None
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"plan={path} cannot be read: {str(error).splitlines()[0]}") from None
    overrides = loaded.get("overrides") if isinstance(loaded, dict) else None
    if not isinstance(overrides, dict):
        raise UserError(f"plan={path} is not a plan: it needs a mapping `overrides:` of keys, e.g. {{optim.lr: 1e-4}}.")
    strange = sorted(str(key) for key in set(loaded) - set(KNOWN))
    if strange:
        raise UserError(f"plan={path}: unknown {', '.join(strange)}. A plan has {' and '.join(KNOWN)}.")
    pairs = list(leaves({str(key): value for key, value in overrides.items()}))
    for key, value in pairs:
        refuse_code(path, key, value)
    return pairs


def refuse_code(path: Path, key: str, value: Any) -> None:
    """Raise Refused where an override of a plan could choose which code runs."""
    text = json.dumps(value, ensure_ascii=False, default=str)
    if key.lstrip("+~").startswith("hydra") or key == PLAN or "_target_" in key or "_target_" in text:
        raise Refused(f"plan={path}: '{key}' cannot be set by a plan. Type it on the command line if you mean it.")
    if "${" in text:
        raise Refused(f"plan={path}: {key} has an interpolation, {text}. A plan has plain values only.")
    if key in NAMES_CODE and "." in str(value):
        raise Refused(
            f"plan={path}: {key}={value} names code outside llmstage. Only the command line may do that: type {key}={value}."
        )


def in_words(value: Any) -> str:
    """Return a plain value in Hydra's grammar; texts are quoted, so that none is parsed as a sweep or a number."""
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, (list, tuple)):
        return f"[{','.join(in_words(item) for item in value)}]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{in_words(item)}" for key, item in value.items()) + "}"
    text = str(value)
    if re.fullmatch(r"[A-Za-z_][\w/-]*", text, re.ASCII) and text.lower() not in LITERALS:
        return text
    return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
