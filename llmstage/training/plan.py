"""What a run will do, worked out before it starts: batches, steps, memory, time. Printed, saved, compared afterwards."""

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
from llmstage.models.towers import count_vision
from llmstage.training.machine import Machine
from llmstage.training.optimizers import auto_lr

MICRO_TOKENS = 4096
"""Tokens computed at once under micro_batch_size=auto on a CPU. Half as many made batches of 4,096 a fifth slower (models of 10
million weights: each part casts them anew, and short products are slow); twice as many bring little, and take more memory."""
PAIR_BYTES = 2 * 2**30
"""Memory for activations on a CPU where small micro-batches cost a second forward pass."""
SHARE_OF_PEAK = 0.2
"""Share of the matrix-product rate that training of small models reaches; for the estimate of time only."""


@dataclass(slots=True, frozen=True)
class Plan:
    """The decided numbers."""

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
    fixed: dict[str, Any],
    *,
    from_scratch: bool,
    additive: bool = True,
    lr_share: float = 1.0,
) -> Plan:
    """`fixed`: decisions of an earlier part of the same run. `rate`: measured FLOP/s, for the estimate of time only.
    `additive`, `lr_share`: of the task (tasks/base.py)."""
    trainer = run.trainer
    recomputed = bool(fixed.get("checkpointing", trainer.activation_checkpointing == "on"))
    batches, computed, real, rows = measure_epoch(order)
    tokens_per_batch = real / batches
    if trainer.max_steps is not None:
        steps = trainer.max_steps
    elif trainer.epochs is not None:
        steps = max(1, round(trainer.epochs * batches))
    else:
        steps = max(1, math.ceil((trainer.max_tokens or 0) / tokens_per_batch))
    batch_rows = max(1, round(rows / batches))
    width = computed / max(1, rows) + image_tokens(model)
    micro = fixed.get("micro_batch_size") or resolve_micro_batch_size(
        run, machine, batch_rows, width, at_once=None if additive else bytes_per_token(model, recomputed=recomputed)
    )
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    lr = (
        float(fixed["lr"])
        if "lr" in fixed
        else lr_share * auto_lr(config.hidden_size, from_scratch=from_scratch, adapter=run.adapter.name != "none")
        if run.optim.lr == "auto"
        else float(run.optim.lr)
    )
    parameters, trained = count_parameters(model), count_parameters(model, trained=True)
    # 6 FLOPs a parameter and token (Kaplan 2020), and attention: 12 * layers * width * context.
    seeing = count_vision(model)
    per_token = 6 * (parameters - seeing) + 12 * config.num_hidden_layers * config.hidden_size * order.context
    flops = (per_token * tokens_per_batch + image_flops(model, seeing) * len(store) / batches) * steps
    activations = (
        micro
        * width
        * (bytes_per_token(model, recomputed=recomputed) + 3 * 4 * config.vocab_size * (1 if order.packing else 0))
    )
    every = max(1, math.ceil(steps / 10))
    eval_every = every if trainer.eval_every == "auto" else int(trainer.eval_every)
    return Plan(
        steps=steps,
        batch_rows=batch_rows,
        micro_batch_size=int(micro),
        lr=lr,
        from_scratch=from_scratch,
        parameters=parameters,
        trained=trained,
        tokens=int(tokens_per_batch * steps),
        real_share=real / computed,
        epochs=steps / batches,
        flops=flops,
        seconds=flops / (rate * SHARE_OF_PEAK),
        memory_bytes=int(4 * parameters + 12 * trained + activations + 600 * 2**20),
        eval_every=eval_every,
        save_every=eval_every if trainer.save_every == "auto" else int(trainer.save_every),
    )


def image_flops(model: nn.Module, parameters: int) -> float:
    """FLOPs of one image through the tower that sees, forward and backward; 0 where there is none."""
    config: Any = getattr(model.config, "vision_config", None)
    if config is None:
        return 0.0
    patches = image_tokens(model)
    return float(patches * (6 * parameters + 12 * config.num_hidden_layers * config.hidden_size * patches))


def image_tokens(model: nn.Module) -> int:
    """Patches of one image, with the class token; 0 where the model sees none."""
    config: Any = getattr(model.config, "vision_config", None)
    return int(config.image_size // config.patch_size) ** 2 + 1 if config is not None else 0


def bytes_per_token(model: nn.Module, *, recomputed: bool = False) -> float:
    """Memory that a token's activations take in training, of the wider tower where there are two.

    `recomputed`: each layer keeps its input only, and one layer at a time stands in memory as a whole."""
    parts: Any = (model.config.get_text_config(), getattr(model.config, "vision_config", None))  # type: ignore[operator, union-attr]
    layer = 4 if recomputed else 40
    whole = 40 - layer
    return float(max((layer * part.num_hidden_layers + whole) * part.hidden_size for part in parts if part is not None))


def resolve_micro_batch_size(
    run: RunConfig, machine: Machine, batch_rows: int, width: float, *, at_once: float | None = None
) -> int:
    """`width`: tokens and patches of a row. `at_once`: bytes of a token's activations where micro-batches cost a second
    forward pass; they are then as large as memory allows."""
    micro = run.trainer.micro_batch_size
    if micro != "auto":
        return min(int(micro), batch_rows)
    if at_once is not None:
        room = PAIR_BYTES
        if machine.device.type == "cuda":
            room = torch.cuda.get_device_properties(machine.device).total_memory // 3
        return max(1, min(batch_rows, int(room / (at_once * max(1.0, width)))))
    budget = MICRO_TOKENS if machine.device.type == "cpu" else 8 * MICRO_TOKENS
    return max(1, min(batch_rows, int(budget / max(1.0, width))))


def measure_epoch(order: BatchOrder, most: int = 2000) -> tuple[float, float, float, float]:
    """(batches in a pass, computed tokens, real tokens, rows); of a long pass the first `most` batches, scaled up."""
    batches = computed = real = rows = 0.0
    whole = float(order.lengths.sum())
    for batch in order.epoch(0):
        lengths = [sum(int(order.lengths[index]) for index in row) for row in batch]
        batches, rows = batches + 1, rows + len(batch)
        real += sum(lengths)
        computed += max(lengths) * len(lengths)
        if batches >= most:
            break
    scale = whole / real if batches >= most else 1.0  # a pass may leave out what fills no batch
    return batches * scale, computed * scale, real * scale, rows * scale


def check_disk(out_dir: Path, parameters: int) -> None:
    """Room for two checkpoints and a fifth more (RELIABILITY P9)."""
    needed = int(1.2 * 2 * 12 * parameters)
    free = shutil.disk_usage(out_dir).free
    if free < needed:
        raise DiskError(
            f"{out_dir} has {free / 2**20:.0f} MiB free; two checkpoints need {needed / 2**20:.0f} MiB. Free space, or set hydra.run.dir elsewhere."
        )


def check_budget(run: RunConfig, store: ExampleStore) -> None:
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
        f"{plan.epochs:.2g} epochs",
        f"lr {plan.lr:.2g}",
        machine.described,
        f"{'packed' if packing else 'length buckets' if by_length else 'drawn evenly'}, {plan.real_share:.0%} real tokens",
        *(["compiled"] if compiled else []),
        *(["activations recomputed"] if recomputed else []),
        *([f"chance loss {chance:.3f}"] if chance is not None else []),
        allocator,
        f"{machine.threads} threads",
        f"about {plan.memory_bytes / 2**30:.1f} GiB, {console.duration(plan.seconds)}",
    ]
    return " · ".join(parts)
