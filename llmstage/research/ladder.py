"""A ladder of models: every rung scored on the same items, its held-out loss as the axis, a verdict for each family."""

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
from llmstage.explore.probed_model import load_subject
from llmstage.explore.score import score_items
from llmstage.explore.score_cache import Kept
from llmstage.explore.stats import hierarchical
from llmstage.explore.wording import say, verdict_name
from llmstage.naming import load_module
from llmstage.paths import cache_dir, locate_model, read_run_yaml
from llmstage.report.files import write_json
from llmstage.research.checkpoints import HeldOut, Rung, axis_of, examine, rungs_of_models, rungs_of_runs
from llmstage.research.curves import AxisKind, Curve, Numbers, breakthroughness, improvement, linearity, told
from llmstage.research.loss_axis import WARM_UP
from llmstage.research.product_law import HELD, PREDICTED, product_law, products_of
from llmstage.research.score_curves import never_certain
from llmstage.research.trained_ladder import items_of, train_ladder
from llmstage.research.verdicts import Rules, Verdict, correct, judge
from llmstage.training.machine import Machine, scoring_precision
from llmstage.training.setup import open_sources

KINDS = {
    "params": "log",
    "flops": "log",
    "tokens": "training",
    "steps": "training",
    "lm_loss": "loss",
    "lm_loss_per_byte": "loss",
}
"""Which shape of axis."""
CORPUS_ROWS = 200
MANY_SEEDS = 2
MOST_DRAWS = 500
"""Resamples behind the interval of a point, of which a ladder has hundreds."""


FEWEST_CLAIMED = 30
"""Items of a family under which nothing is claimed of it."""


@dataclass(slots=True)
class Family:
    """One family on one rung: means and standard errors over its items."""

    em: float
    em_error: float
    logp: float
    """nats a token"""
    logp_error: float
    num: int
    length: float
    """tokens of an answer, its end included"""
    token: float
    """teacher-forced token accuracy"""
    right: Numbers = field(default_factory=lambda: np.zeros(0))
    """[num] of each item, 1 where it was right"""
    logps: Numbers = field(default_factory=lambda: np.zeros(0))
    """[num] of each item, nats a token"""


@dataclass(slots=True)
class Judged:
    """One curve of curves.json."""

    family: str
    metric: str
    model: str
    curve: Curve
    verdict: Verdict
    scale: bool
    spans: list[tuple[float | None, float | None]]
    """95 % around each point, items drawn within seeds; None where there is nothing to draw from."""

    def row(self) -> dict[str, Any]:
        y = self.curve.y
        return {
            "curve": "scale" if self.scale else "training", "axis": self.curve.axis, "x": self.curve.x.tolist(), "y": y.tolist(),
            "low": [low for low, _ in self.spans], "high": [high for _, high in self.spans],
            "model": self.model, "metric": f"{self.family}_{self.metric}", "n": len(y), "I": improvement(y),
            "linearity": told(linearity(y)), "breakthroughness": told(breakthroughness(y)), "verdict": self.verdict.name,
            "verdict_text": self.verdict.text, "evidence": self.verdict.evidence,
        }  # fmt: skip


@dataclass(slots=True)
class Scored:
    """All rungs with their families."""

    rungs: list[Rung]
    families: list[dict[str, Family]] = field(default_factory=list)
    products: list[dict[str, Any]] = field(default_factory=list)
    """A cell of a rung each: exact match beside (token accuracy)^L and the product by places."""


def explore_ladder(cfg: RunConfig, out_dir: Path, machine: Machine, about: dict[str, str]) -> Findings:
    """Collect the rungs, score them, judge every family; writes curves.json."""
    stage = cfg.stage
    assert isinstance(stage, Explore)
    ladder = stage.ladder
    if ladder.kind == "auto":
        rungs, texts = train_ladder(cfg, out_dir, about)
    else:
        rungs = (rungs_of_runs(ladder.runs) if ladder.runs else []) + rungs_of_models(ladder.models)
        texts = corpus_of(cfg, rungs)
    # Items to discover on: an auto ladder trained on none of them, and its held-out texts are others.
    items = items_of(stage, stage.items_per_cell, cfg.seed, ("discover",)) if stage.probes else []
    items += load_phenomena(stage.phenomena) if stage.phenomena else []
    scored = score_rungs(cfg, machine, rungs, items, texts)
    if len(scored.rungs) < 2:
        return Findings("ladder", {"rungs": [rung.as_dict() for rung in scored.rungs]}, [], [say("ladder_of_one")])
    axis, limits = axis_of(scored.rungs, ladder.x)
    if ladder.kind == "auto" and axis.startswith("lm_loss"):
        limits.append(say("own_axis"))
    rules = Rules.of(stage.stats, cfg.seed)
    judged = judge_families(scored, axis, rules)
    correct([one.verdict for one in judged], rules)
    write_json(out_dir / "curves.json", [one.row() for one in judged])
    limits += too_few(scored)
    law = product_law(scored.products)
    block: dict[str, Any] = {
        "axis": axis, "rungs": [rung.as_dict() for rung in scored.rungs],
        "families": [{key: value for key, value in one.row().items() if key not in ("x", "y", "low", "high")} for one in judged],
        "product_law": law, "cells": scored.products,
    }  # fmt: skip
    if not items:
        limits.append(say("ladder_no_probes"))
    return Findings("ladder", block, sentences_of(judged, law), limits, exhibits_of(judged))


