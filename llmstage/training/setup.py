"""Set up a run: open the rows of its splits, prepare the task, encode the rows, look for leaks between the splits."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.data.encoding.encode import check_ledger, encode_split
from llmstage.data.encoding.store import ExampleStore
from llmstage.data.file_source import open_side_tables
from llmstage.data.quality.split_leakage import Leaks, find_leaks
from llmstage.data.quarantine import BadRows
from llmstage.data.row_source import ListSource, RowSource
from llmstage.data.split_keys import row_hash
from llmstage.data.splits import open_splits
from llmstage.errors import DataError, ModelError
from llmstage.paths import cache_dir
from llmstage.tasks.base import RowError, Task
from llmstage.training.components import RunComponents
from llmstage.training.task_setup import is_encoded, prepare_task

DEMO_HELD_OUT = 200
"""Rows of the demo world's validation and test splits, at most."""


def setup_run(
    run: RunConfig,
    out_dir: Path,
    *,
    training: bool,
    rows: dict[str, RowSource] | None = None,
    context: int | None = None,
    processor_dir: Path | None = None,
    by_character: bool = False,
) -> RunComponents:
    """Return task, processor, rows and encoded examples of a run.

    `rows`: splits that replace those of the config; the model's labels then stay as they are. The other arguments are
    explained at prepare_task(). Raise DataError, ModelError.
    """

    def open_rows(task: Task) -> dict[str, RowSource]:
        sources = rows or open_sources(run, task, out_dir)
        if training and "train" not in sources:
            raise DataError("There are no training rows: data.train is missing. Give data.train=<files>.")
        return sources

    components = prepare_task(
        run,
        open_rows,
        training=training,
        keep_labels=bool(rows) or not training,
        context=context,
        processor_dir=processor_dir,
        by_character=by_character,
    )
    task, sources = components.task, components.sources
    if run.trainer.packing == "on" and not task.packs:
        raise ModelError(
            f"trainer.packing=on: task={run.task.name} does not pack; its rows are batched by length. Use packing=auto."
        )
    for split, source in sources.items():
        if is_encoded(split, sources, training=training):
            components.stores[split] = encode(run, task, source, components.context, training=training)
            check_ledger(split, components.stores[split], run.data.max_lost, components.context)
    components.leaks = Leaks() if run.data.is_demo else find_leaks(sources, run.data.split.group, run.data.split.time)
    if task.image_store is not None and not run.data.is_demo:
        encoded = {split: sources[split] for split in components.stores}
        components.leaks.warnings += image_leaks(task, encoded)
    return components


def open_sources(run: RunConfig, task: Task, out_dir: Path) -> dict[str, RowSource]:
    """Return the rows of each split, from the files of the config or from the demo world."""
    if run.data.is_demo:
        return open_demo(run, task)
    bad_rows = BadRows(run.data.on_bad_row, out_dir)
    data, tables = open_side_tables(run.data, task.columns, task.tables, task.check_table_row, bad_rows)
    if task.custom_splits:  # the task itself limits the rows and cuts the missing splits
        data = replace(data, limit=None, split=replace(data.split, validation=0.0, test=0.0))
    given = open_splits(data, task.columns, task.check_row, out_dir, bad_rows=bad_rows)
    return task.build_splits(given, tables, run.data)


def open_demo(run: RunConfig, task: Task) -> dict[str, RowSource]:
    """Return generated rows: a pure function of the seed, without a row that is in two splits."""
    num_rows = run.data.demo_rows or task.demo_size
    if run.data.limit:
        num_rows = min(num_rows, run.data.limit)
    description = f"demo world, seed {run.seed}"
    if task.custom_splits:
        rows = task.demo_rows(num_rows, 3 * run.seed)
        return task.build_splits({"train": ListSource("train", rows, description, task.columns.identity)}, {}, run.data)
    held_out = max(10, min(DEMO_HELD_OUT, num_rows // 5))
    sources: dict[str, RowSource] = {}
    seen: set[int] = set()
    for number, (split, size) in enumerate((("train", num_rows), ("validation", held_out), ("test", held_out))):
        generate = task.demo_test_rows if split == "test" else task.demo_rows
        rows = generate(size, 3 * run.seed + number)
        unseen = [row for row in rows if row_hash(row, task.columns.identity, 0) not in seen]
        seen.update(row_hash(row, task.columns.identity, 0) for row in rows)
        sources[split] = ListSource(split, unseen, description, task.columns.identity)
    return sources


def encode(run: RunConfig, task: Task, source: RowSource, context: int, *, training: bool) -> ExampleStore:
    """Return the encoded examples of a split, from the cache where it was encoded with the same options before."""
    # A quarantined row must be written to this run's folder, so its split is encoded anew.
    cached = not run.data.is_demo and run.data.on_bad_row == "error"
    key = {"task": run.task.name, "options": task.cache_key(), "context": context, "tokenizer": task.processor.digest()}
    return encode_split(
        source,
        task.encode_many,
        task.num_targets,
        len(task.processor),
        refs_of_rows=run.trainer.train_rows_scored if source.split == "train" and training else None,
        on_row_error=RowError,
        cache=cache_dir(run.data.cache) if cached else None,
        key=key,
    )


def image_leaks(task: Task, sources: dict[str, RowSource]) -> list[str]:
    """Warn about images that are in two splits and captions that repeat; return the warnings for the report."""
    from llmstage.data.quality.image_duplicates import repeated_captions, shared_images

    assert task.image_store is not None
    warnings = shared_images(sources, task.image_store, task.images)
    # Equal captions are false negatives where the other rows of a batch are the negatives.
    repeats = repeated_captions(sources["train"]) if "train" in sources and not task.additive_loss else None
    warnings += [repeats] if repeats else []
    for line in warnings:
        console.warn(line)
    return warnings
