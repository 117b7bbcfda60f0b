"""Train extractive question answering with transformers' Trainer, as its example script run_qa.py does: every window is padded to
--length, windows share --stride tokens, fp32. --data is JSON lines of {"question", "context", "answers"}.

Training uses the loss of transformers, a softmax over all positions. The printed losses use the same logits over the legal positions
of a span: the context and the first special token. llmstage trains on that loss and reports it. Prints one JSON line last;
benchmarks/README.md explains its keys.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from datasets import Dataset
from transformers import (
    AutoModelForQuestionAnswering,
    AutoTokenizer,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    default_data_collator,
)


class Clock(TrainerCallback):
    """Measures wall time from the end of the warm-up to the end of training."""

    def __init__(self, warmup: int) -> None:
        self.warmup, self.started, self.seconds = warmup, 0.0, 0.0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warmup:
            self.started = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self.started


class SpanTrainer(Trainer):
    """A Trainer that also records the loss over legal positions of each step. Training does not use it."""

    losses: list[float]

    def compute_loss(self, model: Any, inputs: Any, return_outputs: bool = False, **kwargs: Any) -> Any:
        legal = inputs.pop("legal").bool()  # [B, T]
        loss, out = super().compute_loss(model, inputs, return_outputs=True, **kwargs)
        parts = [(out.start_logits, inputs["start_positions"]), (out.end_logits, inputs["end_positions"])]
        with torch.no_grad():
            both = sum(F.cross_entropy(logits.float().masked_fill(~legal, -torch.inf), at) for logits, at in parts)
        self.losses.append(float(both) / 2)
        return (loss, out) if return_outputs else loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=384)
    parser.add_argument("--stride", type=int, default=128)
    parser.add_argument("--lr", type=float, default=3e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    torch.manual_seed(args.seed)
    rows = [json.loads(line) for line in Path(args.data).read_text("utf-8").splitlines()]
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    settings = TrainingArguments(
        output_dir=tempfile.mkdtemp(), per_device_train_batch_size=args.batch, max_steps=args.steps, learning_rate=args.lr,
        seed=args.seed, bf16=args.bf16,
            use_cpu=not torch.cuda.is_available(), torch_compile=args.compile, report_to="none", save_strategy="no", logging_steps=1,
        remove_unused_columns=False,  # `legal` is for compute_loss
    )  # fmt: skip
    clock = Clock(args.warmup)
    trainer = SpanTrainer(
        model=AutoModelForQuestionAnswering.from_pretrained(args.model), args=settings, processing_class=tokenizer,
        train_dataset=Dataset.from_dict(windows(rows, tokenizer, args.length, args.stride)),
        data_collator=default_data_collator, callbacks=[clock],
    )  # fmt: skip
    trainer.losses = []
    trainer.train()
    losses = trainer.losses[-10:]
    rate = round((args.steps - args.warmup) * args.batch / clock.seconds, 2)  # a window is a row of the batch
    result = {
        "peer": "transformers.Trainer", "unit": "rows/s", "rate": rate, "real_rate": rate, "seconds": round(clock.seconds, 3),
        "loss": round(sum(losses) / len(losses), 5), "losses": trainer.losses,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, "settings": vars(args),
    }  # fmt: skip
    print(json.dumps(result), flush=True)


def windows(rows: list[dict[str, Any]], tokenizer: Any, length: int, stride: int) -> dict[str, list[Any]]:
    """Return padded windows with the first and last token of the answer, or the first special token if a window lacks it."""
    coded = tokenizer(
        [row["question"].lstrip() for row in rows], [row["context"] for row in rows], truncation="only_second",
        max_length=length, stride=stride, return_overflowing_tokens=True, return_offsets_mapping=True, padding="max_length",
    )  # fmt: skip
    starts, ends, legal = [], [], []
    for index, row in enumerate(coded["overflow_to_sample_mapping"]):
        answer = rows[row]["answers"][0]
        begin, stop = answer["answer_start"], answer["answer_start"] + len(answer["text"])
        parts, offsets = coded.sequence_ids(index), coded["offset_mapping"][index]
        context = [position for position, part in enumerate(parts) if part == 1]
        none = coded["input_ids"][index].index(tokenizer.cls_token_id)
        legal.append([int(part == 1 or position == none) for position, part in enumerate(parts)])
        if not context or offsets[context[0]][0] > begin or offsets[context[-1]][1] < stop:
            starts.append(none)
            ends.append(none)
            continue
        held = [position for position in context if offsets[position][0] < stop and offsets[position][1] > begin]
        starts.append(held[0])
        ends.append(held[-1])
    columns = {name: coded[name] for name in ("input_ids", "attention_mask")}
    return {**columns, "start_positions": starts, "end_positions": ends, "legal": legal}


if __name__ == "__main__":
    main()
