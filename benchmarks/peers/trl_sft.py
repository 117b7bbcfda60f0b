"""Finetune on dialogues with TRL's SFTTrainer. --data is JSON lines of {"messages": [{"role", "content"}]}.

TRL's defaults are bf16 and gradient checkpointing; here --bf16 sets bf16, because a CPU needs a further argument for it. --packing
and --assistant_only are not defaults. Prints one JSON line last."""

from __future__ import annotations

from datasets import load_dataset
from trainer import Clock, parser, report, settings, tokens_of
from transformers import AutoModelForCausalLM, AutoTokenizer, set_seed
from trl import SFTConfig, SFTTrainer


def main() -> None:
    words = parser(__doc__, length=512, lr=3e-4, batch=8)
    words.add_argument("--packing", action="store_true")
    words.add_argument("--assistant_only", action="store_true", help="learn only the messages of the assistant")
    args = words.parse_args()
    set_seed(args.seed)
    chosen = {
        **settings(args),
        "max_length": args.length,
        "packing": args.packing,
        "assistant_only_loss": args.assistant_only,
    }
    clock = Clock(args.warmup)
    trainer = SFTTrainer(
        model=AutoModelForCausalLM.from_pretrained(args.model),
        args=SFTConfig(**chosen),
        train_dataset=load_dataset("json", data_files=args.data, split="train"),
        processing_class=AutoTokenizer.from_pretrained(args.model),
        callbacks=[clock],
    )
    trainer.data_collator = clock.counted(trainer.data_collator, tokens_of)
    trainer.train()
    report(f"trl.SFTTrainer packing={args.packing}", "tokens/s", args, clock, trainer)


if __name__ == "__main__":
    main()
