"""The plan of a training run: steps, batches, learning rate, and estimates of arithmetic, memory and time.

The run prints its plan before it starts, and its report compares the plan with what was measured.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from llmstage import console
from llmstage.config import RunConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import DiskError, UserError
from llmstage.models.build import count_parameters
from llmstage.models.presets import count_vision
from llmstage.training.machine import Machine
from llmstage.training.optimizers import auto_lr

MICRO_TOKENS = 4096
"""Tokens of a micro-batch under trainer.micro_batch_size=auto on a CPU.

Half as many made batches of 4,096 tokens a fifth slower (models of 10 million weights: each micro-batch casts them anew, and
short matrix products are slow). Twice as many gain little and take more memory.
"""
PAIR_BYTES = 2 * 2**30
"""Memory for activations on a CPU where small micro-batches cost a second forward pass."""
SHARE_OF_PEAK = 0.2
"""Share of the matrix-product rate that training of small models reaches; for the estimate of time only."""


@dataclass(slots=True, frozen=True)
class Plan:
    """Numbers that are fixed before the run, and estimates."""

    steps: int
    batch_rows: int
    micro_batch_size: int
    lr: float
    from_scratch: bool
    parameters: int
    trained: int
    """Parameters that training changes; fewer than all where an adapter is trained."""
    tokens: int
    """Real input tokens of the whole run, estimated."""
    real_share: float
    """Real tokens among those computed in the first pass."""
    epochs: float
    flops: float
    seconds: float
    memory_bytes: int
    eval_every: int
    save_every: int


def make_order(
    run: RunConfig, store: ExampleStore, context: int, *, packing: bool, by_length: bool = True
) -> BatchOrder:
    """Return the batches of a run, as a pure function of (seed, epoch)."""
    trainer = run.trainer
    return BatchOrder(
        store.lengths, run.seed, context, packing, trainer.batch_size, trainer.batch_tokens, by_length=by_length
    )


def make_plan(
    run: RunConfig,
    store: ExampleStore,
    order: BatchOrder,
    model: nn.Module,
    machine: Machine,
    rate: float,
    saved: dict[str, Any],
    *,
    from_scratch: bool,
    additive: bool = True,
    lr_share: float = 1.0,
) -> Plan:
    """Return the plan of a run.

    `saved`: what a resumed run resolved before, and keeps. `rate`: measured FLOP/s of a matrix product, for the estimate of
    time only. `additive`, `lr_share`: of the task (tasks/base.py).
    """
    trainer = run.trainer
    recomputed = bool(saved.get("checkpointing", trainer.activation_checkpointing == "on"))

    # 1. Batches: how many an epoch has, and how large they are.
    batches, computed_tokens, real_tokens, rows = measure_epoch(order)
    tokens_per_batch = real_tokens / batches
    steps = num_steps(run, batches, tokens_per_batch)
    batch_rows = max(1, round(rows / batches))
    tokens_per_row = computed_tokens / max(1, rows) + image_tokens(model)
    token_bytes = bytes_per_token(model, recomputed=recomputed)
    micro_batch_size = saved.get("micro_batch_size") or resolve_micro_batch_size(
        run, machine, batch_rows, tokens_per_row, token_bytes=None if additive else token_bytes
    )

    # 2. Arithmetic: 6 FLOPs a parameter and token (Kaplan 2020), and attention: 12 * layers * width * context.
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    parameters, trained = count_parameters(model), count_parameters(model, trained=True)
    vision_parameters = count_vision(model)
    attention_flops = 12 * config.num_hidden_layers * config.hidden_size * order.context
    flops_per_token = 6 * (parameters - vision_parameters) + attention_flops
    flops = (flops_per_token * tokens_per_batch + image_flops(model, vision_parameters) * len(store) / batches) * steps

    # 3. Memory: activations and the logits of packed rows, weights, AdamW's state, and the libraries.
    logit_bytes = 3 * 4 * config.vocab_size * (1 if order.packing else 0)
    activation_bytes = micro_batch_size * tokens_per_row * (token_bytes + logit_bytes)
    every = max(1, math.ceil(steps / 10))
    eval_every = every if trainer.eval_every == "auto" else int(trainer.eval_every)
    return Plan(
        steps=steps,
        batch_rows=batch_rows,
        micro_batch_size=int(micro_batch_size),
        lr=resolve_lr(run, config.hidden_size, saved, from_scratch=from_scratch, lr_share=lr_share),
        from_scratch=from_scratch,
        parameters=parameters,
        trained=trained,
        tokens=int(tokens_per_batch * steps),
        real_share=real_tokens / computed_tokens,
        epochs=steps / batches,
        flops=flops,
        seconds=flops / (rate * SHARE_OF_PEAK),
        memory_bytes=int(4 * parameters + 12 * trained + activation_bytes + 600 * 2**20),
        eval_every=eval_every,
        save_every=eval_every if trainer.save_every == "auto" else int(trainer.save_every),
    )


def num_steps(run: RunConfig, batches: float, tokens_per_batch: float) -> int:
    """Return the steps of the run's budget: trainer.max_steps, epochs or max_tokens."""
    trainer = run.trainer
    if trainer.max_steps is not None:
        return trainer.max_steps
    if trainer.epochs is not None:
        return max(1, round(trainer.epochs * batches))
    return max(1, math.ceil((trainer.max_tokens or 0) / tokens_per_batch))


def resolve_lr(run: RunConfig, width: int, saved: dict[str, Any], *, from_scratch: bool, lr_share: float) -> float:
    """Return the peak learning rate: that of a resumed run, that of the config, or one that suits the model's width."""
    if "lr" in saved:
        return float(saved["lr"])
    if run.optim.lr == "auto":
        return lr_share * auto_lr(width, from_scratch=from_scratch, adapter=run.adapter.name != "none")
    return float(run.optim.lr)


