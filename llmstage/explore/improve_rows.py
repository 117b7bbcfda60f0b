"""The rows of an improvement: which are weak, which are learned from, which are compared on, and that no row is two of these."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.config.explore_improve import ImproveConfig
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.data.splits import row_hash
from llmstage.errors import DataError, UserError
from llmstage.evaluation.scoring import headline_split
from llmstage.explore.candidates import Outcome
from llmstage.explore.comparison import Trial, families_of, hashes_of, masks_of, set_aside
from llmstage.explore.guard import Mask, Scores
from llmstage.explore.matching import rows_with_columns, words_of
from llmstage.explore.mix import JoinedSource
from llmstage.explore.row_features import RowFeatures
from llmstage.explore.scored_rows import encodable
from llmstage.explore.stats import FEWEST_ITEMS
from llmstage.explore.variants import Arms, starting_model
from llmstage.explore.wording import say
from llmstage.training.setup import RunComponents, open_sources, setup_run

DOUBLE_ROWS = 0.01
"""Share of the compared rows that may stand in the pool, or in the new examples, too; they are left out, and more are refused."""
COMPARED = {"rows that choose": "doubles_choosing", "rows of the final comparison": "doubles_final"}
"""The rows of each trial, and the sentence that some of them were left out."""


def read_weaknesses(path: Path) -> list[dict[str, Any]]:
    """Lines of weaknesses.jsonl; DataError names the line that is none."""
    if not path.is_file():
        raise DataError(
            f"There are no weak slices: {path} does not exist. Name the file with stage.improve.weaknesses=<run>/weaknesses.jsonl."
        )
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            told = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}).") from None
        if not isinstance(told, dict) or not isinstance(told.get("slice"), dict) or not told["slice"]:
            raise DataError(
                f'{path}:{number}: a weakness is {{"slice": {{column: value}}, …}}; this line has no `slice`.'
            )
        lines.append(told)
    return lines


def confirming(path: Path, trial: Trial) -> Mask:
    """[N] rows on which the slices were confirmed; all where that is not told, as beside slices written by hand."""
    if not path.is_file():
        return np.ones(len(trial.rows), dtype=bool)
    known, words = set(json.loads(path.read_text(encoding="utf-8"))), trial.pieces.task.columns.identity
    found = np.array([f"{row_hash(row, words, 0):016x}" in known for row in trial.rows], dtype=bool)
    return found if found.any() else ~found  # other rows than those of then


def check_task(pieces: RunComponents) -> None:
    task = pieces.task
    if task.custom_splits or task.tables:
        raise UserError(
            f"stage.improve mixes rows, and the rows of task={task.cfg.name} are made of others (histories, tables). "
            f"Leave stage.improve.enabled out; the weak slices are found all the same."
        )
    if "train" not in pieces.sources or headline_split(pieces.stores) == "train":
        raise UserError("stage.improve needs rows to score beside the training pool: data.test=<files>.")


def final_trial(trial: Trial, keys: ImproveConfig, folder: Path) -> Trial:
    """The rows of the final before and after: those given, else half of what is there."""
    if keys.test is None:
        apart = set_aside(trial.rows, trial.pieces.task.columns.identity, trial.use)
        final = replace(trial, use=apart)
        trial.use = trial.use & ~apart
        return final
    data = replace(trial.run.data, path=None, train=None, validation=None, test=keys.test)
    run = replace(trial.run, data=data)
    return Trial.of(
        run, setup_run(run, folder, training=False, fixed={}, resume_from=None), trial.machine, "test", trial.metric
    )


def weak_rows(
    trial: Trial, final: Trial, features: RowFeatures, found: list[dict[str, Any]], keys: ImproveConfig
) -> tuple[Outcome, list[Mask]]:
    """The compared rows of each weakness, and those on which pilots are compared; slices without such rows are told."""
    slices = [one["slice"] for one in found]
    own = masks_of(slices, features, final.rows)
    masks = [mask & final.use for mask in own]
    pilots = [
        mask & trial.use for mask in (own if trial.rows is final.rows else masks_of(slices, features, trial.rows))
    ]
    notes, kept = [], []
    for number, one in enumerate(found):
        n = int(masks[number].sum())
        if n:
            kept.append(number)
        if n < FEWEST_ITEMS:
            notes.append(say("few_to_compare", slice=words_of(one["slice"]), n=n))
    if not kept:
        raise DataError(
            "No row to compare on belongs to a weak slice. Give rows that do: stage.improve.test=<file>, or more of data.test."
        )
    weak = np.logical_or.reduce([masks[number] for number in kept])
    # A row of any weakness, found or not among the compared ones, is no row on which nothing may change.
    rest = final.use & ~np.logical_or.reduce(masks)
    nothing = Scores(np.zeros(0), None)
    outcome = Outcome(
        trial.metric, [found[number] for number in kept], [masks[number] for number in kept], weak,
        families_of(final.rows, rest, keys.guard.by), nothing, None, steps=keys.steps, notes=notes,
    )  # fmt: skip
    return outcome, pilots


def prepare(
    run: RunConfig, folder: Path, about: dict[str, str], pieces: RunComponents, features: RowFeatures, outcome: Outcome,
    trials: Sequence[Trial],
) -> tuple[Arms, list[str]]:  # fmt: skip
    """What the arms learn from, with what must be told of it. Rows that are compared on are in none of it."""
    assert isinstance(run.stage, Explore)
    keys, words = run.stage.improve, pieces.task.columns.identity
    pool = pieces.sources["train"]
    pool_rows = encodable(pieces, rows_with_columns(pool), run.data.on_bad_row)
    extra = new_examples(run, pieces, folder) if keys.data is not None and keys.source != "pool" else None
    new_rows: list[Row] = encodable(pieces, [row for row, _ in extra], run.data.on_bad_row) if extra is not None else []
    notes = keep_apart(trials, pool_rows, new_rows, words, outcome)
    try:
        in_pool = np.logical_or.reduce(masks_of([one["slice"] for one in outcome.slices], features, pool_rows))
    except DataError:
        if extra is None:
            raise
        in_pool = np.zeros(len(pool_rows), dtype=bool)  # the pool cannot say which of its rows are weak; it need not
    weak = np.concatenate([in_pool, np.ones(len(new_rows), dtype=bool)])
    new = np.concatenate([np.zeros(len(pool_rows), dtype=bool), np.ones(len(new_rows), dtype=bool)])
    target = new.copy() if extra is not None else weak.copy()
    if keys.source == "both":
        target = weak.copy()
    if not target.any():
        named = "; ".join(words_of(one["slice"]) for one in outcome.slices)
        raise DataError(
            f"No row of the training pool belongs to a weak slice ({named}), so there is nothing to learn it from. Give new "
            f"examples: stage.improve.data=<file>."
        )
    source = "new examples" if extra is not None and keys.source != "both" else "rows of the weak slices"
    console.note(f"{int(target.sum())} {source}, {len(pool_rows)} rows of the pool for replay")
    start, outcome.structure = starting_model(run, pieces, folder, outcome.slices)
    return Arms(run, folder, about, start, JoinedSource(pool, extra), target, new, weak), notes


def new_examples(run: RunConfig, pieces: RunComponents, folder: Path) -> RowSource:
    assert isinstance(run.stage, Explore)
    given = run.stage.improve.data
    split = replace(run.data.split, validation=0.0, test=0.0, by="content")
    data = replace(run.data, path=None, train=given, validation=None, test=None, limit=None, split=split)
    return open_sources(replace(run, data=data), pieces.task, folder)["train"]


def keep_apart(
    trials: Sequence[Trial], pool: list[Row], new: list[Row], words: tuple[str, ...], outcome: Outcome
) -> list[str]:
    """No row is compared on that is learned from: new examples or a pool that overlap are refused; a few rows are left out
    and told."""
    notes = []
    learned = (
        (hashes_of(new, words), "stage.improve.data", "new_rows", "Take them out of one of the two."),
        (
            hashes_of(pool, words),
            "the training pool",
            "pool_rows",
            "Take them out of data.train or data.test, or give new ones: stage.improve.test=<file>.",
        ),
    )
    first, final = trials
    own = hashes_of(first.rows, words)
    # Both are parts of one split, unless a file was given.
    last = own if final.rows is first.rows else hashes_of(final.rows, words)
    for trial, name, said in zip(trials, COMPARED, (own, last), strict=True):
        whole = int(trial.use.sum())
        for others, place, told, remedy in learned:
            shared = np.isin(said, others) & trial.use
            count = int(shared.sum())
            if count > DOUBLE_ROWS * whole:
                raise DataError(
                    f"{count} of {whole} {name} stand in {place} too: before and after would be measured on rows that are "
                    f"learned by heart. {remedy}"
                )
            if count:
                notes.append(say(COMPARED[name], num=count, place=say(told)))
                trial.use &= ~shared
    outcome.masks = [mask & final.use for mask in outcome.masks]
    outcome.weak = outcome.weak & final.use
    outcome.families = {name: mask & final.use for name, mask in outcome.families.items()}
    return notes
