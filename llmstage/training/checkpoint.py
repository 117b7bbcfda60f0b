"""Checkpoints: write, find, verify and load them. A checkpoint that is incomplete or changed does not count.

A checkpoint is written as `.tmp-*`: every file is fsynced, MANIFEST.json with sizes and SHA-256 comes last, then the folder
is renamed. There is no pickle: tensors are safetensors, the rest is JSON.
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
from llmstage.training.fault_injection import inject_fault

NAME = re.compile(r"step_(\d{6,})$")
REQUIRED = ("model.safetensors", "optimizer.safetensors", "rng.safetensors", "state.json")
"""Files of every checkpoint. One without optimizer state is corrupt; it is never continued with a new optimizer."""


@dataclass(slots=True)
class TrainState:
    """The state of a run besides its tensors, as JSON: all that decides what the next step is."""

    step: int = 0
    """Optimizer steps taken, skipped ones included."""
    epoch: int = 0
    batch: int = 0
    """Batches of this epoch already consumed."""
    tokens: int = 0
    skipped: int = 0
    """Steps without an update, because loss or gradient were not finite or a spike."""
    bad_run: int = 0
    """Non-finite steps in a row."""
    bad_steps: list[int] = field(default_factory=list)
    """Non-finite steps of the last thousand."""
    rollbacks: int = 0
    excluded: list[list[int]] = field(default_factory=list)
    """(epoch, batch) that are left out after a rollback."""
    losses: list[float] = field(default_factory=list)
    """The last 128 losses, by which a spike is recognised."""
    norms: list[float] = field(default_factory=list)
    """The last 128 gradient norms."""
    best: float | None = None
    best_step: int | None = None
    last: float | None = None
    """The selecting metric at the last validation pass."""
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


@dataclass(slots=True)
class ResumePoint:
    """The checkpoint from which a run goes on; the defaults are those of a run that starts anew."""

    checkpoint: Path | None = None
    state: TrainState = field(default_factory=TrainState)
    config: dict[str, Any] = field(default_factory=dict)
    """The run's config when the checkpoint was written."""
    auto_values: dict[str, Any] = field(default_factory=dict)
    """What each `auto` of the config resolved to."""


WALL_CLOCK = ("timed_seconds", "seconds")
"""Fields that differ between two runs that are otherwise the same."""


class Checkpoints:
    """The checkpoints of one run folder."""

    def __init__(self, run_dir: Path, keep: int, save_model: Callable[[Path], None], metadata: dict[str, Any]) -> None:
        """`keep`: how many of the newest stay. `metadata`: JSON data that is written beside the state."""
        self.folder = run_dir / "checkpoints"
        self.keep, self.save_model, self.metadata = keep, save_model, metadata
        self.resumed_from: Path | None = None
        self.failures = 0

    def save(self, state: TrainState, optimizer: torch.optim.Optimizer, model: nn.Module) -> Path:
        """Write the state after a finished step. Raise DiskError when the disk is full for the third time in a row."""
        final = self.folder / f"step_{state.step:06d}"
        draft = self.folder / f".tmp-{final.name}-{os.getpid()}"
        try:
            shutil.rmtree(draft, ignore_errors=True)
            draft.mkdir(parents=True)
            self.save_model(draft)
            save_file(optimizer_tensors(optimizer, model), draft / "optimizer.safetensors")
            save_file(rng_tensors(), draft / "rng.safetensors")
            write_text(
                draft / "state.json", json.dumps({"state": state_dict(state), **self.metadata}, ensure_ascii=False)
            )
            inject_fault("checkpoint_files")
            write_manifest(draft, {"step": state.step})
            inject_fault("before_rename")
            if final.exists():
                delete(final)
            draft.rename(final)
            sync_folder(self.folder)
            inject_fault("after_rename")
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
        self._delete_old(state)
        return final

    def _delete_old(self, state: TrainState) -> None:
        """Delete old checkpoints; the newest `keep`, the best and the one that the run was resumed from stay."""
        folders = list_checkpoints(self.folder)
        keep = set(folders[: self.keep]) | {self.resumed_from}
        for folder in folders:
            if folder not in keep and step_of(folder) != state.best_step:
                inject_fault("before_delete")
                delete(folder)

    def clean(self) -> None:
        """Delete the drafts and the trash of processes that have ended."""
        for path in self.folder.glob(".*"):
            pid = path.name.rpartition("-")[2]
            alive = pid.isdigit() and int(pid) != os.getpid() and Path(f"/proc/{pid}").exists()
            if path.name.startswith((".tmp-", ".trash-")) and not alive:
                shutil.rmtree(path, ignore_errors=True)


def state_dict(state: TrainState) -> dict[str, Any]:
    """Return the fields of a state by name."""
    return {name: getattr(state, name) for name in state.__slots__}


def set_aside(run_dir: Path) -> Path | None:
    """Move the checkpoints of an earlier run in the same folder, so that no later resume finds them; return where they are."""
    folder = run_dir / "checkpoints"
    if not list_checkpoints(folder):
        return None
    number = 1
    while (old := run_dir / f"checkpoints.old{number}").exists():
        number += 1
    return folder.rename(old)


def delete(folder: Path) -> None:
    """Rename a checkpoint, then delete it: a kill in between leaves no half-deleted folder that looks complete."""
    trash = folder.with_name(f".trash-{folder.name}-{os.getpid()}")
    shutil.rmtree(trash, ignore_errors=True)
    folder.rename(trash)
    shutil.rmtree(trash, ignore_errors=True)


