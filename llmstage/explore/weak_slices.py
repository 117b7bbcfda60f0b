"""Weak slices of a trained model on its task's rows: found, confirmed, explained, written down."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from torch import nn

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.data.rows import Row
from llmstage.data.splits import row_hash
from llmstage.errors import UserError
from llmstage.evaluation.scoring import score
from llmstage.explore.diagnosis import Reason, action_of, matching, mean_where, pieces_ratio, slope_of
from llmstage.explore.elicit import ROWS_SCORED, encoded, mean_error, trained_copy
from llmstage.explore.findings import Findings
from llmstage.explore.hidden_states import GROUPS, Groups, group_rows, row_vectors
from llmstage.explore.row_features import TOPIC, UNSEEN, RowFeatures
from llmstage.explore.scored_rows import FEW, ScoredRows, gather, split_to_score
from llmstage.explore.slices import Cell, Search, Slice, auto_support, find_slices
from llmstage.explore.term_statistics import terms_of
from llmstage.explore.weak_slices_report import Weakness, findings_of, too_few
from llmstage.explore.wording import say
from llmstage.report.files import write_json
from llmstage.training.machine import Machine
from llmstage.training.setup import RunComponents, setup_run

POOL_VECTORS = 2000
"""Rows of the pool whose hidden states are computed, where a slice is such a group."""
REPLAY = 512
"""Rows of the pool that the elicitation probe repeats."""


@dataclass(slots=True)
class Looked:
    """Everything that the questions about a slice need."""

    run: RunConfig
    pieces: RunComponents
    model: nn.Module
    machine: Machine
    scored: ScoredRows
    search: Search
    features: RowFeatures
    groups: Groups | None
    texts: list[str]
    tokens: list[int]
    table: dict[str, list[Cell]]
    """All that is known of the scored rows."""
    pool_table: dict[str, list[Cell]]
    """What is said of the pool's rows, in the words of the scored ones."""
    out_dir: Path

    @property
    def stage(self) -> Explore:
        assert isinstance(self.run.stage, Explore)
        return self.run.stage


def weak_slices(run: RunConfig, pieces: RunComponents, model: nn.Module, machine: Machine, out_dir: Path) -> Findings:
    """The part `slices` of stage=explore; writes weaknesses.jsonl, plan.yaml and cards/ into the run folder."""
    assert isinstance(run.stage, Explore)
    keys, split = run.stage.slices, split_to_score(pieces)
    found = score(run, pieces, model, machine, split, metrics=False)
    rows = gather(pieces, found, split, keys.overlap)
    if len(rows.rows) < FEW:
        return too_few(out_dir, rows)
    task = pieces.task

    def num_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in pieces.processor.plain_ids(texts)]

    words = Counter(term for row in rows.pool for text in task.texts(row) for term in set(terms_of(text)))
    features = RowFeatures(task.texts, num_tokens, words if rows.pool else None)
    table = features.table(rows.rows)
    texts = ["\n".join(task.texts(row)) for row in rows.rows]
    groups = None
    if tells_topics(keys.features, named=bool(features.names)):
        vectors = row_vectors(task, model, encoded(task, rows.rows, len(rows.rows)), machine.device)
        groups = group_rows(vectors, texts, run.seed)
        if groups is not None:
            table[TOPIC] = list(groups.of(vectors))
    table, asked_of = chosen_columns(table, keys.features), table
    strata = next((table[name] for name in features.names if name in table), None)
    search = find_slices(
        table, rows.errors, strata=strata, max_order=keys.max_order,
        min_support=auto_support(len(rows.rows)) if keys.min_support == "auto" else int(keys.min_support),
        alpha=keys.alpha, min_gap=keys.min_gap, top_k=keys.top_k, fdr=keys.fdr, level=keys.level, seed=run.seed, last=(UNSEEN, TOPIC),
    )  # fmt: skip
    if groups is not None and any(TOPIC in one.conditions for one in search.confirmed):
        groups.write(out_dir / GROUPS)
    write_confirming(out_dir, task.columns.identity, [rows.rows[at] for at in search.confirm])
    asked = features.table(rows.pool) if search.confirmed and run.stage.diagnosis.coverage else {}
    looked = Looked(
        run, pieces, model, machine, rows, search, features, groups, texts, num_tokens(texts), asked_of, asked, out_dir
    )  # fmt: skip
    weaknesses = [explained(looked, one) for one in search.confirmed]
    return findings_of(run, out_dir, rows, search, weaknesses, list(table), examples=keys.examples)


def tells_topics(wanted: Literal["auto"] | list[str], *, named: bool) -> bool:
    """Whether slices may be groups of hidden states. Left to itself, only where rows have no names of their own: rows that a
    model puts side by side are the ones it takes for each other, so that on any model some group is worse than the others,
    and a reader would have to find out what it is."""
    return not named if wanted == "auto" else TOPIC in wanted


def chosen_columns(table: dict[str, list[Cell]], wanted: Literal["auto"] | list[str]) -> dict[str, list[Cell]]:
    """The columns that slices are described by. Left to itself, not by rare words, for the same reason as groups."""
    if wanted == "auto":
        return {name: cells for name, cells in table.items() if name != UNSEEN}
    if strange := [name for name in wanted if name not in table]:
        known = [*table, *([] if TOPIC in wanted else [TOPIC])]  # it is not made where it is not asked for
        raise UserError(
            f"stage.slices.features: nothing is known of {', '.join(strange)} in these rows. Known: {', '.join(known)}."
        )
    return {name: cells for name, cells in table.items() if name in wanted}


