"""The training loop: evaluate, save, stop?, step, log."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from llmstage import console
from llmstage.config import TrainerConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import Diverged, Interrupted, OutOfMemory
from llmstage.evaluation.metrics.score import Score
from llmstage.kernels.varlen_attention import uses_cu_seqlens
from llmstage.tasks.base import Task
from llmstage.training.batches import RandomState, StepBatch, StepDataset, backward_parts, batch_keys, load_batches
from llmstage.training.checkpoint import Checkpoints, TrainState, find_checkpoint, load_tensors, read_state
from llmstage.training.fault_injection import inject_fault
from llmstage.training.machine import Machine, peak_memory
from llmstage.training.optimizers import Schedule, scale_gradients
from llmstage.training.plan import Plan
from llmstage.training.session import StopFlag

WARM_UP_STEPS = 3
"""Steps that the reported tokens per second leave out."""
SPIKE_WINDOW, SPIKE_SIGMAS = 128, 6.0
"""OLMo's rule: a spike is a loss or norm beyond mean + 6 sigma of the last 128 steps, once there are 64."""


@dataclass(slots=True)
class Training:
    """What the loop works with."""

    model: nn.Module
    task: Task
    """Gives the loss: the run's task, or one whose loss has further terms."""
    store: ExampleStore
    order: BatchOrder
    optimizer: torch.optim.Optimizer
    schedule: Schedule
    machine: Machine
    checkpoints: Checkpoints
    state: TrainState
    stop: StopFlag
    trainer: TrainerConfig
    plan: Plan
    micro_batch_size: int
    """That of the plan, or less once memory has run out."""
    max_grad_norm: float | None
    spike_policy: str
    """What happens to a step whose loss or norm is a spike: off, warn, skip, rollback."""
    workers: int
    matmul_rate: float
    """FLOP/s of the machine's matrix product: the denominator of MFU."""
    evaluate: Callable[[int], tuple[str, Score] | None]
    """Validate at a step; return name and score of the selecting metric, or None where there is no validation split."""
    log: Callable[[dict[str, Any]], None]
    """Write one line of metrics."""
    select_from: int = 0
    """First step whose validation may be selected: a new head is random until the warm-up is over, whatever it scores."""
    save_at: frozenset[int] = frozenset()
    """Steps after which a checkpoint is written, besides those of the plan."""

    @property
    def is_done(self) -> bool:
        """Whether the budget is used up: trainer.max_tokens, else the steps of the schedule."""
        if self.trainer.max_tokens is not None:
            return self.state.tokens >= self.trainer.max_tokens
        return self.state.step >= self.schedule.steps


def train(training: Training) -> TrainState:
    """Train from the current state to the end of the budget. Raise Interrupted after a signal, once the state is saved."""
    state, plan, stop = training.state, training.plan, training.stop
    scaler = build_scaler(training)
    batches = build_batches(training)
    training.model.train()
    try:
        with console.StepDisplay(training.schedule.steps, training.trainer.log_every, state.step) as display:
            while True:
                # Evaluate, also before the first step: the scores that training starts from.
                done = training.is_done
                improved = is_due(plan.eval_every, state.step, last=done) and validate(training, display)
                out_of_patience = training.trainer.patience is not None and state.stale >= training.trainer.patience

                # Save. The best state must be on disk when training ends.
                must_save = improved or done or out_of_patience or state.step in training.save_at
                if (is_due(plan.save_every, state.step, last=must_save) and state.step > 0) or stop.name:
                    training.checkpoints.save(state, training.optimizer, training.model)

                # Stop?
                if done or out_of_patience:
                    return state
                if stop.name:
                    raise Interrupted(
                        f"stopped by {stop.name} after step {state.step}; saved. Continue with the same command and "
                        f"hydra.run.dir={training.checkpoints.folder.parent}"
                    )

                # Step.
                started = time.perf_counter()
                batch = next(batches)
                micro_batch_size = training.micro_batch_size
                line = take_step(training, batch, scaler)
                seconds = time.perf_counter() - started
                inject_fault("step")
                if (line["loss"] is None and must_roll_back(state)) or line.get("spike") == "rollback":
                    roll_back(training, batch)
                    batches = build_batches(training)
                    continue
                if training.micro_batch_size != micro_batch_size:  # memory ran out in this step
                    batches = build_batches(training)

                # Log.
                count_step(state, line, seconds)
                training.log({**line, "seconds": round(state.seconds, 3)})
                display.show(state.step, progress_figures(line))
    finally:
        batches.close()  # end the data workers now: an error that is kept would keep them alive


def is_due(every: int, step: int, *, last: bool) -> bool:
    """Return whether something that is done `every` so many steps is done at this one; 0: only at the last."""
    return last or (every > 0 and step % every == 0)


def progress_figures(line: dict[str, Any]) -> dict[str, Any]:
    """Return the figures of a step that the terminal shows."""
    return {
        "loss": line["loss"],
        "lr": line["lr"],
        "tokens/s": line["tokens_per_second"],
        "mfu": f"{line['mfu']:.0%}",
        "memory": f"{line['peak_memory_bytes'] / 2**30:.1f} GiB",
    }


