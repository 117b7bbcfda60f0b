"""Train a masked LM with transformers' Trainer, as its example script run_mlm.py does: join all texts and cut them into blocks.
DataCollatorForLanguageModeling masks each batch. Prints one JSON line last."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForMaskedLM,
    AutoTokenizer,
    DataCollatorForLanguageModeling,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class Clock(TrainerCallback):
    """Times the steps after the warm-up."""

    def __init__(self, warm_up: int) -> None:
        self.warm_up, self.started, self.seconds = warm_up, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warm_up:
            self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.started


def main() -> None:
    args = arguments()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    with open(args.data, encoding="utf-8") as file:
        lines = file.read().splitlines()
    ids = [token for coded in tokenizer(lines)["input_ids"] for token in coded]
    blocks = [ids[at : at + args.length] for at in range(0, len(ids) - args.length + 1, args.length)]
    clock = Clock(args.warmup)
    trainer = Trainer(
        model=AutoModelForMaskedLM.from_pretrained(args.model),
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=args.batch,
            max_steps=args.steps,
            learning_rate=args.lr,
            seed=args.seed,
            bf16=args.bf16,
            use_cpu=not torch.cuda.is_available(),  # otherwise transformers refuses bf16 on a CPU
            torch_compile=args.compile,
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        ),
        train_dataset=Dataset.from_dict({"input_ids": blocks}),
        data_collator=DataCollatorForLanguageModeling(tokenizer, mlm_probability=0.15),
        callbacks=[clock],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry][-10:]
    rate = (args.steps - args.warmup) * args.batch * args.length / clock.seconds  # blocks are full: all tokens are real
    result = {
        "peer": "transformers.Trainer",
        "unit": "tokens/s",
        "rate": round(rate, 2),
        "real_rate": round(rate, 2),
        "seconds": round(clock.seconds, 3),
        "loss": round(sum(losses) / len(losses), 5),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "settings": vars(args),
    }
    print(json.dumps(result), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face directory: config, tokenizer, weights")
    parser.add_argument("--data", required=True, help="a text file with one document in each line")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3, help="first steps that the rate leaves out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
