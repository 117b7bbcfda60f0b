"""Make a run fail at a named point, for tests: `LLMSTAGE_FAULT=point:nth:action`. Without the variable nothing happens.

Actions: kill (SIGKILL), term (SIGTERM), die (an exception that no handler catches, as a kill within one process), raise,
enospc, oom, nan. The variable is refused without LLMSTAGE_ALLOW_FAULTS=1, so that one left behind in a shell cannot end a
real run.
"""

from __future__ import annotations

import errno
import os
import signal
from collections import Counter

from llmstage.errors import Refused

_passes: Counter[str] = Counter()


class Killed(BaseException):
    """No handler catches it: it is no Exception."""


def reset_faults() -> None:
    """Set the counts of all points to zero, for the next run in the same process."""
    _passes.clear()


def inject_fault(point: str) -> str | None:
    """Fail here if the variable says so; return the name of an action that the caller itself must take (`nan`)."""
    setting = os.environ.get("LLMSTAGE_FAULT")
    if not setting:
        return None
    if os.environ.get("LLMSTAGE_ALLOW_FAULTS") != "1":
        raise Refused(
            "LLMSTAGE_FAULT is set, which makes runs fail on purpose. Unset it, or set LLMSTAGE_ALLOW_FAULTS=1 in a test."
        )
    name, nth, action = setting.split(":")
    if name != point:
        return None
    _passes[point] += 1
    first, _, last = nth.partition("-")  # one pass, or a range of them: 6-9
    if not int(first) <= _passes[point] <= int(last or first):
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
