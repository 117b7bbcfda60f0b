"""stage.curves: verdicts on published scores, without a model. Reads the table, judges every curve, and tells what
could not be concluded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.config.explore import Explore
from llmstage.explore.stats import above_chance, benjamini_hochberg
from llmstage.research.curves import Curve, breakthroughness, improvement, linearity, told
from llmstage.research.extrapolation import Forecast, fit_table, forecasts
from llmstage.research.loss_axis import Lens, LossAxis, find_loss, look, trained
from llmstage.research.metric_names import chance_of, group_of, is_accuracy, is_sharp, twin_of
from llmstage.research.score_curves import Placed, items_behind, last_rows, logged, name_of, placed_curves
from llmstage.research.scores_table import ScoreTable, load_scores
from llmstage.research.verdicts import Rules, Verdict, agree, correct, judge

FEWEST_SUBJECTS = 10
ALPHA = 0.05


@dataclass(slots=True)
class Judged:
    """A curve with its verdict."""

    placed: Placed
    verdict: Verdict

    @property
    def curve(self) -> Curve:
        return self.placed.curve

    def row(self) -> dict[str, Any]:
        """Its row of curves.json."""
        y = self.curve.y
        big = breakthroughness(y)
        row = {
            "curve": self.placed.kind, "x": self.curve.axis, "model": self.curve.model, "metric": self.curve.metric, "n": len(y),
            "I": improvement(y), "linearity": told(linearity(y)), "breakthroughness": told(big),
            "breakthroughness_clipped": float(np.clip(big, 0.0, 100.0)), "verdict": self.verdict.name,
            "verdict_text": self.verdict.text, "evidence": self.verdict.evidence,
        }  # fmt: skip
        return row if self.placed.family is None else {**row, "family": self.placed.family}


@dataclass(slots=True)
class Audit:
    """One model's discoveries over one suite."""

    model: str
    group: str
    num: int
    chance: float
    raw: int
    bh: int
    bonferroni: int
    min_p: float


@dataclass(slots=True)
class Study:
    """Everything that was found in one table of scores."""

    table: ScoreTable
    judged: list[Judged]
    loss: LossAxis | None
    lens: Lens
    audits: list[Audit]
    forecasts: list[Forecast]
    fits: dict[str, Any]
    rules: Rules
    chance: dict[str, float | None]


def study_scores(cfg: Explore, seed: int = 0) -> Study:
    assert cfg.curves
    table = load_scores(cfg.curves, cfg.columns)
    rules = Rules.of(cfg.stats, seed)
    loss = find_loss(table)
    lens = look(table, loss)
    chance = {metric: chance_of(metric, cfg.chance) for metric in table.metrics}
    judged = judge_all(table, placed_curves(table), loss if lens.preferred == "loss" else None, chance, rules)
    return Study(
        table, judged, loss, lens, audit(table, chance), forecasts(judged_scales(judged), rules),
        fit_table(table, cfg.fit, cfg.stats.bootstrap, seed), rules, chance,
    )  # fmt: skip


def judged_scales(judged: list[Judged]) -> list[Curve]:
    """Curves over scale that may be drawn on: none that breaks, for what comes after a break is not in what came before."""
    return [one.curve for one in judged if one.placed.kind == "scale" and one.verdict.name != "break"]


def judge_all(
    table: ScoreTable, placed: list[Placed], loss: LossAxis | None, chance: Mapping[str, float | None], rules: Rules
) -> list[Judged]:
    """A verdict for each curve, corrected over all of them, breaks compared between the models of a score."""
    late = trained(table) > 0
    by_place = {(one.kind, one.family, one.curve.model, one.curve.metric): one for one in placed}
    judged = [Judged(one, judge_one(one, table, by_place, late, loss, chance, rules)) for one in placed]
    correct([one.verdict for one in judged], rules)
    for metric in table.metrics:
        replicas = [one for one in judged if one.placed.kind == "training" and one.curve.metric == metric]
        agree([one.verdict for one in replicas], [improvement(one.curve.y) for one in replicas], rules)
    return judged


