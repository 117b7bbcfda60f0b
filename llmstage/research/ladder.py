"""Explore a ladder of models (stage.ladder): score every checkpoint on the same items and judge the curve of every
probe family.

The axis is the held-out loss, size, compute or training time of the checkpoints. Exact match is judged together with
the log-probability of the same answers, so that a jump of the metric is not taken for a jump of the model (Schaeffer et
al. 2023, arXiv 2304.15004).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np

from llmstage import console
from llmstage.config import RunConfig, build_run
from llmstage.config.explore import Explore
from llmstage.explore.findings import Findings
from llmstage.explore.items import Item
from llmstage.explore.loaders import load_phenomena
from llmstage.explore.probed_model import load_probed_model
from llmstage.explore.score import score_items
from llmstage.explore.score_cache import ScoreCache
from llmstage.explore.stats import hierarchical
from llmstage.paths import cache_dir, locate_model, read_run_yaml
from llmstage.report.files import write_json
from llmstage.research.checkpoints import (
    Checkpoint,
    HeldOut,
    checkpoints_of_models,
    checkpoints_of_runs,
    choose_axis,
    measure_checkpoint,
)
from llmstage.research.curves import AxisKind, Curve, Numbers, breakthroughness, improvement, json_number, linearity
from llmstage.research.loss_axis import WARM_UP
from llmstage.research.product_law import MAX_GAP, MIN_SHARE_WITHIN, product_cells, product_law
from llmstage.research.score_curves import floored_standard_error
from llmstage.research.trained_ladder import draw_items, train_ladder
from llmstage.research.verdicts import Rules, Verdict, correct, judge
from llmstage.research.wording import sentence, verdict_name
from llmstage.tasks.base_contract import create_task
from llmstage.training.machine import Machine, scoring_precision
from llmstage.training.setup import open_sources

AXIS_KINDS = {
    "params": "log",
    "flops": "log",
    "tokens": "training",
    "steps": "training",
    "lm_loss": "loss",
    "lm_loss_per_byte": "loss",
}
"""Scale of each axis."""
CORPUS_ROWS = 200
MIN_SEEDS = 2
"""Seeds of a point from which their spread is used as an error."""
MAX_RESAMPLES = 500
"""Resamples for the interval of a point; a ladder has hundreds of points."""


MIN_ITEMS_PER_FAMILY = 30
"""Fewest items of a family about which a claim is made."""


@dataclass(slots=True)
class FamilyScores:
    """Scores of one checkpoint on one probe family: means and standard errors over its items."""

    exact_match: float
    exact_match_error: float
    logp: float
    """Nats per token."""
    logp_error: float
    num: int
    length: float
    """Tokens of an answer, including its end token."""
    token_accuracy: float
    """Token accuracy with teacher forcing."""
    correct_items: Numbers = field(default_factory=lambda: np.zeros(0))
    """[num] 1 for each item that was answered correctly."""
    item_logps: Numbers = field(default_factory=lambda: np.zeros(0))
    """[num] nats per token of each item."""


@dataclass(slots=True)
class JudgedCurve:
    """A curve of one probe family with its verdict."""

    probe_family: str
    metric: str
    model: str
    curve: Curve
    verdict: Verdict
    scale: bool
    intervals: list[tuple[float | None, float | None]]
    """95 % interval of each point, items resampled within seeds; None where there is nothing to resample."""

    def as_dict(self) -> dict[str, Any]:
        """Return the curve's row of curves.json."""
        y = self.curve.y
        return {
            "curve": "scale" if self.scale else "training", "axis": self.curve.axis, "x": self.curve.x.tolist(), "y": y.tolist(),
            "low": [low for low, _ in self.intervals], "high": [high for _, high in self.intervals],
            "model": self.model, "metric": f"{self.probe_family}_{self.metric}", "n": len(y), "I": improvement(y),
            "linearity": json_number(linearity(y)), "breakthroughness": json_number(breakthroughness(y)), "verdict": self.verdict.name,
            "verdict_text": self.verdict.text, "evidence": self.verdict.evidence,
        }  # fmt: skip


@dataclass(slots=True)
class ScoredLadder:
    """All checkpoints with their scores by probe family."""

    checkpoints: list[Checkpoint]
    family_scores: list[dict[str, FamilyScores]] = field(default_factory=list)
    cells: list[dict[str, Any]] = field(default_factory=list)
    """One entry for each checkpoint and cell: exact match, (token accuracy)^L and the product over positions."""


