"""stage=prove_resume: kill a run, resume it, and compare its checkpoint byte by byte with that of an undisturbed run."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import ProveResume, RunConfig
from llmstage.config.renamed_keys import present_override
from llmstage.errors import ModelError, UserError
from llmstage.report.files import write_json
from llmstage.training.checkpoint import WALL_CLOCK, list_checkpoints, read_state, step_of
from llmstage.training.defaults import SCRATCH_STEPS
from llmstage.training.finalize import link_latest
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import run_lock

REPLACED_KEYS = (
    "stage", "hydra.", "-m", "--multirun", "trainer.resume", "trainer.save_every", "trainer.eval_every", "trainer.save_total_limit",
    "trainer.train_rows_scored", "task.control",
)  # fmt: skip
"""Keys of the command that this stage sets itself in the runs that it starts."""


@dataclass(slots=True)
class Difference:
    """The first part in which two final checkpoints differ."""

    part: str
    detail: str

    def __str__(self) -> str:
        return f"{self.part}: {self.detail}"


def run(cfg: RunConfig, out_dir: Path, metadata: dict[str, str]) -> float | None:
    """Train three times: undisturbed, killed and resumed, and cold. Return 1.0 if resume is exact; else raise ModelError.

    The cold run starts the remaining steps from the weights of the first checkpoint alone, without optimizer state, random
    state and position in the data. Its result must differ, or the comparison could not show anything.
    """
    assert isinstance(cfg.stage, ProveResume)
    stage = cfg.task.stages[0] if cfg.stage.train_stage == "auto" else cfg.stage.train_stage
    steps, kills = plan_kills(cfg)
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        write_run_yaml(out_dir, cfg, {})
        every = max(
            1, min(kills) // 2
        )  # a checkpoint before each kill, and steps after it that the resumed run repeats
        undisturbed = child(cfg, stage, out_dir / "whole", every, None, metadata)
        killed_dir = out_dir / "killed"
        done = 0
        for step in kills:
            console.note(f"killing a run after step {step} with SIGKILL")
            child(cfg, stage, killed_dir, every, step - done, metadata)
            done = newest_step(killed_dir)  # the next process counts its own steps, from this checkpoint on
        console.note(f"resuming from step {done}")
        child(cfg, stage, killed_dir, every, None, metadata)
        resumed = final(killed_dir)
        console.note("the cold run: the same weights, nothing else")
        cold = cold_start(cfg, stage, out_dir, undisturbed, every, steps, metadata)

        difference, cold_difference = compare(undisturbed, resumed), compare(undisturbed, cold)
        proven = difference is None and cold_difference is not None
        report: dict[str, Any] = {
            "status": "completed" if proven else "failed", "stage": "prove_resume", "task": cfg.task.name, **metadata,
            "run_dir": str(out_dir.resolve()), "kills": kills, "steps": steps,
            "exact": difference is None, "first_difference": None if difference is None else str(difference),
            "cold_differs": cold_difference is not None,
            "cold_difference": None if cold_difference is None else str(cold_difference),
            "sha256": {"whole": digest(undisturbed), "resumed": digest(resumed), "cold": digest(cold)},
        }  # fmt: skip
        write_json(out_dir / "report.json", report)
        link_latest(out_dir, "prove_resume")
        print_result(report)
        if not proven:
            raise ModelError(
                "Resume is not exact here: see above which part differs first."
                if difference
                else "The cold run came out the same: with so few steps the comparison proves nothing; raise trainer.max_steps."
            )
        return 1.0


def plan_kills(cfg: RunConfig) -> tuple[int, list[int]]:
    """Return the steps of a run, and after which of them it is killed. Raise UserError where they do not fit."""
    assert isinstance(cfg.stage, ProveResume)
    steps = cfg.trainer.max_steps
    if steps == "auto" and cfg.model.path is None:
        steps = SCRATCH_STEPS
    if steps is None or steps == "auto":
        raise UserError("stage=prove_resume needs trainer.max_steps, so that it knows when to kill.")
    if steps < 3:
        raise UserError(f"trainer.max_steps={steps} is too short to be killed in between; give at least 3.")
    kills = cfg.stage.kill_at or sorted({max(1, steps // 3), max(2, 2 * steps // 3)})
    late = [step for step in kills if step >= steps]
    if late:
        raise UserError(f"stage.kill_at={late} is not before the end, trainer.max_steps={steps}.")
    return steps, kills


def print_result(report: dict[str, Any]) -> None:
    """Print whether resume is exact, and in what the cold run differs."""
    kills = ", ".join(map(str, report["kills"]))
    if report["exact"]:
        console.result(
            f"resume is exact: {report['steps']} steps, killed after {kills}, end in bit-identical weights, optimizer, RNG and position in the data"
        )
    else:
        console.result(
            f"resume is NOT exact: killed after {kills}, the first difference is in {report['first_difference']}"
        )
    console.result(
        f"a cold start (weights only) differs in {report['cold_difference'] or 'nothing'}",
        f"sha256 of the weights: {report['sha256']['whole']}",
    )


def child(
    cfg: RunConfig,
    stage: str,
    run_dir: Path,
    every: int,
    kill_after: int | None,
    metadata: dict[str, str],
    extra: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
) -> Path:
    """Train in a process of its own; return its last checkpoint, or its folder where it is killed after `kill_after` steps.

    `extra`: overrides to add; `drop`: keys whose overrides are left out.
    """
    given = [present_override(override) for override in shlex.split(metadata["command"])[1:]]
    overrides = [override for override in given if not override.startswith(REPLACED_KEYS + drop)]
    command = [
        sys.executable,
        "-m",
        "llmstage",
        f"stage={stage}",
        *overrides,
        f"hydra.run.dir={run_dir}",
        f"trainer.save_every={every}",
        f"trainer.eval_every={every}",
        "trainer.save_total_limit=1000",
        "trainer.train_rows_scored=0",
        *(["task.control=off"] if hasattr(cfg.task, "control") else []),
        *extra,
    ]
    variables = {**os.environ, "LLMSTAGE_ENTRY": "prove_resume"}
    if kill_after is not None:
        variables |= {"LLMSTAGE_FAULT": f"step:{kill_after}:kill", "LLMSTAGE_ALLOW_FAULTS": "1"}
    process = subprocess.run(
        command, env=variables, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if kill_after is None and process.returncode != 0:
        raise ModelError(
            f"The run in {run_dir} ended with status {process.returncode}: {process.stderr.strip().splitlines()[-1] if process.stderr.strip() else ''}"
        )
    if kill_after is not None and process.returncode != -9:
        raise ModelError(
            f"The run in {run_dir} should have been killed but ended with status {process.returncode}:\n{process.stderr.strip()[-500:]}"
        )
    return final(run_dir) if kill_after is None else run_dir


def cold_start(
    cfg: RunConfig, stage: str, out_dir: Path, undisturbed: Path, every: int, steps: int, metadata: dict[str, str]
) -> Path:
    """Train the weights of the first checkpoint for the remaining steps, as if they were those of a new model."""
    first = list_checkpoints(undisturbed.parent)[-1]
    remaining = steps - step_of(first)
    lr = read_state(first)[1]["resolved"]["lr"]
    extra = (
        f"model.path={first}",
        f"model.dropout={cfg.model.dropout}",
        f"optim.lr={lr}",
        f"trainer.max_steps={remaining}",
    )
    return child(cfg, stage, out_dir / "cold", every, None, metadata, extra, drop=("model",))


def newest_step(run_dir: Path) -> int:
    """Return the step of the newest checkpoint; 0 where there is none."""
    checkpoints = list_checkpoints(run_dir / "checkpoints")
    return step_of(checkpoints[0]) if checkpoints else 0


def final(run_dir: Path) -> Path:
    """Return the newest checkpoint. Raise ModelError where there is none."""
    checkpoints = list_checkpoints(run_dir / "checkpoints")
    if not checkpoints:
        raise ModelError(f"{run_dir} holds no checkpoint.")
    return checkpoints[0]


def compare(left: Path, right: Path) -> Difference | None:
    """Return the first part in which two checkpoints differ: weights, optimizer, random state, then the rest of the state."""
    from safetensors.torch import load_file

    for name in ("model.safetensors", "optimizer.safetensors", "rng.safetensors"):
        a, b = load_file(left / name), load_file(right / name)
        for key in sorted(a.keys() | b.keys()):
            if key not in a or key not in b:
                return Difference(name, f"{key} is only in one of them")
            if a[key].shape != b[key].shape or not bool((a[key] == b[key]).all()):
                return Difference(name, key)
    a_state, b_state = (
        json.loads((folder / "state.json").read_text(encoding="utf-8"))["state"] for folder in (left, right)
    )
    for key in a_state:
        if key not in WALL_CLOCK and key != "timed_tokens" and a_state[key] != b_state.get(key):
            return Difference("state.json", f"{key}: {a_state[key]} and {b_state.get(key)}"[:200])
    return None


def digest(checkpoint: Path) -> str:
    """Return the SHA-256 of the weights."""
    with (checkpoint / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
