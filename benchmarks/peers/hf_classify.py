"""Train a classifier with transformers' Trainer, as its example script run_glue.py does. --data is JSON lines of {"text", "label"}.
Rows are padded to --length, or with --padding dynamic to the longest row of the batch. Prints one JSON line last."""

from __future__ import annotations

import json
from pathlib import Path

from datasets import Dataset
from trainer import Clock, parser, report, rows_of, settings
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    DataCollatorWithPadding,
    Trainer,
    TrainingArguments,
    set_seed,
)


def main() -> None:
    words = parser(__doc__, length=128, lr=1e-4)
    words.add_argument("--padding", choices=["max", "dynamic"], default="max")
    args = words.parse_args()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [json.loads(line) for line in Path(args.data).read_text("utf-8").splitlines()]
    padding = "max_length" if args.padding == "max" else False
    coded = tokenizer([row["text"] for row in rows], truncation=True, max_length=args.length, padding=padding)
    columns = {name: coded[name] for name in ("input_ids", "attention_mask")}
    clock = Clock(args.warmup)
    trainer = Trainer(
        model=AutoModelForSequenceClassification.from_pretrained(args.model),
        args=TrainingArguments(**settings(args)),
        train_dataset=Dataset.from_dict({**columns, "labels": [row["label"] for row in rows]}),
        processing_class=tokenizer,
        data_collator=clock.counted(DataCollatorWithPadding(tokenizer), rows_of),
        callbacks=[clock],
    )
    trainer.train()
    report(f"transformers.Trainer padding={args.padding}", "rows/s", args, clock, trainer)


if __name__ == "__main__":
    main()
