"""The machine that is measured: its name, its load, and how fast it multiplies matrices."""

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
"""Rows and columns of the product that gives the peak."""
MEASURE = """
import json, sys, time, torch
threads, size = int(sys.argv[1]), int(sys.argv[2])
torch.set_num_threads(threads)
found = {}
for name, dtype in (("fp32", torch.float32), ("bf16", torch.bfloat16)):
    a = torch.randn(size, size).to(dtype)
    seconds = []
    for _ in range(12):
        started = time.perf_counter()
        a @ a
        seconds.append(time.perf_counter() - started)
    found[name] = 2 * size**3 / min(seconds)
print(json.dumps(found))
"""


def cpu() -> tuple[str, str]:
    """(the processor's name, the unit that decides how fast bf16 is)."""
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
    """A name for the machine's file of results: intel-xeon-processor-amx-2-cores."""
    model, unit = cpu()
    plain = re.sub(r"\((r|tm)\)", "", model, flags=re.IGNORECASE)
    words = re.findall(r"[a-z0-9]+", f"{plain} {unit.partition(',')[0]} {cores()} cores".lower())
    return "-".join(words)


def load() -> str:
    """Processes that wanted a core, mean of the last minute: a shared machine slows both sides, not always alike."""
    return f"{os.getloadavg()[0]:.1f}"


def peaks(threads: int, size: int = PRODUCT) -> dict[str, float]:
    """FLOP/s of a matrix product in fp32 and bf16, the best of twelve, in a process of its own: what MFU is a share of."""
    process = subprocess.run(
        [sys.executable, "-c", MEASURE, str(threads), str(size)], capture_output=True, text=True, check=True
    )
    rates: dict[str, float] = json.loads(process.stdout)
    return rates


def about(threads: int) -> dict[str, Any]:
    """What a table of figures must say of the machine."""
    from importlib.metadata import version

    model, unit = cpu()
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    versions = {name: version(name) for name in ("torch", "transformers", "tokenizers")}
    return {
        "cpu": model, "bf16": unit, "cores": cores(), "memory_gib": round(gib, 1), "threads": threads,
        "python": platform.python_version(), **versions,
    }  # fmt: skip
