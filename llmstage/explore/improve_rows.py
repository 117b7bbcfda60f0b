"""Choose the rows of an improvement: weak rows, training rows and compared rows, without any row in two of these sets."""

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
from llmstage.data.split_keys import row_hash
from llmstage.errors import DataError, UserError
from llmstage.evaluation.scoring import headline_split
from llmstage.explore.candidates import ImprovementResult
from llmstage.explore.comparison import Comparison, families_of, hashes_of, masks_of, set_aside
from llmstage.explore.guard import Mask, Scores
from llmstage.explore.matching import rows_with_columns, words_of
from llmstage.explore.mix import JoinedSource
from llmstage.explore.row_features import RowFeatures
from llmstage.explore.scored_rows import encodable
from llmstage.explore.stats import FEWEST_ITEMS
from llmstage.explore.variants import VariantTrainer, starting_model
from llmstage.explore.wording import sentence
from llmstage.training.components import RunComponents
from llmstage.training.setup import open_sources, setup_run

DOUBLE_ROWS = 0.01
"""Share of compared rows that may also be in the pool or in the new examples. They are left out; a larger share is refused."""
COMPARED_ROWS = {"rows that choose": "doubles_choosing", "rows of the final comparison": "doubles_final"}
"""The rows of each comparison, and the sentence that says that some of them were left out."""


def read_weaknesses(path: Path) -> list[dict[str, Any]]:
    """Read the lines of weaknesses.jsonl. Raises DataError with the number of a line that is none."""
    if not path.is_file():
        raise DataError(
            f"There are no weak slices: {path} does not exist. Name the file with stage.improve.weaknesses=<run>/weaknesses.jsonl."
        )
    lines = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1):
        if not line.strip():
            continue
        try:
            weakness = json.loads(line)
        except ValueError as error:
            raise DataError(f"{path}:{number}: not JSON ({error}).") from None
        if not isinstance(weakness, dict) or not isinstance(weakness.get("slice"), dict) or not weakness["slice"]:
            raise DataError(
                f'{path}:{number}: a weakness is {{"slice": {{column: value}}, …}}; this line has no `slice`.'
            )
        lines.append(weakness)
    return lines


def confirming(path: Path, comparison: Comparison) -> Mask:
    """Return the mask [N] of the rows that confirmed the slices; all rows where this file is missing, as for slices by hand."""
    if not path.is_file():
        return np.ones(len(comparison.rows), dtype=bool)
    known = set(json.loads(path.read_text(encoding="utf-8")))
    columns = comparison.components.task.columns.identity
    mask = np.array([f"{row_hash(row, columns, 0):016x}" in known for row in comparison.rows], dtype=bool)
    return mask if mask.any() else ~mask  # None of them is here: the scored rows are others than those that confirmed.


def check_task(components: RunComponents) -> None:
    """Raise UserError for tasks whose rows cannot be mixed, and without rows to compare on."""
    task = components.task
    if task.custom_splits or task.tables:
        raise UserError(
            f"stage.improve mixes rows, and task={task.cfg.name} builds its rows from others (histories, tables). "
            f"Leave stage.improve.enabled out; weak slices are reported without it."
        )
    if "train" not in components.sources or headline_split(components.stores) == "train":
        raise UserError("stage.improve needs scored rows that are not the training pool: data.test=<files>.")


def final_comparison(comparison: Comparison, keys: ImproveConfig, folder: Path) -> Comparison:
    """Return the rows of the final comparison: those of stage.improve.test, else half of the scored rows."""
    if keys.test is None:
        apart = set_aside(comparison.rows, comparison.components.task.columns.identity, comparison.use)
        final = replace(comparison, use=apart)
        comparison.use = comparison.use & ~apart
        return final
    data = replace(comparison.run.data, path=None, train=None, validation=None, test=keys.test)
    run = replace(comparison.run, data=data)
    return Comparison.of(run, setup_run(run, folder, training=False), comparison.machine, "test", comparison.metric)


def weak_rows(
    comparison: Comparison,
    final: Comparison,
    features: RowFeatures,
    weaknesses: list[dict[str, Any]],
    keys: ImproveConfig,
) -> tuple[ImprovementResult, list[Mask]]:
    """Return the result so far, with the compared rows of each weakness, and the rows on which pilots are compared.

    Slices with too few rows are noted. Raises DataError where no compared row is weak.
    """
    slices = [weakness["slice"] for weakness in weaknesses]
    final_masks = masks_of(slices, features, final.rows)
    masks = [mask & final.use for mask in final_masks]
    same_rows = comparison.rows is final.rows
    pilot_masks = final_masks if same_rows else masks_of(slices, features, comparison.rows)
    pilots = [mask & comparison.use for mask in pilot_masks]
    notes, indices = [], []
    for number, weakness in enumerate(weaknesses):
        n = int(masks[number].sum())
        if n:
            indices.append(number)
        if n < FEWEST_ITEMS:
            notes.append(sentence("few_to_compare", slice=words_of(weakness["slice"]), n=n))
    if not indices:
        raise DataError(
            "No row to compare on belongs to a weak slice. Give rows that do: stage.improve.test=<file>, or more of data.test."
        )
    weak = np.logical_or.reduce([masks[number] for number in indices])
    # A row of any weakness, with or without compared rows, may change: it is no row on which nothing may be lost.
    rest = final.use & ~np.logical_or.reduce(masks)
    nothing = Scores(np.zeros(0), None)
    result = ImprovementResult(
        comparison.metric, [weaknesses[number] for number in indices], [masks[number] for number in indices], weak,
        families_of(final.rows, rest, keys.guard.by), nothing, None, steps=keys.steps, notes=notes,
    )  # fmt: skip
    return result, pilots


