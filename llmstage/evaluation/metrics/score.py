"""A number with its uncertainty: what every metric of this project returns."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class Score:
    """A metric's value, the interval around it, and what it was counted on."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    """Items the value rests on: rows, tokens, replies."""
    method: str = ""
    """How the interval was made: `wilson`, `bootstrap`, or empty where there is none."""
    higher_is_better: bool = True

    def as_dict(self) -> dict[str, Any]:
        """For `report.json`."""
        return asdict(self)
