"""What a person sees: progress and notes on standard error, results on standard output; plain lines on a pipe."""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

WIDE = 10_000
"""Width on a pipe: nothing is wrapped there."""


def _console(*, stderr: bool) -> Console:
    stream = sys.stderr if stderr else sys.stdout
    wide = None if stream.isatty() else WIDE
    return Console(stderr=stderr, width=wide, soft_wrap=wide is not None, highlight=False)


_log: list[Path] = []
"""The run.log of the run in progress, if any."""


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """What is said inside also goes to `path`."""
    _log.append(path)
    try:
        yield
    finally:
        _log.pop()


def _record(line: str) -> None:
    if _log:
        with contextlib.suppress(OSError), _log[-1].open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def note(*lines: str) -> None:
    """Lines for the person watching."""
    console = _console(stderr=True)
    for line in lines:
        _record(line)
        console.print(line, markup=False)


def warn(line: str) -> None:
    _record(f"warning: {line}")
    _console(stderr=True).print(f"warning: {line}", markup=False, style="yellow")


def result(*items: RenderableType) -> None:
    """Results, on standard output. A table on a pipe keeps its natural width."""
    console = _console(stderr=False)
    for item in items:
        if isinstance(item, str):
            console.print(item, markup=False)
        else:
            console.print(item)


def number(value: float | None) -> str:
    """A figure for a narrow place."""
    if value is None:
        return "-"
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


class StepDisplay:
    """Progress of a loop: one live bar on a terminal, a plain line now and then on a pipe."""

    def __init__(self, total: int, every: int, start: int = 0) -> None:
        self.total, self.every, self.first = total, max(1, every), start
        self.started = time.perf_counter()
        self.console = _console(stderr=True)
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> StepDisplay:
        if self.console.is_terminal:
            columns = (
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
            )
            self.bar = Progress(*columns, console=self.console, transient=True)
            self.bar.start()
            self.task = self.bar.add_task("", total=self.total, completed=self.first)
        return self

    def __exit__(self, *_: object) -> None:
        if self.bar is not None:
            self.bar.stop()

    def show(self, step: int, figures: Mapping[str, Any]) -> None:
        """Figures come from the dict that goes to metrics.jsonl."""
        words = "  ".join(
            f"{name} {value if isinstance(value, str) else number(value)}" for name, value in figures.items()
        )
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step, description=words)
        if step % self.every == 0 or step == self.total:
            done = max(1, step - self.first)
            left = (time.perf_counter() - self.started) / done * (self.total - step)
            self.say(f"step {step:>5}/{self.total}  {words}  left {duration(left)}")

    def say(self, line: str) -> None:
        _record(line)
        self.console.print(line, markup=False)
