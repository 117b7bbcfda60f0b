"""Measure generation speed: llmstage's generation loop against model.generate(), greedy, with the same weights, in turn.

python benchmarks/generate.py --model outputs/latest --data pairs.tsv --rows 500   # an encoder-decoder's translations
python benchmarks/generate.py --family gpt                                         # a causal model's next 64 tokens

t5: texts a second in fp32. The peer calls generate() batch by batch in the order of the data. Without --model, the script first trains
a model on the demo world. gpt: tokens a second of batches of 16 prompts of similar length, in fp32 and bf16 on both sides. No text
ends early, so all sides generate equally many tokens. The script prints how many texts of the fp32 sides agree.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from machine import machine
from train import write_row
from works import text_documents

from llmstage.cli.command import main as llmstage
from llmstage.config import GenerationConfig
from llmstage.demo.translation import translation_rows
from llmstage.models.build import head_is_plain
from llmstage.models.generation import generate_replies, takes_cache
from llmstage.tokenization.tokenizer import Processor, load_processor

BATCH = 16
PROMPTS = range(33, 65)
"""Lengths of a causal model's prompts, in tokens."""
TARGET_RATIO = 3.0
"""Required speed-up of the loop, in fp32 for t5 and in bf16 against fp32 for gpt."""
Write = Callable[[], list[str]]


def main() -> int:
    args = arguments()
    torch.set_num_threads(args.threads)
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        model, processor = load(args.model or trained(Path(name), args), args.family)
    sides, work = (gpt_sides if args.family == "gpt" else t5_sides)(model, processor, args)
    unit = "tokens/s" if args.family == "gpt" else "texts/s"
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    texts: dict[str, list[str]] = {}
    for number in range(args.rounds):
        turn = number % len(sides)
        for name, write in [*list(sides.items())[turn:], *list(sides.items())[:turn]]:
            started = time.perf_counter()
            texts[name] = write()
            seconds[name].append(time.perf_counter() - started)
            print(f"{name:<16} {work / seconds[name][-1]:9,.1f} {unit}", flush=True)
    rates = {name: [work / value for value in results] for name, results in seconds.items()}
    same = sum(
        first == second for first, second in zip(texts["llmstage, fp32"], texts["generate(), fp32"], strict=True)
    )
    size = sum(value.numel() for value in model.parameters()) / 1e6
    print(f"{machine()}, {args.threads} threads, {size:.1f} M parameters; {same} of {args.rows} texts agree in fp32")
    if args.json:
        note = f"{same} of {args.rows} texts agree in fp32"
        results = {"unit": unit, "sides": {name: {"rates": value} for name, value in rates.items()}, "note": note}
        args.json.write_text(json.dumps(results), "utf-8")
    return conclude(args, rates, size, f"{same}/{args.rows}")


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--family", choices=["t5", "gpt"], default="t5")
    parser.add_argument("--model", type=Path, help="a run folder or a Hugging Face directory")
    parser.add_argument("--size", choices=["tiny", "small", "base"], help="preset to train without --model; t5: tiny")
    parser.add_argument(
        "--data", type=Path, help="t5: sources, one in each line; of tab-separated lines, the first column"
    )
    parser.add_argument("--rows", type=int, help="texts to generate; default: 400 for t5, 64 for gpt")
    parser.add_argument("--skip", type=int, default=1, help="use every SKIP-th line of --data")
    parser.add_argument("--new", type=int, help="longest text, in tokens; default: 48 for t5, 64 for gpt")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--steps", type=int, help="training steps without --model; default: 300 for t5, 60 for gpt")
    parser.add_argument("--write", action="store_true", help="t5: add a row to the table of benchmarks/README.md")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    args = parser.parse_args()
    defaults = (64, 64, 60, "small") if args.family == "gpt" else (400, 48, 300, "tiny")
    for name, value in zip(("rows", "new", "steps", "size"), defaults, strict=True):
        setattr(args, name, getattr(args, name) or value)
    return args


def conclude(args: argparse.Namespace, rates: dict[str, list[float]], size: float, agree: str) -> int:
    middle = {name: statistics.median(measured) for name, measured in rates.items()}
    mine = middle["llmstage, bf16" if args.family == "gpt" else "llmstage, fp32"]
    ratio = mine / middle["generate(), fp32"]
    print(f"{ratio:.2f} times as fast as generate() in fp32")
    if ratio < TARGET_RATIO:
        print(f"\n!!! {ratio:.2f} IS LESS THAN {TARGET_RATIO} !!!")
    if args.write and args.family == "t5":
        cells = [f"{size:.1f} M", str(args.rows), f"{mine:.0f}", f"{middle['generate(), fp32']:.0f}", f"{ratio:.2f}"]
        write_row("generate.py", [*cells, agree, f"{machine()}, {args.threads} threads"])
    return 0 if ratio >= TARGET_RATIO else 1


