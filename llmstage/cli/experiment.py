"""Recipes: the options that `experiment=` chooses, read before the config is composed, so that their stage and task
are known."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from llmstage.config import GROUPS
from llmstage.config.renamed_keys import rename_keys
from llmstage.paths import conf_dir


def read_option(group: str, name: str, config_dirs: tuple[Path, ...]) -> dict[str, Any]:
    """Return the YAML of an option as plain data, from the user's own --config-dir first; empty where there is none."""
    for folder in (*config_dirs, conf_dir()):
        path = folder / group / f"{name}.yaml"
        if path.is_file():
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
            return loaded if isinstance(loaded, dict) else {}
    return {}


def choices_of(name: str, config_dirs: tuple[Path, ...] = ()) -> dict[str, str]:
    """Return group to option, e.g. {"stage": "finetune", "task": "classification"}, as chosen by the defaults list of
    a recipe."""
    chosen: dict[str, str] = {}
    for line in read_option("experiment", name, config_dirs).get("defaults") or []:
        if isinstance(line, dict):
            for words, option in line.items():
                group = str(words).removeprefix("override").strip().lstrip("/")
                chosen[group] = str(option)
    return chosen


def preset_words(name: str, config_dirs: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Return the keys and values of a trainer preset. A recipe sets budget and batch size itself and would override a
    preset that is typed with it (`experiment=banking77 trainer=smoke`); what is typed takes precedence."""
    loaded = {key: value for key, value in read_option("trainer", name, config_dirs).items() if key != "defaults"}
    groups = (
        {"trainer": loaded} if not loaded.keys() & {*GROUPS} else loaded
    )  # a file of the group, or of the whole run
    return dict(leaves(rename_keys(groups)))


def leaves(data: dict[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield (full key, value) of every leaf of nested data."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
