"""What a part of stage=explore hands to the report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any


@dataclass(slots=True)
class Findings:
    """One part's outcome, in the forms that terminal, report.json and report.html need."""

    name: str
    """Its key below `explore` in report.json: curves, ladder, slices, improvement, collect."""
    block: dict[str, Any]
    """Plain numbers and words."""
    sentences: list[str] = field(default_factory=list)
    """What a reader should know, the most important first; each stands by itself."""
    limits: list[str] = field(default_factory=list)
    """What could not be concluded, and what it would take."""
    report_items: list[dict[str, Any]] = field(default_factory=list)
    """Tables and charts of report.html, as Task.exhibits gives them."""
    refused: str | None = None
    """Why an improvement was refused; the run then ends with exit status 9, after its report is written."""
    unmeasured: str | None = None
    """Why nothing could be measured; a run whose every part says so ends with exit status 3, after its report is written."""
