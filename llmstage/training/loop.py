"""The training loop, on one screen: evaluate, save, stop?, step, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from llmstage import console
from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import Diverged, Interrupted, OutOfMemory
from llmstage.evaluation.metrics.score import Score
from llmstage.kernels.varlen_attention import reads_places
from llmstage.tasks.base import Task
from llmstage.training.batches import StepBatch, StepDataset, cursor, stream
from llmstage.training.checkpoint import Checkpoints, TrainState, find_checkpoint, load_tensors, read_state
from llmstage.training.fault_injection import fault
from llmstage.training.gradient_cache import Randomness, backward_parts
from llmstage.training.machine import Machine, peak_memory
from llmstage.training.optimizers import Schedule, scale_gradients
from llmstage.training.session import StopFlag

WARM_UP_STEPS = 3
"""Steps left out of the reported rate."""
SPIKE_WINDOW, SPIKE_SIGMAS = 128, 6.0
"""OLMo's rule: a loss or norm beyond mean + 6 sigma of the last 128 steps, once there are 64."""


@dataclass(slots=True)
class Training:
    """What the loop works with."""

    model: nn.Module
    task: Task
    store: ExampleStore
    order: BatchOrder
    schedule: Schedule
    optimizer: torch.optim.Optimizer
    machine: Machine
    checkpoints: Checkpoints
    state: TrainState
    stop: StopFlag
    micro_batch_size: int
    eval_every: int
    save_every: int
    patience: int | None
    max_tokens: int | None
    max_norm: float | None
    spike: str
    workers: int
    log_every: int
    flops_per_token: float
    """Of the model's arithmetic, forward and backward."""
    rate: float
    """FLOP/s of the machine's matrix product, by which the share in use (MFU) is told."""
    evaluate: Callable[[int], tuple[str, Score] | None]
    """Validate at a step; (name, score) of the selecting metric, or None where there is no validation split."""
    log: Callable[[dict[str, Any]], None]
    """Write one line of metrics."""
    save_at: frozenset[int] = frozenset()  # steps saved beside those of `save_every`


def train(run: Training) -> TrainState:
    """Run to the end of the schedule, from wherever `run.state` stands. Raises Interrupted after saving on a signal."""
    state, scaler = run.state, make_scaler(run)
    display = console.StepDisplay(run.schedule.steps, run.log_every, state.step)
    batches = batches_of(run)
    run.model.train()
    with display:
        while True:
            done = state.step >= run.schedule.steps if run.max_tokens is None else state.tokens >= run.max_tokens
            to_validate = due(run.eval_every, state.step, done) and state.evaluated != state.step
            improved = to_validate and validate(run, display)
            gave_up = run.patience is not None and state.stale >= run.patience
            wanted = improved or done or gave_up or state.step in run.save_at
            if (due(run.save_every, state.step, wanted) and state.step > 0) or run.stop.name:
                run.checkpoints.save(state, run.optimizer, run.model)
            if done or gave_up:
                break
            if run.stop.name:
                raise Interrupted(
                    f"stopped by {run.stop.name} after step {state.step}; saved. The same command with hydra.run.dir=<this folder> goes on."
                )

            started = time.perf_counter()
            batch = next(batches)
            size = run.micro_batch_size
            line = take_step(run, batch, scaler)
            seconds = time.perf_counter() - started
            fault("step")

            if (line["loss"] is None and must_roll_back(state)) or line.get("spike") == "rollback":
                roll_back(run, batch)
                batches = batches_of(run)
                continue
            if run.micro_batch_size != size:
                batches = batches_of(run)
            account(state, line, seconds)
            run.log({**line, "seconds": round(state.seconds, 3)})
            shown = {"loss": line["loss"], "lr": line["lr"], "tokens/s": line["tokens_per_second"]}
            memory = f"{line['peak_memory_bytes'] / 2**30:.1f} GiB"
            display.show(state.step, {**shown, "mfu": f"{line['mfu']:.0%}", "memory": memory})
    return state


def due(every: int, step: int, done: bool) -> bool:
    return done or (every > 0 and step % every == 0)


