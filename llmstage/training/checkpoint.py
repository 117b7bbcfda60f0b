"""Checkpoints: a folder is whole and verified, or it does not count.

Written as `.tmp-*`, every file fsynced, MANIFEST.json with sizes and SHA-256 last, then renamed. No pickle anywhere:
tensors are safetensors, the rest is JSON.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from llmstage import console
from llmstage.config.renamed_keys import rename_keys
from llmstage.errors import DiskError, ModelError
from llmstage.training.fault_injection import fault

NAME = re.compile(r"step_(\d{6,})$")
REQUIRED = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json")
"""A missing one is corruption, never a fresh optimizer."""


@dataclass(slots=True)
class TrainState:
    """Where a run is, beside its tensors. JSON; all that decides what comes next."""

    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already consumed."""
    tokens: int = 0
    skipped: int = 0
    """Steps whose update was left out because loss or gradient were not finite, or a spike."""
    bad_run: int = 0
    """Non-finite steps in a row."""
    bad_steps: list[int] = field(default_factory=list)
    """Non-finite steps of the last thousand."""
    rollbacks: int = 0
    excluded: list[list[int]] = field(default_factory=list)
    """(epoch, batch) that are passed over after a rollback."""
    losses: list[float] = field(default_factory=list)
    """Last 128 losses, for telling a spike."""
    norms: list[float] = field(default_factory=list)
    best: float | None = None
    best_step: int | None = None
    stale: int = 0
    """Validation passes since the best one."""
    evaluated: int = -1
    """Step of the last validation pass."""
    first_loss: float | None = None
    last_loss: float | None = None
    timed_tokens: int = 0
    timed_seconds: float = 0.0
    seconds: float = 0.0
    loss_scale: dict[str, Any] | None = None
    """State of the fp16 gradient scaler."""


WALL_CLOCK = ("timed_seconds", "seconds")
"""Fields that may differ between two runs that are otherwise the same."""


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_dir: Path, keep: int, save_model: Callable[[Path], None], about: dict[str, Any]) -> None:
        self.folder = run_dir / "checkpoints"
        self.keep, self.save_model, self.about = keep, save_model, about
        self.resumed_from: Path | None = None
        self.failures = 0

    def save(self, state: TrainState, optimizer: torch.optim.Optimizer, model: nn.Module) -> Path:
        """Write the state after a finished step; raises DiskError when the disk is full again and again."""
        final = self.folder / f"step_{state.step:06d}"
        draft = self.folder / f".tmp-{final.name}-{os.getpid()}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            self.save_model(draft)
            save_file(optimizer_tensors(optimizer, model), draft / "optimizer.safetensors")
            save_file(rng_tensors(), draft / "rng.safetensors")
            write_text(draft / "state.json", json.dumps({"state": vars_of(state), **self.about}, ensure_ascii=False))
            fault("checkpoint_files")
            write_manifest(draft, {"step": state.step})
            fault("before_rename")
            if final.exists():
                trash(final)
            draft.rename(final)
            sync_folder(self.folder)
            fault("after_rename")
        except (OSError, RuntimeError, SafetensorError) as error:
            shutil.rmtree(draft, ignore_errors=True)
            self.failures += 1
            if self.failures >= 3 or not disk_full(error):
                raise DiskError(
                    f"The checkpoint of step {state.step} could not be written to {self.folder}: {error}. Free space and resume."
                ) from None
            console.warn(
                f"checkpoint of step {state.step} not written ({error}); the older ones stay, training goes on"
            )
            return final
        self.failures = 0
        self._retire(state)
        return final

    def _retire(self, state: TrainState) -> None:
        """Delete what neither retention nor safety keeps; the newest, the best and the one resumed from stay."""
        folders = list_checkpoints(self.folder)
        keep = set(folders[: self.keep]) | {self.resumed_from}
        for folder in folders:
            if folder not in keep and step_of(folder) != state.best_step:
                fault("before_delete")
                trash(folder)

    def clean(self) -> None:
        """Remove drafts and trash of processes that are gone."""
        for path in self.folder.glob(".*"):
            owner = path.name.rpartition("-")[2]
            alive = owner.isdigit() and int(owner) != os.getpid() and Path(f"/proc/{owner}").exists()
            if path.name.startswith((".tmp-", ".trash-")) and not alive:
                shutil.rmtree(path, ignore_errors=True)


def vars_of(state: TrainState) -> dict[str, Any]:
    return {name: getattr(state, name) for name in state.__slots__}


def set_aside(run_dir: Path) -> Path | None:
    """Move the checkpoints of an earlier run in the same folder out of the way; a later resume must not find them."""
    folder = run_dir / "checkpoints"
    if not list_checkpoints(folder):
        return None
    number = 1
    while (old := run_dir / f"checkpoints.old{number}").exists():
        number += 1
    return folder.rename(old)


