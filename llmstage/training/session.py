"""One run's grip on the process: threads, seeds, kernels, signals. A second run in the same process starts clean."""

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
from llmstage.kernels.rotary import give_back_turns

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGUSR2)


class StopFlag:
    """Set by a signal, read by the loop at a step's end; a second Ctrl-C ends the process at once. Where nobody reads it (`heeded`
    False) a signal ends the work where it stands: files are written whole, and there is nothing else to save."""

    def __init__(self, *, heeded: bool) -> None:
        self.name: str | None = None
        self.heeded = heeded

    def __call__(self, number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and (self.name == "SIGINT" or not self.heeded):
            raise KeyboardInterrupt
        self.name = signal.Signals(number).name
        if not self.heeded:
            raise Interrupted(f"Stopped by {self.name} before the work was done; the same command does it again.")


@contextlib.contextmanager
def session(seed: int, threads: int, *, deterministic: bool, heeded: bool = False) -> Iterator[StopFlag]:
    """Seeds, threads and kernels for one run; everything is put back at the end. `heeded`: the caller reads the flag."""
    dtype, was_deterministic = torch.get_default_dtype(), torch.are_deterministic_algorithms_enabled()
    states = torch.get_rng_state(), np.random.get_state(), random.getstate()
    old_threads = torch.get_num_threads()
    flag, handlers = StopFlag(heeded=heeded), {}
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
        give_back_turns()
        torch.set_default_dtype(dtype)
        torch.use_deterministic_algorithms(was_deterministic)
        torch.set_num_threads(old_threads)
        torch.set_flush_denormal(False)
        torch.set_rng_state(states[0])
        np.random.set_state(states[1])
        random.setstate(states[2])


def is_held(out_dir: Path) -> bool:
    """Whether another process holds the run folder (`run_lock`). It is only asked: who wants the folder meanwhile gets it."""
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
    """One process a run folder: two writers would tear each other's checkpoints."""
    try:
        out_dir.mkdir(parents=True, exist_ok=True)
        file = (out_dir / ".lock").open("a+")
    except OSError as error:
        raise DiskError(
            f"{out_dir} cannot be written ({error.strerror}). Name another place: hydra.run.dir=<folder>"
        ) from None
    with file:
        try:
            # A record lock: unlike flock it is not inherited by data workers, which outlive a killed run by seconds.
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
