"""The plan of a training run: steps, batches, learning rate, and estimates of arithmetic, memory and time.

The run prints its plan before it starts, and its report compares the plan with what was measured.
"""

from __future__ import annotations

import math
import shutil
from dataclasses import dataclass, replace
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
from llmstage.tasks.base import Task
from llmstage.training.components import RunComponents
from llmstage.training.defaults import data_size, finetuning_lr, resolve_trainer
from llmstage.training.machine import Machine
from llmstage.training.optimizers import scratch_lr

MICRO_TOKENS = 4096
"""Tokens of a micro-batch under trainer.micro_batch_size=auto on a CPU.

Half as many made batches of 4,096 tokens a fifth slower (models of 10 million weights: each micro-batch casts them anew, and
short matrix products are slow). Twice as many gain little and take more memory.
"""
PAIR_BYTES = 2 * 2**30
"""Memory for activations on a CPU where small micro-batches cost a second forward pass."""
SHARE_OF_PEAK = 0.2
"""Share of the matrix-product rate that training of small models reaches; for the estimate of time only."""
LIBRARY_BYTES = 600 * 2**20
"""Memory of the process with its libraries, before there is a model."""
HEAD_CHUNK_BYTES = 64 * 2**20
"""Logits that trainer.head_chunk=auto has in memory at once on a CPU."""
MANY_EPOCHS, FEW_EPOCHS = 50, 0.95
"""Passes over the data beyond which the budget is probably a mistake."""
BUDGET_KEYS = ("max_steps", "epochs", "max_tokens", "batch_size", "batch_tokens")


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
    examples: float
    """Examples (sentences, rows, windows of a text) in an optimizer step, on average; packed rows hold several."""
    flops: float
    seconds: float
    memory: dict[str, int]
    """Bytes by what they hold: weights, gradients, optimizer, activations, logits, libraries."""
    eval_every: int
    save_every: int

    @property
    def memory_bytes(self) -> int:
        return sum(self.memory.values())


def resolve_budget(run: RunConfig, components: RunComponents, saved: dict[str, Any]) -> RunConfig:
    """Return the run with numbers for the `auto` of its budget and batch. `saved`: what a resumed run resolved before."""
    if "budget" in saved:
        return replace(run, trainer=replace(run.trainer, **saved["budget"]))
    task = components.task
    size = data_size(
        components.stores["train"].lengths, learns_text=task.learns_text, negatives_in_batch=not task.additive_loss,
        packed_rows=components.context if components.packing else None,
    )  # fmt: skip
    return replace(run, trainer=resolve_trainer(run.trainer, size, from_scratch=components.model_source is None))


