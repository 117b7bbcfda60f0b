"""The results of an improvement: the candidate models, and their scores on the rows of the comparison."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from llmstage.explore.comparison import Metric
from llmstage.explore.guard import Guard, Mask, Scores
from llmstage.explore.stats import Difference
from llmstage.explore.wording import sentence


@dataclass(slots=True)
class Candidate:
    """A model that was tested against the old one."""

    name: str
    path: Path
    share: float
    """Share of the weak slices in its batches."""
    scores: Scores
    guard: Guard
    gain: Difference
    """On all weak rows, over the old model."""
    over_control: Difference | None
    """On all weak rows, over more_of_same; None without a control."""

    @property
    def why_not(self) -> str:
        """Why it is not promoted; empty where it is."""
        if not self.guard.passed:
            return sentence("why_guard_refused", why=self.guard.why)
        if self.gain.low <= 0:
            return sentence("why_no_gain", gain=spread(self.gain))
        if self.over_control is not None and self.over_control.low <= 0:
            return sentence("why_no_better", gain=spread(self.over_control))
        return ""


def spread(difference: Difference) -> str:
    """Return `+0.812 [+0.774, +0.850]`."""
    return f"{difference.value:+.3f} [{difference.low:+.3f}, {difference.high:+.3f}]"


@dataclass(slots=True)
class ImprovementResult:
    """All that the report needs."""

    metric: Metric
    slices: list[dict[str, Any]]
    """The confirmed weaknesses that were trained on."""
    masks: list[Mask]
    """[N] rows of each among the compared rows."""
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
    """A sentence on the size of the model."""