def image_flops(model: nn.Module, parameters: int) -> float:
    """Return the FLOPs of one image in the vision tower, forward and backward; 0 where there is no tower."""
    config: Any = getattr(model.config, "vision_config", None)
    if config is None:
        return 0.0
    patches = image_tokens(model)
    return float(patches * (6 * parameters + 12 * config.num_hidden_layers * config.hidden_size * patches))


def image_tokens(model: nn.Module) -> int:
    """Return the patches of one image, with the class token; 0 where the model takes no images."""
    config: Any = getattr(model.config, "vision_config", None)
    return int(config.image_size // config.patch_size) ** 2 + 1 if config is not None else 0


def bytes_per_token(model: nn.Module, *, recomputed: bool = False) -> float:
    """Return the bytes that the activations of a token take in training, in the larger tower where there are two.

    `recomputed`: each layer keeps its input only, and one layer at a time has all its activations in memory.
    """
    parts: Any = (model.config.get_text_config(), getattr(model.config, "vision_config", None))  # type: ignore[operator, union-attr]
    every_layer = 4 if recomputed else 40
    one_layer = 40 - every_layer
    sizes = [
        (every_layer * part.num_hidden_layers + one_layer) * part.hidden_size for part in parts if part is not None
    ]
    return float(max(sizes))


def resolve_micro_batch_size(
    run: RunConfig, machine: Machine, batch_rows: int, tokens_per_row: float, *, token_bytes: float | None = None
) -> int:
    """Return the rows of a micro-batch.

    `tokens_per_row`: tokens and image patches. `token_bytes`: given where micro-batches cost a second forward pass: bytes of
    the activations of a token; a micro-batch is then as large as memory allows.
    """
    size = run.trainer.micro_batch_size
    if size != "auto":
        return min(int(size), batch_rows)
    if token_bytes is not None:
        memory = PAIR_BYTES
        if machine.device.type == "cuda":
            memory = torch.cuda.get_device_properties(machine.device).total_memory // 3
        return max(1, min(batch_rows, int(memory / (token_bytes * max(1.0, tokens_per_row)))))
    max_tokens = MICRO_TOKENS if machine.device.type == "cpu" else 8 * MICRO_TOKENS
    return max(1, min(batch_rows, int(max_tokens / max(1.0, tokens_per_row))))


def measure_epoch(order: BatchOrder, max_batches: int = 2000) -> tuple[float, float, float, float]:
    """Return (batches, computed tokens, real tokens, rows) of an epoch; of a long one, the first `max_batches` scaled up."""
    batches = computed = real = rows = 0.0
    total_tokens = float(order.lengths.sum())
    for batch in order.epoch(0):
        lengths = [sum(int(order.lengths[index]) for index in row) for row in batch]
        batches, rows = batches + 1, rows + len(batch)
        real += sum(lengths)
        computed += max(lengths) * len(lengths)
        if batches >= max_batches:
            break
    scale = total_tokens / real if batches >= max_batches else 1.0  # an epoch may leave out examples that fill no batch
    return batches * scale, computed * scale, real * scale, rows * scale


def check_disk(out_dir: Path, parameters: int) -> None:
    """Raise DiskError where the disk has less space than two checkpoints need, and a fifth more (RELIABILITY P9)."""
    needed = int(1.2 * 2 * 12 * parameters)
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise DiskError(
            f"{out_dir} has {free / 2**20:.0f} MiB free; two checkpoints need {needed / 2**20:.0f} MiB. Free space, or set hydra.run.dir elsewhere."
        )


def check_budget(run: RunConfig, store: ExampleStore) -> None:
    """Raise UserError where there is no example to train on, or one is longer than trainer.batch_tokens."""
    if len(store) == 0:
        raise UserError("The training split holds no features.")
    longest = int(np.max(store.lengths))
    if run.trainer.batch_tokens is not None and run.trainer.batch_tokens < longest:
        raise UserError(
            f"trainer.batch_tokens={run.trainer.batch_tokens} is less than the longest feature, {longest} tokens. Set at least {longest}."
        )


def plan_line(
    plan: Plan,
    machine: Machine,
    *,
    packing: bool,
    allocator: str,
    compiled: bool,
    recomputed: bool = False,
    by_length: bool = True,
    chance: float | None = None,
) -> str:
    """Return the plan as one line for the terminal."""
    parts = [
        f"{plan.parameters / 1e6:.2f} M parameters"
        + (f", {plan.trained / 1e6:.2f} M of them trained" if plan.trained < plan.parameters else ""),
        f"{plan.tokens / 1e6:.2f} M tokens",
        f"{plan.steps} steps x {plan.batch_rows} rows"
        + (
            f" ({math.ceil(plan.batch_rows / plan.micro_batch_size)} x {plan.micro_batch_size})"
            if plan.micro_batch_size < plan.batch_rows
            else ""
        ),
        f"{plan.epochs:,.0f} epochs" if plan.epochs >= 100 else f"{plan.epochs:.2g} epochs",
        f"lr {plan.lr:.2g}",
        machine.description,
        f"{'packed' if packing else 'length buckets' if by_length else 'drawn evenly'}, {plan.real_share:.0%} real tokens",
        *(["compiled"] if compiled else []),
        *(["activations recomputed"] if recomputed else []),
        *([f"chance loss {chance:.3f}"] if chance is not None else []),
        allocator,
        f"{machine.threads} threads",
        f"about {plan.memory_bytes / 2**30:.1f} GiB, {console.duration(plan.seconds)}",
    ]
    return " · ".join(parts)