def take_step(training: Training, batch: StepBatch, scaler: torch.amp.GradScaler | None) -> dict[str, Any]:
    """Take one optimizer step over all micro-batches; return its line for metrics.jsonl.

    The state moves on to the next batch whether or not the update is applied.
    """
    state, optimizer = training.state, training.optimizer
    lr = training.schedule.at(state.step - state.skipped)  # a skipped update does not use up its learning rate
    for group in optimizer.param_groups:
        group["lr"] = lr

    # 1. The gradient of the whole batch, with smaller micro-batches where memory runs out.
    started = time.perf_counter()
    while (sums := accumulate_gradient(training, batch, scaler)) is None:
        halve_micro_batches(training, batch)
    device_total, count, tokens = sums
    if scaler:
        scaler.unscale_(optimizer)
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    divisor = max(count, 1e-12)
    total, norm = scale_gradients(parameters, divisor, training.max_grad_norm, device_total)
    loss = total / divisor

    # 2. The update. The scaler of fp16 skips infinite gradients itself, and lowers its scale by them.
    finite = math.isfinite(loss) and (math.isfinite(norm) or scaler is not None)
    spike = finite and is_spike(state, loss, norm)
    if finite and not (spike and training.spike_policy in ("skip", "rollback")):
        if scaler:
            scaler.step(optimizer)
            scaler.update()
        else:
            optimizer.step()
        training.task.after_step(training.model)
        remember(state, loss, norm)
    else:
        state.skipped += 1
    optimizer.zero_grad(set_to_none=True)

    # 3. The position in the data, and the line.
    state.step, state.tokens = state.step + 1, state.tokens + tokens
    state.epoch, state.batch = batch.epoch, batch.batch + 1
    state.loss_scale = scaler.state_dict() if scaler else None
    count_non_finite(state, batch, finite=finite)
    tokens_per_second = tokens / (time.perf_counter() - started)
    flops_per_token = training.plan.flops / max(1, training.plan.tokens)
    line: dict[str, Any] = {
        "step": state.step,
        "kind": "train",
        "loss": loss if finite else None,
        "lr": lr,
        "grad_norm": norm if math.isfinite(norm) else None,
        "tokens": tokens,
        "rows": batch.rows,
        "tokens_per_second": round(tokens_per_second, 1),
        "mfu": round(tokens_per_second * flops_per_token / training.matmul_rate, 4),
        "peak_memory_bytes": peak_memory(),
    }
    if spike and training.spike_policy != "off":
        line["spike"] = training.spike_policy
        console.warn(
            f"step {state.step}: loss {loss:.4g}, gradient norm {norm:.4g} stand out by 6 sigma ({training.spike_policy})"
        )
    return line


def accumulate_gradient(
    training: Training, batch: StepBatch, scaler: torch.amp.GradScaler | None
) -> tuple[torch.Tensor, float, int] | None:
    """Compute the gradient of all micro-batches; return (sum of the losses, fp64, on the device; items; tokens).

    Return None where memory ran out and a smaller micro-batch may help: gradient and random numbers are then as they were.
    """
    device = training.machine.device
    total, count = torch.zeros((), dtype=torch.float64, device=device), 0.0
    random_state = RandomState(training.model)
    try:
        make_nan = inject_fault("loss") == "nan"
        parts = [part.to(device) for part in batch.parts]
        tokens = sum(part.num_tokens for part in parts)
        autocast = partial(training.machine.autocast, training.machine.precision)
        scale = scaler.scale if scaler else lambda loss: loss
        for loss in backward_parts(training.task, training.model, parts, autocast, scale):
            total += loss.total.detach()  # not read here, which would make the host wait for a GPU
            count += loss.count
    except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
        raise_if_memory_is_short(error, training.micro_batch_size)
    else:
        return total * math.nan if make_nan else total, count, tokens
    training.optimizer.zero_grad(set_to_none=True)
    random_state.restore()
    return None


def halve_micro_batches(training: Training, batch: StepBatch) -> None:
    """Go on with micro-batches of half the size: in this batch, in the next ones, and where the run is resumed."""
    training.micro_batch_size //= 2
    if training.machine.device.type == "cuda":
        torch.cuda.empty_cache()
    batch.parts = step_dataset(training).collate_parts(batch.epoch, batch.order)
    training.checkpoints.metadata.setdefault("resolved", {})["micro_batch_size"] = training.micro_batch_size
    console.warn(
        f"step {training.state.step + 1}: memory ran out; going on with trainer.micro_batch_size={training.micro_batch_size}, "
        f"which leaves the gradient as it is"
    )


def build_scaler(training: Training) -> torch.amp.GradScaler | None:
    """Return a loss scaler for fp16, with its state where the run is resumed; bf16 has the range of fp32 and needs none."""
    if training.machine.precision != "fp16":
        return None
    scaler = torch.amp.GradScaler(training.machine.device.type)
    if training.state.loss_scale:
        scaler.load_state_dict(training.state.loss_scale)
    return scaler


