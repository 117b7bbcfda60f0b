"""The value that every metric returns: a number with its 95 % interval."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(slots=True, frozen=True)
class Score:
    """The value of a metric, its interval, and the number of items."""

    value: float
    low: float | None = None
    high: float | None = None
    count: int = 0
    """Number of items: rows, tokens, replies."""
    method: str = ""
    """Method of the interval, e.g. `wilson` or `bootstrap`; empty without an interval."""
    higher_is_better: bool = True

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of report.json."""
        return asdict(self)
