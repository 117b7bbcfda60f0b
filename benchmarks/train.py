"""Training speed against a peer's: both run in turn, on one model directory, one file of rows, one thread count.

python benchmarks/train.py --work causal_lm --size small --length 256 --steps 40 --runs 3

The peers are scripts that print one JSON line last (see benchmarks/README.md); they live outside this repository.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import os
import platform
import random
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
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # this checkout is measured, installed or not
README = Path(__file__).with_name("README.md")
WARM_UP = 3
"""Steps left out of the rate, on both sides."""
LEAST = 20
"""Fewest steps of a run."""
LOSS = re.compile(r"'loss': '?([0-9.e+-]+)")
TOLERANCE = 0.02
"""Largest relative difference of the losses under which two rates may be compared."""
DOCUMENT = 4000
"""Characters of a document: about those of a block under llmstage's default data.text_rows=block."""
KIND = {"causal_lm": "gpt", "classification": "bert", "question_answering": "bert"}
UNIT = {"causal_lm": "tokens/s", "classification": "rows/s", "question_answering": "rows/s"}
LENGTH = {"causal_lm": 256, "classification": 128, "question_answering": 384}
RATE = {"causal_lm": 3e-4, "classification": 1e-4, "question_answering": 3e-4}
HEAD = {
    "causal_lm": "AutoModelForCausalLM", "classification": "AutoModelForSequenceClassification",
    "question_answering": "AutoModelForQuestionAnswering",
}  # fmt: skip
OWN_PEERS = Path(__file__).with_name("peers")
SCRIPT = {"causal_lm": "hf_clm.py", "classification": "hf_classify.py", "question_answering": "hf_qa.py"}
"""A peer that lies in OWN_PEERS is taken from there, any other from --peers."""
STRIDE = 128
"""Tokens that neighbouring windows of a context share, on both sides: run_qa.py's default."""


@dataclass(slots=True)
class Run:
    """What one training run measured."""

    rate: float
    """Real tokens or rows a second, after the warm-up."""
    computed: float
    """The same with padding counted; for rows, equal to `rate`."""
    loss: float
    """Mean over the steps that `tail_of` names."""
    peak_mb: float
    """Largest resident set of the process, from wait4: imports, data and training."""
    wall: float
    """Seconds of the whole command."""


def main() -> int:
    args = arguments()
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        folder = Path(name)
        # In a process of its own: wait4 would otherwise count this process's memory as the children's.
        with multiprocessing.get_context("spawn").Pool(1) as pool:
            about, num_rows = pool.apply(prepare, (folder, vars(args)))
        tail = tail_of(args, num_rows)
        print(f"{about}\n{machine()}, {args.threads} threads; {args.steps} steps x {args.batch} rows of {args.length}")
        ours: list[Run] = []
        theirs: list[Run] = []
        for number in range(args.runs):
            pair = [("llmstage", ours, run_llmstage), ("peer", theirs, run_peer)]
            for who, runs, start in pair if number % 2 == 0 else reversed(pair):
                runs.append(start(args, folder, number, tail))
                print(f"run {number + 1}  {who:9} {show(runs[-1], UNIT[args.work])}", flush=True)
    return conclude(args, ours, theirs)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--work", choices=list(KIND), default="causal_lm")
    parser.add_argument("--size", choices=["tiny", "small", "base"], default="small")
    parser.add_argument(
        "--length",
        type=int,
        help="tokens of a row; default 256 for causal_lm, 128 for classification, 384 for question_answering",
    )
    parser.add_argument("--padding", choices=["max", "dynamic"], default="max", help="the peer's, for classification")
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--runs", type=int, default=3)
    parser.add_argument("--lr", type=float, help="default 1e-4 for classification, else 3e-4")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--bf16-peer", action="store_true", help="bf16 for the peer too; not its default")
    parser.add_argument("--compile-peer", action="store_true", help="torch.compile for the peer; not its default")
    parser.add_argument("--peers", type=Path, default=REPOSITORY.parent / "shared" / "peers")
    parser.add_argument("--peer-python", default=sys.executable, help="interpreter with the peer's packages")
    parser.add_argument("--write", action="store_true", help="add a row to the table of benchmarks/README.md")
    parser.add_argument("overrides", nargs="*", help="further llmstage words, e.g. trainer.precision=fp32")
    args = parser.parse_args()
    args.length = args.length or LENGTH[args.work]
    args.lr = args.lr or RATE[args.work]
    if args.steps < LEAST:
        parser.error(f"--steps must be at least {LEAST}: {WARM_UP} warm up, and the last half gives the loss")
    return args


