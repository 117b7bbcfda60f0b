"""Run a race: several sides train one model on the same rows, in turn, each in a process of its own."""

from __future__ import annotations

import json
import math
import multiprocessing
import os
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from start import Start, prepare
from works import REPOSITORY, WORKS, Work

LOSS = re.compile(r"'loss': '?([0-9.e+-]+)")
PEERS_DIR = Path(__file__).with_name("peers")
"""Peers of this repository. Further peers are in the folder of --peers."""
PEERS = REPOSITORY.parent / "shared" / "peers"
POLL = 0.02
"""Seconds between two checks for the first step."""


class Failed(Exception):
    """A side failed; the message says why."""


@dataclass(slots=True, frozen=True)
class Side:
    """One side of a race: a program that trains."""

    name: str
    script: str = ""
    """The peer's script; empty for llmstage."""
    words: tuple[str, ...] = ()
    """Further words of its command line."""
    packages: str = "transformers"
    """Name of the peer's environment in environments.py."""
    allocator: bool = False
    """Whether the peer runs with llmstage's allocator and thread settings."""


@dataclass(slots=True, frozen=True)
class Settings:
    """Settings that are the same for all sides."""

    work: str
    size: str
    length: int
    batch: int
    steps: int
    lr: float
    threads: int
    warmup: int = 3
    """First steps that the rate leaves out."""


@dataclass(slots=True)
class Run:
    """Measurements of one training run."""

    rate: float
    """Real tokens or rows a second, after the warm-up."""
    computed: float
    """The same rate with padding; for rows, equal to `rate`."""
    loss: float
    """Mean over the last steps; `last_pass` gives their number."""
    peak_mb: float
    """Largest resident set of the process (wait4), with imports, data and training."""
    wall: float
    """Seconds of the complete command."""
    fetch: float | None = None
    """Share of the timed steps for getting batches; for the peer with images, for reading them after the first pass."""
    first_step: float | None = None
    """Seconds from the start of the command to the end of the first optimizer step."""
    flops: float | None = None
    """FLOP/s of training, as llmstage counts them (6 for each parameter and token, and attention)."""


@dataclass(slots=True)
class Result:
    """All runs of a race."""

    start: Start
    runs: dict[str, list[Run]] = field(default_factory=dict)
    """Name of a side -> its runs."""
    failed: dict[str, str] = field(default_factory=dict)
    """Name of a side -> why it failed."""


def run_race(
    settings: Settings,
    sides: Sequence[Side],
    runs: int,
    *,
    pythons: Mapping[str, str],
    peers: Path = PEERS,
    report: Callable[[str], None] = print,
) -> Result:
    """Run each side `runs` times; the first side changes each time. `pythons`: the interpreter for each set of packages."""
    work = WORKS[settings.work]
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        folder = Path(name)
        # In a separate process: otherwise wait4 would attribute this process's memory to the children.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            words = (folder, settings.work, settings.size, settings.length, settings.batch, settings.steps)
            start = pool.apply(prepare, words)
        report(start.about)
        report(
            f"{settings.steps} steps x {settings.batch} rows of {settings.length} tokens at most, {start.row_tokens:.1f} on average"
        )
        result = Result(start, {side.name: [] for side in sides})
        for number in range(runs):
            turn = number % len(sides)
            for side in [*sides[turn:], *sides[:turn]]:
                if side.name in result.failed:
                    continue
                try:
                    run = run_side(settings, side, start, folder, number, pythons, peers)
                except Failed as error:
                    result.failed[side.name] = str(error)
                    report(f"run {number + 1}  {side.name}: {str(error)[-600:]}")
                    continue
                result.runs[side.name].append(run)
                report(f"run {number + 1}  {side.name:24} {show(run, work)}")
    return result


def run_side(
    settings: Settings, side: Side, start: Start, folder: Path, number: int, pythons: Mapping[str, str], peers: Path
) -> Run:
    if not side.script:
        return run_llmstage(settings, side, start, folder, number)
    if side.packages not in pythons:
        raise Failed(f"no environment with {side.packages}")
    return run_peer(settings, side, start, folder, number, pythons[side.packages], peers)