def write_confirming(out_dir: Path, words: tuple[str, ...], rows: Sequence[Row]) -> None:
    """The rows on which slices were confirmed, by hash: an improvement must not be judged on those that found them."""
    write_json(out_dir / "confirming.json", [f"{row_hash(row, words, 0):016x}" for row in rows])


def explained(looked: Looked, one: Slice) -> Weakness:
    reason = Reason(error=one.error, rest=one.rest, expected=float(one.rows.mean()))
    scored, why = looked.scored, looked.stage.diagnosis
    like: list[Row] = []
    if why.coverage and scored.pool:
        reason.coverage, like = coverage_in_pool(looked, one)
    reason.pieces = pieces_ratio(one, looked.texts, looked.tokens)
    wrong = scored.errors > 0.5
    reason.sure = mean_where(scored.confidence, one.rows & wrong) if scored.kind.share else None
    nats = [mean_where(scored.nats, rows) for rows in (one.rows, ~one.rows)]
    reason.nats = nats[0] - nats[1] if nats[0] is not None and nats[1] is not None else None
    reason.slope = validation_slope(looked)
    if UNSEEN in looked.table:
        strange = np.array([bool(cell) for cell in looked.table[UNSEEN]])
        reason.unseen = float(strange[one.rows].mean()), float(strange[~one.rows].mean())
    if why.elicit:
        elicit(looked, one, reason)
    for path in why.bigger:
        reason.bigger[path] = error_of_bigger(looked, one, path)
    return Weakness(one, reason, action_of(reason, one.conditions), like)


def coverage_in_pool(looked: Looked, one: Slice) -> tuple[float | None, list[Row]]:
    """(share of the pool that is like the slice, these rows); of a sample where the slice is a group of hidden states."""
    pool, table = looked.scored.pool, looked.pool_table
    if TOPIC in one.conditions and looked.groups is not None:
        pool = pool[:: max(1, len(pool) // POOL_VECTORS)]
        table = looked.features.table(pool)
        made = encoded(looked.pieces.task, pool, len(pool))
        vectors = row_vectors(looked.pieces.task, looked.model, made, looked.machine.device)
        table[TOPIC] = list(looked.groups.of(vectors))
    found = matching(one.conditions, table)
    if found is None:
        return None, []
    return float(found.mean()), [row for row, fits in zip(pool, found, strict=True) if fits]


def validation_slope(looked: Looked) -> float | None:
    """Of the metric that selected the checkpoint, where the run folder has its lines."""
    place = looked.pieces.place
    metric = looked.pieces.task.select
    return slope_of(place.run_dir if place else None, metric, metric not in LOSSES)


LOSSES = ("loss", "perplexity", "pseudo_perplexity", "bits_per_byte", "mae", "log_loss", "brier", "ece")
"""Metrics of which less is better."""


def elicit(looked: Looked, one: Slice, reason: Reason) -> None:
    """Train copies on the slice's rows of the half that found it; score those of the half that confirmed it."""
    task, search, rows = looked.pieces.task, looked.search, looked.scored.rows
    why = looked.stage.diagnosis
    if not task.additive_loss:
        reason.elicit_note = say("elicit_not_alone")
        return
    own = [rows[at] for at in search.discover if one.rows[at]]
    held = [int(at) for at in search.confirm if one.rows[at]][:ROWS_SCORED]
    others = [int(at) for at in search.confirm if not one.rows[at]][:ROWS_SCORED]
    if len(own) < 8 or not held:
        reason.elicit_note = say("elicit_too_few", num=len(own))
        return
    pool = looked.scored.pool or [rows[at] for at in search.discover if not one.rows[at]]
    replay = encoded(task, pool[:: max(1, len(pool) // REPLAY)], REPLAY)
    test, rest = (encoded(task, [rows[at] for at in places], ROWS_SCORED) for places in (held, others))
    kept = mean_error(task, looked.model, rest, looked.machine)
    for number in sorted({min(size, len(own)) for size in why.elicit}):
        learner = trained_copy(
            task, looked.model, encoded(task, own, number), replay, looked.machine,
            steps=why.elicit_steps, seed=looked.run.seed,
        )  # fmt: skip
        error, after = (mean_error(task, learner, part, looked.machine) for part in (test, rest))
        if error is not None:
            reason.elicited[number] = error
        if after is not None and kept is not None and after - kept > 0.05:
            score = looked.scored.score
            reason.elicit_note = say("elicit_lost", was=score(kept), now=score(after))


def error_of_bigger(looked: Looked, one: Slice, path: str) -> float:
    """Mean error of another model on the confirming rows of the slice."""
    run = replace(looked.run, model=replace(looked.run.model, path=path))
    console.note(f"scoring {path} on the slice {one.words}")
    pieces = setup_run(run, looked.out_dir, training=False, fixed={}, resume_from=None)
    model = pieces.build(run, looked.machine.device, training=False)
    places = [int(at) for at in looked.search.confirm if one.rows[at]][:ROWS_SCORED]
    made = encoded(pieces.task, [looked.scored.rows[at] for at in places], ROWS_SCORED)
    error = mean_error(pieces.task, model, made, looked.machine)
    return float(np.nan) if error is None else error