def take_step(run: Training, batch: StepBatch, scaler: torch.amp.GradScaler | None) -> dict[str, Any]:
    """One optimizer step over all micro-batches; returns its line for metrics.jsonl. Advances the cursor."""
    state = run.state
    lr = run.schedule.at(state.step - state.skipped)
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    started = time.perf_counter()
    summed = add_up(run, batch, scaler)
    while summed is None:
        halve(run, batch)
        summed = add_up(run, batch, scaler)
    total_on_device, count, tokens = summed
    if scaler:
        scaler.unscale_(run.optimizer)
    parameters = [parameter for group in run.optimizer.param_groups for parameter in group["params"]]
    total, norm = scale_gradients(parameters, max(count, 1e-12), run.max_norm, total_on_device)
    mean = total / max(count, 1e-12)
    finite = math.isfinite(mean) and (math.isfinite(norm) or scaler is not None)
    spike = finite and is_spike(state, mean, norm)
    if finite and not (spike and run.spike in ("skip", "rollback")):
        if scaler:
            scaler.step(run.optimizer)
            scaler.update()
        else:
            run.optimizer.step()
        run.task.after_step(run.model)
        remember(state, mean, norm)
    else:
        state.skipped += 1
    run.optimizer.zero_grad(set_to_none=True)
    state.step, state.epoch, state.batch, state.tokens = (
        state.step + 1,
        batch.epoch,
        batch.batch + 1,
        state.tokens + tokens,
    )
    state.loss_scale = scaler.state_dict() if scaler else None
    note_finite(state, finite, batch, run)
    speed = tokens / (time.perf_counter() - started)
    line: dict[str, Any] = {
        "step": state.step,
        "kind": "train",
        "loss": mean if finite else None,
        "lr": lr,
        "grad_norm": norm if math.isfinite(norm) else None,
        "tokens": tokens,
        "rows": batch.rows,
        "tokens_per_second": round(speed, 1),
        "mfu": round(speed * run.flops_per_token / run.rate, 4),
        "peak_memory_bytes": peak_memory(),
    }
    if spike and run.spike != "off":
        line["spike"] = run.spike
        console.warn(f"step {state.step}: loss {mean:.4g}, gradient norm {norm:.4g} stand out by 6 sigma ({run.spike})")
    return line


def add_up(
    run: Training, batch: StepBatch, scaler: torch.amp.GradScaler | None
) -> tuple[torch.Tensor, float, int] | None:
    """The gradient of all micro-batches, with (sum of the losses, fp64, on the device; items; tokens).

    None where memory ran out and a smaller micro-batch may help: gradient and random numbers are then as they were.
    """
    device = run.machine.device
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0.0
    before = Randomness(run.model)
    try:
        poison = fault("loss") == "nan"
        parts = [part.to(device) for part in batch.parts]
        tokens = sum(part.num_tokens for part in parts)
        precision = partial(run.machine.autocast, run.machine.precision)
        for loss in backward_parts(
            run.task, run.model, parts, precision, scaler.scale if scaler else lambda loss: loss
        ):
            total += loss.total.detach()  # not read here: a GPU would have to be waited for
            count += loss.count
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        raise_if_memory_is_short(error, run.micro_batch_size)
    else:
        return total * math.nan if poison else total, count, tokens
    run.optimizer.zero_grad(set_to_none=True)
    before.set()
    return None


def halve(run: Training, batch: StepBatch) -> None:
    """Go on with micro-batches of half the size: in this batch, in the next ones, and where the run is resumed."""
    run.micro_batch_size //= 2
    if run.machine.device.type == "cuda":
        torch.cuda.empty_cache()
    dataset = StepDataset(run.task, run.store, run.micro_batch_size, run.order.seed, documents=reads_places(run.model))
    batch.parts = dataset.parts(batch.epoch, batch.order)
    run.checkpoints.about.setdefault("resolved", {})["micro_batch_size"] = run.micro_batch_size
    console.warn(
        f"step {run.state.step + 1}: memory ran out; going on with trainer.micro_batch_size={run.micro_batch_size}, "
        f"which leaves the gradient as it is"
    )


def make_scaler(run: Training) -> torch.amp.GradScaler | None:
    """Loss scaling for fp16 only; bf16 has fp32's range."""
    if run.machine.precision != "fp16":
        return None
    scaler = torch.amp.GradScaler(run.machine.device.type)
    if run.state.loss_scale:
        scaler.load_state_dict(run.state.loss_scale)
    return scaler


