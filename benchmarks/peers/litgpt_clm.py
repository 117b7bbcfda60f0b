"""Train a causal LM with litgpt's own pretraining loop, as `litgpt pretrain` does: bf16 mixed, compiled, blocks of joined texts.
The learning rate falls linearly to 0, not by a cosine, so that the losses are comparable. The script saves nothing. Prints one JSON
line last."""

from __future__ import annotations

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path
from typing import Any

import lightning
import torch
from litgpt import pretrain
from litgpt.args import EvalArgs, TrainArgs
from litgpt.config import Config
from litgpt.data import DataModule
from litgpt.scripts.convert_hf_checkpoint import copy_weights_hf_llama
from safetensors.torch import load_file
from tokenizers import Tokenizer
from torch.utils.data import DataLoader


class Blocks(DataModule):
    """Joined texts, cut into blocks. The last token of a block is the first of the next, because litgpt shifts the targets itself."""

    def __init__(self, path: Path, tokenizer: Path, length: int, batch: int) -> None:
        super().__init__()
        coded = Tokenizer.from_file(str(tokenizer)).encode_batch(path.read_text("utf-8").splitlines())
        ids = torch.tensor([token for text in coded for token in text.ids])
        self.rows = [ids[at : at + length + 1] for at in range(0, len(ids) - length, length)]
        self.batch = batch

    def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None, **_: Any) -> None:
        pass

    def train_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows, batch_size=self.batch, shuffle=True, drop_last=True)  # type: ignore[arg-type]

    def val_dataloader(self) -> DataLoader[Any]:
        return DataLoader(self.rows[: self.batch], batch_size=self.batch)  # type: ignore[arg-type]


def main() -> None:
    args = arguments()
    model, out = Path(args.model), Path(tempfile.mkdtemp())
    hf_config = json.loads((model / "config.json").read_text("utf-8"))
    config = litgpt_config(hf_config, args.length)
    weights: dict[str, Any] = {}
    copy_weights_hf_llama(config, {}, weights, load_file(model / "model.safetensors"))
    (out / "start").mkdir()
    torch.save(weights, out / "start" / "lit_model.pth")
    losses: list[float] = []
    times: list[float] = []

    def log_dict(fabric: Any, metrics: dict[str, Any], step: int | None = None) -> None:
        if "loss" in metrics:
            losses.append(float(metrics["loss"]))
            times.append(time.perf_counter())
            print({"loss": losses[-1]}, flush=True)

    lightning.Fabric.log_dict = log_dict  # type: ignore[method-assign]
    pretrain.get_lr = lambda rate, step, warmup, steps, least: rate * (1 - step / steps)
    pretrain.save_checkpoint = lambda *_, **__: None
    optimizer = {
        "class_path": "torch.optim.AdamW",
        "init_args": {"lr": args.lr, "betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0},
    }
    pretrain.setup(
        "race",
        model_config=config,
        out_dir=out / "run",
        initial_checkpoint_dir=out / "start",
        data=Blocks(Path(args.data), model / "tokenizer.json", args.length, args.batch),
        train=TrainArgs(
            save_interval=None,
            global_batch_size=args.batch,
            micro_batch_size=args.batch,
            max_tokens=args.steps * args.batch * args.length,
            lr_warmup_steps=0,
            max_norm=1.0,
            tie_embeddings=bool(hf_config.get("tie_word_embeddings", False)),
        ),
        eval=EvalArgs(interval=10**9, max_iters=1, final_validation=False),
        optimizer=optimizer,
        logger_name="csv",
        seed=args.seed,
    )
    seconds = times[-1] - times[args.warmup - 1]
    rate = (args.steps - args.warmup) * args.batch * args.length / seconds
    result = {
        "peer": "litgpt pretrain",
        "unit": "tokens/s",
        "rate": round(rate, 2),
        "real_rate": round(rate, 2),
        "seconds": round(seconds, 3),
        "loss": round(sum(losses[-10:]) / len(losses[-10:]), 5),
        "losses": losses,
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "settings": vars(args),
    }
    print(json.dumps(result), flush=True)


def litgpt_config(hf_config: dict[str, Any], length: int) -> Config:
    """Return litgpt's config of the same Llama."""
    rope = hf_config.get("rope_parameters") or hf_config
    return Config(
        name="race",
        block_size=length,
        n_layer=hf_config["num_hidden_layers"],
        n_embd=hf_config["hidden_size"],
        n_head=hf_config["num_attention_heads"],
        n_query_groups=hf_config["num_key_value_heads"],
        vocab_size=hf_config["vocab_size"],
        padded_vocab_size=hf_config["vocab_size"],
        intermediate_size=hf_config["intermediate_size"],
        norm_class_name="RMSNorm",
        norm_eps=hf_config["rms_norm_eps"],
        mlp_class_name="LLaMAMLP",
        rotary_percentage=1.0,
        rope_base=int(rope.get("rope_theta", 10000)),
        parallel_residual=False,
        bias=False,
    )


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", required=True, help="Hugging Face directory of a Llama: config, tokenizer, weights")
    parser.add_argument("--data", required=True, help="a text file with one document in each line")
    parser.add_argument("--steps", type=int, default=30)
    parser.add_argument("--warmup", type=int, default=3, help="first steps that the rate leaves out")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--lr", type=float, default=3e-4)
    parser.add_argument("--seed", type=int, default=0)
    return parser.parse_args()


if __name__ == "__main__":
    main()
