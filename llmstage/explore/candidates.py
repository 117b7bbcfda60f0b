"""What is told of an improvement: the models that were put to the test, and what each was on the rows of the comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmstage.explore.comparison import Metric
from llmstage.explore.guard import Guard, Mask, Scores
from llmstage.explore.stats import Difference
from llmstage.explore.wording import say


@dataclass(slots=True)
class Candidate:
    """A model that was put to the test."""

    name: str
    path: Path
    share: float
    """Of the weak slices in its batches."""
    scores: Scores
    guard: Guard
    gain: Difference
    """Of all weak rows, above the old model."""
    over_control: Difference | None
    """The same above more_of_same; None without a control."""

    @property
    def why_not(self) -> str:
        """Why it is not taken; empty where it is."""
        if not self.guard.passed:
            return say("why_guard_refused", why=self.guard.why)
        if self.gain.low <= 0:
            return say("why_no_gain", gain=spread(self.gain))
        if self.over_control is not None and self.over_control.low <= 0:
            return say("why_no_better", gain=spread(self.over_control))
        return ""


def spread(one: Difference) -> str:
    """`+0.812 [+0.774, +0.850]`"""
    return f"{one.value:+.3f} [{one.low:+.3f}, {one.high:+.3f}]"


@dataclass(slots=True)
class Outcome:
    """Everything that the report tells."""

    metric: Metric
    slices: list[dict[str, Any]]
    """The confirmed weaknesses that were worked on."""
    masks: list[Mask]
    """[N] rows of each among the compared ones."""
    weak: Mask
    families: dict[str, Mask]
    before: Scores
    control: Scores | None
    pilots: list[dict[str, Any]] = field(default_factory=list)
    candidates: list[Candidate] = field(default_factory=list)
    chosen: Candidate | None = None
    steps: int = 0
    notes: list[str] = field(default_factory=list)
    """What limits the conclusion."""
    structure: str = ""
    """What was said or done about the model's size."""
