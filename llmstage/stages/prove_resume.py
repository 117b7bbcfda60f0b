"""stage=prove_resume: kill a run, let it go on, and compare every byte with the run that was never disturbed."""

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
from llmstage.training.checkpoint import WALL_CLOCK, list_checkpoints, read_state
from llmstage.training.finalize import link_latest
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.session import run_lock

OWN_WORDS = (
    "stage", "hydra.", "-m", "--multirun", "trainer.resume", "trainer.save_every", "trainer.eval_every", "trainer.save_total_limit",
    "trainer.train_rows_scored", "task.control",
)  # fmt: skip
"""Words of the command that the children get from here."""


@dataclass(slots=True)
class Difference:
    """The first part in which two final checkpoints differ."""

    part: str
    detail: str


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Whole, killed and resumed, and cold: 1.0 if the resumed run equals the whole one and the cold one does not.

    The cold run starts the remaining steps from the killed run's weights alone, without optimizer, RNG and place in the
    data: it must come out different, or the comparison could not tell anything.
    """
    assert isinstance(cfg.stage, ProveResume)
    stage = cfg.task.stages[0] if cfg.stage.train_stage == "auto" else cfg.stage.train_stage
    steps = cfg.trainer.max_steps
    if steps is None:
        raise UserError("stage=prove_resume needs trainer.max_steps, so that it knows when to kill.")
    if steps < 3:
        raise UserError(f"trainer.max_steps={steps} is too short to be killed in between; give at least 3.")
    kills = cfg.stage.kill_at or sorted({max(1, steps // 3), max(2, 2 * steps // 3)})
    late = [step for step in kills if step >= steps]
    if late:
        raise UserError(f"stage.kill_at={late} is not before the end, trainer.max_steps={steps}.")
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        write_run_yaml(out_dir, cfg, {})
        every = max(1, min(kills) // 2)  # a checkpoint before each kill, and steps after it that must be redone
        whole = child(cfg, stage, out_dir / "whole", every, None, about)
        broken = out_dir / "killed"
        done = 0
        for step in kills:
            console.note(f"killing a run after step {step} with SIGKILL")
            child(cfg, stage, broken, every, step - done, about)
            # the resumed process counts its own steps, from the checkpoint it found
            done = newest(broken)
        console.note(f"resuming from step {done}")
        child(cfg, stage, broken, every, None, about)
        console.note("the cold run: the same weights, nothing else")
        cold = cold_start(cfg, stage, out_dir, whole, every, steps, about)
        differs, cold_differs = compare(whole, final(broken)), compare(whole, cold)
        verdict = differs is None and cold_differs is not None
        report: dict[str, Any] = {
            "status": "completed" if verdict else "failed", "stage": "prove_resume", "task": cfg.task.name, **about,
            "run_dir": str(out_dir.resolve()), "kills": kills, "steps": steps,
            "exact": differs is None, "first_difference": None if differs is None else f"{differs.part}: {differs.detail}",
            "cold_differs": cold_differs is not None, "cold_difference": None if cold_differs is None else f"{cold_differs.part}: {cold_differs.detail}",
            "sha256": {"whole": digest(whole), "resumed": digest(final(broken)), "cold": digest(cold)},
        }  # fmt: skip
        write_json(out_dir / "report.json", report)
        link_latest(out_dir, "prove_resume")
        tell(report, kills, steps)
        if not verdict:
            raise ModelError(
                "Resume is not exact here: see above which part differs first."
                if differs
                else "The cold run came out the same: with so few steps the comparison proves nothing; raise trainer.max_steps."
            )
        return 1.0


def tell(report: dict[str, Any], kills: list[int], steps: int) -> None:
    killed = ", ".join(map(str, kills))
    if report["exact"]:
        console.result(
            f"resume is exact: {steps} steps, killed after {killed}, end in bit-identical weights, optimizer, RNG and place in the data"
        )
    else:
        console.result(
            f"resume is NOT exact: killed after {killed}, the first difference is in {report['first_difference']}"
        )
    cold = report["cold_difference"] or "nothing"
    console.result(
        f"a cold start (weights only) differs in {cold}", f"sha256 of the weights: {report['sha256']['whole']}"
    )


def child(
    cfg: RunConfig,
    stage: str,
    run_dir: Path,
    every: int,
    kill_after: int | None,
    about: dict[str, str],
    extra: tuple[str, ...] = (),
    drop: tuple[str, ...] = (),
) -> Path:
    """One training process of its own, killed after so many of its steps or run to the end; its final checkpoint."""
    typed = [present_override(word) for word in shlex.split(about["command"])[1:]]
    words = [word for word in typed if not word.startswith(OWN_WORDS + drop)]
    command = [
        sys.executable,
        "-m",
        "llmstage",
        f"stage={stage}",
        *words,
        f"hydra.run.dir={run_dir}",
        f"trainer.save_every={every}",
        f"trainer.eval_every={every}",
        "trainer.save_total_limit=1000",
        "trainer.train_rows_scored=0",
        *(["task.control=off"] if hasattr(cfg.task, "control") else []),
        *extra,
    ]
    environment = {**os.environ, "LLMSTAGE_ENTRY": "prove_resume"}
    if kill_after is not None:
        environment |= {"LLMSTAGE_FAULT": f"step:{kill_after}:kill", "LLMSTAGE_ALLOW_FAULTS": "1"}
    ended = subprocess.run(
        command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False
    )
    if kill_after is None and ended.returncode != 0:
        raise ModelError(
            f"The run in {run_dir} ended with status {ended.returncode}: {ended.stderr.strip().splitlines()[-1] if ended.stderr.strip() else ''}"
        )
    if kill_after is not None and ended.returncode != -9:
        raise ModelError(
            f"The run in {run_dir} should have been killed but ended with status {ended.returncode}:\n{ended.stderr.strip()[-500:]}"
        )
    return final(run_dir) if kill_after is None else run_dir


def cold_start(
    cfg: RunConfig, stage: str, out_dir: Path, whole: Path, every: int, steps: int, about: dict[str, str]
) -> Path:
    """The weights of the first checkpoint, trained on as if from the start, for the steps that were left."""
    first = list_checkpoints(whole.parent)[-1]
    left = steps - int(first.name.rpartition("_")[2])
    rate = read_state(first)[1]["resolved"]["lr"]
    extra = (
        f"model.path={first}",
        f"model.dropout={cfg.model.dropout}",
        f"optim.lr={rate}",
        f"trainer.max_steps={left}",
    )
    return child(cfg, stage, out_dir / "cold", every, None, about, extra, drop=("model",))


def newest(run_dir: Path) -> int:
    found = list_checkpoints(run_dir / "checkpoints")
    return int(found[0].name.rpartition("_")[2]) if found else 0


def final(run_dir: Path) -> Path:
    found = list_checkpoints(run_dir / "checkpoints")
    if not found:
        raise ModelError(f"{run_dir} holds no checkpoint.")
    return found[0]


def compare(left: Path, right: Path) -> Difference | None:
    """The first part of two checkpoints that differs: weights, optimizer, RNG, then the rest of the state."""
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
    with (checkpoint / "model.safetensors").open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
