"""The result of one check of the rows: a finding, also where the check passes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from llmstage.inspect.wording import LEVELS, REMEDY, SENTENCES

NUM_LOCATIONS = 3
"""Locations that a sentence names; report.json has up to MAX_LOCATIONS of them."""
MAX_LOCATIONS = 100


@dataclass(slots=True)
class Finding:
    """The result of one check on one split."""

    check: str
    """Key of its sentence in wording.SENTENCES."""
    level: str
    """ok: nothing wrong. minor: worth a look. major: training or its scores would suffer, or the run would stop."""
    split: str = ""
    count: int = 0
    """Rows or examples that the finding is about."""
    total: int = 0
    """Rows or examples that were checked."""
    locations: list[str] = field(default_factory=list)
    """`file:line` of the first of them, or pairs of locations."""
    values: dict[str, Any] = field(default_factory=dict)
    """Further values of the sentence."""
    remedy: str = ""
    """The key or command that solves the problem."""
    stops: bool = False
    """Whether training would end here with the exit status of a data error."""

    def sentence(self, language: str) -> str:
        """Return the finding as a sentence, with level, locations and remedy."""
        message = SENTENCES[self.check][language == "zh"].format(
            split=self.split, count=f"{self.count:,}", total=f"{self.total:,}", share=share(self.count, self.total),
            **self.values,
        )  # fmt: skip
        name = LEVELS[self.level][language == "zh"]
        rows = ", ".join(self.locations[:NUM_LOCATIONS]) + (", …" if len(self.locations) > NUM_LOCATIONS else "")
        locations = f" ({rows})" if rows and self.level != "ok" else ""
        remedy = f" {REMEDY[language == 'zh']} {self.remedy}" if self.remedy and self.level != "ok" else ""
        colon = "：" if language == "zh" else ": "
        return f"{name}{colon}{message}{locations}{remedy}"

    def as_dict(self, language: str) -> dict[str, Any]:
        """Return the finding as report.json has it."""
        return {
            "check": self.check, "level": self.level, "split": self.split, "count": self.count, "whole": self.total,
            "places": self.locations[:MAX_LOCATIONS], "values": self.values, "mend": self.remedy, "stops": self.stops,
            "sentence": self.sentence(language),
        }  # fmt: skip


def share(count: int, total: int) -> str:
    """Return a count as a percentage of the total."""
    return f"{count / total:.1%}" if total else "–"


def graded(
    check: str,
    split: str,
    locations: Sequence[str],
    total: int,
    *,
    major: float,
    remedy: str = "",
    count: int | None = None,
    min_share: float = 0.0,
    **values: Any,
) -> Finding:
    """Grade a check by its share of matches: ok below `min_share` or without matches, major from `major` on, else
    minor."""
    num_matches = len(locations) if count is None else count
    match_share = num_matches / total if total else 0.0
    level = "ok" if not num_matches or match_share < min_share else "major" if match_share >= major else "minor"
    return Finding(check, level, split, num_matches, total, list(locations)[:MAX_LOCATIONS], values, remedy)