def explore_ladder(cfg: RunConfig, out_dir: Path, machine: Machine, about: dict[str, str]) -> Findings:
    """Collect or train the checkpoints, score them, and judge every family. Writes curves.json."""
    stage = cfg.stage
    assert isinstance(stage, Explore)
    ladder = stage.ladder
    if ladder.kind == "auto":
        checkpoints, texts = train_ladder(cfg, out_dir, about)
    else:
        checkpoints = (checkpoints_of_runs(ladder.runs) if ladder.runs else []) + checkpoints_of_models(ladder.models)
        texts = corpus_of(cfg, checkpoints)
    # The items are of the discover split: a ladder that is trained here saw none of them, and its held-out texts differ.
    items = draw_items(stage, stage.items_per_cell, cfg.seed, ("discover",)) if stage.probes else []
    items += load_phenomena(stage.phenomena) if stage.phenomena else []
    scored = score_checkpoints(cfg, machine, checkpoints, items, texts)
    if len(scored.checkpoints) < 2:
        return Findings(
            "ladder",
            {"rungs": [checkpoint.as_dict() for checkpoint in scored.checkpoints]},
            [],
            [sentence("ladder_of_one")],
        )
    axis, limits = choose_axis(scored.checkpoints, ladder.x)
    if ladder.kind == "auto" and axis.startswith("lm_loss"):
        limits.append(sentence("answer_loss_axis"))
    # One verdict for each curve, corrected for the number of curves.
    rules = Rules.of(stage.stats, cfg.seed)
    judged = judge_all_curves(scored, axis, rules)
    correct([item.verdict for item in judged], rules)
    write_json(out_dir / "curves.json", [item.as_dict() for item in judged])
    limits += small_families(scored)
    law = product_law(scored.cells)
    block: dict[str, Any] = {
        "axis": axis, "rungs": [checkpoint.as_dict() for checkpoint in scored.checkpoints],
        "families": [{key: value for key, value in item.as_dict().items() if key not in ("x", "y", "low", "high")} for item in judged],
        "product_law": law, "cells": scored.cells,
    }  # fmt: skip
    if not items:
        limits.append(sentence("ladder_no_probes"))
    return Findings("ladder", block, ladder_sentences(judged, law), limits, ladder_charts(judged))


def corpus_of(cfg: RunConfig, checkpoints: Sequence[Checkpoint]) -> list[HeldOut]:
    """Return held-out texts: from the task and data of the command line, else from the run that the first checkpoint
    belongs to."""
    run = cfg
    if not cfg.task.name:
        source = locate_model(checkpoints[0].path) if checkpoints else None
        if source is None or source.run_dir is None:
            return []
        saved_run = {key: value for key, value in read_run_yaml(source.run_dir).items() if key != "resolved"}
        if "." in str(saved_run.get("task", {}).get("name", "")):
            return []  # a user-defined task is code that this command did not name
        run = build_run(saved_run, [], trusted=False)
    task = create_task(run.task, run.generation)
    sources = open_sources(run, task, Path("."))
    split = next((name for name in ("validation", "test", "train") if name in sources), None)
    texts: list[str] = []
    for row, _ in sources[split] if split else []:
        texts += task.texts(row)
        if len(texts) >= CORPUS_ROWS:
            break
    return [HeldOut(text) for text in texts[:CORPUS_ROWS]]


def score_checkpoints(
    cfg: RunConfig, machine: Machine, checkpoints: Sequence[Checkpoint], items: Sequence[Item], texts: Sequence[HeldOut]
) -> ScoredLadder:
    """Score every checkpoint on all items in one pass. The scores are cached by (model, item, tokenizer)."""
    stage = cast(Explore, cfg.stage)
    ladder, score_cache = ScoredLadder(list(checkpoints)), ScoreCache(cache_dir(cfg.data.cache))
    for number, checkpoint in enumerate(checkpoints):
        probed = load_probed_model(checkpoint.path, offline=cfg.offline, device=machine.device, form=stage.scoring.form)
        measure_checkpoint(checkpoint, probed, texts)
        scores = score_items(
            probed, items, end=stage.scoring.end, generate="none", batch_tokens=cfg.trainer.eval_batch_tokens,
            precision=partial(machine.autocast, scoring_precision(cfg.trainer)), cache=score_cache, pmi=False,
        )  # fmt: skip
        ladder.family_scores.append(scores_by_family(items, scores))
        ladder.cells += product_cells(checkpoint, items, scores)
        loss = "" if checkpoint.lm_loss is None else f", held-out loss {checkpoint.lm_loss:.3f}"
        console.note(
            f"checkpoint {number + 1}/{len(checkpoints)} {checkpoint.id}: {checkpoint.params:,} parameters{loss}"
        )
    return ladder