def corpus_of(cfg: RunConfig, rungs: Sequence[Rung]) -> list[HeldOut]:
    """Held-out texts: of the task and data of the command line, else of the run that the first rung belongs to."""
    run = cfg
    if not cfg.task.name:
        place = locate_model(rungs[0].path) if rungs else None
        if place is None or place.run_dir is None:
            return []
        kept = {key: value for key, value in read_run_yaml(place.run_dir).items() if key != "resolved"}
        if "." in str(kept.get("task", {}).get("name", "")):
            return []  # a task of the user's own is code that this command did not name
        run = build_run(kept, [], trusted=False)
    task = load_module("tasks", run.task.name, trusted=True).TASK(run.task, run.generation)
    sources = open_sources(run, task, Path("."))
    split = next((name for name in ("validation", "test", "train") if name in sources), None)
    texts: list[str] = []
    for row, _ in sources[split] if split else []:
        texts += task.texts(row)
        if len(texts) >= CORPUS_ROWS:
            break
    return [HeldOut(text) for text in texts[:CORPUS_ROWS]]


def score_rungs(
    cfg: RunConfig, machine: Machine, rungs: Sequence[Rung], items: Sequence[Item], texts: Sequence[HeldOut]
) -> Scored:
    """One pass a rung over all items; kept by (model, item, tokenizer) for the next time."""
    stage = cast(Explore, cfg.stage)
    found, kept = Scored(list(rungs)), Kept(cache_dir(cfg.data.cache))
    for number, rung in enumerate(rungs):
        subject = load_subject(rung.path, offline=cfg.offline, device=machine.device, form=stage.scoring.form)
        examine(rung, subject, texts)
        scores = score_items(
            subject, items, end=stage.scoring.end, generate="none", batch_tokens=cfg.trainer.eval_batch_tokens,
            precision=partial(machine.autocast, scoring_precision(cfg.trainer)), kept=kept, pmi=False,
        )  # fmt: skip
        found.families.append(by_family(items, scores))
        found.products += products_of(rung, items, scores)
        loss = "" if rung.lm_loss is None else f", held-out loss {rung.lm_loss:.3f}"
        console.note(f"rung {number + 1}/{len(rungs)} {rung.id}: {rung.params:,} parameters{loss}")
    return found


def by_family(items: Sequence[Item], scores: Sequence[dict[str, Any]]) -> dict[str, Family]:
    out = {}
    for name in dict.fromkeys(item.family for item in items):
        own = [one for item, one in zip(items, scores, strict=True) if item.family == name and one["unscored"] is None]
        if len(own) < 2:
            continue
        right = np.array([one["acc"] if one["acc"] is not None else one["em"] for one in own], dtype=np.float64)
        logp = np.array([one["logp_per_token"] for one in own])
        root = len(own) ** 0.5
        error = never_certain(right.mean(), right.std(ddof=1) / root, len(own))
        out[name] = Family(
            float(right.mean()), float(error), float(logp.mean()), float(logp.std(ddof=1) / root),
            len(own), float(np.mean([one["num_tokens"] for one in own])), float(np.mean([one["tok"] for one in own])),
            right, logp,
        )  # fmt: skip
    return out


def judge_families(scored: Scored, axis: str, rules: Rules) -> list[Judged]:
    """Curves over training for each group of rungs, and over scale for each group's last rung."""
    groups: dict[str, list[int]] = {}
    for place, rung in enumerate(scored.rungs):
        groups.setdefault(rung.group, []).append(place)
    judged = []
    for family in dict.fromkeys(name for own in scored.families for name in own if own[name].num >= FEWEST_CLAIMED):
        for name, places in groups.items():
            last = max(scored.rungs[place].step or 0 for place in places)
            rows = [
                place
                for place in places
                if family in scored.families[place] and (scored.rungs[place].step or last) >= WARM_UP * last
            ]
            if len({scored.rungs[place].step for place in rows}) > 1:
                shown = name if len(name) < 12 else scored.rungs[rows[0]].id.split("/")[0]
                judged += judge_one(scored, family, rows, axis, shown, rules, scale=False)
        lasts = [
            last
            for places in groups.values()
            for last in last_of_each_seed(scored, places)
            if family in scored.families[last]
        ]
        if len({scored.rungs[place].group for place in lasts}) > 1:
            judged += judge_one(scored, family, lasts, axis, "*", rules, scale=True)
    return judged


def too_few(scored: Scored) -> list[str]:
    """Families of which nothing is claimed."""
    few = {name: one.num for own in scored.families for name, one in own.items() if one.num < FEWEST_CLAIMED}
    return [say("few_of_family", family=name, num=num, least=FEWEST_CLAIMED) for name, num in few.items()]


