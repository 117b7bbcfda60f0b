"""What lint says of the rows: one finding a check, also where all is well."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from llmstage.inspect.wording import LEVELS, MEND, SENTENCES

SHOWN = 3
"""Places that a sentence names; report.json holds PLACES of them."""
PLACES = 100


@dataclass(slots=True)
class Finding:
    """One check of one split."""

    check: str
    """Key of its sentence."""
    level: str
    """ok, minor or major: nothing; worth a look; training or its scores would suffer, or the run would stop."""
    split: str = ""
    count: int = 0
    """Rows, or features, of which it is true."""
    whole: int = 0
    """Rows that were looked at."""
    places: list[str] = field(default_factory=list)
    """`file:line` of the first of them, or pairs of places."""
    values: dict[str, Any] = field(default_factory=dict)
    """Other words of the sentence."""
    mend: str = ""
    """The key or command that mends it."""
    stops: bool = False
    """Training would end with the data's exit status here."""

    def sentence(self, language: str) -> str:
        told = SENTENCES[self.check][language == "zh"].format(
            split=self.split, count=f"{self.count:,}", whole=f"{self.whole:,}", share=share(self.count, self.whole),
            **self.values,
        )  # fmt: skip
        name = LEVELS[self.level][language == "zh"]
        rows = ", ".join(self.places[:SHOWN]) + (", …" if len(self.places) > SHOWN else "")
        where = f" ({rows})" if rows and self.level != "ok" else ""
        cure = f" {MEND[language == 'zh']} {self.mend}" if self.mend and self.level != "ok" else ""
        colon = "：" if language == "zh" else ": "
        return f"{name}{colon}{told}{where}{cure}"

    def as_dict(self, language: str) -> dict[str, Any]:
        return {**asdict(self), "places": self.places[:PLACES], "sentence": self.sentence(language)}


def share(count: int, whole: int) -> str:
    return f"{count / whole:.1%}" if whole else "–"


def graded(
    check: str,
    split: str,
    places: Sequence[str],
    whole: int,
    *,
    major: float,
    mend: str = "",
    count: int | None = None,
    least: float = 0.0,
    **values: Any,
) -> Finding:
    """ok where nothing was found (or no more than the share `least`), major from the share `major` of the rows on."""
    found = len(places) if count is None else count
    part = found / whole if whole else 0.0
    level = "ok" if not found or part < least else "major" if part >= major else "minor"
    return Finding(check, level, split, found, whole, list(places)[:PLACES], values, mend)
