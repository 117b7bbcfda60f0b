"""Run and time one training step on the longest batch. The model is discarded afterwards."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from llmstage.config import RunConfig
from llmstage.tasks.base import Batch, Task
from llmstage.training.batches import backward_parts
from llmstage.training.machine import Machine
from llmstage.training.optimizers import build_optimizer, scale_gradients

PROCESS_STATUS, PROCESS_CLEAR_REFS = Path("/proc/self/status"), Path("/proc/self/clear_refs")


@dataclass(slots=True)
class MeasuredStep:
    """Time and memory of one step."""

    seconds: float
    """Duration of the step: loss, gradient, update."""
    bytes: int | None
    """Growth of the resident set from before the model was built to the peak of the step (GPU: memory that torch
    allocated); None where the system does not report it."""


def measure_step(
    run: RunConfig,
    task: Task,
    build: Callable[[], Any],
    parts: Sequence[Batch],
    warm_up_parts: Sequence[Batch],
    machine: Machine,
    lr: float,
) -> MeasuredStep:
    """Measure one step on `parts`.

    `build` makes the model as training does. `warm_up_parts` is a small batch for a first step, so that kernels,
    optimizer moments and memory pages exist.
    """
    cuda = machine.device.type == "cuda"
    bytes_before = baseline_memory(cuda=cuda)
    model = build()
    optimizer = build_optimizer(model, run.optim, lr)
    model.train()
    run_step(run, task, model, optimizer, [part.to(machine.device) for part in warm_up_parts], machine)
    start = time.perf_counter()
    run_step(run, task, model, optimizer, [part.to(machine.device) for part in parts], machine)
    if cuda:
        torch.cuda.synchronize()
    seconds = time.perf_counter() - start
    bytes_peak = torch.cuda.max_memory_allocated() if cuda else read_process_status("VmHWM")
    return MeasuredStep(
        seconds, bytes_peak - bytes_before if bytes_peak is not None and bytes_before is not None else None
    )


def run_step(
    run: RunConfig, task: Task, model: Any, optimizer: torch.optim.Optimizer, parts: Sequence[Batch], machine: Machine
) -> None:
    """Take one optimizer step, as training/loop.py does."""
    total, count = torch.zeros((), dtype=torch.float64, device=machine.device), 0.0
    for loss in backward_parts(task, model, parts, lambda: machine.autocast(machine.precision), lambda value: value):
        total += loss.total.detach()
        count += loss.count
    parameters = [weight for group in optimizer.param_groups for weight in group["params"]]
    scale_gradients(parameters, max(count, 1e-12), run.optim.max_grad_norm, total)
    optimizer.step()
    task.after_step(model)
    optimizer.zero_grad(set_to_none=True)


def baseline_memory(*, cuda: bool) -> int | None:
    """Free unused memory, reset the peak counter, and return the memory in use."""
    gc.collect()
    if cuda:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
        return int(torch.cuda.memory_allocated())
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)
    try:
        PROCESS_CLEAR_REFS.write_text("5")  # proc(5): resets the peak resident set size, VmHWM
    except OSError:
        return None
    return read_process_status("VmRSS")


def read_process_status(name: str) -> int | None:
    """Return a value of /proc/self/status in bytes; None where it is not there."""
    with contextlib.suppress(OSError):
        for line in PROCESS_STATUS.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return None
