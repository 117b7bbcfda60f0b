"""Judge a table of published scores, without a model (stage.curves).

Every curve of the table gets a verdict (verdicts.py). The study also compares the axes that the scores follow, fits
scaling laws, makes forecasts, and tests at a fixed chance level how many subjects of a suite seem known. That last
count is a warning: answer-letter bias makes even a model that knows nothing "significant" in some subjects, so a fixed
1/k is a poor null hypothesis.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from llmstage.config.explore import Explore
from llmstage.explore.stats import above_chance, benjamini_hochberg
from llmstage.research.curves import Curve, breakthroughness, improvement, json_number, linearity
from llmstage.research.extrapolation import Forecast, fit_table, forecasts
from llmstage.research.loss_axis import AxisComparison, LossAxis, beyond_warm_up, compare_axes, find_loss
from llmstage.research.metric_names import chance_of, group_of, is_accuracy, is_sharp, twin_of
from llmstage.research.score_curves import TableCurve, items_behind, last_rows, logged, name_of, table_curves
from llmstage.research.scores_table import ScoreTable, load_scores
from llmstage.research.verdicts import Rules, Verdict, agree, correct, judge

MIN_SUBJECTS = 10
ALPHA = 0.05


@dataclass(slots=True)
class JudgedCurve:
    """A curve with its verdict."""

    table_curve: TableCurve
    verdict: Verdict

    @property
    def curve(self) -> Curve:
        return self.table_curve.curve

    def as_dict(self) -> dict[str, Any]:
        """Return the curve's row of curves.json."""
        y = self.curve.y
        big = breakthroughness(y)
        row = {
            "curve": self.table_curve.curve_type, "x": self.curve.axis, "model": self.curve.model, "metric": self.curve.metric, "n": len(y),
            "I": improvement(y), "linearity": json_number(linearity(y)), "breakthroughness": json_number(big),
            "breakthroughness_clipped": float(np.clip(big, 0.0, 100.0)), "verdict": self.verdict.name,
            "verdict_text": self.verdict.text, "evidence": self.verdict.evidence,
        }  # fmt: skip
        return row if self.table_curve.model_family is None else {**row, "family": self.table_curve.model_family}


@dataclass(slots=True)
class NullAudit:
    """How many subjects of one suite are significantly above chance for one model, with and without correction."""

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
    """All results of one table of scores."""

    table: ScoreTable
    judged: list[JudgedCurve]
    loss: LossAxis | None
    axis_comparison: AxisComparison
    null_audits: list[NullAudit]
    forecasts: list[Forecast]
    fits: dict[str, Any]
    rules: Rules
    chance: dict[str, float | None]


def study_scores(cfg: Explore, seed: int = 0) -> Study:
    """Read the table that stage.curves names and judge it."""
    assert cfg.curves
    table = load_scores(cfg.curves, cfg.columns)
    rules = Rules.of(cfg.stats, seed)
    loss = find_loss(table)
    axis_comparison = compare_axes(table, loss)
    chance = {metric: chance_of(metric, cfg.chance) for metric in table.metrics}
    judged = judge_all(table, table_curves(table), loss if axis_comparison.preferred == "loss" else None, chance, rules)
    return Study(
        table, judged, loss, axis_comparison, null_audits(table, chance), forecasts(unbroken_scale_curves(judged), rules),
        fit_table(table, cfg.fit, cfg.stats.bootstrap, seed), rules, chance,
    )  # fmt: skip


def unbroken_scale_curves(judged: list[JudgedCurve]) -> list[Curve]:
    """Return the curves over scale that may be extrapolated: those without a break, because what follows a break is not
    predictable from what precedes it."""
    return [item.curve for item in judged if item.table_curve.curve_type == "scale" and item.verdict.name != "break"]


def judge_all(
    table: ScoreTable, curves: list[TableCurve], loss: LossAxis | None, chance: Mapping[str, float | None], rules: Rules
) -> list[JudgedCurve]:
    """Judge each curve, correct the verdicts for their number, and compare breaks between the models of a score."""
    late = beyond_warm_up(table) > 0
    by_key = {(curve.curve_type, curve.model_family, curve.curve.model, curve.curve.metric): curve for curve in curves}
    judged = [JudgedCurve(curve, judge_one(curve, table, by_key, late, loss, chance, rules)) for curve in curves]
    correct([item.verdict for item in judged], rules)
    for metric in table.metrics:
        replicas = [
            item for item in judged if item.table_curve.curve_type == "training" and item.curve.metric == metric
        ]
        agree([item.verdict for item in replicas], [improvement(item.curve.y) for item in replicas], rules)
    return judged


