"""A better memory allocator, threads that spin only briefly, and a smaller kernel cache, for the process that trains.

No torch here.

Freed and re-taken activations cost page faults: about a fifth of a step on a CPU. tcmalloc and jemalloc keep what was freed and find
it again. glibc can be told to keep it, but cuts it into pieces that are of no use later: a causal model of 14 M weights peaked at 2.2 GB
with glibc and at 1.4 GB with either of the others. (Intel's tbbmalloc, which pip installs, peaked at 1.5 GB and took a sixth longer.)

An allocator can only be chosen at start, so the process starts again once: before anything is imported where the command line
alone tells that it trains, which saves most of a second.
"""

from __future__ import annotations

import ctypes.util
import os
import platform
import sys

STAGES = ("pretrain", "finetune", "inspect")
"""What is worth a second start."""
SWEEPS = ("-m", "--multirun")
LIBRARIES = ("tcmalloc_minimal", "tcmalloc", "jemalloc")
JEMALLOC = "dirty_decay_ms:-1,muzzy_decay_ms:-1,oversize_threshold:0"
"""Large blocks are kept like small ones, and nothing is given back: by default a step takes half as long again."""
MARK = "LLMSTAGE_ALLOCATOR"
GLIBC = "glibc.malloc.mmap_threshold=4294967296:glibc.malloc.trim_threshold=8589934592:glibc.malloc.top_pad=268435456"


def trains(arguments: list[str]) -> bool:
    """Whether these words, without any file that they name, say that a stage of STAGES runs with an allocator of ours."""
    unclear = ("experiment=", "plan=", "trainer.allocator=")
    hidden = any(word.startswith(unclear) or (word[:1] == "-" and word not in SWEEPS) for word in arguments)
    return not hidden and any(word == f"stage={name}" for word in arguments for name in STAGES)


def restart(arguments: list[str], **more: str) -> None:
    """Start again with a better allocator; comes back where there is none, or where this is that second start."""
    extra = preload_environment()
    if extra:
        sys.stdout.flush()
        os.execve(sys.executable, [sys.executable, "-m", "llmstage", *arguments], {**os.environ, **extra, **more})


def preload_environment() -> dict[str, str]:
    """Variables to start again with, or none where this process already has them or the platform has no such thing."""
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
            kept = {"MALLOC_CONF": JEMALLOC} if name == "jemalloc" and "MALLOC_CONF" not in os.environ else {}
            return {"LD_PRELOAD": path, MARK: name, **kept, **waiting}
    if platform.libc_ver()[0] == "glibc":
        known = os.environ.get("GLIBC_TUNABLES")
        return {"GLIBC_TUNABLES": f"{known}:{GLIBC}" if known else GLIBC, MARK: "tuned glibc", **waiting}
    return {MARK: "plain malloc", **waiting} if waiting else {}


def allocator_name() -> str:
    return os.environ.get(MARK, "plain malloc")
