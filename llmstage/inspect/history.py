"""What was foreseen and what was measured, of all plans on this machine: the error is known, and the next plan learns from it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

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
class Line:
    """What is measured where so much was worked out: a part that does not grow (kernels, pages of code; the interpreter's own
    time), and a factor."""

    base: float
    factor: float

    def at(self, raw: float) -> float:
        return self.base + self.factor * raw


MEMORY = Line(30 * 2**20, 1.15)
"""Where nothing was measured yet: what the allocator of one machine, in two settings, added to the tensors of models of 30
thousand to 11 million weights."""
TIME = Line(0.0, 1.0)
ENOUGH = 5
"""Plans from which on both are learned; before, of memory only the base (kernels and code are the same for all models) and of
time only the factor (a busy machine is slower at everything)."""


@dataclass(slots=True)
class Learned:
    """From the plans of this machine."""

    entries: list[Entry]
    seconds: Line = field(default_factory=lambda: TIME)
    bytes: Line = field(default_factory=lambda: MEMORY)
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
    for name, prior, most in (("seconds", TIME, 50.0), ("bytes", MEMORY, 3.0)):
        pairs = [
            (float(getattr(one, f"raw_{name}")), float(getattr(one, f"measured_{name}")))
            for one in found
            if getattr(one, f"raw_{name}") and getattr(one, f"measured_{name}")
        ]
        if pairs:
            setattr(out, name, line_through(pairs, prior, most, scales=name == "seconds"))
        told = [(getattr(one, f"foreseen_{name}"), getattr(one, f"measured_{name}")) for one in found]
        if off := [abs(measured / foreseen - 1) for foreseen, measured in told if foreseen and measured]:
            setattr(out, f"{name}_error", statistics.median(off))
    return out


def line_through(pairs: list[tuple[float, float]], prior: Line, most: float, *, scales: bool) -> Line:
    """A robust line (Theil 1950, Sen 1968: the median of all slopes), its factor from 1 / most to most. `scales`: few pairs
    teach the factor, else the base."""
    raw, measured = zip(*pairs, strict=True)
    if scales and len(pairs) < ENOUGH:
        return Line(0.0, statistics.median(here / there for there, here in pairs))
    factor = prior.factor
    if len(pairs) >= ENOUGH and len(set(raw)) > 2:
        from scipy.stats import theilslopes

        factor = min(most, max(1 / most, float(theilslopes(measured, raw).slope)))
    base = statistics.median(here - factor * there for there, here in pairs)
    return Line(max(0.0, base), factor)


def remember(cache: Path | None, entry: Entry) -> None:
    if cache is None:
        return
    path = path_of(cache)
    append_line(path, asdict(entry))
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > 2 * KEPT:
        write_text(path, "\n".join(lines[-KEPT:]) + "\n")
