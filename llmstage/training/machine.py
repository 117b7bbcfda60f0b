"""What `auto` means on this machine: decided from the machine and the config only, never from load or timing."""

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

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


@dataclass(slots=True, frozen=True)
class Machine:
    """Where and in what arithmetic a run computes."""

    device: torch.device
    threads: int
    precision: str
    why: str
    """The hardware that made bf16 the choice, or empty."""

    @contextlib.contextmanager
    def autocast(self, precision: str) -> Iterator[None]:
        """Matrix products in `precision`; fp32 leaves everything as it is."""
        if precision == "fp32":
            yield
        else:
            with torch.autocast(self.device.type, DTYPES[precision]):
                yield

    @property
    def described(self) -> str:
        return f"{self.precision}{f' ({self.why})' if self.why else ''}"


def scoring_precision(cfg: TrainerConfig) -> str:
    """Of scores: the same number on every machine, where nothing else is asked for."""
    return "fp32" if cfg.eval_precision == "auto" else cfg.eval_precision


def resolve_machine(cfg: TrainerConfig, fixed: dict[str, Any] | None = None) -> Machine:
    """`fixed`: decisions of an earlier part of the same run, which a resumed run keeps."""
    fixed = fixed or {}
    device = resolve_device(cfg.device)
    threads = fixed.get("threads") or (available_threads() if cfg.threads == "auto" else int(cfg.threads))
    why = fast_bf16(device)
    precision = fixed.get("precision") or cfg.precision
    if precision == "auto":
        precision = "bf16" if why else "fp16" if device.type == "cuda" else "fp32"
    if precision == "fp16" and device.type == "cpu":
        raise UserError(
            "trainer.precision=fp16 needs a GPU: CPUs have no fast fp16 here. Use precision=auto, bf16 or fp32."
        )
    return Machine(device, threads, precision, why if precision == "bf16" else "")


def resolve_device(word: str) -> torch.device:
    if word == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(word)
    except RuntimeError:
        raise UserError(f"trainer.device={word} is no device. Use auto, cpu, cuda or cuda:1.") from None
    if device.type == "cuda" and not torch.cuda.is_available():
        raise UserError(f"trainer.device={word}: torch sees no GPU here. Use trainer.device=auto.")
    return device


def available_threads() -> int:
    """Cores of the affinity mask, at most the cgroup's quota."""
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    with contextlib.suppress(OSError, ValueError):
        quota, period = Path("/sys/fs/cgroup/cpu.max").read_text().split()
        if quota != "max":
            count = min(count, max(1, math.floor(int(quota) / int(period))))
    return max(1, count)


def fast_bf16(device: torch.device) -> str:
    """Name of the unit that multiplies bf16 fast, or an empty string."""
    if device.type == "cuda":
        return "tensor cores" if torch.cuda.is_bf16_supported(including_emulation=False) else ""
    for name, probe in (("AMX", "_is_amx_tile_supported"), ("AVX512-bf16", "_is_avx512_bf16_supported")):
        found = getattr(torch.cpu, probe, None)
        if found is not None and found():
            return name
    return ""


@cache
def product_rate(machine: Machine) -> float:
    """Measured rate of a matrix product in the run's arithmetic, FLOP/s, once a process: the denominator of MFU.

    Shown in the plan and the report; no decision hangs on it.
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


def peak_memory() -> int:
    """Largest resident set of this process so far, bytes (GPU: largest allocation)."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def environment() -> dict[str, Any]:
    """For environment.json and the report."""
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
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {
        "machine": {
            "system": platform.platform(),
            "cores": available_threads(),
            "cpu": cpu_name(),
            "bf16": fast_bf16(torch.device("cpu")),
            "gpu": gpu,
        },
        "versions": versions,
    }


def cpu_name() -> str:
    with contextlib.suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor()