def make_order(
    run: RunConfig, store: ExampleStore, context: int, *, packing: bool, by_length: bool = True
) -> BatchOrder:
    """Return the batches of a run whose budget is resolved, as a pure function of (seed, epoch)."""
    trainer = run.trainer
    assert trainer.batch_tokens != "auto"
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
    task: Task,
    from_scratch: bool,
) -> Plan:
    """Return the plan of a run whose budget is resolved.

    `saved`: what a resumed run resolved before, and keeps. `rate`: measured FLOP/s of a matrix product, for the estimate of
    time only.
    """
    trainer = run.trainer
    recomputed = bool(saved.get("checkpointing", trainer.activation_checkpointing == "on"))

    # 1. Batches: how many an epoch has, and how large they are.
    batches, computed_tokens, real_tokens, rows = measure_epoch(order)
    tokens_per_batch = real_tokens / batches
    steps = num_steps(run, batches, tokens_per_batch)
    batch_rows = max(1, round(rows / batches))
    tokens_per_row = computed_tokens / max(1, rows) + image_tokens(model)
    token_bytes = bytes_per_token(model.config, recomputed=recomputed)
    micro_batch_size = saved.get("micro_batch_size") or resolve_micro_batch_size(
        run, machine, batch_rows, tokens_per_row, token_bytes=None if task.additive_loss else token_bytes
    )

    # 2. Arithmetic: 6 FLOPs a parameter and token (Kaplan 2020), of which 2 are the gradient of a trained weight, and attention:
    # 12 * layers * width * context.
    config: Any = model.config.get_text_config()  # type: ignore[operator, union-attr]
    parameters, trained = count_parameters(model), count_parameters(model, trained=True)
    vision_parameters = count_vision(model)
    attention_flops = 12 * config.num_hidden_layers * config.hidden_size * order.context
    text_parameters = parameters - vision_parameters
    flops_per_token = 4 * text_parameters + 2 * min(trained, text_parameters) + attention_flops
    flops = (flops_per_token * tokens_per_batch + image_flops(model, vision_parameters) * len(store) / batches) * steps

    # 3. Memory of a micro-batch.
    memory = memory_parts(run, task, model, micro_batch_size * tokens_per_row, token_bytes)
    every = max(1, math.ceil(steps / 10))
    eval_every = every if trainer.eval_every == "auto" else int(trainer.eval_every)
    return Plan(
        steps=steps,
        batch_rows=batch_rows,
        micro_batch_size=int(micro_batch_size),
        lr=resolve_lr(run, task, model, saved, from_scratch=from_scratch),
        from_scratch=from_scratch,
        parameters=parameters,
        trained=trained,
        tokens=int(tokens_per_batch * steps),
        real_share=real_tokens / computed_tokens,
        epochs=steps / batches,
        examples=len(store) / batches,
        flops=flops,
        seconds=flops / (rate * SHARE_OF_PEAK),
        memory=memory,
        eval_every=eval_every,
        save_every=eval_every if trainer.save_every == "auto" else int(trainer.save_every),
    )


def num_steps(run: RunConfig, batches: float, tokens_per_batch: float) -> int:
    """Return the steps of the run's budget: trainer.max_steps, epochs or max_tokens."""
    trainer = run.trainer
    if trainer.max_steps is not None:
        assert trainer.max_steps != "auto"
        return trainer.max_steps
    if trainer.epochs is not None:
        return max(1, round(trainer.epochs * batches))
    return max(1, math.ceil((trainer.max_tokens or 0) / tokens_per_batch))


def resolve_lr(run: RunConfig, task: Task, model: Any, saved: dict[str, Any], *, from_scratch: bool) -> float:
    """Return the peak learning rate: that of a resumed run, that of the config, or one that suits the model."""
    if "lr" in saved:
        return float(saved["lr"])
    if run.optim.lr != "auto":
        return float(run.optim.lr)
    if from_scratch:
        return task.lr_share * scratch_lr(model.config.get_text_config().hidden_size)
    return finetuning_lr(task.model_family, count_parameters(model), adapter=run.adapter.name != "none")


def memory_parts(run: RunConfig, task: Task, model: nn.Module, tokens: float, token_bytes: float) -> dict[str, int]:
    """Return the bytes of a training step by what they hold. `tokens`: of a micro-batch, padding included."""
    weights = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    gradients = sum(weight.numel() * weight.element_size() for weight in model.parameters() if weight.requires_grad)
    logits = 0.0
    if task.learns_text:  # logits, log-probabilities and their gradient, in fp32
        vocab_size = model.config.get_text_config().vocab_size  # type: ignore[operator, union-attr]
        logits = 3 * 4 * vocab_size * tokens
        logits = logits if run.trainer.head_chunk == "off" else min(logits, 3 * HEAD_CHUNK_BYTES)
    return {
        "weights": weights,
        "gradients": gradients,
        "optimizer": 8 * count_parameters(model, trained=True),  # two moments of AdamW in fp32
        "activations": int(tokens * token_bytes),
        "logits": int(logits),
        "libraries": LIBRARY_BYTES,
    }


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


def bytes_per_token(config: Any, *, recomputed: bool = False) -> float:
    """Return the bytes that the activations of a token take in training, in the larger tower where there are two.

    `recomputed`: each layer keeps its input only, and one layer at a time has all its activations in memory.
    """
    parts = (config.get_text_config(), getattr(config, "vision_config", None))
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
    if isinstance(run.trainer.batch_tokens, int) and run.trainer.batch_tokens < longest:
        raise UserError(
            f"trainer.batch_tokens={run.trainer.batch_tokens} is less than the longest feature, {longest} tokens. Set at least {longest}."
        )


