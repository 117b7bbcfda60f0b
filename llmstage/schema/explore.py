"""The keys of stage=explore: what is looked at, with which statistics, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar

from llmstage.schema.explore_ladder import Gold, Ladder, Reduce, check_ladder
from typing import TYPE_CHECKING, Annotated, ClassVar

from llmstage.schema.explore_curves import CURVES, CurveFit, ReportWords, Stats, check_columns
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

    inherits: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False

    def check(self, run: RunConfig) -> list[str]:
        wrong = check_ladder(self.ladder, self.gold, run)
        if self.curves or self.ladder.given or self.gold.kind != "none":
            return wrong
        return [*wrong, "stage=explore needs something to look at: stage.curves=<csv of scores>, stage.ladder.runs=<runs>, or stage.gold.kind=grokking."]
        wrong = check_columns(self.columns)
        if self.curves:
            return wrong
        return [*wrong, "stage=explore needs something to look at: stage.curves=<csv of scores>."]