def trained(folder: Path, args: argparse.Namespace) -> Path:
    words = [f"trainer.max_steps={args.steps}", "trainer.eval_every=0", "trainer.train_rows_scored=0"]
    words += [f"trainer.threads={args.threads}", "trainer.baselines=false", f"model={args.family}_{args.size}"]
    if args.family == "gpt":
        documents = [row["text"] for row in text_documents()[0]]
        (folder / "rows").write_text("".join(f"{text}\n" for text in documents), "utf-8")
        (folder / "few").write_text(documents[0], "utf-8")
        words += ["stage=pretrain", "task=causal_lm", f"data.train={folder / 'rows'}", f"data.test={folder / 'few'}"]
        words += ["data.format=text", "data.text_rows=line", "data.split.validation=0", "data.cache=off"]
    else:
        words += ["stage=finetune", "task=translation", "task.generate_rows=1"]
    if llmstage([f"hydra.run.dir={folder}/run", *words]):
        sys.exit("the training run failed")
    return folder / "run"


def load(folder: Path, model_family: str) -> tuple[Any, Processor]:
    from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

    model_dir = folder / "model" if (folder / "model").is_dir() else folder
    auto = AutoModelForCausalLM if model_family == "gpt" else AutoModelForSeq2SeqLM
    model = auto.from_pretrained(model_dir, dtype=torch.float32).eval()
    model.split_head = head_is_plain(model)
    assert takes_cache(model), json.dumps(model.config.model_type)
    return model, load_processor(str(model_dir), local=True)


# Encoder-decoder


def t5_sides(model: Any, processor: Processor, args: argparse.Namespace) -> tuple[dict[str, Write], float]:
    """Return the function of each side, and how many texts each generates."""
    texts = sources(args)
    args.rows = len(texts)
    return {
        "generate(), fp32": lambda: theirs(model, processor, texts, args.new),
        "llmstage, fp32": lambda: ours(model, processor, texts, args.new),
    }, len(texts)  # fmt: skip


def sources(args: argparse.Namespace) -> list[str]:
    if args.data is None:
        return [row["source"] for row in translation_rows(args.rows, 1)]
    lines = args.data.read_text(encoding="utf-8").splitlines()
    return [line.partition("\t")[0] for line in lines[:: args.skip]][: args.rows]


def ours(model: Any, processor: Processor, texts: list[str], new: int) -> list[str]:
    prompts = [processor.marked_ids(text, None, 512)[0] for text in texts]
    return [text for text, _ in generate_replies(model, processor, prompts, GenerationConfig(max_new_tokens=new))]


def theirs(model: Any, processor: Processor, texts: list[str], new: int) -> list[str]:
    """Generate as an example script does: tokenize a batch, pad it, generate, decode."""
    tokenizer, out = processor.tokenizer, []
    for at in range(0, len(texts), BATCH):
        batch = tokenizer(texts[at : at + BATCH], return_tensors="pt", padding=True, truncation=True, max_length=512)
        with torch.no_grad():
            ids = model.generate(**batch, max_new_tokens=new, num_beams=1, do_sample=False)
        out += tokenizer.batch_decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return out


# Causal model


def gpt_sides(model: Any, processor: Processor, args: argparse.Namespace) -> tuple[dict[str, Write], float]:
    """Return the function of each side, and how many tokens each generates. All sides get the same batches."""
    model.generation_config.eos_token_id = None
    half = copy.deepcopy(model).bfloat16()  # as from_pretrained(dtype=bfloat16) loads it
    documents = text_documents()[0]
    prompts = []
    for number in range(args.rows):
        length = PROMPTS[number % len(PROMPTS)]
        prompts.append(processor.marked_ids(documents[number % len(documents)]["text"], None, length)[0][:length])
    prompts.sort(key=len)
    batches = [prompts[at : at + BATCH] for at in range(0, len(prompts), BATCH)]
    sides = {
        "generate(), fp32": lambda: goes_on(model, processor, batches, args.new),
        "generate(), bf16": lambda: goes_on(half, processor, batches, args.new),
        "llmstage, fp32": lambda: our_texts(model, processor, batches, args.new, rounded=False),
        "llmstage, bf16": lambda: our_texts(model, processor, batches, args.new, rounded=True),
    }
    return sides, args.rows * args.new


def our_texts(
    model: Any, processor: Processor, batches: list[list[list[int]]], new: int, *, rounded: bool
) -> list[str]:
    """Generate with llmstage. `rounded`: under bf16 autocast, as with trainer.eval_precision=bf16."""
    cfg, out = GenerationConfig(max_new_tokens=new), []
    for batch in batches:
        with torch.autocast("cpu", torch.bfloat16, enabled=rounded):
            out += [text for text, _ in generate_replies(model, processor, batch, cfg)]
    return out


def goes_on(model: Any, processor: Processor, batches: list[list[list[int]]], new: int) -> list[str]:
    out = []
    for batch in batches:
        longest = max(map(len, batch))
        ids = torch.tensor([[processor.pad_id] * (longest - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in batch])
        with torch.no_grad():
            generated = model.generate(
                input_ids=ids, attention_mask=mask, max_new_tokens=new, do_sample=False, pad_token_id=processor.pad_id
            )
        out += [processor.decode(row[longest:]) for row in generated.tolist()]
    return out


if __name__ == "__main__":
    sys.exit(main())