def prepare(
    run: RunConfig, folder: Path, about: dict[str, str], components: RunComponents, features: RowFeatures,
    result: ImprovementResult, comparisons: Sequence[Comparison],
) -> tuple[VariantTrainer, list[str]]:  # fmt: skip
    """Return the trainer of the variants, and notes on its rows. No compared row is among the training rows."""
    assert isinstance(run.stage, Explore)
    keys, columns = run.stage.improve, components.task.columns.identity
    pool = components.sources["train"]
    pool_rows = encodable(components, rows_with_columns(pool), run.data.on_bad_row)
    extra = new_examples(run, components, folder) if keys.data is not None and keys.source != "pool" else None
    new_rows: list[Row] = (
        encodable(components, [row for row, _ in extra], run.data.on_bad_row) if extra is not None else []
    )
    notes = keep_apart(comparisons, pool_rows, new_rows, columns, result)
    # Which training rows are weak, which are new, and which of them fill the share of the weak slices.
    try:
        in_pool = np.logical_or.reduce(masks_of([weakness["slice"] for weakness in result.slices], features, pool_rows))
    except DataError:
        if extra is None:
            raise
        # The pool lacks a column of a slice: its weak rows are unknown, and the new examples suffice.
        in_pool = np.zeros(len(pool_rows), dtype=bool)
    weak = np.concatenate([in_pool, np.ones(len(new_rows), dtype=bool)])
    new = np.concatenate([np.zeros(len(pool_rows), dtype=bool), np.ones(len(new_rows), dtype=bool)])
    target = new.copy() if extra is not None else weak.copy()
    if keys.source == "both":
        target = weak.copy()
    if not target.any():
        named = "; ".join(words_of(weakness["slice"]) for weakness in result.slices)
        raise DataError(
            f"No row of the training pool belongs to a weak slice ({named}), so there is nothing to learn it from. Give new "
            f"examples: stage.improve.data=<file>."
        )
    source = "new examples" if extra is not None and keys.source != "both" else "rows of the weak slices"
    console.note(f"{int(target.sum())} {source}, {len(pool_rows)} rows of the pool for replay")
    start, result.structure = starting_model(run, components, folder, result.slices)
    return VariantTrainer(run, folder, about, start, JoinedSource(pool, extra), target, new, weak), notes


def new_examples(run: RunConfig, components: RunComponents, folder: Path) -> RowSource:
    """Open the files of stage.improve.data."""
    assert isinstance(run.stage, Explore)
    given = run.stage.improve.data
    split = replace(run.data.split, validation=0.0, test=0.0, by="content")
    data = replace(run.data, path=None, train=given, validation=None, test=None, limit=None, split=split)
    return open_sources(replace(run, data=data), components.task, folder)["train"]


def keep_apart(
    comparisons: Sequence[Comparison],
    pool: list[Row],
    new: list[Row],
    columns: tuple[str, ...],
    result: ImprovementResult,
) -> list[str]:
    """Leave compared rows out that are also training rows, and return notes on them.

    Raises DataError where they are more than DOUBLE_ROWS.
    """
    notes = []
    # (hashes of training rows, their name in the error, their name in the note, what to do)
    learned = (
        (hashes_of(new, columns), "stage.improve.data", "new_rows", "Take them out of one of the two."),
        (
            hashes_of(pool, columns),
            "the training pool",
            "pool_rows",
            "Take them out of data.train or data.test, or give new ones: stage.improve.test=<file>.",
        ),
    )
    first, final = comparisons
    first_hashes = hashes_of(first.rows, columns)
    # Both comparisons use rows of one split, unless a file was given.
    final_hashes = first_hashes if final.rows is first.rows else hashes_of(final.rows, columns)
    for comparison, name, hashes in zip(comparisons, COMPARED_ROWS, (first_hashes, final_hashes), strict=True):
        num_rows = int(comparison.use.sum())
        for others, source, source_key, remedy in learned:
            shared = np.isin(hashes, others) & comparison.use
            count = int(shared.sum())
            if count > DOUBLE_ROWS * num_rows:
                raise DataError(
                    f"{count} of {num_rows} {name} are also in {source}: the comparison would measure rows that the model "
                    f"has memorised. {remedy}"
                )
            if count:
                notes.append(sentence(COMPARED_ROWS[name], num=count, place=sentence(source_key)))
                comparison.use &= ~shared
    result.masks = [mask & final.use for mask in result.masks]
    result.weak = result.weak & final.use
    result.families = {name: mask & final.use for name, mask in result.families.items()}
    return notes
