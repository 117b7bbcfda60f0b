"""run.yaml, and whether a run may go on from a checkpoint."""

from __future__ import annotations

from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import yaml

from llmstage.config import RunConfig
from llmstage.errors import ModelError

MAY_CHANGE = (
    "trainer.resume", "trainer.workers", "trainer.log_every", "trainer.save_total_limit", "trainer.eval_every", "trainer.save_every",
    "trainer.eval_rows", "trainer.train_rows_scored", "trainer.patience", "trainer.allocator", "trainer.threads",
    "trainer.eval_batch_tokens", "trainer.eval_precision", "trainer.device", "data.cache", "offline", "tracker.name",
    "generation.", "task.generate_rows", "task.control", "adapter.merge",
)  # fmt: skip
"""Keys that do not decide the weights: a resumed run may set them anew."""


def flatten(data: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in data.items():
        if isinstance(value, dict) and value:
            flat |= flatten(value, f"{prefix}{key}.")
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def comparable(run: RunConfig) -> dict[str, Any]:
    """The config as data, as it is kept in a checkpoint."""
    return plain(run)


def plain(run: RunConfig) -> dict[str, Any]:
    data = asdict(run)
    for split in ("train", "validation", "test", "items"):
        data["data"][split] = absolute(data["data"][split])
    if run.data.path and Path(run.data.path).expanduser().exists():  # else a hub id
        data["data"]["path"] = absolute(run.data.path)
    if run.model.path and Path(run.model.path).expanduser().exists():
        data["model"]["path"] = str(Path(run.model.path).expanduser().resolve())
    return data


def absolute(paths: Any) -> Any:
    """So that a run folder can be evaluated from any directory."""
    if isinstance(paths, list):
        return [absolute(path) for path in paths]
    return str(Path.cwd() / Path(paths).expanduser()) if isinstance(paths, str) and paths != "-" else paths


def name_the_model(run: RunConfig) -> RunConfig:
    """The run with model.path resolved: outputs/latest will name this very run when it has ended, and what is written down
    must name the model."""
    place = Path(run.model.path or "").expanduser()
    if not run.model.path or not place.exists():
        return run
    return replace(run, model=replace(run.model, path=str(place.resolve())))


def write_run_yaml(out_dir: Path, run: RunConfig, resolved: dict[str, Any]) -> None:
    """The composed config and what `auto` decided."""
    text = yaml.safe_dump({**plain(run), "resolved": resolved}, sort_keys=False, allow_unicode=True)
    draft = out_dir / ".run.yaml.tmp"
    draft.write_text(text, encoding="utf-8")
    draft.replace(out_dir / "run.yaml")


def check_same_run(run: RunConfig, saved: dict[str, Any], found: Path) -> None:
    """Refuse to go on under another config; the differences are listed."""
    now, then = flatten(plain(run)), flatten(saved)
    changed = [
        key
        for key in sorted(now.keys() | then.keys())
        if now.get(key) != then.get(key) and not key.startswith(MAY_CHANGE)
    ]
    if changed:
        listed = ", ".join(f"{key}: {then.get(key)} -> {now.get(key)}" for key in changed[:8])
        raise ModelError(
            f"{found} was written by a run with another config ({listed}). Repeat the old command, "
            f"or start anew in another folder (trainer.resume=never begins again in this one and sets its checkpoints aside)."
        )
