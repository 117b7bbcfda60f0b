"""The `stage` group of stage=explore: what is measured, with which statistics, and what is done about it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from llmstage.config.explore_curves import CURVES, CurveFit, ReportWords, Stats, check_columns
from llmstage.config.explore_improve import ImproveConfig
from llmstage.config.explore_ladder import Ladder, Reduce, ToyWorlds, check_ladder
from llmstage.config.explore_probes import Scoring
from llmstage.config.explore_slices import Diagnosis, Novelty, Slices
from llmstage.config.key_conditions import RunFacts
from llmstage.config.stage import StageConfig
from llmstage.config.typed import AT_LEAST_1


@dataclass(slots=True)
class Explore(StageConfig):
    """Keys of stage=explore."""

    curves: str | None = None
    """A CSV of published scores over scale or training; verdicts on it need no model."""
    ladder: Ladder = field(default_factory=Ladder)
    """Models or checkpoints in order of scale or training."""
    toy_worlds: ToyWorlds = field(default_factory=ToyWorlds)
    """Small training problems with a known phase change."""
    reduce: Reduce = field(default_factory=Reduce)
    """Explanation of a score by its parts."""
    columns: Annotated[dict[str, str], CURVES] = field(default_factory=dict)
    """Roles of the columns of that table, where their names do not show them: stage.columns.<role>=<column> with the
    roles model, family, seed, params, compute, examples, step, tokens, loss; metric and score where each row is one
    score."""
    chance: Annotated[dict[str, float], CURVES] = field(default_factory=dict)
    """Score of guessing, by metric, task or suite: stage.chance.mmlu=0.25. Known tasks have a default."""
    fit: CurveFit = field(default_factory=CurveFit)
    """Scaling laws fitted to published losses."""
    stats: Stats = field(default_factory=Stats)
    """Thresholds of statistical claims."""
    report: ReportWords = field(default_factory=ReportWords)
    """How the report is written."""

    slices: Slices = field(default_factory=Slices)
    """The search for weak slices of the scored rows."""
    diagnosis: Diagnosis = field(default_factory=Diagnosis)
    """Tests of why a slice is weak."""
    novelty: Novelty = field(default_factory=Novelty)
    """What is new in logs or files."""
    improve: ImproveConfig = field(default_factory=ImproveConfig)
    """Training on the weak slices, with a guard."""

    probes: list[str] = field(default_factory=list)
    """Built-in probe families to run on the model: [core], [full] (more levels), or names of families, with axis
    values to select levels (copying:copy, addition:4:reversed); []: none."""
    phenomena: list[str] = field(default_factory=list)
    """Files of questions of your own: JSON Lines, BIG-bench task.json, BIG-Bench-Hard JSON, BLiMP JSON Lines; globs
    are allowed."""
    items_per_cell: Annotated[int, AT_LEAST_1] = 200
    """Items of each family and level; with 0 of 200 right, accuracy is at most 1.5 % (95 %)."""
    scoring: Scoring = field(default_factory=Scoring)
    """How probes and phenomena are prompted and scored."""

    inherits: ClassVar[bool] = True
    keeps_pool: ClassVar[bool] = True
    needs_task: ClassVar[bool] = False

    def check(self, run: RunFacts) -> list[str]:
        complaints = [
            *check_columns(self.columns),
            *self.check_probes(run),
            *check_ladder(self.ladder, self.toy_worlds, self.probes, run),
            *(self.improve.check(run) if self.improve.enabled else []),
        ]
        if self.curves or self.probes or self.phenomena or self.ladder.given or self.toy_worlds.kind != "none":
            return complaints
        if not run.model.path:
            return [
                *complaints,
                "stage=explore needs something to look at: model.path=<a run of finetune or pretrain> for its weak slices, "
                "beside it stage.probes=[core] or stage.phenomena=[<file>] for what it can do, stage.ladder.runs=<runs>, "
                "stage.curves=<csv of scores>, or stage.toy_worlds.kind=grokking.",
            ]
        if not run.task.name:
            return [
                *complaints,
                f"model.path={run.model.path} does not say which task it was trained for, so there are no rows to score. Name "
                f"task=… and data.test=<files>, or stage.probes=[core].",
            ]
        if not self.slices.enabled and not self.novelty.logs and not self.improve.enabled:
            complaints.append(
                "stage.slices.enabled=false leaves nothing to look at. Leave it out, or give stage.novelty.logs=<files> or "
                "stage.probes=[core]."
            )
        return complaints

    def check_probes(self, run: RunFacts) -> list[str]:
        """Return complaints about unknown probe families and a missing model."""
        from llmstage.naming import unknown
        from llmstage.paths import PACKAGE

        folder = PACKAGE / "explore" / "probes"
        known = sorted(path.stem for path in folder.glob("*.py") if path.stem not in ("__init__", "base"))
        complaints = [
            f"stage.probes: {unknown('probe family', name, ['core', 'full', *known])}"
            for name in self.probes
            if name not in ("core", "full") and name.split(":")[0] not in known
        ]
        if (self.probes or self.phenomena) and not run.model.path and not self.ladder.given:
            complaints.append(
                "stage.probes and stage.phenomena are asked of a model: give model.path=<run folder or model directory>."
            )
        return complaints