def last_of_each_seed(scored: Scored, places: Sequence[int]) -> list[int]:
    last: dict[Any, int] = {}
    for place in places:
        rung = scored.rungs[place]
        before = last.get(rung.seed)
        if before is None or (rung.step or 0) >= (scored.rungs[before].step or 0):
            last[rung.seed] = place
    return list(last.values())


def judge_one(
    scored: Scored, family: str, places: Sequence[int], axis: str, model: str, rules: Rules, *, scale: bool
) -> list[Judged]:
    """Exact match, judged beside the log-probability of the same items, and that log-probability by itself.

    Seeds of one point (same step, or same size) become its mean; their spread is part of the error.
    """
    points: dict[Any, list[int]] = {}
    for place in places:
        rung = scored.rungs[place]
        points.setdefault(rung.group if scale else rung.step, []).append(place)
    own = [[scored.families[place][family] for place in same] for same in points.values()]
    x = np.array([np.mean([scored.rungs[place].place(axis) for place in same]) for same in points.values()])
    # Towards a better model: a loss falls, sizes and steps rise.
    order = np.argsort(-x if axis.startswith("lm_loss") else x, kind="stable")
    many = max(map(len, own)) >= MANY_SEEDS

    def curve(metric: str, value: str, error: str) -> Curve:
        means = [float(np.mean([getattr(one, value) for one in same])) for same in own]
        errors = [float(np.mean([getattr(one, error) for one in same])) / len(same) ** 0.5 for same in own]
        spread = [float(np.std([getattr(one, value) for one in same], ddof=1)) for same in own if len(same) > 1]
        sd = float(np.sqrt(np.mean(np.square(spread)))) if many and spread else None
        end = [float(getattr(one, value)) for one in own[int(order[-1])]]
        return Curve(
            metric, x[order], np.array(means)[order], np.array(errors)[order], axis, cast(AxisKind, KINDS[axis]),
            model, sd, min(one.num for same in own for one in same), tuple(end),
        )  # fmt: skip

    def spans(values: str) -> list[tuple[float | None, float | None]]:
        told = [
            span_of(
                [(scored.rungs[place].seed, getattr(scored.families[place][family], values)) for place in same], rules
            )
            for same in points.values()
        ]
        return [told[int(at)] for at in order]

    exact, logp = curve(say("exact_match"), "em", "em_error"), curve("logp_per_token", "logp", "logp_error")
    length = float(np.mean([one.length for same in own for one in same]))
    beside = judge(exact, rules, continuous=logp, sharp=True, chance=0.0, length=length)
    alone = judge(logp, rules)
    return [
        Judged(family, "em", model, exact, beside, scale, spans("right")),
        Judged(family, "logp_per_token", model, logp, alone, scale, spans("logps")),
    ]


def span_of(by_seed: Sequence[tuple[Any, Numbers]], rules: Rules) -> tuple[float | None, float | None]:
    """95 % of a point that may have several seeds: items of one seed rise and fall together, so seeds are drawn first."""
    values = np.concatenate([items for _, items in by_seed])
    seeds = [str(seed) for seed, items in by_seed for _ in items]
    found = hierarchical(values, [seeds], resamples=min(rules.trials, MOST_DRAWS), seed=rules.seed)
    return found.low, found.high


def sentences_of(judged: Sequence[Judged], law: dict[str, Any] | None) -> list[str]:
    told = [
        say(
            "ladder_verdict", family=one.family, where=say("over_sizes") if one.scale else one.model,
            verdict=verdict_name(one.verdict.name), text=one.verdict.text,
        )
        for one in judged
        if one.metric == "em"
    ]  # fmt: skip
    if law is not None:
        told += [
            say(
                key, near=PREDICTED, share=law[f"within_05{form}"], cells=law["cells"], telling=law[f"telling{form}"],
                idle=law["cells"] - law[f"telling{form}"], known=law[f"telling_within_05{form}"], median=law[f"median_gap{form}"],
                largest=law[f"max_gap{form}"],
                explain=say("product_explains" if law[f"telling_within_05{form}"] >= HELD else "product_explains_not"),
            )
            for key, form in (("product_law", ""), ("product_by_place", "_by_place"))
            if law[f"telling{form}"]
        ]  # fmt: skip
    return told


def exhibits_of(judged: Sequence[Judged]) -> list[dict[str, Any]]:
    """A chart a family and metric, one series a model size, with 95 % around each point."""
    charts = []
    for key in dict.fromkeys((one.family, one.metric) for one in judged):
        own = [one for one in judged if (one.family, one.metric) == key and not one.scale]
        rows = [one.row() for one in own]
        series = [{"name": row["model"], **{key: row[key] for key in ("x", "y", "low", "high")}} for row in rows]
        if series:
            title, axis = f"{key[0]}: {key[1]}", own[0].curve.axis
            charts.append(
                {"kind": "lines", "title": title, "x_label": axis, "y_label": key[1], "series": series, "log_y": False}
            )
    return charts
