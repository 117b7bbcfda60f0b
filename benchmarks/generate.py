"""Texts a second: the project's generation loop against model.generate() called batch by batch in data order, in fp32.

python benchmarks/generate.py --model outputs/latest --data pairs.tsv --rows 500

Both write greedily for the same sources with the same weights in one process, taking turns; the ratio of the medians is
printed, and how many texts agree. Without --model, a t5_tiny is trained on the demo world first.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from train import machine, write_row

from llmstage.cli import main as llmstage
from llmstage.data.demo.translation import translation_rows
from llmstage.models.generate import generate_replies, takes_cache
from llmstage.models.tokenizer import Processor, load_processor
from llmstage.schema import GenerationConfig

BATCH = 16
WANTED = 3.0
"""What the loop is to be faster by."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, help="a run folder or a Hugging Face directory of an encoder-decoder")
    parser.add_argument("--data", type=Path, help="sources, one a line, the first column of tab-separated ones")
    parser.add_argument("--rows", type=int, default=400)
    parser.add_argument("--skip", type=int, default=1, help="take every so manieth line of --data")
    parser.add_argument("--new", type=int, default=48, help="longest text, in tokens")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, default=300, help="training steps where no --model is given")
    parser.add_argument("--write", action="store_true", help="add a row to the table of benchmarks/README.md")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        folder = args.model or trained(Path(name), args)
        model, processor = load(folder)
    told = sources(args)
    seconds: dict[str, list[float]] = {"ours": [], "generate()": []}
    texts: dict[str, list[str]] = {}
    for _ in range(args.rounds):
        for name, write in (("generate()", theirs), ("ours", ours)):
            started = time.perf_counter()
            texts[name] = write(model, processor, told, args.new)
            seconds[name].append(time.perf_counter() - started)
            print(f"{name:<12} {seconds[name][-1]:7.2f} s", flush=True)
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    ratio = middle["generate()"] / middle["ours"]
    same = sum(one == two for one, two in zip(texts["ours"], texts["generate()"], strict=True))
    size = sum(value.numel() for value in model.parameters()) / 1e6
    print(f"{machine()}, {args.threads} threads, {size:.1f} M parameters, {len(told)} texts")
    print(f"ours {len(told) / middle['ours']:.0f} texts/s, generate() {len(told) / middle['generate()']:.0f} texts/s: "
          f"{ratio:.2f} times as fast; {same} of {len(told)} texts agree")  # fmt: skip
    if ratio < WANTED:
        print(f"\n!!! {ratio:.2f} IS LESS THAN {WANTED} !!!")
    if args.write:
        write_row("generate.py", [f"{size:.1f} M", str(len(told)), f"{len(told) / middle['ours']:.0f}",
                                  f"{len(told) / middle['generate()']:.0f}", f"{ratio:.2f}", f"{same}/{len(told)}",
                                  f"{machine()}, {args.threads} threads"])  # fmt: skip
    return 0 if ratio >= WANTED else 1


def trained(folder: Path, args: argparse.Namespace) -> Path:
    words = [f"trainer.max_steps={args.steps}", "trainer.eval_every=0", "trainer.train_rows_scored=0"]
    words += [f"trainer.threads={args.threads}", "trainer.baselines=false", "task.generate_rows=1"]
    if llmstage(["stage=finetune", "task=translation", f"hydra.run.dir={folder}/run", *words]):
        sys.exit("the training run failed")
    return folder / "run"


def load(folder: Path) -> tuple[Any, Processor]:
    from transformers import AutoModelForSeq2SeqLM

    place = folder / "model" if (folder / "model").is_dir() else folder
    model = AutoModelForSeq2SeqLM.from_pretrained(place, dtype=torch.float32).eval()
    assert takes_cache(model), json.dumps(model.config.model_type)
    return model, load_processor(str(place), local=True)


def sources(args: argparse.Namespace) -> list[str]:
    if args.data is None:
        return [row["source"] for row in translation_rows(args.rows, 1)]
    lines = args.data.read_text(encoding="utf-8").splitlines()
    return [line.partition("\t")[0] for line in lines[:: args.skip]][: args.rows]


def ours(model: Any, processor: Processor, told: list[str], new: int) -> list[str]:
    prompts = [processor.marked_ids(text, None, 512)[0] for text in told]
    return [text for text, _ in generate_replies(model, processor, prompts, GenerationConfig(max_new_tokens=new))]


def theirs(model: Any, processor: Processor, told: list[str], new: int) -> list[str]:
    """As an example script does it: tokenize a batch, pad it, generate, decode."""
    tokenizer, out = processor.tokenizer, []
    for at in range(0, len(told), BATCH):
        batch = tokenizer(told[at : at + BATCH], return_tensors="pt", padding=True, truncation=True, max_length=512)
        with torch.no_grad():
            ids = model.generate(**batch, max_new_tokens=new, num_beams=1, do_sample=False)
        out += tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return out


if __name__ == "__main__":
    sys.exit(main())
