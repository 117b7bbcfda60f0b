"""Named places where a test may make a run fail: `LLMSTAGE_FAULT=point:nth:action`, a no-op unless it is set.

Actions: kill (SIGKILL), term (SIGTERM), die (unwind past every handler, a kill within one process), raise, enospc, oom. Refused without LLMSTAGE_ALLOW_FAULTS=1, so that a variable
left behind in a shell cannot end a real run.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

from llmstage.errors import Refused

_seen: Counter[str] = Counter()


class Killed(BaseException):
    """Nobody handles it."""


def reset_faults() -> None:
    """Count the points anew, for the next run in the same process."""
    _seen.clear()


def fault(point: str) -> str | None:
    """Pass a named point; returns the action's name where the caller itself must act (`nan`)."""
    wanted = os.environ.get("LLMSTAGE_FAULT")
    if not wanted:
        return None
    if os.environ.get("LLMSTAGE_ALLOW_FAULTS") != "1":
        raise Refused(
            "LLMSTAGE_FAULT is set, which makes runs fail on purpose. Unset it, or set LLMSTAGE_ALLOW_FAULTS=1 in a test."
        )
    name, nth, action = wanted.split(":")
    if name != point:
        return None
    _seen[point] += 1
    times = range(int(nth.split("-")[0]), int(nth.split("-")[-1]) + 1)
    if _seen[point] not in times:
        return None
    if action in ("kill", "term"):
        os.kill(os.getpid(), signal.SIGKILL if action == "kill" else signal.SIGTERM)
    if action == "die":
        raise Killed(point)
    if action == "raise":
        raise RuntimeError(f"fault injected at {point}")
    if action == "enospc":
        raise OSError(errno.ENOSPC, "No space left on device")
    if action == "oom":
        raise MemoryError("DefaultCPUAllocator: can't allocate memory")
    return action
