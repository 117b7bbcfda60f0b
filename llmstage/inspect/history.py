"""The history of plans on this machine: estimated and measured values. Their errors are reported, and they correct the
next estimate."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from llmstage.report.files import append_line, read_lines, write_text

MAX_LINES = 200
"""Newest lines that the file keeps."""
NUM_ENTRIES = 20
"""Newest entries that correct an estimate."""


@dataclass(slots=True)
class Entry:
    """One plan. `raw_*`: the estimate before the correction by earlier plans."""

    when: str
    machine: str
    """Processor or GPU, precision, threads, allocator. Entries of another machine are not used."""
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
    """A linear correction of raw estimates: a constant part (kernels, code pages, interpreter time) and a factor."""

    base: float
    factor: float

    def at(self, raw: float) -> float:
        """Return the corrected value of a raw estimate."""
        return self.base + self.factor * raw


PRIOR_MEMORY = Line(30 * 2**20, 1.15)
"""The correction without any measurement: what the allocator of one machine, in two settings, added to the tensors of
models of 30 thousand to 11 million weights."""
PRIOR_TIME = Line(0.0, 1.0)
MIN_PLANS_FOR_LINE = 5
"""Plans from which on both parts of the line are fitted. With fewer, memory fits only the base (kernels and code are
the same for all models) and time only the factor (a busy machine is slower at everything)."""


@dataclass(slots=True)
class PlanHistory:
    """Entries of this machine, and the corrections fitted to them."""

    entries: list[Entry]
    seconds: Line = field(default_factory=lambda: PRIOR_TIME)
    bytes: Line = field(default_factory=lambda: PRIOR_MEMORY)
    seconds_error: float | None = None
    """Median of |measured / estimated - 1|: the error of the plans as they were reported."""
    bytes_error: float | None = None


def history_path(cache: Path) -> Path:
    return cache / "plans.jsonl"


def load_history(cache: Path | None, machine: str) -> PlanHistory:
    """Read the history of this machine; empty where there is no cache."""
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
    """Fit a robust line (Theil 1950, Sen 1968: the median of all slopes), its factor from 1 / max_factor to max_factor.

    With few pairs, only the factor is fitted if `scales`, else only the base.
    """
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
    """Append an entry to the history, and shorten the file where it is too long."""
    if cache is None:
        return
    path = history_path(cache)
    append_line(path, entry.as_dict())
    lines = path.read_text(encoding="utf-8").splitlines()
    if len(lines) > 2 * MAX_LINES:
        write_text(path, "\n".join(lines[-MAX_LINES:]) + "\n")