def judge_one(
    table_curve: TableCurve, table: ScoreTable, curves_by_key: Mapping[Any, TableCurve], late: Any, loss: LossAxis | None,
    chance: Mapping[str, float | None], rules: Rules,
) -> Verdict:  # fmt: skip
    """Judge one curve without its warm-up. It is judged along the loss where the loss is the better axis and is not the
    score itself."""
    metric = table_curve.curve.metric
    selected = points_beyond_warm_up(table_curve, late)
    curve = logged(select_points(table_curve.curve, selected))
    sharp = is_sharp(metric)
    twin = twin_of(metric, table.metrics) if sharp else None
    continuous: Curve | None = None
    if (
        twin is not None
        and (table_curve.curve_type, table_curve.model_family, table_curve.curve.model, twin) in curves_by_key
    ):
        twin_curve = curves_by_key[table_curve.curve_type, table_curve.model_family, table_curve.curve.model, twin]
        continuous = on_loss(
            twin_curve, logged(select_points(twin_curve.curve, points_beyond_warm_up(twin_curve, late))), late, loss
        )
    if continuous is None:
        curve_over_loss = on_loss(table_curve, curve, late, loss)
        if curve_over_loss.axis != curve.axis and not sharp:
            continuous = curve_over_loss
        elif curve_over_loss.axis != curve.axis:
            return judge(curve_over_loss, rules, sharp=True, chance=chance[metric])
    return judge(curve, rules, continuous=continuous, sharp=sharp, chance=chance[metric])


def points_beyond_warm_up(table_curve: TableCurve, late: Any) -> list[int]:
    """Return the indices of the points after the warm-up; over scale, of all points."""
    if table_curve.curve_type == "scale":
        return list(range(len(table_curve.rows)))
    return [k for k, rows in enumerate(table_curve.rows) if late[rows].all()]


def select_points(curve: Curve, selected: list[int]) -> Curve:
    return Curve(
        curve.metric, curve.x[selected], curve.y[selected], curve.error[selected], curve.axis, curve.axis_kind, curve.model,
        curve.seed_sd, curve.items, curve.finals,
    )  # fmt: skip


def on_loss(table_curve: TableCurve, curve: Curve, late: Any, loss: LossAxis | None) -> Curve:
    """Return the curve along the loss, unless the loss is the score itself or is unknown at some point."""
    if loss is None or loss.column == table_curve.curve.metric:
        return curve
    x = np.array([loss.values[table_curve.rows[k]].mean() for k in points_beyond_warm_up(table_curve, late)])
    return curve.by(loss.label, x, "loss") if np.isfinite(x).all() and len(np.unique(x)) > 1 else curve


def null_audits(table: ScoreTable, chance: Mapping[str, float | None]) -> list[NullAudit]:
    """Test each model's last checkpoint on every suite of ten subjects or more with one-sided exact binomial tests."""
    suites: dict[str, list[str]] = {}
    for metric in table.metrics:
        group = group_of(metric)
        if group and is_accuracy(metric) and chance[metric] is not None:
            suites.setdefault(group, []).append(metric)
    audits = []
    for group, metrics in suites.items():
        items = {metric: items_behind(table.metrics[metric], table.errors[metric]) for metric in metrics}
        known = [metric for metric in metrics if items[metric]]
        if len(known) < MIN_SUBJECTS:
            continue
        for row in last_rows(table):
            p_or_none = [binomial_p(table, metric, row, items[metric], chance[metric]) for metric in known]
            p_values = np.array([value for value in p_or_none if value is not None])
            if len(p_values) < MIN_SUBJECTS:
                continue
            level = chance[known[0]] or 0.0
            audits.append(
                NullAudit(
                    name_of(table, row), group, len(p_values), level, int((p_values < ALPHA).sum()),
                    int((benjamini_hochberg(p_values) < ALPHA).sum()), int((p_values < ALPHA / len(p_values)).sum()), float(p_values.min()),
                )
            )  # fmt: skip
    return audits


def binomial_p(table: ScoreTable, metric: str, row: int, items: int | None, chance: float | None) -> float | None:
    """Return the p-value of one score against its chance level; None where the number of items, chance or score is
    unknown."""
    value = table.metrics[metric][row]
    if not items or chance is None or not np.isfinite(value):
        return None
    return above_chance(round(float(value) * items), items, chance)
