"""Locations of files: the YAML of llmstage, run folders, models, the cache. No torch here."""

from __future__ import annotations

import hashlib
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from llmstage.errors import ModelError
from llmstage.naming import did_you_mean

HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?", re.ASCII)
"""Form of a hub id: `name` or `owner/name`."""
PACKAGE = Path(__file__).resolve().parent
MONITOR_STORE = "monitor.db"
"""Database in the run folder of stage=monitor, with counts, verdicts and alerts."""


def conf_dir() -> Path:
    """Return the YAML tree: inside the wheel, or beside the package in a source checkout."""
    inside = PACKAGE / "conf"
    return inside if inside.is_dir() else PACKAGE.parent / "conf"


def options(group: str, config_dirs: tuple[Path, ...] = ()) -> list[str]:
    """Return the names of a group's YAML options, those of the user's own --config-dir included."""
    folders = [conf_dir() / group, *(folder / group for folder in config_dirs)]
    return sorted({path.stem for folder in folders for path in folder.glob("*.yaml")})


def name_in(group: str, option: str, config_dirs: tuple[Path, ...]) -> str:
    """Return the `name` in an option of the user's own --config-dir, e.g. a dotted path; else the name of the option."""
    for folder in config_dirs:
        path = folder / group / f"{option}.yaml"
        if path.is_file():
            loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
            keys = loaded.get(group, loaded) if isinstance(loaded, dict) else None
            return str(keys.get("name", option)) if isinstance(keys, dict) else option
    return option


def cache_dir(setting: str) -> Path | None:
    """Return the folder that `data.cache` means, or None where caching is off."""
    if setting == "off":
        return None
    if setting == "auto":
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "llmstage"
    return Path(setting).expanduser()


@dataclass(slots=True)
class ModelSource:
    """The model that `model.path` names."""

    model_dir: Path | None
    """The Hugging Face directory, or None for a hub id."""
    run_dir: Path | None = None
    """The run folder around it, where there is one."""
    hub_id: str | None = None


def gguf_folder(file: Path) -> Path:
    """Return the folder in the cache that has the model of a GGUF file, once models/gguf_import.py has written it."""
    state = file.stat()
    name = hashlib.sha256(f"{file.resolve()} {state.st_size} {state.st_mtime_ns}".encode()).hexdigest()[:16]
    root = cache_dir("auto")
    assert root is not None
    return root / "gguf" / f"{file.stem}-{name}"


def locate_model(path: str) -> ModelSource:
    """Return the model of a run folder, of its `model/`, of one of its checkpoints, of a Hugging Face directory, of a
    GGUF file, or of a hub id."""
    folder = Path(path).expanduser()
    if folder.suffix == ".gguf" and folder.is_file():
        return ModelSource(gguf_folder(folder))
    if not folder.exists():
        return ModelSource(model_dir=None, hub_id=path)
    folder = folder.resolve()
    if (folder / "run.yaml").is_file():
        model = folder / "model"
        if (folder / "config.json").is_file():
            model = folder  # improved/ of stage=explore has the model and the run.yaml in one folder
        elif not model.is_dir() and (folder / "adapter" / "config.json").is_file():
            model = folder / "adapter"  # adapter.merge=false
        if not (model / "config.json").is_file():
            run = read_run_yaml(folder)
            stage, used = ((run.get(group) or {}).get(key) for group, key in (("stage", "name"), ("model", "path")))
            if used and stage not in ("pretrain", "finetune"):
                raise ModelError(
                    f"model.path={path} is a run of stage={stage}, which trains no model. The model that it used: model.path={used}"
                )
            raise ModelError(
                f"model.path={path} is a run folder without a finished model/. "
                f"Resume that run, or name one of its checkpoints: {path}/checkpoints/step_NNNNNN"
            )
        return ModelSource(model, folder)
    if not any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
        names = sorted(item.name for item in folder.iterdir())[:5] if folder.is_dir() else ["it is a file"]
        raise ModelError(
            f"model.path={path} is not a model: there is no config.json in it ({', '.join(names) or 'it is empty'}). "
            f"Give a Hugging Face directory, a run folder of llmstage, or a hub id."
        )
    for parent in list(folder.parents)[:2]:  # <run>/model and <run>/checkpoints/step_NNNNNN
        if (parent / "run.yaml").is_file():
            return ModelSource(folder, parent)
    return ModelSource(folder)


def explain_unloadable(source: ModelSource, error: str, *, offline: bool) -> str:
    """Return the message for a model that transformers cannot load. `error`: the message of transformers or of the hub."""
    first = error.strip().splitlines()[0].strip() if error.strip() else "no reason given"
    if source.model_dir is not None:
        name = display_path(source.model_dir)
        first = first.replace(str(source.model_dir), name)
        return f"model.path={name} cannot be loaded. {first}"
    name = str(source.hub_id)
    missing = f"model.path={name}: there is no such folder here"
    if not HUB_ID.fullmatch(name):
        return f"{missing}.{similar_folders(name)} (It is no hub id either: those are <name> or <owner>/<name>.)"
    if offline or os.environ.get("HF_HUB_OFFLINE", "") in ("1", "true", "ON", "YES"):
        setting = "offline=true" if offline else "HF_HUB_OFFLINE=1"
        return (
            f"{missing}, and {setting} forbids asking the hub; its cache does not have the model either. Give a folder, or "
            f"download the model first: hf download {name}"
        )
    if "couldn't connect" in first or "Connection" in first or "timed out" in first:
        return f"{missing}, and the hub cannot be reached to ask for it. Give a folder, or try again with a network."
    return f"{missing}, and the hub does not give it: {first}"


def display_path(path: Path) -> str:
    """Return a path as the user would type it: relative to the working directory where it is below that."""
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)


def similar_folders(path: str) -> str:
    """Return `Did you mean …?` with a folder beside the missing one, or nothing."""
    folder = Path(path).expanduser()
    names = [item.name for item in folder.parent.iterdir() if item.is_dir()] if folder.parent.is_dir() else []
    return did_you_mean(folder.name, names)


def read_run_yaml(run_dir: Path) -> dict[str, Any]:
    """Return the config of a run folder as plain data: no resolvers, no tags, no classes. Old keys get their present
    names."""
    try:
        loaded = yaml.safe_load((run_dir / "run.yaml").read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"{run_dir / 'run.yaml'} cannot be read ({reason}); the run folder is damaged.") from None
    if not isinstance(loaded, dict):
        raise ModelError(f"{run_dir / 'run.yaml'} is not a mapping; the run folder is damaged.")
    from llmstage.config.renamed_keys import rename_keys  # here, because modules of llmstage.config import this one

    return rename_keys(loaded)
