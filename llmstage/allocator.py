"""A better memory allocator, threads that spin only briefly, and a smaller kernel cache, for the process that trains.

No torch here.

Activations that are freed and allocated again cost page faults: about a fifth of a step on a CPU. tcmalloc and
jemalloc keep freed memory and reuse it. glibc can be configured to keep it, but fragments it: a causal model of 14 M
weights peaked at 2.2 GB with glibc and at 1.4 GB with either of the others. (tbbmalloc of Intel, which pip installs,
peaked at 1.5 GB and was a sixth slower.)

An allocator can only be chosen when a process starts, so the process starts again once. Where the command line alone
shows that it trains, it does so before anything is imported, which saves most of a second.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import sys

STAGES = ("pretrain", "finetune", "inspect")
"""Stages that start again with a better allocator."""
SWEEPS = ("-m", "--multirun")
LIBRARIES = ("tcmalloc_minimal", "tcmalloc", "jemalloc")
JEMALLOC = "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0"
"""Settings of jemalloc: keep large blocks like small ones, and return no memory. With the defaults a step takes half
as long again."""
MARK = "LLMSTAGE_ALLOCATOR"
"""Environment variable with the name of the allocator; it marks the process that has started again."""
GLIBC = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456"


def trains(arguments: list[str]) -> bool:
    """Return whether these arguments alone, without any file they name, show that a stage of STAGES runs and the
    allocator is not turned off."""
    unclear = ("experiment=", "plan=", "trainer.allocator=")
    hidden = any(word.startswith(unclear) or (word[:1] == "-" and word not in SWEEPS) for word in arguments)
    return not hidden and any(word == f"stage={name}" for word in arguments for name in STAGES)


def restart(arguments: list[str], **more: str) -> None:
    """Start the process again with a better allocator. Return where there is none, or where this is the process that
    has started again."""
    extra = preload_environment()
    if extra:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "llmstage", *arguments], {**os.environ, **extra, **more})


def preload_environment() -> dict[str, str]:
    """Return the environment variables of the new process; none where it has them already, or where the platform has
    no such allocator."""
    if MARK in os.environ or not sys.platform.startswith("linux") or "LD_PRELOAD" in os.environ:
        return {}
    # OpenMP threads that spin while they wait cost more than half the speed when another process uses a core; threads
    # that never spin cost a third of it on an idle machine. A short spin keeps most of both.
    waiting = {} if {"OMP_WAIT_POLICY", "GOMP_SPINCOUNT"} & os.environ.keys() else {"GOMP_SPINCOUNT": "100000"}
    # oneDNN keeps compiled kernels for 1,024 shapes; batches of every length fill hundreds of megabytes with them.
    if "ONEDNN_PRIMITIVE_CACHE_CAPACITY" not in os.environ:
        waiting["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] = "64"
    for name in LIBRARIES:
        path = ctypes.util.find_library(name)
        if path:
            settings = {"MALLOC_CONF": JEMALLOC} if name == "jemalloc" and "MALLOC_CONF" not in os.environ else {}
            return {"LD_PRELOAD": path, MARK: name, **settings, **waiting}
    if platform.libc_ver()[0] == "glibc":
        known = os.environ.get("GLIBC_TUNABLES")
        return {"GLIBC_TUNABLES": f"{known}:{GLIBC}" if known else GLIBC, MARK: "tuned glibc", **waiting}
    return {MARK: "plain malloc", **waiting} if waiting else {}


def allocator_name() -> str:
    """Return the name of the allocator of this process."""
    return os.environ.get(MARK, "plain malloc")
