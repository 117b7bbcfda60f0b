"""Measure multiple choice: the log-likelihoods of four choices for many questions, item by item, against lm-evaluation-harness.

python benchmarks/choices.py                                   # installs the harness into an environment of its own
python benchmarks/choices.py --peer-python /path/to/python     # uses an interpreter that has the harness

All sides score the same items with the same weights (gpt_small, untrained unless --model is given) from a local folder. They run in
turn, each in a process of its own. The harness uses its `hf` model, `batch_size=auto` and fp32, its default precision for this
folder. llmstage runs in fp32 and in bf16. In fp32 the answers must be equal: the same choice, and log-likelihoods within a
tolerance. Times do not include loading. They run from questions to answers, with tokenising.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from environments import environment

ROOT = Path(__file__).resolve().parents[1]
PEERS = ROOT / "benchmarks" / "peers"
PEER_NAME = "lm-evaluation-harness"
SIDES = {
    PEER_NAME: ("harness_choices.py", "fp32"),
    "llmstage, fp32": ("llmstage_choices.py", "fp32"),
    "llmstage, bf16": ("llmstage_choices.py", "bf16"),
}
TOLERANCE = {"fp32": 1e-2, "bf16": 0.5}
"""Largest difference, in nats, between two log-likelihoods of one answer."""
WORDS = (
    "river", "stone", "garden", "winter", "music", "letter", "window", "market", "bridge", "forest", "silver", "morning",
    "paper", "doctor", "engine", "island",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--model", type=Path, help="a Hugging Face directory; default: gpt_small with random weights")
    parser.add_argument("--peer-python", help="a Python that has lm_eval and this torch")
    parser.add_argument("--json", type=Path, help="also write the figures to this file")
    parser.add_argument(
        "--quick", action="store_true", help="few items, one round: a smoke test without a meaningful speed"
    )
    args = parser.parse_args()
    if args.quick:
        args.items, args.rounds = 40, 1
    python, why = (args.peer_python, "") if args.peer_python else environment("transformers")
    with tempfile.TemporaryDirectory(prefix="llmstage-choices-") as name:
        work = Path(name)
        items = questions(args.items)
        (work / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
        model = args.model or write_tiny_model(work / "model", items)
        return race(args, work, model, python, {PEER_NAME: why} if why else {})


def race(args: argparse.Namespace, work: Path, model: Path, python: str, failed: dict[str, str]) -> int:
    """Run all sides in turn and print the ratios. Return 1 if answers differ, 2 if a side failed."""
    seconds: dict[str, list[float]] = {}
    answers: dict[str, list[list[float]]] = {}
    for _ in range(args.rounds):
        for side, (script, precision) in SIDES.items():
            if side in failed:
                continue
            out = work / "out.json"
            env = {
                **os.environ,
                "OMP_NUM_THREADS": str(args.threads),
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
            }
            env["PYTHONPATH"] = "" if side == PEER_NAME else str(ROOT)
            command = [python if side == PEER_NAME else sys.executable, str(PEERS / script)]
            words = [str(model), str(work / "items.jsonl"), str(out), precision, str(args.threads)]
            done = subprocess.run([*command, *words], env=env, capture_output=True, text=True)
            if done.returncode:
                failed[side] = done.stderr[-1500:]
                print(f"{side}: {failed[side]}", file=sys.stderr)
                continue
            result: dict[str, Any] = json.loads(out.read_text())
            seconds.setdefault(side, []).append(result["seconds"])
            answers[side] = result["log_likelihoods"]
            print(f"{side:<22} {result['seconds']:7.2f} s   {result['cpu']:7.2f} CPU-s", flush=True)
    differ, notes = False, []
    for side in answers.keys() & SIDES.keys() - {PEER_NAME} if PEER_NAME in answers else ():
        precision = SIDES[side][1]
        same, worst = compare(answers[PEER_NAME], answers[side])
        differ |= worst > TOLERANCE[precision] or (precision == "fp32" and same < args.items)
        ratio = statistics.median(seconds[PEER_NAME]) / statistics.median(seconds[side])
        notes.append(f"{side}: same choice {same:,}/{args.items:,}, log-likelihoods differ by at most {worst:.2g} nats")
        print(f"{notes[-1]}; {ratio:.2f} times as fast")
    if differ:
        print("ANSWERS DIFFER")
    if args.json:
        sides = {
            side: {
                "rates": [args.items / duration for duration in taken],
                "loss": -statistics.fmean(value for four in answers[side] for value in four),
            }
            for side, taken in seconds.items()
        }
        note = f"{args.items:,} questions, 12 M parameters. {'; '.join(sorted(notes))}"
        args.json.write_text(
            json.dumps({"unit": "questions/s", "sides": sides, "failed": failed, "note": note}), "utf-8"
        )
    return 1 if differ else 2 if failed else 0


def compare(theirs: list[list[float]], ours: list[list[float]]) -> tuple[int, float]:
    """Return how many questions have the same best choice, and the largest difference of two log-likelihoods in nats."""
    pairs = list(zip(theirs, ours, strict=True))
    same = sum(first.index(max(first)) == second.index(max(second)) for first, second in pairs)
    return same, max(abs(a - b) for first, second in pairs for a, b in zip(first, second, strict=True))


def questions(number: int) -> list[dict[str, Any]]:
    """Return questions of 30 to 90 words with four answers of 1 to 6 words, from a fixed seed."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    items = []
    for _ in range(number):
        choices: list[str] = []
        while len(choices) < 4:
            question = text(1, 6)
            choices += [question] if question not in choices else []
        items.append(
            {"question": f"{text(30, 90)}. Which is it? Answer:", "choices": choices, "label": rng.randrange(4)}
        )
    return items


def write_tiny_model(folder: Path, items: list[dict[str, Any]]) -> Path:
    """Write gpt_small with the sizes of its preset, and a tokenizer trained on these questions and on English text."""
    import torch

    from llmstage.config import ModelConfig
    from llmstage.demo.prose import prose_rows
    from llmstage.models.build import build_model, save_model
    from llmstage.tokenization.tokenizer import train_processor

    torch.manual_seed(0)
    texts = [item["question"] for item in items] + [str(row["text"]) for row in prose_rows(2000, 0)]
    processor = train_processor(texts, 8192, "gpt", 1024)
    cfg = ModelConfig(
        name="gpt_small",
        num_hidden_layers=6,
        hidden_size=384,
        num_attention_heads=6,
        intermediate_size=1024,
        vocab_size=8192,
    )
    model = build_model(cfg, "AutoModelForCausalLM", processor, 1024, {}, None, offline=True)
    save_model(model, processor, folder)
    print(
        f"gpt_small: {sum(parameter.numel() for parameter in model.parameters()) / 1e6:.1f} M parameters, {len(processor)} tokens"
    )
    return folder


if __name__ == "__main__":
    sys.exit(main())