def scores_by_family(items: Sequence[Item], scores: Sequence[dict[str, Any]]) -> dict[str, FamilyScores]:
    """Average the scores of the items by probe family, for families of two scored items or more."""
    by_family = {}
    for name in dict.fromkeys(item.probe_family for item in items):
        family_rows = [
            score
            for item, score in zip(items, scores, strict=True)
            if item.probe_family == name and score["unscored"] is None
        ]
        if len(family_rows) < 2:
            continue
        correct = np.array(
            [score["acc"] if score["acc"] is not None else score["em"] for score in family_rows], dtype=np.float64
        )
        logp = np.array([score["logp_per_token"] for score in family_rows])
        root = len(family_rows) ** 0.5
        error = floored_standard_error(correct.mean(), correct.std(ddof=1) / root, len(family_rows))
        by_family[name] = FamilyScores(
            float(correct.mean()), float(error), float(logp.mean()), float(logp.std(ddof=1) / root),
            len(family_rows), float(np.mean([score["num_tokens"] for score in family_rows])), float(np.mean([score["tok"] for score in family_rows])),
            correct, logp,
        )  # fmt: skip
    return by_family


def judge_all_curves(scored: ScoredLadder, axis: str, rules: Rules) -> list[JudgedCurve]:
    """Judge curves over training for each group of checkpoints, and over scale for the last checkpoint of each group
    and seed."""
    groups: dict[str, list[int]] = {}
    for index, checkpoint in enumerate(scored.checkpoints):
        groups.setdefault(checkpoint.group, []).append(index)
    judged = []
    for probe_family in dict.fromkeys(
        name for by_family in scored.family_scores for name in by_family if by_family[name].num >= MIN_ITEMS_PER_FAMILY
    ):
        for name, indices in groups.items():
            final = max(scored.checkpoints[index].step or 0 for index in indices)
            selected = [
                index
                for index in indices
                if probe_family in scored.family_scores[index]
                and (scored.checkpoints[index].step or final) >= WARM_UP * final
            ]
            if len({scored.checkpoints[index].step for index in selected}) > 1:
                label = name if len(name) < 12 else scored.checkpoints[selected[0]].id.split("/")[0]
                judged += judge_one(scored, probe_family, selected, axis, label, rules, scale=False)
        last_indices = [
            final
            for indices in groups.values()
            for final in last_of_each_seed(scored, indices)
            if probe_family in scored.family_scores[final]
        ]
        if len({scored.checkpoints[index].group for index in last_indices}) > 1:
            judged += judge_one(scored, probe_family, last_indices, axis, "*", rules, scale=True)
    return judged


def small_families(scored: ScoredLadder) -> list[str]:
    """Return a sentence for each family that has too few items for a claim."""
    small = {
        name: scores.num
        for by_family in scored.family_scores
        for name, scores in by_family.items()
        if scores.num < MIN_ITEMS_PER_FAMILY
    }
    return [sentence("few_of_family", family=name, num=num, least=MIN_ITEMS_PER_FAMILY) for name, num in small.items()]


def last_of_each_seed(scored: ScoredLadder, indices: Sequence[int]) -> list[int]:
    """Return the index of the last checkpoint of each seed."""
    last: dict[Any, int] = {}
    for index in indices:
        checkpoint = scored.checkpoints[index]
        previous = last.get(checkpoint.seed)
        if previous is None or (checkpoint.step or 0) >= (scored.checkpoints[previous].step or 0):
            last[checkpoint.seed] = index
    return list(last.values())


