"""Describe the machine: its name, its load, and the speed of its matrix products."""

from __future__ import annotations

import json
import os
import platform
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PRODUCT = 2048
"""Rows and columns of the matrix product that measures the peak."""
MEASURE = """
import json, sys, time, torch
threads, size = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
rates = {}
for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
    a = torch.randn(size, size).to(dtype)
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    rates[name] = 2 * size**3 / min(seconds)
print(json.dumps(rates))
"""


def cpu() -> tuple[str, str]:
    """Return the name of the processor, and the unit that determines the speed of bf16."""
    lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines() if Path("/proc/cpuinfo").exists() else []
    fields: Iterator[tuple[str, str, str]] = (line.partition(":") for line in lines)
    fields_by_key = {key.strip(): value.strip() for key, _, value in fields}
    flags = fields_by_key.get("flags", "").split()
    unit = "AMX" if "amx_bf16" in flags else "AVX512-bf16, no AMX" if "avx512_bf16" in flags else "no fast bf16"
    return fields_by_key.get("model name", platform.processor() or platform.machine()), unit


def machine() -> str:
    return "{} ({})".format(*cpu())


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def file_name() -> str:
    """Return the name of the machine's results file: intel-xeon-processor-amx-2-cores."""
    model, unit = cpu()
    plain = re.sub(r"\((r|tm)\)", "", model, flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", f"{plain} {unit.partition(',')[0]} {cores()} cores".lower())
    return "-".join(words)


def load() -> str:
    """Return the mean number of runnable processes in the last minute. A shared machine slows both sides, not always equally."""
    return f"{os.getloadavg()[0]:.1f}"


def peaks(threads: int, size: int = PRODUCT) -> dict[str, float]:
    """Return FLOP/s of a matrix product in fp32 and bf16, the best of twelve, in a separate process. MFU is a share of this peak."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(threads), str(size)], capture_output=True, text=True, check=True
    )
    rates: dict[str, float] = json.loads(process.stdout)
    return rates


def about(threads: int) -> dict[str, Any]:
    """Return the description of the machine for a results file."""
    from importlib.metadata import version

    model, unit = cpu()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {
        "cpu": model, "bf16": unit, "cores": cores(), "memory_gib": round(gib, 1), "threads": threads,
        "python": platform.python_version(), **versions,
    }  # fmt: skip
