"""What was foreseen and what was measured, of all plans on this machine: the error is known, and the next plan learns from it."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llmstage.report.files import append_line, read_lines, write_text

MAX_LINES = 200
"""Newest lines that are kept."""
NUM_ENTRIES = 20
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
    estimated_seconds: float
    measured_seconds: float
    raw_bytes: int | None
    estimated_bytes: int | None
    measured_bytes: int | None

    def as_dict(self) -> dict[str, Any]:
        """Return the entry as plans.jsonl and report.json have it."""
        return {KEYS.get(name, name): value for name, value in asdict(self).items()}


KEYS = {"estimated_seconds": "foreseen_seconds", "estimated_bytes": "foreseen_bytes"}
"""Names of the fields of an entry in the files, where they differ."""


@dataclass(slots=True)
class Line:
    """What is measured where so much was worked out: a part that does not grow (kernels, pages of code; the interpreter's own
    time), and a factor."""

    base: float
    factor: float

    def at(self, raw: float) -> float:
        return self.base + self.factor * raw


PRIOR_MEMORY = Line(30 * 2**20, 1.15)
"""Where nothing was measured yet: what the allocator of one machine, in two settings, added to the tensors of models of 30
thousand to 11 million weights."""
PRIOR_TIME = Line(0.0, 1.0)
MIN_PLANS_FOR_LINE = 5
"""Plans from which on both are learned; before, of memory only the base (kernels and code are the same for all models) and of
time only the factor (a busy machine is slower at everything)."""


@dataclass(slots=True)
class PlanHistory:
    """From the plans of this machine."""

    entries: list[Entry]
    seconds: Line = field(default_factory=lambda: PRIOR_TIME)
    bytes: Line = field(default_factory=lambda: PRIOR_MEMORY)
    seconds_error: float | None = None
    """|measured / foreseen - 1|, the median: how far plans were off when they were told."""
    bytes_error: float | None = None


def history_path(cache: Path) -> Path:
    return cache / "plans.jsonl"


def load_history(cache: Path | None, machine: str) -> PlanHistory:
    """The history of this machine; nothing where there is no cache."""
    if cache is None or not history_path(cache).is_file():
        return PlanHistory([])
    names = {KEYS.get(item.name, item.name): item.name for item in fields(Entry)}
    lines = [line for line in read_lines(history_path(cache)) if names.keys() <= line.keys()]
    entries = [
        Entry(**{name: line[key] for key, name in names.items()}) for line in lines if line["machine"] == machine
    ][-NUM_ENTRIES:]
    history = PlanHistory(entries)
    for name, prior, max_factor in (("seconds", PRIOR_TIME, 50.0), ("bytes", PRIOR_MEMORY, 3.0)):
        pairs = [
            (float(getattr(entry, f"raw_{name}")), float(getattr(entry, f"measured_{name}")))
            for entry in entries
            if getattr(entry, f"raw_{name}") and getattr(entry, f"measured_{name}")
        ]
        if pairs:
            setattr(history, name, fit_line(pairs, prior, max_factor, scales=name == "seconds"))
        estimates = [(getattr(entry, f"estimated_{name}"), getattr(entry, f"measured_{name}")) for entry in entries]
        if errors := [abs(measured / estimated - 1) for estimated, measured in estimates if estimated and measured]:
            setattr(history, f"{name}_error", statistics.median(errors))
    return history


def fit_line(pairs: list[tuple[float, float]], prior: Line, max_factor: float, *, scales: bool) -> Line:
    """A robust line (Theil 1950, Sen 1968: the median of all slopes), its factor from 1 / most to most. `scales`: few pairs
    teach the factor, else the base."""
    raw, measured = zip(*pairs, strict=True)
    if scales and len(pairs) < MIN_PLANS_FOR_LINE:
        return Line(0.0, statistics.median(measured_value / raw_value for raw_value, measured_value in pairs))
    factor = prior.factor
    if len(pairs) >= MIN_PLANS_FOR_LINE and len(set(raw)) > 2:
        from scipy.stats import theilslopes

        factor = min(max_factor, max(1 / max_factor, float(theilslopes(measured, raw).slope)))
    base = statistics.median(measured_value - factor * raw_value for raw_value, measured_value in pairs)
    return Line(max(0.0, base), factor)


def append_entry(cache: Path | None, entry: Entry) -> None:
    if cache is None:
        return
    path = history_path(cache)
    append_line(path, entry.as_dict())
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > 2 * MAX_LINES:
        write_text(path, "\n".join(lines[-MAX_LINES:]) + "\n")