def judge_one(
    scored: ScoredLadder, probe_family: str, indices: Sequence[int], axis: str, model: str, rules: Rules, *, scale: bool
) -> list[JudgedCurve]:
    """Judge exact match together with the log-probability of the same items, and that log-probability by itself.

    Seeds of one point (same step, or same size) are averaged; their spread is part of the error.
    """
    # Group the checkpoints to points: one step, or one size, with a member for each seed.
    points: dict[Any, list[int]] = {}
    for index in indices:
        checkpoint = scored.checkpoints[index]
        points.setdefault(checkpoint.group if scale else checkpoint.step, []).append(index)
    points_scores = [[scored.family_scores[index][probe_family] for index in members] for members in points.values()]
    x = np.array(
        [np.mean([scored.checkpoints[index].axis_value(axis) for index in members]) for members in points.values()]
    )
    # Order the points towards the better model: a loss falls, sizes and steps rise.
    order = np.argsort(-x if axis.startswith("lm_loss") else x, kind="stable")
    several_seeds = max(map(len, points_scores)) >= MIN_SEEDS

    def curve(metric: str, value: str, error: str) -> Curve:
        means = [float(np.mean([getattr(scores, value) for scores in members])) for members in points_scores]
        errors = [
            float(np.mean([getattr(scores, error) for scores in members])) / len(members) ** 0.5
            for members in points_scores
        ]
        spread = [
            float(np.std([getattr(scores, value) for scores in members], ddof=1))
            for members in points_scores
            if len(members) > 1
        ]
        sd = float(np.sqrt(np.mean(np.square(spread)))) if several_seeds and spread else None
        end = [float(getattr(scores, value)) for scores in points_scores[int(order[-1])]]
        return Curve(
            metric, x[order], np.array(means)[order], np.array(errors)[order], axis, cast(AxisKind, AXIS_KINDS[axis]),
            model, sd, min(scores.num for members in points_scores for scores in members), tuple(end),
        )  # fmt: skip

    def intervals(values: str) -> list[tuple[float | None, float | None]]:
        by_point = [
            confidence_interval(
                [
                    (scored.checkpoints[index].seed, getattr(scored.family_scores[index][probe_family], values))
                    for index in members
                ],
                rules,
            )
            for members in points.values()
        ]
        return [by_point[int(index)] for index in order]

    exact, logp = (
        curve(sentence("exact_match"), "exact_match", "exact_match_error"),
        curve("logp_per_token", "logp", "logp_error"),
    )
    length = float(np.mean([scores.length for members in points_scores for scores in members]))
    exact_verdict = judge(exact, rules, continuous=logp, sharp=True, chance=0.0, length=length)
    logp_verdict = judge(logp, rules)
    return [
        JudgedCurve(probe_family, "em", model, exact, exact_verdict, scale, intervals("correct_items")),
        JudgedCurve(probe_family, "logp_per_token", model, logp, logp_verdict, scale, intervals("item_logps")),
    ]


def confidence_interval(by_seed: Sequence[tuple[Any, Numbers]], rules: Rules) -> tuple[float | None, float | None]:
    """Return the 95 % interval of a point. Seeds are resampled before items, because the items of one seed are
    correlated."""
    values = np.concatenate([items for _, items in by_seed])
    seeds = [str(seed) for seed, items in by_seed for _ in items]
    interval = hierarchical(values, [seeds], resamples=min(rules.trials, MAX_RESAMPLES), seed=rules.seed)
    return interval.low, interval.high


def ladder_sentences(judged: Sequence[JudgedCurve], law: dict[str, Any] | None) -> list[str]:
    """Return the sentences of the report: the verdict of each family, and how well products of token accuracies predict
    exact match."""
    sentences = [
        sentence(
            "ladder_verdict", family=curve.probe_family, where=sentence("over_sizes") if curve.scale else curve.model,
            verdict=verdict_name(curve.verdict.name), text=curve.verdict.text,
        )
        for curve in judged
        if curve.metric == "em"
    ]  # fmt: skip
    if law is not None:
        sentences += [
            sentence(
                key, near=MAX_GAP, share=law[f"within_05{form}"], cells=law["cells"], telling=law[f"telling{form}"],
                idle=law["cells"] - law[f"telling{form}"], known=law[f"telling_within_05{form}"], median=law[f"median_gap{form}"],
                largest=law[f"max_gap{form}"],
                explain=sentence("product_explains" if law[f"telling_within_05{form}"] >= MIN_SHARE_WITHIN else "product_explains_not"),
            )
            for key, form in (("product_law", ""), ("product_by_place", "_by_place"))
            if law[f"telling{form}"]
        ]  # fmt: skip
    return sentences


def ladder_charts(judged: Sequence[JudgedCurve]) -> list[dict[str, Any]]:
    """Return one chart for each family and metric: a series for each model size, with 95 % intervals."""
    charts = []
    for key in dict.fromkeys((curve.probe_family, curve.metric) for curve in judged):
        training_curves = [curve for curve in judged if (curve.probe_family, curve.metric) == key and not curve.scale]
        rows = [curve.as_dict() for curve in training_curves]
        series = [{"name": row["model"], **{key: row[key] for key in ("x", "y", "low", "high")}} for row in rows]
        if series:
            title, axis = f"{key[0]}: {key[1]}", training_curves[0].curve.axis
            charts.append(
                {"kind": "lines", "title": title, "x_label": axis, "y_label": key[1], "series": series, "log_y": False}
            )
    return charts