def batches_of(run: Training) -> Iterator[StepBatch]:
    """Batches from the cursor on."""
    state = run.state
    keys = cursor(run.order, state.epoch, state.batch, {(pair[0], pair[1]) for pair in state.excluded})
    dataset = StepDataset(run.task, run.store, run.micro_batch_size, run.order.seed, documents=reads_places(run.model))
    return stream(dataset, keys, workers=run.workers, pinned=run.machine.device.type == "cuda")


def validate(run: Training, display: console.StepDisplay) -> bool:
    """Evaluate, remember the best; True where this is a new best."""
    state = run.state
    found = run.evaluate(state.step)
    state.evaluated = state.step
    run.model.train()
    if found is None:
        return False
    name, score = found
    display.say(f"step {state.step:>5}/{run.schedule.steps}  validation {name} {console.number(score.value)}")
    better = state.best is None or (score.value > state.best if score.higher_is_better else score.value < state.best)
    if not better or not math.isfinite(score.value):
        state.stale += 1
        return False
    state.best, state.best_step, state.stale = score.value, state.step, 0
    return True


def account(state: TrainState, line: dict[str, Any], seconds: float) -> None:
    state.seconds += seconds
    if state.step > WARM_UP_STEPS:
        state.timed_tokens += line["tokens"]
        state.timed_seconds += seconds
    if line["loss"] is not None:
        state.first_loss = line["loss"] if state.first_loss is None else state.first_loss
        state.last_loss = line["loss"]


def is_spike(state: TrainState, loss: float, norm: float) -> bool:
    for value, past in ((loss, state.losses), (norm, state.norms)):
        if len(past) < SPIKE_WINDOW // 2:
            continue
        mean = sum(past) / len(past)
        # statistics.pstdev() goes by exact fractions: 0.27 ms for 128 numbers instead of 0.02.
        sigma = math.sqrt(sum((one - mean) ** 2 for one in past) / len(past))
        if value > mean + SPIKE_SIGMAS * sigma:
            return True
    return False


def remember(state: TrainState, loss: float, norm: float) -> None:
    for value, past in ((loss, state.losses), (norm, state.norms)):
        if math.isfinite(value):
            past.append(value)
            del past[:-SPIKE_WINDOW]


def note_finite(state: TrainState, finite: bool, batch: StepBatch, run: Training) -> None:
    """Count non-finite steps in a row and among the last thousand (RELIABILITY P7)."""
    if finite:
        state.bad_run = 0
        return
    state.bad_run += 1
    state.bad_steps = [step for step in state.bad_steps if step > state.step - 1000] + [state.step]
    console.warn(
        f"step {state.step}: loss or gradient is not finite; the update is skipped (batch {batch.batch} of epoch {batch.epoch})"
    )


def must_roll_back(state: TrainState) -> bool:
    return state.bad_run > 3 or len(state.bad_steps) > 20


def roll_back(run: Training, batch: StepBatch) -> None:
    """Back to the newest valid checkpoint, past the batches around the bad ones; Diverged after the second time."""
    state = run.state
    folder = find_checkpoint(run.checkpoints.folder.parent, "auto")
    if state.rollbacks >= 2 or folder is None:
        why = "after two rollbacks" if folder is not None else "and there is no checkpoint to go back to"
        raise Diverged(
            f"The loss stayed non-finite at step {state.step} {why}. Lower optim.lr (now {run.schedule.peak:g}), or look at metrics.jsonl."
        )
    window = [[batch.epoch, number] for number in range(max(0, batch.batch - 4), batch.batch + 2)]
    saved, _ = read_state(folder)
    load_tensors(folder, run.model, run.optimizer)
    for name in saved.__slots__:
        if name not in ("rollbacks", "excluded", "skipped"):
            setattr(state, name, getattr(saved, name))
    state.rollbacks += 1
    state.excluded += window
    state.skipped = saved.skipped
    console.warn(
        f"rolled back to step {state.step} ({folder.name}); batches {window[0]} to {window[-1]} are passed over"
    )


def raise_if_memory_is_short(error: BaseException, micro_batch_size: int) -> None:
    """Returns where memory ran out in a step that can be cut smaller; raises OutOfMemory where not, or another error as it is."""
    marks = ("out of memory", "can't allocate memory")
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(mark in str(error) for mark in marks):
        raise error
    if micro_batch_size <= 1:
        raise OutOfMemory(
            "Memory ran out in a training step at micro-batch 1. Lower data.context or take a smaller model."
        ) from None
