"""The keys of stage=explore: what is looked at, with which statistics, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llmstage.schema.explore_improve import ImproveConfig
from llmstage.schema.stage import StageConfig

if TYPE_CHECKING:
    from llmstage.schema.run import RunConfig


@dataclass(slots=True)
class Explore(StageConfig):
    """Knobs of stage=explore."""

    curves: str | None = None
    """A CSV of published scores over scale or training: verdicts without a model."""
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    """Work on the weak slices, with a guard."""

    inherits: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False

    def check(self, run: RunConfig) -> list[str]:
        if self.improve.enabled:
            return self.improve.check(run)
        if self.curves:
            return []
        return ["stage=explore needs something to look at: stage.curves=<csv of scores>."]
