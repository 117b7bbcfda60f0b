"""What was foreseen and what was measured, of all plans on this machine: the error is known, and the next plan learns from it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from llmstage.report.files import append_line, read_lines, write_text

KEPT = 200
"""Newest lines that are kept."""
LEARNED = 20
"""Newest ones that a plan learns from."""


@dataclass(slots=True)
class Entry:
    """One plan. `raw`: before what was learned from earlier ones was put in."""

    when: str
    machine: str
    """Processor or card, precision, threads, allocator: what another one of them does says nothing here."""
    task: str
    model: str
    parameters: int
    raw_seconds: float
    foreseen_seconds: float
    measured_seconds: float
    raw_bytes: int | None
    foreseen_bytes: int | None
    measured_bytes: int | None


@dataclass(slots=True)
class Learned:
    """From the plans of this machine."""

    entries: list[Entry]
    seconds: float = 1.0
    """Measured by raw, the median."""
    bytes: float = 1.0
    seconds_error: float | None = None
    """|measured / foreseen - 1|, the median: how far plans were off when they were told."""
    bytes_error: float | None = None


def path_of(cache: Path) -> Path:
    return cache / "plans.jsonl"


def learn(cache: Path | None, machine: str) -> Learned:
    """The history of this machine; nothing where there is no cache."""
    if cache is None or not path_of(cache).is_file():
        return Learned([])
    names = {item.name for item in fields(Entry)}
    lines = [line for line in read_lines(path_of(cache)) if names <= line.keys()]
    found = [Entry(**{name: line[name] for name in names}) for line in lines if line["machine"] == machine][-LEARNED:]
    out = Learned(found)
    for name in ("seconds", "bytes"):
        raw = [ratio(one, "measured", "raw", name) for one in found]
        told = [ratio(one, "measured", "foreseen", name) for one in found]
        if known := [value for value in raw if value is not None]:
            setattr(out, name, statistics.median(known))
        if off := [abs(value - 1) for value in told if value is not None]:
            setattr(out, f"{name}_error", statistics.median(off))
    return out


def ratio(one: Entry, above: str, below: str, name: str) -> float | None:
    over: Any = getattr(one, f"{above}_{name}")
    under: Any = getattr(one, f"{below}_{name}")
    return over / under if over and under else None


def remember(cache: Path | None, entry: Entry) -> None:
    if cache is None:
        return
    path = path_of(cache)
    append_line(path, asdict(entry))
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > 2 * KEPT:
        write_text(path, "\n".join(lines[-KEPT:]) + "\n")