def budget_warning(plan: Plan, run: RunConfig) -> str | None:
    """Return a warning where the budget is probably a mistake: far too many passes over the data, or less than one.

    The demo world is small on purpose, so its runs are not warned of.
    """
    if run.data.is_demo:
        return None
    if plan.epochs > MANY_EPOCHS:
        return (
            f"{plan.steps:,} steps are {plain_number(plan.epochs)} passes over the training rows; after a few the model only "
            f"learns them by heart. Fewer: trainer.epochs=3"
        )
    if plan.epochs < FEW_EPOCHS:
        return (
            f"{plan.steps:,} steps see {plan.epochs:.0%} of the training rows. All of them: trainer.epochs=1, "
            f"or trainer.max_steps={math.ceil(plan.steps / plan.epochs)}"
        )
    return None


def plan_line(
    plan: Plan, machine: Machine, components: RunComponents, *, allocator: str, compiled: bool, recomputed: bool = False
) -> str:
    """Return the plan as one line for the terminal."""
    task, packing = components.task, components.packing
    chance = task.chance_loss(plan.batch_rows)
    rewritten = components.stores["train"].ledger.rewritten
    order = "packed" if packing else "length buckets" if task.by_length else "drawn evenly"
    parts = [
        f"{plan.parameters / 1e6:.2f} M parameters"
        + (f", {plan.trained / 1e6:.2f} M of them trained" if plan.trained < plan.parameters else ""),
        f"{plan.tokens / 1e6:.2f} M tokens" if plan.tokens >= 1e5 else f"{plan.tokens:,} tokens",
        batch_text(plan, packing=packing),
        f"{plain_number(plan.epochs)} epochs",
        context_text(components),
        *([f"{rewritten:,} turns apart, as the chat template rewrites earlier turns"] if rewritten else []),
        f"lr {plan.lr:.2g}",
        machine.description,
        f"{order}, {plan.real_share:.0%} real tokens",
        *(["compiled"] if compiled else []),
        *(["activations recomputed"] if recomputed else []),
        *([f"chance loss {chance:.3f}"] if chance is not None else []),
        allocator,
        f"{machine.threads} thread{'' if machine.threads == 1 else 's'}",
        f"about {memory_text(plan)}, {console.duration(plan.seconds)}",
    ]
    return " · ".join(parts)


def batch_text(plan: Plan, *, packing: bool) -> str:
    """Return the steps and what each of them has, with the micro-batches where there are several."""
    micro_batches = math.ceil(plan.batch_rows / plan.micro_batch_size)
    split = f" ({micro_batches} x {plan.micro_batch_size})" if micro_batches > 1 else ""
    if packing:
        packed_rows = f"{plan.batch_rows} packed row{'' if plan.batch_rows == 1 else 's'}"
        return f"{plan.steps:,} steps x {plain_number(plan.examples)} examples in {packed_rows}{split}"
    return f"{plan.steps:,} steps x {plan.batch_rows} rows{split}"


def context_text(components: RunComponents) -> str:
    """Return the context, and the share of the training tokens that it cuts off."""
    ledger = components.stores["train"].ledger
    cut = ledger.cut_tokens / max(1, ledger.tokens + ledger.cut_tokens)
    return f"context {components.context:,}" + (f", which cuts {cut:.2%} of the tokens" if cut else "")


def memory_text(plan: Plan) -> str:
    """Return the memory of a step and its larger parts."""
    sizes = {name: size / 2**30 for name, size in plan.memory.items()}
    listed = ", ".join(f"{name} {size:.1f}" for name, size in sizes.items() if size >= 0.05)
    return f"{plan.memory_bytes / 2**30:.1f} GiB" + (f" ({listed})" if "," in listed else "")


def plain_number(value: float) -> str:
    """Return a number without an exponent: 900, 54, 2.5, 0.35."""
    return f"{value:,.0f}" if value >= 10 else f"{value:.2f}".rstrip("0").rstrip(".")
