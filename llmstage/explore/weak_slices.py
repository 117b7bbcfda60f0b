"""Find the weak slices of a trained model on the rows of its task, confirm them, diagnose them, and write the report files."""

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
from llmstage.data.split_keys import row_hash
from llmstage.errors import UserError
from llmstage.evaluation.scoring import score
from llmstage.explore.diagnosis import Evidence, action_of, mean_where, pool_mask, slope_of, token_ratio
from llmstage.explore.elicit import ROWS_SCORED, encoded, mean_error, trained_copy
from llmstage.explore.findings import Findings
from llmstage.explore.hidden_states import GROUPS, Groups, group_rows, row_vectors
from llmstage.explore.row_features import TOPIC, UNSEEN, RowFeatures
from llmstage.explore.scored_rows import FEW, ScoredRows, gather, split_to_score
from llmstage.explore.slices import CellValue, Search, Slice, auto_support, find_slices
from llmstage.explore.term_statistics import terms_of
from llmstage.explore.weak_slices_report import Weakness, findings_of, too_few
from llmstage.explore.wording import sentence
from llmstage.report.files import write_json
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine
from llmstage.training.setup import setup_run

POOL_VECTORS = 2000
"""Number of pool rows whose hidden states are computed, where a slice is a cluster of them."""
REPLAY = 512
"""Number of pool rows in the replay of the elicitation probe."""


@dataclass(slots=True)
class SliceContext:
    """All inputs of the diagnosis of a slice."""

    run: RunConfig
    components: RunComponents
    model: nn.Module
    machine: Machine
    scored: ScoredRows
    search: Search
    features: RowFeatures
    groups: Groups | None
    texts: list[str]
    tokens: list[int]
    table: dict[str, list[CellValue]]
    """All features of the scored rows, also those that slices are not described by."""
    pool_table: dict[str, list[CellValue]]
    """The same features of the pool's rows, with the borders of the scored ones."""
    out_dir: Path

    @property
    def stage(self) -> Explore:
        assert isinstance(self.run.stage, Explore)
        return self.run.stage


def weak_slices(
    run: RunConfig, components: RunComponents, model: nn.Module, machine: Machine, out_dir: Path
) -> Findings:
    """Run the part `slices` of stage=explore; write weaknesses.jsonl, plan.yaml and cards/ into the run folder."""
    assert isinstance(run.stage, Explore)
    keys, split = run.stage.slices, split_to_score(components)
    # 1. Score the rows, and leave out those of the training pool.
    scored = score(run, components, model, machine, split, metrics=False)
    rows = gather(components, scored, split, keys.overlap)
    if len(rows.rows) < FEW:
        return too_few(out_dir, rows)
    task = components.task

    def num_tokens(texts: list[str]) -> list[int]:
        return [len(ids) for ids in components.processor.plain_ids(texts)]

    # 2. Describe every row by features; add clusters of hidden states where requested.
    words = Counter(term for row in rows.pool for text in task.texts(row) for term in set(terms_of(text)))
    features = RowFeatures(task.texts, num_tokens, words if rows.pool else None)
    table = features.table(rows.rows)
    texts = ["\n".join(task.texts(row)) for row in rows.rows]
    groups = None
    if uses_topics(keys.features, named=bool(features.names)):
        vectors = row_vectors(task, model, encoded(task, rows.rows, len(rows.rows)), machine.device)
        groups = group_rows(vectors, texts, run.seed)
        if groups is not None:
            table[TOPIC] = list(groups.assign(vectors))
    table, all_columns = chosen_columns(table, keys.features), table
    # 3. Search and confirm slices.
    strata = next((table[name] for name in features.names if name in table), None)
    search = find_slices(
        table, rows.errors, strata=strata, max_order=keys.max_order,
        min_support=auto_support(len(rows.rows)) if keys.min_support == "auto" else int(keys.min_support),
        alpha=keys.alpha, min_gap=keys.min_gap, top_k=keys.top_k, fdr=keys.fdr, level=keys.level, seed=run.seed, last=(UNSEEN, TOPIC),
    )  # fmt: skip
    if groups is not None and any(TOPIC in weak_slice.conditions for weak_slice in search.confirmed):
        groups.write(out_dir / GROUPS)
    write_confirming(out_dir, task.columns.identity, [rows.rows[at] for at in search.confirm])
    # 4. Diagnose the confirmed ones.
    pool_table = features.table(rows.pool) if search.confirmed and run.stage.diagnosis.coverage else {}
    context = SliceContext(
        run, components, model, machine, rows, search, features, groups, texts, num_tokens(texts), all_columns, pool_table,
        out_dir,
    )  # fmt: skip
    weaknesses = [diagnose(context, weak_slice) for weak_slice in search.confirmed]
    return findings_of(run, out_dir, rows, search, weaknesses, list(table), examples=keys.examples)


def uses_topics(columns: Literal["auto"] | list[str], *, named: bool) -> bool:
    """Whether slices may be clusters of hidden states.

    auto uses them only where rows have no columns of names: a model confuses rows that are near to each other, so in any
    model some cluster is worse than the others, and a reader would have to find out what it contains.
    """
    return not named if columns == "auto" else TOPIC in columns


def chosen_columns(
    table: dict[str, list[CellValue]], columns: Literal["auto"] | list[str]
) -> dict[str, list[CellValue]]:
    """Return the columns that describe slices. auto leaves out rare words, for the same reason as clusters."""
    if columns == "auto":
        return {name: cells for name, cells in table.items() if name != UNSEEN}
    if strange := [name for name in columns if name not in table]:
        known = [*table, *([] if TOPIC in columns else [TOPIC])]  # The clusters are computed on request only.
        raise UserError(
            f"stage.slices.features: these rows have no feature {', '.join(strange)}. Known: {', '.join(known)}."
        )
    return {name: cells for name, cells in table.items() if name in columns}


