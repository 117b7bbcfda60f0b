"""Processes for tests that must see a real one: a kill, a signal, a pipe.

Importing torch and transformers takes longer than what such a test does. One process a worker has imported them
(multiprocessing calls it the fork server), and every process that is started here is a fork of it.
"""

from __future__ import annotations

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from multiprocessing import reduction
from pathlib import Path
from typing import Any, TextIO

import pytest

PRELOADED = ["torch", "transformers", "llmstage.training.fit", "llmstage.cli.jobs", "processes"]


class Descriptor:
    """An open file that a process takes over when it starts."""

    def __init__(self, number: int) -> None:
        self.number = number

    def __reduce__(self) -> Any:
        return detach, (reduction.DupFd(self.number),)


def detach(duplicate: Any) -> int:
    number: int = duplicate.detach()
    return number


def enter(words: list[str], environment: dict[str, str], folder: str, streams: list[int]) -> None:
    """Do in a fork what `python -m llmstage` does in a new process."""
    for target, number in enumerate(streams):
        os.dup2(number, target)
        os.close(number)
    sys.stdin, sys.stdout, sys.stderr = (
        open(target, mode, encoding="utf-8")  # noqa: SIM115
        for target, mode in enumerate("rww")
    )
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    sys.path[:0] = [path for path in environment.get("PYTHONPATH", "").split(os.pathsep) if path]
    sys.argv = ["llmstage", *words]
    from llmstage.__main__ import entry

    entry()


class Running:
    """A running llmstage command, with the part of subprocess.Popen that tests use."""

    def __init__(
        self,
        words: list[str],
        *,
        env: dict[str, str] | None = None,
        cwd: Any = None,
        stdin: int | None = None,
        stdout: int | None = None,
        stderr: int | None = None,
    ) -> None:
        self.stdin: TextIO | None = None
        self.stdout: TextIO | None = None
        self.stderr: TextIO | None = None
        handed = []
        for target, (name, choice) in enumerate({"stdin": stdin, "stdout": stdout, "stderr": stderr}.items()):
            if choice == subprocess.PIPE:
                ends = os.pipe()
                theirs, ours = ends if target == 0 else reversed(ends)
                setattr(self, name, open(ours, "w" if target == 0 else "r", encoding="utf-8"))  # noqa: SIM115
            elif choice == subprocess.DEVNULL or target == 0:
                theirs = os.open(os.devnull, os.O_RDWR)
            else:
                theirs = os.dup(target)
            handed.append(theirs)
        self.process = multiprocessing.get_context("forkserver").Process(
            target=enter,
            args=(words, dict(os.environ if env is None else env), str(cwd or os.getcwd()), [*map(Descriptor, handed)]),
        )
        self.process.start()
        for number in handed:
            os.close(number)

    @property
    def pid(self) -> int:
        assert self.process.pid is not None
        return self.process.pid

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self.process.join(timeout)
        if self.process.exitcode is None:
            raise subprocess.TimeoutExpired("llmstage", timeout or 0)
        return self.process.exitcode

    def communicate(self, text: str = "") -> tuple[str, str]:
        """Write `text` to its standard input, and return its standard output and error when it has ended."""
        assert self.stdin and self.stdout and self.stderr
        with ThreadPoolExecutor(2) as pool:
            reading = pool.submit(self.stdout.read), pool.submit(self.stderr.read)
            with self.stdin:
                self.stdin.write(text)
            output, errors = (future.result() for future in reading)
        self.wait()
        return output, errors

    def send_signal(self, number: int) -> None:
        if self.process.exitcode is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


@pytest.fixture(scope="session")
def fork_server() -> None:
    """A process that has imported what a command needs; the contexts "forkserver" of multiprocessing fork it."""
    multiprocessing.set_forkserver_preload(PRELOADED)
    here = Path(__file__).resolve().parent
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join([str(here.parent), str(here), os.environ.get("PYTHONPATH", "")]))
        multiprocessing.forkserver.ensure_running()


@pytest.fixture(scope="session")
def start_command(fork_server: None) -> type[Running]:
    """`start_command(["stage=predict", …], stdout=subprocess.PIPE)`: a running command, as subprocess.Popen gives it."""
    return Running
