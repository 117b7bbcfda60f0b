"""Encode a large text corpus with llmstage: measure memory, speed, and the time to open it again.

python benchmarks/tokenize_corpus.py --mb 1000
python benchmarks/tokenize_corpus.py --mb 60 --peer    # against datasets' map() as run_clm.py calls it

llmstage.training.setup makes rows, splits, tokenizer and encoded examples with default options, in a separate process.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from machine import machine
from race import child
from train import write_row
from works import REPOSITORY

LIMIT_MB = 1500
"""Limit of resident memory for a corpus of any size, in MB."""
WORDS = 200_000
"""Different words of the corpus. Their frequencies follow Zipf's law, as in a natural language."""
PEER = "run_clm's map, then group"
PHASES = ("open_sources", "choose_processor", "encode", "find_leaks")
"""Functions of llmstage.training.setup that the script times."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mb", type=int, default=1000, help="size of the corpus, in 10^6 bytes")
    parser.add_argument("--vocab", type=int, default=8192)
    parser.add_argument("--context", type=int, default=256)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument(
        "--folder", type=Path, help="folder for the corpus and the encoded examples; default: a temporary folder"
    )
    parser.add_argument("--write", action="store_true", help="add a row to the table of benchmarks/README.md")
    parser.add_argument(
        "--peer", action="store_true", help="also measure the way of run_clm.py, in turn: datasets' map(), twice"
    )
    parser.add_argument("--runs", type=int, default=3, help="with --peer: rounds of both")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peer's packages")
    parser.add_argument("--json", type=Path, help="with --peer: also write the figures to this file")
    parser.add_argument("--part", choices=["corpus", "encode", "open"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.part:
        parts: dict[str, Callable[[argparse.Namespace], dict[str, Any]]]
        parts = {"corpus": corpus, "encode": encode, "open": reopen}
        print(json.dumps(parts[args.part](args)))
        return 0
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        return (compare if args.peer else measure)(args, args.folder or Path(name))


def compare(args: argparse.Namespace, folder: Path) -> int:
    """Measure both ways in turn, on the same corpus, with the tokenizer that llmstage trained on it."""
    folder.mkdir(parents=True, exist_ok=True)
    corpus, _, _ = run_part("corpus", args, folder)
    size = corpus["bytes"] / 1e6
    run_part("encode", args, folder)  # trains the tokenizer for both sides
    (tokenizer,) = (path.parent for path in (folder / "cache").glob("**/tokenizer.json"))
    sides: dict[str, dict[str, Any]] = {name: {"rates": [], "peaks": []} for name in ("llmstage", PEER)}
    for number in range(args.runs):
        for name in list(sides) if number % 2 == 0 else reversed(list(sides)):
            if name == PEER:
                words = ["--data", folder / "corpus.txt", "--model", tokenizer, "--length", args.context]
                script = Path(__file__).with_name("peers") / "hf_tokenize.py"
                environment = {
                    **os.environ,
                    "HF_HUB_OFFLINE": "1",
                    "PYTHONPATH": "",
                    "RAYON_NUM_THREADS": str(args.threads),
                }
                environment["HF_DATASETS_CACHE"] = str(folder / "peer")
                output, peak, _ = child([args.peer_python, str(script), *map(str, words)], environment, folder)
                seconds = json.loads(output.splitlines()[-1])["seconds"]
            else:
                shutil.rmtree(folder / "cache" / "features")
                encoded, peak, _ = run_part("encode", args, folder)
                seconds = encoded["phases"]["encode"]
            sides[name]["rates"].append(size / seconds)
            sides[name]["peaks"].append(peak)
            print(f"{name:<24} {size / seconds:6.2f} MB/s; peak {peak:,.0f} MB", flush=True)
    for side in sides.values():
        side["peak_mb"] = statistics.median(side.pop("peaks"))
    if args.json:
        args.json.write_text(
            json.dumps({"unit": "MB/s", "sides": sides, "note": f"{size:,.0f} MB of generated text"}), "utf-8"
        )
    return 0


def measure(args: argparse.Namespace, folder: Path) -> int:
    folder.mkdir(parents=True, exist_ok=True)
    corpus, _, wall = run_part("corpus", args, folder)
    print(f"{machine()}, {args.threads} threads\ncorpus    {corpus['bytes'] / 1e6:,.0f} MB in {wall:.0f} s")
    encoded, peak, wall = run_part("encode", args, folder)
    speed, overall = (corpus["bytes"] / 1e6 / seconds for seconds in (encoded["phases"]["encode"], encoded["seconds"]))
    print(
        f"encode    {encoded['features']:,} features, {encoded['tokens'] / 1e6:,.1f} M tokens; {phases_text(encoded['phases'])}"
    )
    print(f"          tokenising {speed:.2f} MB/s; all {encoded['seconds']:.0f} s, {overall:.2f} MB/s")
    fine = peak < LIMIT_MB
    print(f"peak RSS  {peak:,.0f} MB ({encoded['imports_mb']:,.0f} MB after the imports); limit {LIMIT_MB:,}")
    again, peak_again, _ = run_part("open", args, folder)
    print(f"open      memory map {again['map_seconds'] * 1000:.1f} ms; a second run {again['seconds']:.2f} s "
          f"({phases_text(again['phases'])}), peak {peak_again:,.0f} MB")  # fmt: skip
    if not fine:
        print(f"\n!!! {peak:,.0f} MB ARE MORE THAN {LIMIT_MB:,} MB !!!")
    if args.write:
        cells = [
            f"{args.mb:,}", f"{speed:.2f}", f"{overall:.2f}", f"{peak:,.0f}",
            f"{again['map_seconds'] * 1000:.1f} ms", f"{again['seconds']:.1f} s", f"{machine()}, {args.threads} threads",
        ]  # fmt: skip
        write_row("tokenize_corpus.py", cells)
    return 0 if fine else 1


def run_part(part: str, args: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], float, float]:
    """Run a part in a new process. Return its printed JSON, peak resident MB and seconds."""
    words = ["--mb", args.mb, "--vocab", args.vocab, "--context", args.context, "--folder", folder, "--part", part]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "RAYON_NUM_THREADS"), str(args.threads))
    output, peak, wall = child([sys.executable, __file__, *map(str, words)], {**os.environ, **threads}, REPOSITORY)
    return json.loads(output.splitlines()[-1]), peak, wall


def phases_text(phases: dict[str, float]) -> str:
    return ", ".join(f"{name} {seconds:.1f} s" for name, seconds in phases.items())


def corpus(args: argparse.Namespace) -> dict[str, Any]:
    """Write folder/corpus.txt: paragraphs of generated words with numbers and punctuation; a tenth is Chinese characters."""
    import numpy as np

    from llmstage.demo import words

    path = args.folder / "corpus.txt"
    rng = np.random.default_rng(0)
    heads, tails = words("b c d f g h k l m n p r s t v w st tr pl"), words("a e i o u ai er on")
    syllables = np.array([head + tail for head in heads for tail in tails])
    length = rng.integers(1, 5, WORDS)
    latin = np.array(["".join(rng.choice(syllables, size)) for size in length], dtype=object)
    latin[::40] = [str(number) for number in rng.integers(0, 10_000, len(latin[::40]))]
    han = np.array(["".join(map(chr, rng.integers(0x4E00, 0x5E00, size))) for size in length], dtype=object)
    marks = np.array([" "] * 89 + [", "] * 5 + [". "] * 4 + [".\n", ".\n\n"], dtype=object)
    cumulative = np.cumsum(1 / np.arange(1, WORDS + 1))
    size, number = 0, 0
    with path.open("wb") as file:
        while size < args.mb * 1_000_000:
            drawn = np.searchsorted(cumulative, rng.random(100_000) * cumulative[-1])
            chosen = (han if number % 10 == 9 else latin)[drawn]
            joined = np.column_stack([chosen, marks[rng.integers(0, len(marks), len(chosen))]])
            data = "".join(joined.ravel().tolist()).encode()[: args.mb * 1_000_000 - size]
            data = data.decode("utf-8", "ignore").encode()
            size, number = size + max(1, file.write(data)), number + 1
    return {"bytes": path.stat().st_size}


def assembled(args: argparse.Namespace) -> tuple[Any, dict[str, float], float]:
    """Do what a training run does before it builds its model. Return components, seconds of each phase, and total seconds."""
    import yaml

    from llmstage.config import RunConfig, build_run
    from llmstage.paths import conf_dir
    from llmstage.training import setup

    task, model = (
        yaml.safe_load((conf_dir() / name).read_text("utf-8"))
        for name in ("task/causal_lm.yaml", "model/gpt_tiny.yaml")
    )
    wrong: list[str] = []
    data = {"train": str(args.folder / "corpus.txt"), "context": args.context, "cache": str(args.folder / "cache")}
    plain = {"stage": {"name": "pretrain"}, "task": task.get("task", task), "data": data}
    run: RunConfig = build_run({**plain, "model": {**model, "vocab_size": args.vocab}}, wrong)
    assert not wrong, wrong
    phases = dict.fromkeys(PHASES, 0.0)
    for name in PHASES:
        setattr(setup, name, timed(getattr(setup, name), name, phases))
    started = time.perf_counter()
    components = setup.setup_run(run, args.folder, training=True)
    return components, phases, time.perf_counter() - started


def timed(function: Callable[..., Any], name: str, seconds: dict[str, float]) -> Callable[..., Any]:
    def wrapped(*args: Any, **kwargs: Any) -> Any:
        started = time.perf_counter()
        try:
            return function(*args, **kwargs)
        finally:
            seconds[name] += time.perf_counter() - started

    return wrapped


def encode(args: argparse.Namespace) -> dict[str, Any]:
    import resource

    from llmstage.training import setup as setup_run

    imports = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    del setup_run
    components, phases, seconds = assembled(args)
    ledgers = [store.ledger for store in components.stores.values()]
    return {
        "features": sum(ledger.features for ledger in ledgers), "tokens": sum(ledger.tokens for ledger in ledgers),
        "phases": phases, "seconds": seconds, "imports_mb": imports,
    }  # fmt: skip


def reopen(args: argparse.Namespace) -> dict[str, Any]:
    """Open the largest store of encoded examples alone, then do everything that a second run on the same corpus does."""
    from llmstage.data.encoding.store import ExampleStore

    folders = [path.parent for path in (args.folder / "cache" / "features").glob("*/*/meta.json")]
    largest = max(folders, key=lambda folder: (folder / "input_ids.bin").stat().st_size)
    started = time.perf_counter()
    ExampleStore.open(largest)
    alone = time.perf_counter() - started
    _, phases, seconds = assembled(args)
    return {"map_seconds": alone, "phases": phases, "seconds": seconds}


if __name__ == "__main__":
    sys.exit(main())
