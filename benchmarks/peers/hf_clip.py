"""Train on images and texts with transformers' Trainer, as its example script run_clip.py does, in fp32.

The script opens, resizes and normalises each image whenever its row is fetched, without workers (the default of the data loader). It
uses Pillow instead of torchvision. Captions are padded to --length or to the longest of the batch. --data is JSON lines of
{"image": file, "caption"}. Prints one JSON line last; `fetch_share` is the share of time after the first pass for reading images.
"""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from datasets import Dataset
from PIL import Image
from transformers import (
    AutoModel,
    AutoTokenizer,
    CLIPImageProcessorPil,
    Trainer,
    TrainerCallback,
    TrainingArguments,
    set_seed,
)


class ImageStore:
    """The transforms of run_clip.py: resize, scale to 0..1, normalise. It counts their seconds."""

    def __init__(self, model: str) -> None:
        shape = CLIPImageProcessorPil.from_pretrained(model)
        self.size = shape.size["width"], shape.size["height"]
        self.mean, self.std = (
            np.array(value, np.float32)[:, None, None] for value in (shape.image_mean, shape.image_std)
        )
        self.seconds = 0.0

    def __call__(self, rows: dict[str, list[Any]]) -> dict[str, list[Any]]:
        started = time.perf_counter()
        rows["pixel_values"] = [self.read(file) for file in rows.pop("image")]
        self.seconds += time.perf_counter() - started
        return rows

    def read(self, file: str) -> torch.Tensor:
        with Image.open(file) as picture:
            seen = picture.convert("RGB").resize(self.size, Image.Resampling.BICUBIC)
        pixels = np.asarray(seen, np.float32).transpose(2, 0, 1) / 255
        return torch.from_numpy((pixels - self.mean) / self.std)


class Clock(TrainerCallback):
    """Measures wall time of the steps after the warm-up, of those after the first pass, and of the images in the latter."""

    def __init__(self, warmup: int, image_store: ImageStore) -> None:
        self.warmup, self.image_store = warmup, image_store
        self.started = self.seconds = 0.0
        self.first: tuple[float, float] | None = None
        self.share: float | None = None

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if state.global_step == self.warmup:
            self.started = time.perf_counter()

    def on_epoch_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.first = self.first or (time.perf_counter(), self.image_store.seconds)

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        now = time.perf_counter()
        self.seconds = now - self.started
        if self.first and now - self.first[0] > 0.01 * self.seconds:
            self.share = (self.image_store.seconds - self.first[1]) / (now - self.first[0])


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    longest = max(len(row["input_ids"]) for row in rows)
    names = {"input_ids": rows[0]["pad"], "attention_mask": 0}
    texts = {
        name: torch.tensor([[*row[name], *[fill] * (longest - len(row[name]))] for row in rows])
        for name, fill in names.items()
    }
    return {"pixel_values": torch.stack([row["pixel_values"] for row in rows]), **texts, "return_loss": True}


def main() -> None:
    args = arguments()
    set_seed(args.seed)
    tokenizer = AutoTokenizer.from_pretrained(args.model)
    rows = [json.loads(line) for line in Path(args.data).read_text("utf-8").splitlines()]
    padding = "max_length" if args.padding == "max" else False
    coded = tokenizer([row["caption"] for row in rows], max_length=args.length, padding=padding, truncation=True)
    columns = {name: coded[name] for name in ("input_ids", "attention_mask")}
    data = Dataset.from_dict(
        {**columns, "image": [row["image"] for row in rows], "pad": [tokenizer.pad_token_id] * len(rows)}
    )
    image_store = ImageStore(args.model)
    data.set_transform(image_store)
    clock = Clock(args.warmup, image_store)
    trainer = Trainer(
        model=AutoModel.from_pretrained(args.model),
        args=TrainingArguments(
            output_dir=tempfile.mkdtemp(),
            per_device_train_batch_size=args.batch,
            max_steps=args.steps,
            learning_rate=args.lr,
            seed=args.seed,
            bf16=args.bf16,
            use_cpu=not torch.cuda.is_available(),  # otherwise transformers refuses bf16 on a CPU
            torch_compile=args.compile,
            dataloader_num_workers=args.workers,
            remove_unused_columns=False,  # the transform needs `image`
            report_to="none",
            save_strategy="no",
            logging_steps=1,
        ),
        train_dataset=data,
        data_collator=collate,
        callbacks=[clock],
    )
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    rate = (args.steps - args.warmup) * args.batch / clock.seconds
    result = {
        "peer": f"transformers.Trainer padding={args.padding}",
        "unit": "images/s",
        "rate": round(rate, 2),
        "real_rate": round(rate, 2),
        "seconds": round(clock.seconds, 3),
        "loss": round(sum(losses[-10:]) / len(losses[-10:]), 5),
        "losses": losses,
        # Workers read the images in other processes, and this process cannot count their seconds.
        "fetch_share": None if args.workers or clock.share is None else round(clock.share, 4),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "settings": vars(args),
    }
    print(json.dumps(result), flush=True)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face directory: config, processor, weights")
    parser.add_argument("--data", required=True)
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3, help="first steps that the rate leaves out")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--length", type=int, default=77)
    parser.add_argument("--padding", choices=["max", "dynamic"], default="max")
    parser.add_argument("--lr", type=float, default=5e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--workers", type=int, default=0, help="the Trainer's default is none")
    parser.add_argument("--bf16", action="store_true")
    parser.add_argument("--compile", action="store_true")
    return parser.parse_args()


if __name__ == "__main__":
    main()
