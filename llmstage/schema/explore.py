"""The keys of stage=explore: what is looked at, with which statistics, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llmstage.schema.explore_ladder import Gold, Ladder, Reduce, check_ladder
from llmstage.schema.stage import StageConfig

if TYPE_CHECKING:
    from llmstage.schema.run import RunConfig


@dataclass(slots=True)
class Explore(StageConfig):
    """Knobs of stage=explore."""

    curves: str | None = None
    """A CSV of published scores over scale or training: verdicts without a model."""
    ladder: Ladder = field(default_factory=Ladder)
    """Models or checkpoints ordered by scale or training."""
    gold: Gold = field(default_factory=Gold)
    """Worlds whose phase change is understood."""
    reduce: Reduce = field(default_factory=Reduce)
    """Explaining a score by its parts."""

    inherits: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False

    def check(self, run: RunConfig) -> list[str]:
        wrong = check_ladder(self.ladder, self.gold, run)
        if self.curves or self.ladder.given or self.gold.kind != "none":
            return wrong
        return [*wrong, "stage=explore needs something to look at: stage.curves=<csv of scores>, stage.ladder.runs=<runs>, or stage.gold.kind=grokking."]
