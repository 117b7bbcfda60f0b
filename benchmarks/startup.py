"""Measure the seconds from a command to its answer: the overview, the help, a config error, the first optimizer step.

python benchmarks/startup.py --runs 5
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from machine import machine
from train import write_row
from works import REPOSITORY

LLMSTAGE = [sys.executable, "-m", "llmstage"]
ANSWERS = {
    "python -c pass": ([sys.executable, "-c", "pass"], 0),
    "python -c 'import torch'": ([sys.executable, "-c", "import torch"], 0),
    "llmstage": (LLMSTAGE, 0),
    "llmstage --help": ([*LLMSTAGE, "--help"], 0),
    "llmstage --help stage=finetune task=dialogue": ([*LLMSTAGE, "--help", "stage=finetune", "task=dialogue"], 0),
    "an unknown key": ([*LLMSTAGE, "stage=pretrain", "task=causal_lm", "trainer.max_step=5"], 2),
}
"""Commands and their expected exit status. The first two are the lower bound for every program here."""
FIRST_STEPS = {
    "first step of stage=pretrain task=causal_lm": ["stage=pretrain", "task=causal_lm"],
    "first step of stage=finetune task=classification": ["stage=finetune", "task=classification"],
}
POLL = 0.005
"""Seconds between two checks of metrics.jsonl."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="add rows to the table of benchmarks/README.md")
    parser.add_argument("--first-step", action="store_true", help="only the first step of the default run")
    parser.add_argument("--json", type=Path, help="with --first-step: also write the figures to this file")
    args = parser.parse_args()
    if args.first_step:
        return first_steps(args)
    seconds: dict[str, list[float]] = {name: [] for name in (*ANSWERS, *FIRST_STEPS)}
    for number in range(args.runs + 1):  # the first round fills the file cache and does not count
        for name, (command, status) in ANSWERS.items():
            seconds[name].append(answer(command, status))
        for name, words in FIRST_STEPS.items():
            seconds[name].append(first_step(words)[0])
        print(f"round {number} done", flush=True)
    for name, measured in seconds.items():
        warm = measured[1:]
        middle, spread = statistics.median(warm), f"{min(warm):.2f}–{max(warm):.2f}"
        print(f"{middle:6.2f} s  ({spread})  {name}; cold {measured[0]:.2f} s")
        if args.write:
            write_row("startup.py", [f"`{name}`", f"{middle:.2f}", spread, str(args.runs), machine()])
    return 0


def first_steps(args: argparse.Namespace) -> int:
    """Time the default run to its first step, without the evaluation before training. The figures keep the order of the rounds."""
    measured = [first_step(["stage=finetune", "task=dialogue"]) for _ in range(args.runs)]
    for total, scoring in measured:
        print(
            f"{total - scoring:6.2f} s to the first step, {scoring:.2f} s of scoring before it not counted", flush=True
        )
    if args.json:
        note = f"{max(scoring for _, scoring in measured):.1f} s of scoring before training are not counted"
        sides = {"llmstage": {"rates": [total - scoring for total, scoring in measured]}}
        args.json.write_text(json.dumps({"unit": "s", "sides": sides, "note": note}), "utf-8")
    return 0


def answer(command: list[str], status: int) -> float:
    """Return the seconds until the process ends. Its exit status must be `status`."""
    started = time.perf_counter()
    done = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True)
    seconds = time.perf_counter() - started
    if done.returncode != status:
        sys.exit(f"{command} ended with {done.returncode}, not {status}:\n{done.stderr[-2000:]}")
    return seconds


def first_step(words: list[str]) -> tuple[float, float]:
    """Return the seconds until metrics.jsonl has the first training step, and how many of them scored the untrained model.

    The function then stops the run with SIGTERM, as a scheduler does. Scoring starts after run.yaml and ends with before.json."""
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        out, metrics = Path(name) / "log", Path(name) / "run" / "metrics.jsonl"
        with out.open("w") as log:
            started = time.perf_counter()
            process = subprocess.Popen(
                [*LLMSTAGE, *words, f"hydra.run.dir={metrics.parent}"], cwd=REPOSITORY, stdout=log, stderr=log
            )
            try:
                while not stepped(metrics):
                    if process.poll() is not None:
                        sys.exit(f"{words} ended with {process.returncode} before a step:\n{out.read_text()[-2000:]}")
                    time.sleep(POLL)
                seconds = time.perf_counter() - started
            finally:
                if process.poll() is None:
                    os.kill(process.pid, signal.SIGTERM)  # it saves and ends after the step
                    process.wait()
            plan, scored = (metrics.parent / name for name in ("run.yaml", "before.json"))
            scoring = scored.stat().st_mtime - plan.stat().st_mtime if scored.is_file() else 0.0
    return seconds, scoring


def stepped(metrics: Path) -> bool:
    if not metrics.is_file():
        return False
    lines = metrics.read_text("utf-8").splitlines(keepends=True)
    return any(line.endswith("\n") and json.loads(line).get("kind") == "train" for line in lines)


if __name__ == "__main__":
    sys.exit(main())