def tail_of(args: argparse.Namespace, num_rows: int) -> int:
    """How many of the last steps give the compared loss: the last whole pass, or half of a run that is shorter.

    In a whole pass both sides see the same rows, so how they were shuffled hardly matters. Documents are cut into windows,
    a pass of which is longer than any run here.
    """
    batches = num_rows // args.batch
    whole = args.work != "causal_lm" and batches <= args.steps
    return batches if whole else int(args.steps) // 2


def prepare(folder: Path, args: dict[str, Any]) -> tuple[str, int]:
    """(what was made, number of rows). Write `folder/rows`, `folder/few` and `folder/model` (config, tokenizer, seeded weights): what both sides start from."""
    import torch
    import transformers
    import yaml

    from llmstage.models.build import preset_config
    from llmstage.models.tokenizer import train_processor
    from llmstage.places import conf_dir
    from llmstage.schema.run import ModelConfig

    transformers.utils.logging.disable_progress_bar()
    work, kind, length = args["work"], KIND[args["work"]], args["length"]
    preset = ModelConfig(**yaml.safe_load((conf_dir() / "model" / f"{kind}_{args['size']}.yaml").read_text("utf-8")))
    rows, source = {"causal_lm": text_documents, "classification": labelled_rows, "question_answering": questions}[
        work
    ]()
    texts = [row["context"] + row["question"] if work == "question_answering" else row["text"] for row in rows]
    processor = train_processor(texts, preset.vocab_size, kind, length)
    seen = sum(min(len(ids), length) for ids in processor.plain_ids(texts)) if work == "causal_lm" else len(rows)
    wanted = args["steps"] * args["batch"] * (length if work == "causal_lm" else 1)
    rows = rows * math.ceil(1.1 * wanted / seen) if work == "causal_lm" else rows
    # Whole batches only, so rows per second are exact; a row of question_answering is a window of a question's context.
    num_rows, rows = whole_batches(rows, args, processor)
    lines = [row["text"] if work == "causal_lm" else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "rows").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    # llmstage ends a run by scoring something; so few rows cost it a moment, and no part of the timed steps.
    (folder / "few").write_text("".join(f"{line}\n" for line in lines[: args["batch"]]), encoding="utf-8")
    options = {} if work != "classification" else {"num_labels": 2}
    config = preset_config(preset, processor, length, options)
    config.vocab_size = max(preset.vocab_size, len(processor))
    torch.manual_seed(0)
    model = getattr(transformers, HEAD[work]).from_config(config)
    model.save_pretrained(folder / "model")
    processor.save(folder / "model")
    size = sum(parameter.numel() for parameter in model.parameters())
    return f"{kind}_{args['size']}, {size / 1e6:.1f} M parameters, {num_rows:,} rows of {source}", num_rows


def whole_batches(rows: list[dict[str, Any]], args: dict[str, Any], processor: Any) -> tuple[int, list[dict[str, Any]]]:
    """(rows as the model sees them, the first rows of the file that give a whole number of batches of those)."""
    if args["work"] != "question_answering":
        num_rows = len(rows) // args["batch"] * args["batch"]
        return num_rows, rows[:num_rows]
    best, seen = (0, 0), 0
    for number, row in enumerate(rows, 1):
        seen += len(processor.pair_windows(row["question"], row["context"], args["length"], STRIDE)[0])
        best = (seen, number) if seen % args["batch"] == 0 else best
    return best[0], rows[: best[1]]


def text_documents() -> tuple[list[dict[str, Any]], str]:
    """Documents of about DOCUMENT characters, one a line: real text where it is at hand, else the prose world.

    Sentences are shuffled, so that batches are alike and the losses of two orders can be compared after few steps.
    """
    folder = REPOSITORY.parent / "shared" / "data" / "wikitext2"
    if (folder / "test.txt").is_file():
        files = [(folder / f"{name}.txt").read_text("utf-8") for name in ("test", "valid")]
        pieces = [piece.strip() for text in files for line in text.splitlines() for piece in line.split(" . ")]
        source = "WikiText-2 (test and validation files)"
    else:
        from llmstage.data.demo.prose import prose_rows

        pieces, source = [row["text"] for row in prose_rows(8000, 0)], "the prose demo world"
    documents, parts, size = [], [], 0
    random.Random(0).shuffle(pieces)
    for piece in filter(None, pieces):
        parts.append(piece)
        size += len(piece)
        if size >= DOCUMENT:
            documents.append({"text": " . ".join(parts)})
            parts, size = [], 0
    return documents, source


