"""Process-wide state of one run: threads, seeds, kernels, signals, and the lock of its folder.

The state is restored when the run ends, so that a second run in the same process starts as the first one did.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path
from types import FrameType

import numpy as np
import torch

from llmstage.errors import DiskError, Interrupted, UserError
from llmstage.kernels.rotary import restore_rotary

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopFlag:
    """Remembers a signal, so that the training loop can save and stop after the current step; a second Ctrl-C stops at once.

    Where the caller does not read the flag (`handles_stop` False), a signal raises an exception at once: all files are
    written completely or not at all, and there is nothing else to save.
    """

    def __init__(self, *, handles_stop: bool) -> None:
        self.name: str | None = None
        self.handles_stop = handles_stop

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.name == "SIGINT" or not self.handles_stop):
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if not self.handles_stop:
            raise Interrupted(f"Stopped by {self.name} before the work was done; the same command does it again.")


@contextlib.contextmanager
def session(seed: int, threads: int, *, deterministic: bool, handles_stop: bool = False) -> Iterator[StopFlag]:
    """Set seeds, threads and signal handlers for one run, and restore them at the end.

    `handles_stop`: the caller reads the flag that this yields, and stops by itself.
    """
    # What other code in this process may rely on.
    dtype, was_deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    old_threads = torch.get_num_threads()
    flag, handlers = StopFlag(handles_stop=handles_stop), {}
    with contextlib.suppress(ValueError):  # only the main thread may set handlers
        for number in STOPPING:
            handlers[number] = signal.signal(number, flag)
    torch.set_num_threads(threads)
    # Subnormal numbers late in a run with weight decay make CPU steps up to three times slower, without a message.
    torch.set_flush_denormal(True)
    if deterministic and torch.cuda.is_available():
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True, warn_only=True)
    torch.manual_seed(seed)
    np.random.seed(seed)
    random.seed(seed)
    try:
        yield flag
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        restore_rotary()
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(was_deterministic)
        torch.set_num_threads(old_threads)
        torch.set_flush_denormal(False)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def is_locked(out_dir: Path) -> bool:
    """Return whether another process has the lock of a run folder, without taking it."""
    try:
        file = (out_dir / ".lock").open("rb")
    except OSError:
        return False
    with file:
        try:
            os.lockf(file.fileno(), os.F_TEST, 0)
        except OSError:
            return True
    return False


@contextlib.contextmanager
def run_lock(out_dir: Path) -> Iterator[None]:
    """Lock a run folder for this process: two writers would damage each other's checkpoints. Raise UserError, DiskError."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        file = (out_dir / ".lock").open("a+")
    except OSError as error:
        raise DiskError(
            f"{out_dir} cannot be written ({error.strerror}). Name another folder: hydra.run.dir=<folder>"
        ) from None
    with file:
        try:
            # A record lock: child processes do not inherit it, as they would flock. Data workers outlive a killed run by seconds.
            fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UserError(
                f"{out_dir} is in use by process {file.read().strip() or 'unknown'}. Wait for it, or choose another folder."
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield
