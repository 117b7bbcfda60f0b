"""Functions that the scripts of this folder share if they train with transformers' Trainer or a subclass."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
from transformers import TrainerCallback

Rows = list[dict[str, Any]]


def parser(description: str | None, *, length: int, lr: float, batch: int = 16) -> argparse.ArgumentParser:
    words = argparse.ArgumentParser(description=description)
    words.add_argument("--model", required=True, help="Hugging Face directory: config, tokenizer, weights")
    words.add_argument("--data", required=True)
    words.add_argument("--steps", type=int, default=30)
    words.add_argument("--warmup", type=int, default=3, help="first steps that the rate leaves out")
    words.add_argument("--batch", type=int, default=batch)
    words.add_argument("--length", type=int, default=length)
    words.add_argument("--lr", type=float, default=lr)
    words.add_argument("--seed", type=int, default=0)
    words.add_argument("--bf16", action="store_true", help="not the Trainer's default")
    words.add_argument("--compile", action="store_true", help="not the Trainer's default")
    return words


def settings(args: argparse.Namespace) -> dict[str, Any]:
    """Return keyword arguments of TrainingArguments. All other arguments have the library's defaults."""
    return {
        "output_dir": tempfile.mkdtemp(),
        "per_device_train_batch_size": args.batch,
        "max_steps": args.steps,
        "learning_rate": args.lr,
        "seed": args.seed,
        "bf16": args.bf16,
        "use_cpu": not torch.cuda.is_available(),  # otherwise transformers refuses bf16 on a CPU
        "torch_compile": args.compile,
        "report_to": "none",
        "save_strategy": "no",
        "logging_steps": 1,
    }


class Clock(TrainerCallback):
    """Measures the time of the steps after the warm-up, and counts the tokens of their batches."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started, self.seconds = warmup, 0.0, 0.0
        self.batches: list[tuple[int, int]] = []

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warmup:
            self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.started

    def counted(self, collate: Callable[[Rows], Any], count: Callable[[Any], tuple[int, int]]) -> Callable[[Rows], Any]:
        """Wrap the collator; `count` returns (computed, real) of a batch. The collator runs in order, in this process."""

        def wrapped(rows: Rows) -> Any:
            batch = collate(rows)
            self.batches.append(count(batch))
            return batch

        return wrapped


def report(peer: str, unit: str, args: argparse.Namespace, clock: Clock, trainer: Any) -> None:
    """Print the JSON line of figures."""
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    timed = clock.batches[args.warmup : args.steps]  # one batch is one step
    computed, real = (sum(batch[which] for batch in timed) / clock.seconds for which in (0, 1))
    result = {
        "peer": peer,
        "unit": unit,
        "rate": round(computed, 2),
        "real_rate": round(real, 2),
        "seconds": round(clock.seconds, 3),
        "loss": round(sum(losses[-10:]) / len(losses[-10:]), 5),
        "losses": losses,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "settings": vars(args),
    }
    print(json.dumps(result), flush=True)


def tokens_of(batch: Any) -> tuple[int, int]:
    """Return (computed, real) tokens of a batch."""
    count = batch["input_ids"].numel()
    mask = batch.get("attention_mask")
    return count, count if mask is None else int(mask.sum())


def rows_of(batch: Any) -> tuple[int, int]:
    count = len(batch["input_ids"])
    return count, count