def labelled_rows() -> tuple[list[dict[str, Any]], str]:
    """Sentences of two classes: SST-2 where it is at hand, else the demo world cut to two labels."""
    path = REPOSITORY.parent / "shared" / "data" / "sst2" / "train.tsv"
    if path.is_file():
        lines = (line.rstrip("\n").rpartition("\t") for line in path.open(encoding="utf-8"))
        return [{"text": text, "label": int(label)} for text, _, label in lines], "SST-2"
    from llmstage.data.demo.classification import classification_rows

    rows = classification_rows(6000, 0)
    names = sorted({row["label"] for row in rows})
    return [{"text": row["text"], "label": names.index(row["label"]) % 2} for row in rows], "the demo world"


def questions() -> tuple[list[dict[str, Any]], str]:
    """Questions with one answer in a context: XQuAD (en) where it is at hand, else the demo world; shuffled."""
    path = REPOSITORY.parent / "shared" / "data" / "xquad" / "xquad.en.json"
    if path.is_file():
        articles = json.loads(path.read_text("utf-8"))["data"]
        asked = [
            (part["context"], one) for article in articles for part in article["paragraphs"] for one in part["qas"]
        ]
        rows = [{"question": one["question"], "context": text, "answers": one["answers"]} for text, one in asked]
        source = "XQuAD (en)"
    else:
        from llmstage.data.demo.questions import question_rows

        rows, source = question_rows(2000, 0), "the demo world"
    random.Random(0).shuffle(rows)
    return rows, source


def run_llmstage(args: argparse.Namespace, folder: Path, number: int, tail: int) -> Run:
    """As a user would start it; only what a fair race fixes is set, all else is the default."""
    out = folder / f"run-{number}"
    rows = ["data.format=text", "data.text_rows=line"] if args.work == "causal_lm" else ["data.format=jsonl"]
    words = [
        f"stage={'pretrain' if args.work == 'causal_lm' else 'finetune'}", f"task={args.work}",
        f"model.path={folder / 'model'}", f"data.train={folder / 'rows'}", *rows, f"data.context={args.length}",
        f"data.test={folder / 'few'}", "data.split.validation=0", "data.max_lost=1", f"data.cache={folder / 'cache'}",
        f"trainer.max_steps={args.steps}", f"trainer.batch_size={args.batch}", f"trainer.threads={args.threads}",
        "trainer.device=cpu", "trainer.eval_every=0", "trainer.save_every=0", "trainer.train_rows_scored=0",
        # transformers' defaults: linear to 0, no warm-up, no decay, betas (0.9, 0.999), clipping at 1.
        f"optim.lr={args.lr}", "optim.schedule=linear", "optim.warmup_steps=0", "optim.min_lr_share=0",
        "optim.weight_decay=0", "optim.beta1=0.9", "optim.beta2=0.999", "optim.eps=1e-8", "optim.max_grad_norm=1",
        f"seed={number}", f"hydra.run.dir={out}", *args.overrides,
    ]  # fmt: skip
    words += [f"task.stride={STRIDE}"] if args.work == "question_answering" else []
    _, peak, wall = child([sys.executable, "-m", "llmstage", *words], dict(os.environ), REPOSITORY)
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text("utf-8").splitlines()]
    steps = [line for line in lines if line.get("kind") == "train"]
    report = json.loads((out / "report.json").read_text("utf-8"))["train"]
    seconds = steps[-1]["seconds"] - steps[WARM_UP - 1]["seconds"]
    tokens = sum(line["tokens"] for line in steps[WARM_UP:])
    # Rows are counted, not derived from tokens: the file holds whole batches.
    real = tokens / seconds if args.work == "causal_lm" else (len(steps) - WARM_UP) * args.batch / seconds
    computed = real / report["real_share"] if args.work == "causal_lm" else real
    loss = statistics.fmean(line["loss"] for line in steps[-tail:])
    return Run(real, computed, loss, peak, wall)