def judge_one(
    one: Placed, table: ScoreTable, by_place: Mapping[Any, Placed], late: Any, loss: LossAxis | None,
    chance: Mapping[str, float | None], rules: Rules,
) -> Verdict:  # fmt: skip
    """Without the warm-up, and along the loss where that is the better axis and is not the score itself."""
    metric = one.curve.metric
    kept = beyond(one, late)
    curve = logged(part(one.curve, kept))
    sharp = is_sharp(metric)
    twin = twin_of(metric, table.metrics) if sharp else None
    continuous: Curve | None = None
    if twin is not None and (one.kind, one.family, one.curve.model, twin) in by_place:
        other = by_place[one.kind, one.family, one.curve.model, twin]
        continuous = on_loss(other, logged(part(other.curve, beyond(other, late))), late, loss)
    if continuous is None:
        moved = on_loss(one, curve, late, loss)
        if moved.axis != curve.axis and not sharp:
            continuous = moved
        elif moved.axis != curve.axis:
            return judge(moved, rules, sharp=True, chance=chance[metric])
    return judge(curve, rules, continuous=continuous, sharp=sharp, chance=chance[metric])


def beyond(one: Placed, late: Any) -> list[int]:
    """Places of the points beyond the warm-up; all of them over scale."""
    if one.kind == "scale":
        return list(range(len(one.rows)))
    return [k for k, rows in enumerate(one.rows) if late[rows].all()]


def part(curve: Curve, kept: list[int]) -> Curve:
    return Curve(
        curve.metric, curve.x[kept], curve.y[kept], curve.error[kept], curve.axis, curve.axis_kind, curve.model,
        curve.seed_sd, curve.items, curve.finals,
    )  # fmt: skip


def on_loss(one: Placed, curve: Curve, late: Any, loss: LossAxis | None) -> Curve:
    """The curve along the loss, unless the loss is the score itself or is not known at every point."""
    if loss is None or loss.column == one.curve.metric:
        return curve
    x = np.array([loss.values[one.rows[k]].mean() for k in beyond(one, late)])
    return curve.by(loss.label, x, "loss") if np.isfinite(x).all() and len(np.unique(x)) > 1 else curve


def audit(table: ScoreTable, chance: Mapping[str, float | None]) -> list[Audit]:
    """One-sided exact binomial tests of each model's last checkpoint, over every suite of ten subjects or more."""
    suites: dict[str, list[str]] = {}
    for metric in table.metrics:
        group = group_of(metric)
        if group and is_accuracy(metric) and chance[metric] is not None:
            suites.setdefault(group, []).append(metric)
    found = []
    for group, metrics in suites.items():
        items = {metric: items_behind(table.metrics[metric], table.errors[metric]) for metric in metrics}
        known = [metric for metric in metrics if items[metric]]
        if len(known) < FEWEST_SUBJECTS:
            continue
        for row in last_rows(table):
            p = [p_of(table, metric, row, items[metric], chance[metric]) for metric in known]
            told = np.array([value for value in p if value is not None])
            if len(told) < FEWEST_SUBJECTS:
                continue
            level = chance[known[0]] or 0.0
            found.append(
                Audit(
                    name_of(table, row), group, len(told), level, int((told < ALPHA).sum()),
                    int((benjamini_hochberg(told) < ALPHA).sum()), int((told < ALPHA / len(told)).sum()), float(told.min()),
                )
            )  # fmt: skip
    return found


def p_of(table: ScoreTable, metric: str, row: int, items: int | None, chance: float | None) -> float | None:
    value = table.metrics[metric][row]
    if not items or chance is None or not np.isfinite(value):
        return None
    return above_chance(round(float(value) * items), items, chance)