def last_pass(rows: list[int], num_rows: int, work: Work) -> int:
    """Return how many of the last steps give the compared loss: the last complete pass, or half of a shorter run.

    In a complete pass both sides see the same rows, so their order hardly matters. Documents are cut into windows, and a pass
    over these is longer than any run here. `rows`: the rows of each step.
    """
    seen = 0
    for count, step in enumerate(reversed(rows), 1):
        seen += step
        if seen >= num_rows and not work.counts_tokens:
            return count
    return max(1, len(rows) // 2)


def run_llmstage(settings: Settings, side: Side, start: Start, folder: Path, number: int) -> Run:
    """Run llmstage as a user does. The command sets only what a fair race fixes; all other keys have their defaults."""
    work, out = WORKS[settings.work], folder / f"{''.join(filter(str.isalnum, side.name))}-{number}"
    form = ["data.format=text", "data.text_rows=line"] if work.is_text else ["data.format=jsonl"]
    # If llmstage packs short rows into rows of --length tokens, use as many packed rows as contain --batch short ones.
    shared = start.packs and not work.counts_tokens
    batch = max(1, round(settings.batch * start.row_tokens / settings.length)) if shared else settings.batch
    words = [
        f"stage={work.stage}", f"task={work.task or settings.work}",
        *(f"task.{word}={plain(value)}" for word, value in start.options.items()),
        f"model.path={folder / 'model'}", f"data.train={folder / 'rows'}", *form, f"data.context={settings.length}",
        f"data.test={folder / 'few'}", "data.split.validation=0", "data.max_lost=1", f"data.cache={folder / 'cache'}",
        f"trainer.max_steps={settings.steps}", f"trainer.batch_size={batch}", f"trainer.threads={settings.threads}",
        "trainer.device=cpu", "trainer.eval_every=0", "trainer.save_every=0", "trainer.train_rows_scored=0",
        # The defaults of transformers: linear to 0, no warm-up, no decay, betas (0.9, 0.999), clipping at 1.
        f"optim.lr={settings.lr}", "optim.schedule=linear", "optim.warmup_steps=0", "optim.min_lr_share=0",
        "optim.weight_decay=0", "optim.beta1=0.9", "optim.beta2=0.999", "optim.eps=1e-8", "optim.max_grad_norm=1",
        *work.words, f"seed={number}", f"hydra.run.dir={out}", *side.words,
    ]  # fmt: skip
    seen = Watch(out / "metrics.jsonl", re.compile('"kind": ?"train".*\n'))
    _, peak, wall = child([sys.executable, "-m", "llmstage", *words], dict(os.environ), REPOSITORY, seen)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line.get("kind") == "train"]
    report = json.loads((out / "report.json").read_text("utf-8"))["train"]
    timed = steps[settings.warmup :]
    seconds = steps[-1]["seconds"] - steps[settings.warmup - 1]["seconds"]
    counted = "tokens" if work.counts_tokens else "rows"  # the actual count of each step
    real = sum(line[counted] for line in timed) / seconds
    computed = real / report["real_share"] if work.counts_tokens else real
    busy = sum(line["tokens"] / line["tokens_per_second"] for line in timed)
    tail = last_pass([line["rows"] for line in steps], start.num_rows, work)
    # Each row has the same weight, because the last batch of a pass may have few.
    loss = statistics.fmean((line["loss"] for line in steps[-tail:]), [line[counted] for line in steps[-tail:]])
    flops = report["plan"]["flops"] / report["plan"]["tokens"] * sum(line["tokens"] for line in timed) / seconds
    return Run(real, computed, loss, peak, wall, max(0.0, 1 - busy / seconds), seen.seconds, flops)


def plain(value: object) -> str:
    """Write a value in Hydra's syntax."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def peer_script(side: Side, peers: Path) -> Path:
    """Return the path of a peer's script: in --peers if it exists there and bf16 is not needed, otherwise in this repository."""
    bundled, external = PEERS_DIR / side.script, peers / side.script
    if external.is_file() and (not bundled.is_file() or "--bf16" not in side.words):
        return external
    if not bundled.is_file():
        raise Failed(f"{side.script} is neither in {PEERS_DIR} nor in {peers} (--peers)")
    return bundled


