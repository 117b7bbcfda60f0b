"""Multiple choice: the log-likelihood of four choices for many questions, against lm-evaluation-harness, item by item.

python benchmarks/choices.py --items 2000                      # the harness goes into an environment made for it
python benchmarks/choices.py --peer-python /path/to/python     # or is there already

Both score the same items with the same weights (gpt_small, untrained unless --model is given) from a local folder, in
processes of their own that take turns; the harness with its `hf` model, `batch_size=auto` and its defaults of precision.
The answers (which choice, and log-likelihoods to a tolerance) must agree; the ratio of the medians is printed. Loading is
left out of both times: what is timed is from questions to answers, tokenising included.
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
import time
import venv
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PEER = ROOT / "benchmarks" / "peers" / "harness_choices.py"
VERSION = "0.4.13"
WANTED = {"fp32": 3.0, "bf16": 5.0}
"""What llmstage is to be faster by: at the same precision, and in bf16 against the harness's default."""
TOLERANCE = {"fp32": 1e-2, "bf16": 0.5}
"""nats"""
WORDS = (
    "river", "stone", "garden", "winter", "music", "letter", "window", "market", "bridge", "forest", "silver", "morning",
    "paper", "doctor", "engine", "island",
)  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--items", type=int, default=2000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--precision", choices=sorted(WANTED), default="fp32")
    parser.add_argument("--model", type=Path, help="a Hugging Face directory; default: gpt_small with random weights")
    parser.add_argument("--peer-python", type=Path, help="a Python that has lm_eval and this torch")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="llmstage-choices-") as name:
        work = Path(name)
        items = questions(args.items)
        (work / "items.jsonl").write_text("\n".join(map(json.dumps, items)), encoding="utf-8")
        model = args.model or made_model(work / "model", items)
        python = args.peer_python or made_environment(work / "env")
        return race(args, work, model, python)


def race(args: argparse.Namespace, work: Path, model: Path, python: Path) -> int:
    """Both in turn; prints the table, returns 1 where answers differ."""
    commands = {
        "harness": [str(python), str(PEER)],
        "llmstage": [sys.executable, __file__.replace("choices.py", "peers/llmstage_choices.py")],
    }
    seconds: dict[str, list[float]] = {name: [] for name in commands}
    answers: dict[str, list[list[float]]] = {}
    for _ in range(args.rounds):
        for name, command in commands.items():
            out = work / f"{name}.json"
            env = {
                **os.environ,
                "OMP_NUM_THREADS": str(args.threads),
                "HF_HUB_OFFLINE": "1",
                "HF_DATASETS_OFFLINE": "1",
            }
            env["PYTHONPATH"] = str(ROOT) if name == "llmstage" else ""
            told = [str(model), str(work / "items.jsonl"), str(out), args.precision, str(args.threads)]
            done = subprocess.run([*command, *told], env=env, capture_output=True, text=True)
            if done.returncode:
                print(done.stderr[-3000:], file=sys.stderr)
                return 2
            found: dict[str, Any] = json.loads(out.read_text())
            seconds[name].append(found["seconds"])
            answers[name] = found["log_likelihoods"]
            print(f"{name:<9} {found['seconds']:7.2f} s   {found['cpu']:7.2f} CPU-s", flush=True)
    middle = {name: statistics.median(found) for name, found in seconds.items()}
    ratio = middle["harness"] / middle["llmstage"]
    pairs = list(zip(answers["harness"], answers["llmstage"], strict=True))
    worst = max(abs(a - b) for one, two in pairs for a, b in zip(one, two, strict=True))
    same = sum(one.index(max(one)) == two.index(max(two)) for one, two in pairs)
    wanted = WANTED[args.precision]
    print(f"same choice: {same}/{len(pairs)}, log-likelihoods apart by {worst:.2g} nats at most")
    print(f"{len(pairs)} items, {args.precision}, {args.threads} threads: {ratio:.2f} x ({wanted:g} wanted)")
    agree = worst <= TOLERANCE[args.precision] and (same == len(pairs) or args.precision == "bf16")
    print("answers agree" if agree else "ANSWERS DIFFER")
    return 0 if agree else 1


def questions(number: int) -> list[dict[str, Any]]:
    """Questions of 30 to 90 words with four answers of 1 to 6, seeded."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    items = []
    for _ in range(number):
        choices: list[str] = []
        while len(choices) < 4:
            made = text(1, 6)
            choices += [made] if made not in choices else []
        items.append(
            {"question": f"{text(30, 90)}. Which is it? Answer:", "choices": choices, "label": rng.randrange(4)}
        )
    return items


def made_model(folder: Path, items: list[dict[str, Any]]) -> Path:
    """gpt_small with the sizes of its preset, and a tokenizer of these texts and of English."""
    import torch

    from llmstage.data.demo.prose import prose_rows
    from llmstage.models.build import build_model, save_model
    from llmstage.models.tokenizer import train_processor
    from llmstage.schema import ModelConfig

    torch.manual_seed(0)
    texts = [item["question"] for item in items] + [str(row["text"]) for row in prose_rows(2000, 0)]
    processor = train_processor(texts, 8192, "gpt", 1024)
    cfg = ModelConfig(name="gpt_small", layers=6, width=384, heads=6, mlp_width=1024, vocab_size=8192)
    model = build_model(cfg, "AutoModelForCausalLM", processor, 1024, {}, None, offline=True)
    save_model(model, processor, folder)
    print(
        f"gpt_small: {sum(one.numel() for one in model.parameters()) / 1e6:.1f} M parameters, {len(processor)} pieces"
    )
    return folder


def made_environment(folder: Path) -> Path:
    """An environment of its own for the harness that borrows this one's torch."""
    import torch

    venv.create(folder, with_pip=True)
    python = folder / "bin" / "python"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    borrowed = Path(torch.__file__).parents[1]
    (folder / "lib" / version / "site-packages" / "borrowed.pth").write_text(f"{borrowed}\n")
    started = time.perf_counter()
    subprocess.run([str(python), "-m", "pip", "install", "-q", f"lm-eval=={VERSION}"], check=True)
    print(f"lm-eval {VERSION} installed in {time.perf_counter() - started:.0f} s (untimed)")
    return python


if __name__ == "__main__":
    sys.exit(main())