def step_dataset(training: Training) -> StepDataset:
    """Return the dataset that collates batches, with the current micro-batch size."""
    return StepDataset(
        training.task,
        training.store,
        training.micro_batch_size,
        training.order.seed,
        cu_seqlens=uses_cu_seqlens(training.model),
    )


def build_batches(training: Training) -> Generator[StepBatch, None, None]:
    """Return the batches from the state's position in the data on, without those that a rollback excluded."""
    state = training.state
    keys = batch_keys(training.order, state.epoch, state.batch, {(pair[0], pair[1]) for pair in state.excluded})
    pin_memory = training.machine.device.type == "cuda"
    return load_batches(step_dataset(training), keys, workers=training.workers, pin_memory=pin_memory)


def validate(training: Training, display: console.StepDisplay) -> bool:
    """Evaluate, unless this step was evaluated before a resume; return whether the selecting metric is a new best."""
    state = training.state
    if state.evaluated == state.step:
        return False
    result = training.evaluate(state.step)
    state.evaluated = state.step
    training.model.train()
    if result is None:
        return False
    name, score = result
    display.print_line(
        f"step {state.step:>5}/{training.schedule.steps}  validation {name} {console.number(score.value)}"
    )
    state.last = score.value
    if state.step < min(training.select_from, training.schedule.steps):
        return False
    better = state.best is None or (score.value > state.best if score.higher_is_better else score.value < state.best)
    if not better or not math.isfinite(score.value):
        state.stale += 1
        return False
    state.best, state.best_step, state.stale = score.value, state.step, 0
    return True


def count_step(state: TrainState, line: dict[str, Any], seconds: float) -> None:
    """Add a step to the times and losses that the report gives."""
    state.seconds += seconds
    if state.step > WARM_UP_STEPS:
        state.timed_tokens += line["tokens"]
        state.timed_seconds += seconds
    if line["loss"] is not None:
        state.first_loss = line["loss"] if state.first_loss is None else state.first_loss
        state.last_loss = line["loss"]


def is_spike(state: TrainState, loss: float, norm: float) -> bool:
    """Return whether loss or gradient norm stands out from those of the last steps (SPIKE_SIGMAS)."""
    for value, past in ((loss, state.losses), (norm, state.norms)):
        if len(past) < SPIKE_WINDOW // 2:
            continue
        mean = sum(past) / len(past)
        # statistics.pstdev() computes with exact fractions: 0.27 ms for 128 numbers instead of 0.02.
        sigma = math.sqrt(sum((number - mean) ** 2 for number in past) / len(past))
        if value > mean + SPIKE_SIGMAS * sigma:
            return True
    return False


def remember(state: TrainState, loss: float, norm: float) -> None:
    """Add loss and gradient norm to those that the next steps are compared with."""
    for value, past in ((loss, state.losses), (norm, state.norms)):
        if math.isfinite(value):
            past.append(value)
            del past[:-SPIKE_WINDOW]


def count_non_finite(state: TrainState, batch: StepBatch, *, finite: bool) -> None:
    """Count non-finite steps in a row and among the last thousand, and warn about this one (RELIABILITY P7)."""
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


def roll_back(training: Training, batch: StepBatch) -> None:
    """Load the newest valid checkpoint and exclude the batches around the bad ones. Raise Diverged at the third time."""
    state = training.state
    folder = find_checkpoint(training.checkpoints.folder.parent, "auto")
    if state.rollbacks >= 2 or folder is None:
        reason = "after two rollbacks" if folder is not None else "and there is no checkpoint to go back to"
        raise Diverged(
            f"The loss stayed non-finite at step {state.step} {reason}. Lower optim.lr (now {training.schedule.peak:g}), or look at metrics.jsonl."
        )
    window = [[batch.epoch, number] for number in range(max(0, batch.batch - 4), batch.batch + 2)]
    saved, _ = read_state(folder)
    load_tensors(folder, training.model, training.optimizer)
    # What was learned about bad batches since that checkpoint must survive, or the run would repeat itself.
    for name in saved.__slots__:
        if name not in ("rollbacks", "excluded", "skipped"):
            setattr(state, name, getattr(saved, name))
    state.rollbacks += 1
    state.excluded += window
    state.skipped = saved.skipped
    console.warn(f"rolled back to step {state.step} ({folder.name}); batches {window[0]} to {window[-1]} are left out")


def raise_if_memory_is_short(error: BaseException, micro_batch_size: int) -> None:
    """Return where memory ran out and the step can be cut smaller. Raise OutOfMemory where not, or another error as it is."""
    marks = ("out of memory", "can't allocate memory")
    if not isinstance(error, (torch.OutOfMemoryError, MemoryError)) and not any(mark in str(error) for mark in marks):
        raise error
    if micro_batch_size <= 1:
        raise OutOfMemory(
            "Memory ran out in a training step at micro-batch 1. Lower data.context or take a smaller model."
        ) from None
