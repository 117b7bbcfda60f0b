"""The keys of stage=explore: what is looked at, with which statistics, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llmstage.schema.explore_improve import ImproveConfig
from llmstage.schema.explore_slices import Collect, Slices, Why
from llmstage.schema.stage import StageConfig

if TYPE_CHECKING:
    from llmstage.schema.run import RunConfig


@dataclass(slots=True)
class Explore(StageConfig):
    """Knobs of stage=explore."""

    curves: str | None = None
    """A CSV of published scores over scale or training: verdicts without a model."""
    slices: Slices = field(default_factory=Slices)
    """Weak slices of the scored rows."""
    why: Why = field(default_factory=Why)
    """Why they are weak."""
    collect: Collect = field(default_factory=Collect)
    """What is new in logs."""
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    """Work on the weak slices, with a guard."""

    inherits: ClassVar[bool] = True
    keeps_pool: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False

    def check(self, run: RunConfig) -> list[str]:
        if self.curves:
            return []
        if not run.model.path:
            return [
                "stage=explore needs something to look at: model.path=<a run of finetune or pretrain> for its weak slices, or "
                "stage.curves=<csv of scores> for verdicts on scores."
            ]
        if not run.task.name:
            return [
                f"model.path={run.model.path} does not say which task it was trained for, so there are no rows to score. Name "
                f"task=… and data.test=<files>."
            ]
        return self.improve.check(run) if self.improve.enabled else []
