"""Training speed against a peer's: both run in turn, on one model directory, one file of rows, one thread count.

python benchmarks/train.py --work causal_lm --size small --length 256 --steps 40 --runs 3

Works are records in works.py; the peers are scripts that print one JSON line last (see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import re
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from start import Start, prepare
from works import REPOSITORY, WORKS, Work

README = Path(__file__).with_name("README.md")
WARM_UP = 3
"""Steps left out of the rate, on both sides."""
LEAST = 20
"""Fewest steps of a run."""
LOSS = re.compile(r"'loss': '?([0-9.e+-]+)")
TOLERANCE = 0.02
"""Largest relative difference of the losses under which two rates may be compared."""
OWN_PEERS = Path(__file__).with_name("peers")
"""Peers that are part of this repository; the others are where --peers says."""


@dataclass(slots=True)
class Run:
    """What one training run measured."""

    rate: float
    """Real tokens or rows a second, after the warm-up."""
    computed: float
    """The same with padding counted; for rows, equal to `rate`."""
    loss: float
    """Mean over the last steps, as many as `last_pass` says."""
    peak_mb: float
    """Largest resident set of the process, from wait4: imports, data and training."""
    wall: float
    """Seconds of the whole command."""
    fetch: float | None = None
    """Share of the timed steps that went into getting batches; of the peer that reads pictures, into these, after the first pass."""


def main() -> int:
    args = arguments()
    work = WORKS[args.work]
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        folder = Path(name)
        # In a process of its own: wait4 would otherwise count this process's memory as the children's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            start = pool.apply(prepare, (folder, args.work, args.size, args.length, args.batch, args.steps))
        print(f"{start.about}\n{machine()}, {args.threads} threads, load {load()}")
        print(
            f"{args.steps} steps x {args.batch} rows of {args.length} tokens at most, {start.row_tokens:.1f} on average"
        )
        ours: list[Run] = []
        theirs: list[Run] = []
        for number in range(args.runs):
            pair = [("llmstage", ours, run_llmstage), ("peer", theirs, run_peer)]
            for who, runs, run in pair if number % 2 == 0 else reversed(pair):
                runs.append(run(args, start, folder, number))
                print(f"run {number + 1}  {who:9} {show(runs[-1], work)}", flush=True)
    return conclude(args, ours, theirs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=list(WORKS), default="causal_lm")
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="small")
    parser.add_argument("--length", type=int, help="tokens of a row; default: the work's, see works.py")
    parser.add_argument("--padding", choices=["max", "dynamic"], help="the peer's; default: the work's")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, help="rows of a step; default: the work's")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="default: the work's")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bf16-peer", action="store_true", help="bf16 for the peer too; not its default")
    parser.add_argument("--compile-peer", action="store_true", help="torch.compile for the peer; not its default")
    parser.add_argument("--peers", type=Path, default=REPOSITORY.parent / "shared" / "peers")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peer's packages")
    parser.add_argument("--write", action="store_true", help="add a row to the table of benchmarks/README.md")
    parser.add_argument("overrides", nargs="*", help="further llmstage words, e.g. trainer.precision=fp32")
    args = parser.parse_args()
    work = WORKS[args.work]
    args.length = args.length or work.length
    args.batch = args.batch or work.batch
    args.lr = args.lr or work.lr
    args.padding = args.padding or next(iter(work.padding), None)
    if args.padding not in (work.padding or (None,)):
        parser.error(f"--padding {args.padding}: the peer of {args.work} knows {', '.join(work.padding) or 'none'}")
    if args.steps < LEAST:
        parser.error(f"--steps must be at least {LEAST}: {WARM_UP} warm up, and the last half gives the loss")
    return args


def last_pass(rows: list[int], num_rows: int, work: Work) -> int:
    """How many of the last steps give the compared loss: the last whole pass, or half of a run that is shorter.

    In a whole pass both sides see the same rows, so how they were shuffled hardly matters. Documents are cut into windows,
    a pass of which is longer than any run here. `rows`: of each step.
    """
    seen = 0
    for count, step in enumerate(reversed(rows), 1):
        seen += step
        if seen >= num_rows and not work.is_text:
            return count
    return len(rows) // 2


def run_llmstage(args: argparse.Namespace, start: Start, folder: Path, number: int) -> Run:
    """As a user would start it; only what a fair race fixes is set, all else is the default."""
    work, out = WORKS[args.work], folder / f"run-{number}"
    form = ["data.format=text", "data.text_rows=line"] if work.is_text else ["data.format=jsonl"]
    # Where short rows share one of --length tokens, so many of those as hold --batch of them: steps of the same size.
    shared = start.packs and not work.is_text
    batch = max(1, round(args.batch * start.row_tokens / args.length)) if shared else args.batch
    words = [
        f"stage={work.stage}", f"task={work.task or args.work}", *(f"task.{word}={plain(value)}" for word, value in start.options.items()),
        f"model.path={folder / 'model'}", f"data.train={folder / 'rows'}", *form, f"data.context={args.length}",
        f"data.test={folder / 'few'}", "data.split.validation=0", "data.max_lost=1", f"data.cache={folder / 'cache'}",
        f"trainer.max_steps={args.steps}", f"trainer.batch_size={batch}", f"trainer.threads={args.threads}",
        "trainer.device=cpu", "trainer.eval_every=0", "trainer.save_every=0", "trainer.train_rows_scored=0",
        # transformers' defaults: linear to 0, no warm-up, no decay, betas (0.9, 0.999), clipping at 1.
        f"optim.lr={args.lr}", "optim.schedule=linear", "optim.warmup_steps=0", "optim.min_lr_share=0",
        "optim.weight_decay=0", "optim.beta1=0.9", "optim.beta2=0.999", "optim.eps=1e-8", "optim.max_grad_norm=1",
        f"seed={number}", f"hydra.run.dir={out}", *args.overrides,
    ]  # fmt: skip
    _, peak, wall = child([sys.executable, "-m", "llmstage", *words], dict(os.environ), REPOSITORY)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line.get("kind") == "train"]
    report = json.loads((out / "report.json").read_text("utf-8"))["train"]
    seconds = steps[-1]["seconds"] - steps[WARM_UP - 1]["seconds"]
    counted = "tokens" if work.is_text else "rows"  # of each step, as it happened
    real = sum(line[counted] for line in steps[WARM_UP:]) / seconds
    computed = real / report["real_share"] if work.is_text else real
    busy = sum(line["tokens"] / line["tokens_per_second"] for line in steps[WARM_UP:])
    tail = last_pass([line["rows"] for line in steps], start.num_rows, work)
    # Each row weighs the same: the last batch of a pass may hold few.
    loss = statistics.fmean((line["loss"] for line in steps[-tail:]), [line[counted] for line in steps[-tail:]])
    return Run(real, computed, loss, peak, wall, max(0.0, 1 - busy / seconds))


def plain(value: object) -> str:
    """A value as Hydra reads it."""
    return f"[{','.join(map(str, value))}]" if isinstance(value, list) else str(value)


def run_peer(args: argparse.Namespace, start: Start, folder: Path, number: int) -> Run:
    work = WORKS[args.work]
    place = OWN_PEERS if (OWN_PEERS / work.peer).is_file() else args.peers
    words = ["--model", folder / "model", "--data", folder / "rows", "--steps", args.steps, "--warmup", WARM_UP,
             "--batch", args.batch, "--length", args.length, "--lr", args.lr, "--seed", number, *work.peer_words]  # fmt: skip
    words += ["--padding", args.padding] if len(work.padding) > 1 else []
    words += [flag for flag, wanted in (("--bf16", args.bf16_peer), ("--compile", args.compile_peer)) if wanted]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    # The file of rows may be any text: the peers must not ask a hub for anything.
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    output, peak, wall = child([args.peer_python, str(place / work.peer), *map(str, words)], environment, folder)
    found = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))
    # One printed by the Trainer for each step, where the script does not say by itself which are to be compared.
    losses = found.get("losses") or [float(value) for value in LOSS.findall(output)]
    if len(losses) != args.steps:
        sys.exit(f"{work.peer} told {len(losses)} losses in {args.steps} steps: they cannot be compared")
    tail = last_pass([args.batch] * args.steps, start.num_rows, work)
    return Run(
        found["real_rate"], found["rate"], statistics.fmean(losses[-tail:]), peak, wall, found.get("fetch_share")
    )


def child(command: list[str], environment: dict[str, str], folder: Path) -> tuple[str, float, float]:
    """(standard output, peak resident MB, seconds) of one process."""
    started = time.perf_counter()
    with tempfile.TemporaryFile("w+", encoding="utf-8") as out, tempfile.TemporaryFile("w+", encoding="utf-8") as err:
        process = subprocess.Popen(command, stdout=out, stderr=err, env=environment, cwd=folder)
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        wall = time.perf_counter() - started
        out.seek(0)
        err.seek(0)
        if process.returncode:
            sys.exit(f"{shlex.join(command)}\nended with {process.returncode}:\n{err.read()[-3000:]}")
        return out.read(), usage.ru_maxrss / 1024, wall


def show(run: Run, work: Work) -> str:
    share = f", {run.rate / run.computed:.0%} of the computed tokens real" if work.is_text else ""
    fetch = f"; {run.fetch:.0%} of the time to get batches" if run.fetch is not None else ""
    return (
        f"{run.rate:9,.1f} {work.unit}{share}; loss {run.loss:.4f}; peak {run.peak_mb:,.0f} MB; {run.wall:.1f} s in all"
        f"{fetch}"
    )


def conclude(args: argparse.Namespace, ours: list[Run], theirs: list[Run]) -> int:
    """Medians, ratios and the verdict on the loss; 1 where the losses are too far apart to compare rates."""
    work = WORKS[args.work]
    ratios = [mine.rate / other.rate for mine, other in zip(ours, theirs, strict=True)]
    mine, other = (statistics.median(run.rate for run in runs) for runs in (ours, theirs))
    ratio = mine / other
    losses = [statistics.fmean(run.loss for run in runs) for runs in (ours, theirs)]
    apart = losses[0] / losses[1] - 1
    peaks = [statistics.median(run.peak_mb for run in runs) for runs in (ours, theirs)]
    print(f"\nmedian    llmstage {mine:,.1f}, peer {other:,.1f} {work.unit}: {ratio:.2f} times")
    print(f"pairs     {min(ratios):.2f} to {max(ratios):.2f} times")
    noise = "" if args.runs < 2 else f", ±{spread(ours, theirs):.2%} by the order of the data alone"
    print(f"loss      {losses[0]:.4f} and {losses[1]:.4f}: {apart:+.2%}{noise}")
    print(f"peak RSS  {peaks[0]:,.0f} and {peaks[1]:,.0f} MB")
    fair = abs(apart) <= TOLERANCE
    if not fair:
        print(f"\n!!! THE LOSSES ARE {abs(apart):.1%} APART: MORE THAN {TOLERANCE:.0%}, SO THE RATES SAY NOTHING !!!")
    if args.write:
        words = shlex.join(word for word in sys.argv[1:] if word != "--write")
        cells = [
            args.work, f"{work.kind}_{args.size}", str(args.length), peer_name(args), f"{mine:,.0f}",
            f"{other:,.0f} {work.unit}", f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{apart:+.1%}" + ("" if fair else " **too far apart**"), f"{peaks[0]:,.0f} / {peaks[1]:,.0f}",
            f"{machine()}, {args.threads} threads, load {load()}", f"`{words}`",
        ]  # fmt: skip
        write_row("train.py", cells)
    return 0 if fair else 1


def spread(ours: list[Run], theirs: list[Run]) -> float:
    """Standard error of the relative difference of the mean losses."""
    variances = [statistics.variance(run.loss for run in runs) / len(runs) for runs in (ours, theirs)]
    return math.sqrt(sum(variances)) / statistics.fmean(run.loss for run in theirs)


def peer_name(args: argparse.Namespace) -> str:
    words = ["HF Trainer", *([f"padding={args.padding}"] if args.padding else [])]
    words += ["bf16"] if args.bf16_peer else ["defaults (fp32)"]
    return " ".join([*words, *(["compiled"] if args.compile_peer else [])])


def write_row(script: str, cells: list[str]) -> None:
    """Add a row to the script's table in benchmarks/README.md, which ends at a comment that names the script."""
    mark = f"<!-- rows of {script} end here -->"
    text = README.read_text("utf-8")
    if mark not in text:
        sys.exit(f"{README} lacks the line '{mark}': the row has no place.")
    README.write_text(text.replace(mark, f"| {' | '.join(cells)} |\n{mark}"), "utf-8")


def load() -> str:
    """Processes that wanted a core, mean of the last minute: a shared machine slows both sides, not always alike."""
    return f"{os.getloadavg()[0]:.1f}"


def machine() -> str:
    """The processor's name and the units that decide how fast bf16 is."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    fields: Iterator[tuple[str, str, str]] = (line.partition(":") for line in lines)
    found = {key.strip(): value.strip() for key, _, value in fields}
    flags = found.get("flags", "").split()
    unit = "AMX" if "amx_bf16" in flags else "AVX512-bf16, no AMX" if "avx512_bf16" in flags else "no fast bf16"
    return f"{found.get('model name', platform.processor())} ({unit})"


if __name__ == "__main__":
    sys.exit(main())