def trash(folder: Path) -> None:
    """Renamed before it is deleted, so that a kill in between leaves no half folder that looks whole."""
    doomed = folder.with_name(f".trash-{folder.name}-{os.getpid()}")
    shutil.rmtree(doomed, ignore_errors=True)
    folder.rename(doomed)
    shutil.rmtree(doomed, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Newest first."""
    found = [path for path in folder.glob("step_*") if NAME.search(path.name)] if folder.is_dir() else []
    return sorted(found, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    match = NAME.search(folder.name)
    return int(match.group(1)) if match else -1


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_manifest(folder: Path, about: dict[str, Any]) -> None:
    files = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            path.chmod(0o644)
            with path.open("rb") as file:
                os.fsync(file.fileno())
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            files[path.relative_to(folder).as_posix()] = {"bytes": path.stat().st_size, "sha256": digest}
    manifest = folder / "MANIFEST.json"
    with manifest.open("w", encoding="utf-8") as file:
        json.dump({**about, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def disk_full(error: Exception) -> bool:
    """ENOSPC, EFBIG, EDQUOT, also as safetensors and torch word them (RELIABILITY P9)."""
    text = str(error)
    return getattr(error, "errno", None) in (27, 28, 122) or any(
        mark in text for mark in ("os error 27", "os error 28", "os error 122", "No space left", "inline_container")
    )


def why_invalid(folder: Path) -> str | None:
    """The reason why a checkpoint does not count, or None. Every byte is hashed: formats do not notice a flipped bit."""
    try:
        manifest = json.loads((folder / "MANIFEST.json").read_text(encoding="utf-8"))
        files = dict(manifest["files"])
    except FileNotFoundError:
        return "MANIFEST.json is missing"
    except (OSError, ValueError, KeyError, TypeError):
        return "MANIFEST.json cannot be read"
    absent = [name for name in REQUIRED if name not in files]
    if absent:
        return f"{absent[0]} is not in the manifest"
    for name, about in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != about.get("bytes"):
            return f"{name} has {path.stat().st_size} bytes, not {about.get('bytes')}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != about.get("sha256"):
                return f"{name} has changed since it was written (SHA-256)"
    return None


def find_checkpoint(run_dir: Path, resume: str) -> Path | None:
    """What to go on from. `auto`: the newest valid one, older ones with a warning; a path: that one or an error."""
    if resume == "never":
        return None
    if resume != "auto":
        folder = Path(resume).expanduser()
        reason = why_invalid(folder) if folder.is_dir() else "there is no such folder"
        if reason:
            raise ModelError(
                f"trainer.resume={resume}: {reason}. Name a checkpoint folder such as <run>/checkpoints/step_000200."
            )
        return folder.resolve()
    rejected: list[str] = []
    for folder in list_checkpoints(run_dir / "checkpoints"):
        reason = why_invalid(folder)
        if reason is None:
            if rejected:
                console.warn(f"passed over: {'; '.join(rejected)}. Resuming from the older {folder.name}.")
            return folder
        rejected.append(f"{folder.name}: {reason}")
    if rejected:
        raise ModelError(
            f"No checkpoint in {run_dir / 'checkpoints'} is valid: {'; '.join(rejected)}. Nothing was deleted. "
            f"Start again with trainer.resume=never, or in another folder."
        )
    return None


def read_state(folder: Path) -> tuple[TrainState, dict[str, Any]]:
    """(state, what the run said of itself) of a valid checkpoint."""
    data = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return TrainState(**data.pop("state")), {**data, "config": rename_keys(data.get("config", {}))}


def load_tensors(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Weights, optimizer and RNG of a checkpoint into place, bit for bit."""
    weights = load_file(folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    trained = {
        name for name, parameter in model.named_parameters() if parameter.requires_grad
    }  # frozen ones are not saved
    lost = [name for name in missing if name not in tied and name in trained]
    if lost or unexpected:
        raise ModelError(
            f"{folder} does not fit the model: {', '.join([*lost, *unexpected][:4])}. It was written with another config."
        )
    restore_optimizer(optimizer, model, load_file(folder / "optimizer.safetensors"))
    restore_rng(load_file(folder / "rng.safetensors"))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """`<slot>|<parameter>` to tensor."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{slot}|{names[id(parameter)]}": value.detach().cpu().contiguous()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    named = dict(model.named_parameters())
    for key, value in tensors.items():
        slot, _, name = key.partition("|")
        if name not in named:
            raise ModelError(
                f"The checkpoint's optimizer knows '{name}', the model does not: it was written with another config."
            )
        parameter = named[name]
        # Step counters stay where the fused kernel expects them; moments go where the weights are.
        optimizer.state[parameter][slot] = value.to(parameter.device)


def rng_tensors() -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng(states: dict[str, Tensor]) -> None:
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda:{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
