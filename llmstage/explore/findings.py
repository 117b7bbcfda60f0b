"""The result of one part of stage=explore, in the form that the report needs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Findings:
    """The result of one part, for the terminal, report.json and report.html."""

    name: str
    """Its key below `explore` in report.json, e.g. curves, ladder, slices, improvement, collect."""
    block: dict[str, Any]
    """Numbers and text for report.json."""
    sentences: list[str] = field(default_factory=list)
    """The main results, the most important first; each can be understood alone."""
    limits: list[str] = field(default_factory=list)
    """What could not be concluded, and what data would allow it."""
    report_items: list[dict[str, Any]] = field(default_factory=list)
    """Tables and charts of report.html, as Task.report_items returns them."""
    refused: str | None = None
    """Why an improvement was refused; the run then writes its report and ends with exit status 9."""
    unmeasured: str | None = None
    """Why nothing could be measured; where every part has such a reason, the run ends with exit status 3 after its report."""
