"""Compare training speed with a peer: both run in turn, with the same model directory, file of rows and number of threads.

python benchmarks/train.py --work causal_lm --size small --length 256 --steps 40 --runs 3

works.py defines the works. The peers are scripts that print one JSON line last (see benchmarks/README.md).
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from pathlib import Path

from machine import cores, load, machine
from race import PEERS, Run, Settings, Side, run_race, spread
from works import WORKS, Work

README = Path(__file__).with_name("README.md")
LEAST = 20
"""Fewest steps of a run."""
TOLERANCE = 0.02
"""Largest relative difference of the losses at which two rates are comparable."""


def main() -> int:
    args = arguments()
    print(f"{machine()}, {args.threads} threads, load {load()}")
    settings = Settings(args.work, args.size, args.length, args.batch, args.steps, args.lr, args.threads)
    sides = [Side("llmstage", words=tuple(args.overrides)), peer_side(args)]
    pythons = {sides[1].packages: args.peer_python}
    result = run_race(settings, sides, args.runs, pythons=pythons, peers=args.peers)
    if result.failed:
        sys.exit("\n".join(result.failed.values()))
    return conclude(args, *result.runs.values())


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=list(WORKS), default="causal_lm")
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="small")
    parser.add_argument("--length", type=int, help="tokens of a row; default: that of the work, see works.py")
    parser.add_argument("--padding", choices=["max", "dynamic"], help="padding of the peer; default: that of the work")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, help="rows of a step; default: that of the work")
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="learning rate; default: that of the work")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--bf16-peer", action="store_true", help="bf16 for the peer too; not its default")
    parser.add_argument("--compile-peer", action="store_true", help="torch.compile for the peer; not its default")
    parser.add_argument(
        "--allocator-peer", action="store_true", help="llmstage's allocator for the peer; not its default"
    )
    parser.add_argument("--peers", type=Path, default=PEERS)
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peer's packages")
    parser.add_argument("--write", action="store_true", help="add a row to the table of benchmarks/README.md")
    parser.add_argument("overrides", nargs="*", help="further keys for llmstage, e.g. trainer.precision=fp32")
    args = parser.parse_args()
    work = WORKS[args.work]
    args.length = args.length or work.length
    args.batch = args.batch or work.batch
    args.lr = args.lr or work.lr
    args.padding = args.padding or next(iter(work.padding), None)
    if args.padding not in (work.padding or (None,)):
        parser.error(f"--padding {args.padding}: the peer of {args.work} supports {', '.join(work.padding) or 'none'}")
    if args.steps < LEAST:
        parser.error(
            f"--steps must be at least {LEAST}: {Settings.warmup} are warm-up, and the last half gives the loss"
        )
    return args


def peer_side(args: argparse.Namespace) -> Side:
    work = WORKS[args.work]
    words = ["--padding", args.padding] if len(work.padding) > 1 else []
    words += [flag for flag, is_set in (("--bf16", args.bf16_peer), ("--compile", args.compile_peer)) if is_set]
    return Side(peer_name(args), work.peer, tuple(words), allocator=args.allocator_peer)


def peer_name(args: argparse.Namespace) -> str:
    words = ["TRL packed" if args.work == "dialogue" else "HF Trainer"]
    words += [f"padding={args.padding}"] if args.padding else []
    words += ["bf16"] if args.bf16_peer else ["defaults"] if args.work == "dialogue" else ["defaults (fp32)"]
    words += ["compiled"] if args.compile_peer else []
    return " ".join([*words, *(["llmstage's allocator"] if args.allocator_peer else [])])


def conclude(args: argparse.Namespace, ours: list[Run], theirs: list[Run]) -> int:
    """Print medians, ratios and the verdict on the loss. Return 1 if the losses differ too much to compare rates."""
    work = WORKS[args.work]
    ratios = [mine.rate / peer.rate for mine, peer in zip(ours, theirs, strict=True)]
    mine, peer = (statistics.median(run.rate for run in runs) for runs in (ours, theirs))
    ratio = mine / peer
    losses = [statistics.fmean(run.loss for run in runs) for runs in (ours, theirs)]
    apart = losses[0] / losses[1] - 1
    peaks = [statistics.median(run.peak_mb for run in runs) for runs in (ours, theirs)]
    print(f"\nmedian    llmstage {mine:,.1f}, peer {peer:,.1f} {work.unit}: {ratio:.2f} times")
    print(f"pairs     {min(ratios):.2f} to {max(ratios):.2f} times")
    noise = "" if args.runs < 2 else f", ±{spread(ours, theirs):.2%} from the order of the data alone"
    print(f"loss      {losses[0]:.4f} and {losses[1]:.4f}: {apart:+.2%}{noise}")
    print(f"peak RSS  {peaks[0]:,.0f} and {peaks[1]:,.0f} MB")
    fair = abs(apart) <= TOLERANCE
    if not fair:
        print(
            f"\n!!! THE LOSSES DIFFER BY {abs(apart):.1%}, MORE THAN {TOLERANCE:.0%}: THE RATES ARE NOT COMPARABLE !!!"
        )
    if args.write:
        write_row("train.py", cells(args, work, (mine, peer), ratios, apart, peaks))
    return 0 if fair else 1


def cells(
    args: argparse.Namespace,
    work: Work,
    rates: tuple[float, float],
    ratios: list[float],
    apart: float,
    peaks: list[float],
) -> list[str]:
    words = shlex.join(word for word in sys.argv[1:] if word != "--write")
    return [
        args.work, f"{work.model_family}_{args.size}", str(args.length), peer_name(args), f"{rates[0]:,.0f}",
        f"{rates[1]:,.0f} {work.unit}", f"{rates[0] / rates[1]:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
        f"{apart:+.1%}" + ("" if abs(apart) <= TOLERANCE else " **too far apart**"), f"{peaks[0]:,.0f} / {peaks[1]:,.0f}",
        f"{machine()}, {args.threads} threads, load {load()}", f"`{words}`",
    ]  # fmt: skip


def write_row(script: str, row: list[str]) -> None:
    """Add a row to the script's table in benchmarks/README.md. A comment that names the script ends the table."""
    mark = f"<!-- rows of {script} end here -->"
    text = README.read_text("utf-8")
    if mark not in text:
        sys.exit(f"{README} needs the line '{mark}' at the end of the table.")
    README.write_text(text.replace(mark, f"| {' | '.join(row)} |\n{mark}"), "utf-8")


if __name__ == "__main__":
    sys.exit(main())
