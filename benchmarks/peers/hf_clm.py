"""Train a causal LM with transformers' Trainer, as its example script run_clm.py does: join all texts and cut them into blocks.
Prints one JSON line last."""

from __future__ import annotations

from pathlib import Path

from datasets import Dataset
from trainer import Clock, parser, report, settings, tokens_of
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    Trainer,
    TrainingArguments,
    default_data_collator,
    set_seed,
)


def main() -> None:
    args = parser(__doc__, length=256, lr=3e-4).parse_args()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    lines = Path(args.data).read_text("utf-8").splitlines()
    ids = [token for coded in tokenizer(lines)["input_ids"] for token in coded]
    blocks = [ids[at : at + args.length] for at in range(0, len(ids) - args.length + 1, args.length)]
    clock = Clock(args.warmup)
    trainer = Trainer(
        model=AutoModelForCausalLM.from_pretrained(args.model),
        args=TrainingArguments(**settings(args)),
        train_dataset=Dataset.from_dict({"input_ids": blocks, "labels": blocks}),
        data_collator=clock.counted(default_data_collator, tokens_of),
        callbacks=[clock],
    )
    trainer.train()
    report("transformers.Trainer", "tokens/s", args, clock, trainer)


if __name__ == "__main__":
    main()