def run_peer(settings: Settings, side: Side, start: Start, folder: Path, number: int, python: str, peers: Path) -> Run:
    work = WORKS[settings.work]
    words: list[Any] = ["--model", folder / "model", "--data", folder / "rows", "--steps", settings.steps]
    words += ["--warmup", settings.warmup, "--batch", settings.batch, "--length", settings.length]
    words += ["--lr", settings.lr, "--seed", number, *work.peer_words, *side.words]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(settings.threads))
    # The file of rows may be any text. The peers must not connect to a hub.
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    environment |= {"PYTHONUNBUFFERED": "1", "HF_DATASETS_CACHE": str(folder / "peer"), "PYTHONPATH": ""}
    environment |= better_allocator() if side.allocator else {}
    seen = Watch(None, LOSS)
    output, peak, wall = child([python, str(peer_script(side, peers)), *map(str, words)], environment, folder, seen)
    result = json.loads(next((line for line in reversed(output.splitlines()) if line.startswith('{"')), "{}"))
    if "real_rate" not in result:
        raise Failed(f"{side.script} printed no line of figures:\n{output[-2000:]}")
    # The Trainer prints one loss for each step. Use these unless the script reports the losses to compare.
    losses = result.get("losses") or [float(value) for value in LOSS.findall(output)]
    if len(losses) != settings.steps:
        raise Failed(f"{side.script} printed {len(losses)} losses for {settings.steps} steps; they are not comparable")
    tail = last_pass([settings.batch] * settings.steps, start.num_rows, work)
    loss = statistics.fmean(losses[-tail:])
    first = result.get("first_step", seen.seconds)
    return Run(result["real_rate"], result["rate"], loss, peak, wall, result.get("fetch_share"), first)


def better_allocator() -> dict[str, str]:
    """Return the environment variables with which llmstage restarts itself."""
    from llmstage.allocator import preload_environment

    return preload_environment()


class Watch:
    """Checks a file, or the output of a running process, for the first step."""

    def __init__(self, path: Path | None, mark: re.Pattern[str]) -> None:
        self.path, self.mark, self.started = path, mark, time.perf_counter()
        self.seconds: float | None = None

    def read_peak(self, printed: Path) -> None:
        path = self.path or printed
        if path.is_file() and self.mark.search(path.read_text("utf-8", errors="replace")):
            self.seconds = time.perf_counter() - self.started


def child(
    command: list[str], environment: dict[str, str], folder: Path, watch: Watch | None = None
) -> tuple[str, float, float]:
    """Run a process. Return its standard output, peak resident MB and seconds."""
    started = time.perf_counter()
    with (
        tempfile.NamedTemporaryFile("w+", encoding="utf-8") as out,
        tempfile.TemporaryFile("w+", encoding="utf-8") as err,
    ):
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)
        ended, status, usage = 0, 0, None
        while watch is not None and watch.seconds is None and not ended:
            time.sleep(POLL)
            watch.read_peak(Path(out.name))
            ended, status, usage = os.wait4(process.pid, os.WNOHANG)
        if not ended:
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            raise Failed(f"{shlex.join(command)}\nended with {process.returncode}:\n{err.read()[-3000:]}")
        assert usage is not None
        return out.read(), usage.ru_maxrss / 1024, wall


def show(run: Run, work: Work) -> str:
    share = f", {run.rate / run.computed:.0%} of the computed tokens real" if work.counts_tokens else ""
    fetch = f"; {run.fetch:.0%} of the time to get batches" if run.fetch is not None else ""
    first = f", first step after {run.first_step:.1f} s" if run.first_step is not None else ""
    return (
        f"{run.rate:9,.1f} {work.unit}{share}; loss {run.loss:.4f}; peak {run.peak_mb:,.0f} MB; {run.wall:.1f} s in all"
        f"{first}{fetch}"
    )


def spread(ours: list[Run], theirs: list[Run]) -> float:
    """Return the standard error of the relative difference of the mean losses."""
    variances = [statistics.variance(run.loss for run in runs) / len(runs) for runs in (ours, theirs)]
    return math.sqrt(sum(variances)) / statistics.fmean(run.loss for run in theirs)
