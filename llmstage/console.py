"""Print notes and progress to standard error and results to standard output.

A terminal and a notebook show a live progress bar; a pipe gets plain lines without colour or wrapping.
"""

from __future__ import annotations

import contextlib
import importlib.util
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console, RenderableType

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

PIPE_WIDTH = 10_000
"""Columns of a pipe, so that no line is wrapped."""


def _console(*, stderr: bool) -> Console:
    """Return a console for the stream as it is now; tests and notebooks replace sys.stdout and sys.stderr."""
    console = Console(stderr=stderr, highlight=False)
    if console.is_jupyter or (sys.stderr if stderr else sys.stdout).isatty():
        return console
    return Console(stderr=stderr, width=PIPE_WIDTH, soft_wrap=True, highlight=False)


def shows_live_bars(console: Console) -> bool:
    """Return whether a progress bar can be redrawn: on a terminal, and in a notebook that has ipywidgets."""
    return console.is_terminal or (console.is_jupyter and importlib.util.find_spec("ipywidgets") is not None)


_log: list[Path] = []
"""Paths of the run.log of the current run and of the runs around it."""


@contextlib.contextmanager
def logged(path: Path) -> Iterator[None]:
    """Also write to `path` what the body prints."""
    _log.append(path)
    try:
        yield
    finally:
        _log.pop()


def _record(line: str) -> None:
    """Append a line to the run.log of the current run."""
    if _log:
        with contextlib.suppress(OSError), _log[-1].open("a", encoding="utf-8") as file:
            file.write(line + "\n")


def note(*lines: str) -> None:
    """Print lines to standard error."""
    console = _console(stderr=True)
    for line in lines:
        _record(line)
        console.print(line, markup=False)


def warn(line: str) -> None:
    """Print a warning to standard error."""
    _record(f"warning: {line}")
    _console(stderr=True).print(f"warning: {line}", markup=False, style="yellow")


def result(*items: RenderableType) -> None:
    """Print results to standard output. A table on a pipe keeps its natural width."""
    console = _console(stderr=False)
    for item in items:
        if isinstance(item, str):
            console.print(item, markup=False)
        else:
            console.print(item)


def number(value: float | None) -> str:
    """Return a number in a few characters."""
    if value is None:
        return "-"
    if value == 0 or 0.001 <= abs(value) < 100_000:
        return f"{value:.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    return f"{value:.2e}"


def count(number: int, noun: str) -> str:
    """Return a number with its noun: `1 row`, `2,000 rows`."""
    return f"{number:,} {noun}" if number == 1 else f"{number:,} {noun}s"


def duration(seconds: float) -> str:
    """Return a duration as a person writes it."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s" if minutes else f"{seconds:.3g} s"


class StepDisplay:
    """Progress of a loop: a live bar where one can be drawn, and a plain line every `every` steps."""

    def __init__(self, total: int, every: int, start: int = 0) -> None:
        self.total, self.every, self.first = total, max(1, every), start
        self.started = time.perf_counter()
        self.console = _console(stderr=True)
        self.bar: Progress | None = None
        self.task: TaskID | None = None

    def __enter__(self) -> StepDisplay:
        if shows_live_bars(self.console):
            from rich.progress import (  # 30 ms, not needed on a pipe
                BarColumn,
                Progress,
                TextColumn,
                TimeRemainingColumn,
            )

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
        """Show the figures of a step: those of the dict that goes to metrics.jsonl."""
        text = "  ".join(
            f"{name} {value if isinstance(value, str) else number(value)}" for name, value in figures.items()
        )
        if self.bar is not None and self.task is not None:
            self.bar.update(self.task, completed=step, description=text)
        if step % self.every == 0 or step == self.total:
            done = max(1, step - self.first)
            left = (time.perf_counter() - self.started) / done * (self.total - step)
            self.print_line(f"step {step:>5}/{self.total}  {text}  left {duration(left)}")

    def print_line(self, line: str) -> None:
        """Print a line above the bar."""
        _record(line)
        self.console.print(line, markup=False)