def list_checkpoints(folder: Path) -> list[Path]:
    """Return the checkpoints of a folder, newest first."""
    folders = [path for path in folder.glob("step_*") if NAME.search(path.name)] if folder.is_dir() else []
    return sorted(folders, key=step_of, reverse=True)


def step_of(folder: Path) -> int:
    """Return the step of a checkpoint by the name of its folder; -1 where it has another name."""
    match = NAME.search(folder.name)
    return int(match.group(1)) if match else -1


def write_text(path: Path, text: str) -> None:
    path.write_text(text, encoding="utf-8")


def write_manifest(folder: Path, metadata: dict[str, Any]) -> None:
    """Write size and SHA-256 of every file of a folder into its MANIFEST.json, and everything to the disk."""
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
        json.dump({**metadata, "files": files}, file, indent=1)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(folder)


def sync_folder(folder: Path) -> None:
    """Write the entries of a folder to the disk."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        with contextlib.suppress(OSError):  # some network file systems cannot
            os.fsync(handle)
    finally:
        os.close(handle)


def disk_full(error: Exception) -> bool:
    """Return whether an error is ENOSPC, EFBIG or EDQUOT, also as safetensors and torch word them (RELIABILITY P9)."""
    text = str(error)
    return getattr(error, "errno", None) in (27, 28, 122) or any(
        mark in text for mark in ("os error 27", "os error 28", "os error 122", "No space left", "inline_container")
    )


def why_invalid(folder: Path) -> str | None:
    """Return the reason why a checkpoint does not count, or None. All bytes are hashed: formats do not notice a flipped bit."""
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
    for name, entry in files.items():
        path = folder / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != entry.get("bytes"):
            return f"{name} has {path.stat().st_size} bytes, not {entry.get('bytes')}"
        with path.open("rb") as file:
            if hashlib.file_digest(file, "sha256").hexdigest() != entry.get("sha256"):
                return f"{name} has changed since it was written (SHA-256)"
    return None


def find_resume_point(run_dir: Path, resume: str) -> ResumePoint:
    """Return the checkpoint to go on from, with its state; one without a checkpoint where the run starts anew."""
    checkpoint = find_checkpoint(run_dir, resume)
    if checkpoint is None:
        return ResumePoint()
    state, metadata = read_state(checkpoint)
    return ResumePoint(checkpoint, state, metadata["config"], metadata.get("resolved", {}))


def find_checkpoint(run_dir: Path, resume: str) -> Path | None:
    """Return the checkpoint to go on from. `auto`: the newest valid one, with a warning if newer ones are not valid; a path:
    that one or an error."""
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
    """Return (state, metadata) of a valid checkpoint, with the keys of its config under their present names."""
    data = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    return TrainState(**data.pop("state")), {**data, "config": rename_keys(data.get("config", {}))}


def load_tensors(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
    """Load weights, optimizer state and random state of a checkpoint, bit for bit."""
    weights = load_file(folder / "model.safetensors")
    missing, unexpected = model.load_state_dict(weights, strict=False)
    # Neither tied weights nor frozen ones are in the file; every other missing weight means another model.
    tied = {name for name, _ in model.named_parameters(remove_duplicate=False)} - {
        name for name, _ in model.named_parameters()
    }
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    absent = [name for name in missing if name not in tied and name in trained]
    if absent or unexpected:
        raise ModelError(
            f"{folder} does not fit the model: {', '.join([*absent, *unexpected][:4])}. It was written with another config."
        )
    restore_optimizer(optimizer, model, load_file(folder / "optimizer.safetensors"))
    restore_rng(load_file(folder / "rng.safetensors"))


def optimizer_tensors(optimizer: torch.optim.Optimizer, model: nn.Module) -> dict[str, Tensor]:
    """Return the optimizer's tensors under the keys `<slot>|<parameter>`."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    return {
        f"{slot}|{names[id(parameter)]}": value.detach().cpu().contiguous()
        for parameter, slots in optimizer.state.items()
        for slot, value in slots.items()
        if isinstance(value, Tensor)
    }


def restore_optimizer(optimizer: torch.optim.Optimizer, model: nn.Module, tensors: dict[str, Tensor]) -> None:
    """Load the tensors of optimizer_tensors()."""
    named = dict(model.named_parameters())
    for key, value in tensors.items():
        slot, _, name = key.partition("|")
        if name not in named:
            raise ModelError(
                f"The checkpoint's optimizer knows '{name}', the model does not: it was written with another config."
            )
        parameter = named[name]
        # The fused kernel expects step counters, too, on the device of the weights.
        optimizer.state[parameter][slot] = value.to(parameter.device)


def rng_tensors() -> dict[str, Tensor]:
    """Return the states of torch's random numbers by device."""
    states = {"cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states |= {f"cuda:{index}": state for index, state in enumerate(torch.cuda.get_rng_state_all())}
    return states


def restore_rng(states: dict[str, Tensor]) -> None:
    """Load the states of rng_tensors()."""
    torch.set_rng_state(states["cpu"])
    if torch.cuda.is_available():
        for index in range(torch.cuda.device_count()):
            if f"cuda:{index}" in states:
                torch.cuda.set_rng_state(states[f"cuda:{index}"], index)
