"""run.yaml: the config of a run as data, and the check that a resumed run has the config of its checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from llmstage.config import RunConfig
from llmstage.errors import ModelError
from llmstage.training.defaults import SCRATCH_BATCH_TOKENS, SCRATCH_STEPS

MAY_CHANGE = (
    "trainer.resume", "trainer.workers", "trainer.log_every", "trainer.save_total_limit", "trainer.eval_every", "trainer.save_every",
    "trainer.eval_rows", "trainer.train_rows_scored", "trainer.patience", "trainer.allocator", "trainer.threads",
    "trainer.eval_batch_tokens", "trainer.eval_precision", "trainer.device", "data.cache", "offline", "tracker.name",
    "generation.", "task.generate_rows", "task.control", "adapter.merge",
)  # fmt: skip
"""Keys that do not affect the weights: a resumed run may change them."""
OLD_DEFAULTS = {"trainer.max_steps": SCRATCH_STEPS, "trainer.batch_tokens": SCRATCH_BATCH_TOKENS}
"""Defaults of version 0.2 and before that are `auto` now. From scratch `auto` means the same."""


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    """Return nested data as one dict with dotted keys."""
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def config_dict(run: RunConfig) -> dict[str, Any]:
    """Return the config as data, with absolute paths: for run.yaml and checkpoints."""
    data = asdict(run)
    for split in ("train", "validation", "test", "items"):
        data["data"][split] = absolute(data["data"][split])
    if run.data.path and Path(run.data.path).expanduser().exists():  # else a hub id
        data["data"]["path"] = absolute(run.data.path)
    if run.model.path and Path(run.model.path).expanduser().exists():
        data["model"]["path"] = str(Path(run.model.path).expanduser().resolve())
    return data


def absolute(paths: Any) -> Any:
    """Return paths as absolute ones, so that a run folder can be evaluated from any directory."""
    if isinstance(paths, list):
        return [absolute(path) for path in paths]
    return str(Path.cwd() / Path(paths).expanduser()) if isinstance(paths, str) and paths != "-" else paths


def resolve_model_path(run: RunConfig) -> RunConfig:
    """Return the run with an absolute model.path without links.

    outputs/latest will name this run when it has ended, and its run.yaml must go on to name the model.
    """
    path = Path(run.model.path or "").expanduser()
    if not run.model.path or not path.exists():
        return run
    return replace(run, model=replace(run.model, path=str(path.resolve())))


def write_run_yaml(out_dir: Path, run: RunConfig, auto_values: dict[str, Any]) -> None:
    """Write the composed config and what each `auto` resolved to."""
    text = yaml.safe_dump({**config_dict(run), "resolved": auto_values}, sort_keys=False, allow_unicode=True)
    draft = out_dir / ".run.yaml.tmp"
    draft.write_text(text, encoding="utf-8")
    draft.replace(out_dir / "run.yaml")


def check_same_run(run: RunConfig, saved: dict[str, Any], checkpoint: Path) -> None:
    """Raise ModelError where a checkpoint was written under another config, with the keys that differ."""
    now, then = flatten(config_dict(run)), flatten(saved)
    # A key that is newer than the checkpoint had its default then.
    defaults = flatten(config_dict(RunConfig(stage=type(run.stage)(), task=type(run.task)())))
    then = {**{key: value for key, value in defaults.items() if key not in then and now.get(key) == value}, **then}
    if run.model.path is None:
        then |= {key: "auto" for key, old in OLD_DEFAULTS.items() if now.get(key) == "auto" and then.get(key) == old}
    changed = [
        key
        for key in sorted(now.keys() | then.keys())
        if (now.get(key) or None) != (then.get(key) or None)
        and not key.startswith((*MAY_CHANGE, "task.model_families"))  # a fact of the task, which grows
    ]
    # What the run is comes first: another task changes many keys.
    changed.sort(key=lambda key: not key.startswith(("stage.name", "task.name", "model.name", "model.path")))
    if changed:
        listed = ", ".join(f"{key}: {then.get(key)} -> {now.get(key)}" for key in changed[:8])
        listed += f" and {len(changed) - 8} more" if len(changed) > 8 else ""
        raise ModelError(
            f"{checkpoint} was written by a run with another config ({listed}). Repeat the old command, "
            f"or start anew in another folder (trainer.resume=never begins again in this one and sets its checkpoints aside)."
        )