def run_peer(args: argparse.Namespace, folder: Path, number: int, tail: int) -> Run:
    script = SCRIPT[args.work]
    place = OWN_PEERS if (OWN_PEERS / script).is_file() else args.peers
    words = ["--model", folder / "model", "--data", folder / "rows", "--steps", args.steps, "--warmup", WARM_UP,
             "--batch", args.batch, "--length", args.length, "--lr", args.lr, "--seed", number]  # fmt: skip
    words += ["--padding", args.padding] if args.work == "classification" else []
    words += ["--stride", STRIDE] if args.work == "question_answering" else []
    words += [flag for flag, wanted in (("--bf16", args.bf16_peer), ("--compile", args.compile_peer)) if wanted]
    threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
    # The file of rows may be any text: the peers must not ask a hub for anything.
    environment = {**os.environ, **threads, "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "true"}
    output, peak, wall = child([args.peer_python, str(place / script), *map(str, words)], environment, folder)
    found = json.loads(next(line for line in reversed(output.splitlines()) if line.startswith("{")))
    losses = [float(value) for value in LOSS.findall(output)]  # one printed by the Trainer for each step
    if len(losses) != args.steps:
        sys.exit(f"{script} printed {len(losses)} losses in {args.steps} steps: they cannot be compared")
    return Run(found["real_rate"], found["rate"], statistics.fmean(losses[-tail:]), peak, wall)


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


def show(run: Run, unit: str) -> str:
    share = f", {run.rate / run.computed:.0%} of the computed tokens real" if unit == "tokens/s" else ""
    return f"{run.rate:9,.1f} {unit}{share}; loss {run.loss:.4f}; peak {run.peak_mb:,.0f} MB; {run.wall:.1f} s in all"


def conclude(args: argparse.Namespace, ours: list[Run], theirs: list[Run]) -> int:
    """Medians, ratios and the verdict on the loss; 1 where the losses are too far apart to compare rates."""
    ratios = [mine.rate / other.rate for mine, other in zip(ours, theirs, strict=True)]
    mine, other = (statistics.median(run.rate for run in runs) for runs in (ours, theirs))
    ratio = mine / other
    losses = [statistics.fmean(run.loss for run in runs) for runs in (ours, theirs)]
    apart = losses[0] / losses[1] - 1
    peaks = [statistics.median(run.peak_mb for run in runs) for runs in (ours, theirs)]
    print(f"\nmedian    llmstage {mine:,.1f}, peer {other:,.1f} {UNIT[args.work]}: {ratio:.2f} times")
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
            args.work, f"{KIND[args.work]}_{args.size}", str(args.length), peer_name(args), f"{mine:,.0f}",
            f"{other:,.0f} {UNIT[args.work]}", f"{ratio:.2f} ({min(ratios):.2f}–{max(ratios):.2f})",
            f"{apart:+.1%}" + ("" if fair else " **too far apart**"), f"{peaks[0]:,.0f} / {peaks[1]:,.0f}",
            f"{machine()}, {args.threads} threads", f"`{words}`",
        ]  # fmt: skip
        write_row("train.py", cells)
    return 0 if fair else 1


def spread(ours: list[Run], theirs: list[Run]) -> float:
    """Standard error of the relative difference of the mean losses."""
    variances = [statistics.variance(run.loss for run in runs) / len(runs) for runs in (ours, theirs)]
    return math.sqrt(sum(variances)) / statistics.fmean(run.loss for run in theirs)


def peer_name(args: argparse.Namespace) -> str:
    padding = {"classification": args.padding, "question_answering": "max"}.get(args.work)
    words = ["HF Trainer", *([f"padding={padding}"] if padding else [])]
    words += ["bf16"] if args.bf16_peer else ["defaults (fp32)"]
    return " ".join([*words, *(["compiled"] if args.compile_peer else [])])


def write_row(script: str, cells: list[str]) -> None:
    """Add a row to the script's table in benchmarks/README.md, which ends at a comment that names the script."""
    mark = f"<!-- rows of {script} end here -->"
    text = README.read_text("utf-8")
    if mark not in text:
        sys.exit(f"{README} lacks the line '{mark}': the row has no place.")
    README.write_text(text.replace(mark, f"| {' | '.join(cells)} |\n{mark}"), "utf-8")


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