def write_confirming(out_dir: Path, words: tuple[str, ...], rows: Sequence[Row]) -> None:
    """Write hashes of the rows that confirmed slices: an improvement must not be judged on the rows that found them."""
    write_json(out_dir / "confirming.json", [f"{row_hash(row, words, 0):016x}" for row in rows])


def diagnose(context: SliceContext, weak_slice: Slice) -> Weakness:
    """Collect the evidence on a slice, and derive the action."""
    evidence = Evidence(error=weak_slice.error, rest=weak_slice.rest, expected=float(weak_slice.rows.mean()))
    scored, diagnosis = context.scored, context.stage.diagnosis
    like: list[Row] = []
    if diagnosis.coverage and scored.pool:
        evidence.coverage, like = coverage_in_pool(context, weak_slice)
    evidence.token_ratio = token_ratio(weak_slice, context.texts, context.tokens)
    wrong = scored.errors > 0.5
    if scored.example_errors.share:
        evidence.wrong_confidence = mean_where(scored.confidence, weak_slice.rows & wrong)
    nats = [mean_where(scored.nats, rows) for rows in (weak_slice.rows, ~weak_slice.rows)]
    evidence.nats = nats[0] - nats[1] if nats[0] is not None and nats[1] is not None else None
    evidence.slope = validation_slope(context)
    if UNSEEN in context.table:
        strange = np.array([bool(cell) for cell in context.table[UNSEEN]])
        evidence.unseen = float(strange[weak_slice.rows].mean()), float(strange[~weak_slice.rows].mean())
    if diagnosis.elicit:
        elicit(context, weak_slice, evidence)
    for path in diagnosis.bigger:
        evidence.bigger[path] = error_of_bigger(context, weak_slice, path)
    return Weakness(weak_slice, evidence, action_of(evidence, weak_slice.conditions), like)


def coverage_in_pool(context: SliceContext, weak_slice: Slice) -> tuple[float | None, list[Row]]:
    """Return (share of the pool that is like the slice, these rows); of a sample where the slice is a cluster."""
    pool, table = context.scored.pool, context.pool_table
    if TOPIC in weak_slice.conditions and context.groups is not None:
        pool = pool[:: max(1, len(pool) // POOL_VECTORS)]
        table = context.features.table(pool)
        examples = encoded(context.components.task, pool, len(pool))
        vectors = row_vectors(context.components.task, context.model, examples, context.machine.device)
        table[TOPIC] = list(context.groups.assign(vectors))
    mask = pool_mask(weak_slice.conditions, table)
    if mask is None:
        return None, []
    return float(mask.mean()), [row for row, matches in zip(pool, mask, strict=True) if matches]


def validation_slope(context: SliceContext) -> float | None:
    """Return the slope of the metric that selected the checkpoint, where the run folder has its values."""
    source = context.components.model_source
    metric = context.components.task.select
    return slope_of(source.run_dir if source else None, metric, metric not in LOSSES)


LOSSES = ("loss", "perplexity", "pseudo_perplexity", "bits_per_byte", "mae", "log_loss", "brier", "ece")
"""Metrics for which less is better."""


def elicit(context: SliceContext, weak_slice: Slice, evidence: Evidence) -> None:
    """Train copies on the slice's rows of the discovery half; score them on its rows of the confirming half."""
    task, search, rows = context.components.task, context.search, context.scored.rows
    diagnosis = context.stage.diagnosis
    if not task.additive_loss:
        evidence.elicit_note = sentence("elicit_not_alone")
        return
    # Rows to train on, rows of the slice to score on, and rows of the rest to score on.
    train_rows = [rows[at] for at in search.discover if weak_slice.rows[at]]
    held = [int(at) for at in search.confirm if weak_slice.rows[at]][:ROWS_SCORED]
    others = [int(at) for at in search.confirm if not weak_slice.rows[at]][:ROWS_SCORED]
    if len(train_rows) < 8 or not held:
        evidence.elicit_note = sentence("elicit_too_few", num=len(train_rows))
        return
    pool = context.scored.pool or [rows[at] for at in search.discover if not weak_slice.rows[at]]
    replay = encoded(task, pool[:: max(1, len(pool) // REPLAY)], REPLAY)
    test, rest = (encoded(task, [rows[at] for at in indices], ROWS_SCORED) for indices in (held, others))
    before = mean_error(task, context.model, rest, context.machine)
    for number in sorted({min(size, len(train_rows)) for size in diagnosis.elicit}):
        trained = trained_copy(
            task, context.model, encoded(task, train_rows, number), replay, context.machine,
            steps=diagnosis.elicit_steps, seed=context.run.seed,
        )  # fmt: skip
        error, after = (mean_error(task, trained, part, context.machine) for part in (test, rest))
        if error is not None:
            evidence.elicited[number] = error
        if after is not None and before is not None and after - before > 0.05:
            to_score = context.scored.score
            evidence.elicit_note = sentence("elicit_lost", was=to_score(before), now=to_score(after))


def error_of_bigger(context: SliceContext, weak_slice: Slice, path: str) -> float:
    """Return the mean error of another model on the confirming rows of the slice."""
    run = replace(context.run, model=replace(context.run.model, path=path))
    console.note(f"scoring {path} on the slice {weak_slice.words}")
    components = setup_run(run, context.out_dir, training=False)
    model = components.build(run, context.machine.device, training=False)
    indices = [int(at) for at in context.search.confirm if weak_slice.rows[at]][:ROWS_SCORED]
    examples = encoded(components.task, [context.scored.rows[at] for at in indices], ROWS_SCORED)
    error = mean_error(components.task, model, examples, context.machine)
    return float(np.nan) if error is None else error
