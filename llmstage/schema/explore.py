"""The keys of stage=explore: what is looked at, with which statistics, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, ClassVar

from llmstage.schema.explore_curves import CURVES, CurveFit, ReportWords, Stats, check_columns
from llmstage.schema.explore_slices import Collect, Slices, Why
from llmstage.schema.stage import StageConfig

if TYPE_CHECKING:
    from llmstage.schema.run import RunConfig


@dataclass(slots=True)
class Explore(StageConfig):
    """Knobs of stage=explore."""

    curves: str | None = None
    """A CSV of published scores over scale or training: verdicts without a model."""
    columns: Annotated[dict[str, str], CURVES] = field(default_factory=dict)
    """Which column of that table is what, where its name does not say so: stage.columns.<role>=<column> with the roles
    model, family, seed, params, compute, examples, step, tokens, loss; metric and score where each row is one score."""
    chance: Annotated[dict[str, float], CURVES] = field(default_factory=dict)
    """What knowing nothing scores, by metric, task or suite: stage.chance.mmlu=0.25; known tasks have a first word."""
    fit: CurveFit = field(default_factory=CurveFit)
    """Laws fitted to published losses."""
    stats: Stats = field(default_factory=Stats)
    """What a claim needs."""
    report: ReportWords = field(default_factory=ReportWords)
    """How the report is written."""

    slices: Slices = field(default_factory=Slices)
    """Weak slices of the scored rows."""
    why: Why = field(default_factory=Why)
    """Why they are weak."""
    collect: Collect = field(default_factory=Collect)
    """What is new in logs."""

    inherits: ClassVar[bool] = True
    keeps_pool: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False

    def check(self, run: RunConfig) -> list[str]:
        wrong = check_columns(self.columns)
        if self.curves:
            return wrong
        if not run.model.path:
            return [
                *wrong,
                "stage=explore needs something to look at: model.path=<a run of finetune or pretrain> for its weak slices, or "
                "stage.curves=<csv of scores> for verdicts on scores.",
            ]
        if not run.task.name:
            return [
                *wrong,
                f"model.path={run.model.path} does not say which task it was trained for, so there are no rows to score. Name "
                f"task=… and data.test=<files>.",
            ]
        return wrong
