"""The machine of a run: device, threads, precision, memory, versions.

What `auto` resolves to depends on the machine and the config only, never on load or timing.
"""

from __future__ import annotations

import contextlib
import math
import os
import platform
import resource
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import torch

from llmstage.config import TrainerConfig
from llmstage.errors import UserError
from llmstage.kernels.torch_internals import bf16_unit

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True, frozen=True)
class Machine:
    """The device of a run, and the precision of its training."""

    device: torch.device
    threads: int
    precision: str
    bf16_unit: str
    """The hardware that multiplies bf16 fast, where bf16 was chosen for it; else empty."""

    @contextlib.contextmanager
    def autocast(self, precision: str) -> Iterator[None]:
        """Compute matrix products in `precision` within this context; fp32 changes nothing."""
        if precision == "fp32":
            yield
        else:
            with torch.autocast(self.device.type, DTYPES[precision]):
                yield

    @property
    def description(self) -> str:
        """The precision and its reason, for the line of the plan."""
        return f"{self.precision}{f' ({self.bf16_unit})' if self.bf16_unit else ''}"


def scoring_precision(cfg: TrainerConfig) -> str:
    """Return the precision of scores. `auto` is fp32, which gives the same numbers on every machine."""
    return "fp32" if cfg.eval_precision == "auto" else cfg.eval_precision


def resolve_machine(cfg: TrainerConfig, saved: dict[str, Any] | None = None) -> Machine:
    """Return the machine as the config wants it used. `saved`: what a resumed run resolved before, and keeps.

    Raise UserError.
    """
    saved = saved or {}
    device = resolve_device(cfg.device)
    threads = saved.get("threads") or (auto_threads() if cfg.threads == "auto" else int(cfg.threads))
    unit = fast_bf16(device)
    precision = saved.get("precision") or cfg.precision
    if precision == "auto":
        precision = "bf16" if unit else "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError(
            "trainer.precision=fp16 needs a GPU: CPUs have no fast fp16 here. Use precision=auto, bf16 or fp32."
        )
    return Machine(device, threads, precision, unit if precision == "bf16" else "")


def resolve_device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError:
        raise UserError(f"trainer.device={name} is no device. Use auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"trainer.device={name}: torch sees no GPU here. Use trainer.device=auto.")
    return device


def auto_threads() -> int:
    """Return what trainer.threads=auto means: OMP_NUM_THREADS where it is set, but never more than the available cores.

    Schedulers such as Slurm set the variable where several processes share a machine; torch and NumPy obey it too.
    """
    outer_level = os.environ.get("OMP_NUM_THREADS", "").partition(",")[0].strip()  # "4,2": 4, and 2 where nested
    cores = available_threads()
    return min(cores, int(outer_level)) if outer_level.isdecimal() and int(outer_level) > 0 else cores


def available_threads() -> int:
    """Return the number of cores in the affinity mask, at most the quota of the cgroup."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, math.floor(int(quota) / int(period))))
    return max(1, count)


def fast_bf16(device: torch.device) -> str:
    """Return the name of the hardware that multiplies bf16 fast, or an empty string."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    return bf16_unit()


@cache
def matmul_rate(machine: Machine) -> float:
    """Return the measured rate of a matrix product in the run's precision, in FLOP/s: the denominator of MFU.

    It is measured once in a process, for the estimate of time and the report; no decision depends on it.
    """
    size = 1024 if machine.device.type == "cpu" else 8192
    a = torch.ones(size, size, dtype=DTYPES[machine.precision], device=machine.device)
    best = math.inf
    for _ in range(5):
        started = time.perf_counter()
        product = a @ a
        if machine.device.type == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - started)
    del product
    return 2 * size**3 / best


def total_memory(device: torch.device) -> int:
    """Return the memory of a device in bytes; of the CPU what is installed, at most the limit of the cgroup."""
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    with contextlib.suppress(OSError, ValueError):  # "max" is no number
        total = min(total, int(Path("/sys/fs/cgroup/memory.max").read_text()))
    return int(total)


def peak_memory() -> int:
    """Return the largest resident set of this process so far, in bytes; with a GPU, the largest allocation on it."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment() -> dict[str, Any]:
    """Return hardware and versions, for environment.json and the report."""
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": {
            "system": platform.platform(),
            "cores": available_threads(),
            "cpu": cpu_name(),
            "bf16": fast_bf16(torch.device("cpu")),
            "gpu": gpu,
        },
        "versions": dict(installed_versions()),
    }


@cache
def installed_versions() -> dict[str, str]:
    """Return the versions of Python and of what a run depends on most."""
    from importlib.metadata import PackageNotFoundError, version

    names = (
        "llmstage",
        "torch",
        "transformers",
        "tokenizers",
        "datasets",
        "hydra-core",
        "omegaconf",
        "numpy",
        "scikit-learn",
        "sacrebleu",
    )
    versions = {"python": platform.python_version()}
    for name in names:
        with contextlib.suppress(PackageNotFoundError):
            versions[name] = version(name)
    return versions


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
