"""Set up a run: open the rows of its splits, prepare the task, encode the rows, look for leaks between the splits.

prepare_task() is the one path by which training, scoring and inference prepare task, labels, tokenizer and context.
"""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from transformers import AutoConfig
from transformers.utils import logging as transformers_logging

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.checks import explain_misfit
from llmstage.data.encoding.store import ExampleStore, check_ledger, encode_split
from llmstage.data.quality.split_leakage import Leaks, find_leaks
from llmstage.data.row_source import ListSource, RowSource
from llmstage.data.rows import BadRows
from llmstage.data.split_keys import row_hash
from llmstage.errors import DataError, ModelError
from llmstage.models.adapter import config_folder
from llmstage.models.families import check_class, model_family
from llmstage.models.loading import set_rope
from llmstage.models.presets import preset_vision_spec
from llmstage.paths import ModelSource, cache_dir, explain_unloadable, locate_model
from llmstage.tasks.base import RowError, Task
from llmstage.tasks.base_contract import check_examples, check_texts, create_task
from llmstage.tokenization.tokenizer import (
    SAMPLE_BYTES,
    Processor,
    load_generation_end_ids,
    load_processor,
    read_tokens,
    train_processor,
)
from llmstage.tokenization.vision import tower_image_processor, vision_spec_of
from llmstage.training.components import RunComponents
from llmstage.training.context import default_context, measured_context
from llmstage.training.reading_notes import reading_notes

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
    console.note(*reading_notes(components))
    return components


def open_sources(run: RunConfig, task: Task, out_dir: Path) -> dict[str, RowSource]:
    """Return the rows of each split, from the files of the config or from the demo world."""
    if run.data.is_demo:
        return open_demo(run, task)
    # These load every reader (0.1 s), which a run on the demo world does not need.
    from llmstage.data.file_source import open_side_tables
    from llmstage.data.splits import open_splits

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
        lambda rows: check_examples(task, rows, task.encode_many(rows)),
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


def prepare_task(
    run: RunConfig,
    open_rows: Callable[[Task], dict[str, RowSource]],
    *,
    training: bool,
    keep_labels: bool,
    context: int | None = None,
    processor_dir: Path | None = None,
    by_character: bool = False,
) -> RunComponents:
    """Return a task that is ready to encode rows, with its processor and its rows.

    The order of the steps is that of the table in tasks/base.py. `open_rows` opens the rows of each split. `keep_labels`: a
    trained model keeps the labels of its config; otherwise the task fits them to the training rows. `context` and
    `processor_dir`: those of the checkpoint from which a run is resumed. `by_character`: a tokenizer that is trained here
    joins no Chinese characters. Raise ModelError, DataError.
    """
    quiet_libraries(offline=run.offline)
    task = create_task(run.task, run.generation)
    task.by_character = task.by_character or by_character

    # 1. The model's family. The checks before the run know the families of common local models only.
    model_source = locate_model(run.model.path) if run.model.path else None
    config = load_model_config(model_source, offline=run.offline) if model_source else None
    if config is not None:
        set_rope(config, run.model.rope_scaling, run.model.rope_factor)
    family_name = run.model.family if config is None else model_family(config, run.task.takes())
    if family_name not in run.task.takes():
        raise ModelError(explain_misfit(run.task, family_name, f"model.path={run.model.path}"))
    task.set_model_family(family_name)
    if config is not None:
        check_class(config, task.auto_model, run.task.name, str(run.model.path))

    # 2. The rows, as the task splits or joins them.
    sources = open_rows(task)
    is_auto = context is None and run.data.context == "auto"
    context = context or default_context(run, task.model_family, config)

    # 3. What encode() must know beforehand, such as labels: from the trained model, or from the training rows.
    if config is not None and keep_labels:
        task.load_config(config)
    elif "train" in sources:
        task.fit_labels(row for row, _ in sources["train"].unlimited())

    # 4. The tokenizer, which is trained on the texts of the rows where there is none yet; then the images of the rows.
    processor = choose_processor(run, task, sources, model_source, context, processor_dir)
    if run.task.reads_images and sources:
        read_images(run, task, processor, sources, training=training)
    if is_auto and config is not None:
        train_rows = (row for row, _ in sources["train"]) if training else None
        context = measured_context(run, task, processor, config, train_rows, context)
    task.attach_tokenizer(processor, context)
    packing = task.packs and run.trainer.packing != "off"
    return RunComponents(task, processor, sources, {}, model_source, context, packing, Leaks())


def quiet_libraries(*, offline: bool) -> None:
    """Switch off the progress bars and hints of libraries, which would interrupt ours; with `offline`, their downloads too."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def load_model_config(model_source: ModelSource, *, offline: bool) -> Any:
    """Return the transformers config of a model. Raise ModelError where there is none."""
    path = str(model_source.hub_id) if model_source.model_dir is None else config_folder(model_source.model_dir)
    is_local = Path(path).is_dir()
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False, local_files_only=offline or is_local)
    except (OSError, ValueError, KeyError) as error:
        raise ModelError(explain_unloadable(model_source, str(error), offline=offline)) from error


def choose_processor(
    run: RunConfig,
    task: Task,
    sources: dict[str, RowSource],
    model_source: ModelSource | None,
    context: int,
    processor_dir: Path | None,
) -> Processor:
    """Return the tokenizer of the checkpoint or of the model, or one that is trained on the training rows."""
    with_images = run.task.reads_images
    if processor_dir is not None or model_source is not None:
        # A resumed run adds the tokens again, because the rows of their pieces are those of the model's own tokenizer.
        new_tokens = read_tokens(run.model.add_tokens) if run.model.add_tokens else []
        origin = ModelSource(processor_dir) if processor_dir is not None and not new_tokens else model_source
        assert origin is not None
        local = run.offline or origin.model_dir is not None
        path = str(origin.model_dir or origin.hub_id)
        if origin.model_dir is not None and not (origin.model_dir / "tokenizer_config.json").is_file():
            path = config_folder(origin.model_dir)  # an adapter from elsewhere may come without its tokenizer
        processor = load_processor(path, local=local, sees=with_images, new_tokens=new_tokens)
        if model_source is not None and processor_dir is not None:
            # The checkpoint of an adapter may lack generation_config.json, which says where a reply ends.
            base, is_local = str(model_source.model_dir or model_source.hub_id), model_source.model_dir is not None
            processor.generation_end_ids += load_generation_end_ids(base, local=run.offline or is_local)
        if with_images:
            processor.vision = vision_spec_of(load_model_config(origin, offline=run.offline))
        return processor
    processor = cached_tokenizer(run, task, sources["train"], context)
    if with_images:
        processor.images = tower_image_processor(run.model.vision)
        processor.vision = preset_vision_spec(run.model) if run.model.family == "vlm" else None
    return processor


def cached_tokenizer(run: RunConfig, task: Task, train_source: RowSource, context: int) -> Processor:
    """Train a tokenizer on the training rows, or load the one that was trained on the same rows with the same options."""
    cache = cache_dir(run.data.cache) if not run.data.is_demo else None
    key = hashlib.sha256(
        f"4|{train_source.digest()}|{run.model.vocab_size}|{run.model.family}|{context}|{run.task.name}|{task.by_character}".encode()
    ).hexdigest()
    folder = cache / "tokenizers" / key if cache else None
    if folder and (folder / "tokenizer_config.json").is_file():
        return load_processor(str(folder), local=True)
    console.note(f"training a tokenizer of {run.model.vocab_size} entries on the training split")
    processor = train_processor(
        sample_texts(task, train_source),
        run.model.vocab_size,
        run.model.family,
        context,
        by_character=task.by_character,
    )
    if folder:
        draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
        processor.save(draft)
        if not folder.exists():  # another process may have trained the same one meanwhile
            draft.rename(folder)
    return processor


def sample_texts(task: Task, source: RowSource) -> Iterator[str]:
    """Yield the texts of the training split; of a large one, a seeded sample of about SAMPLE_BYTES."""
    files = getattr(source, "files", None) or getattr(getattr(source, "base", None), "files", None) or []
    total_bytes = sum(file.path.stat().st_size for file, _ in files)
    # The size of files with images says nothing about the size of their texts.
    share = min(1.0, SAMPLE_BYTES / total_bytes) if total_bytes and not task.columns.images else 1.0
    generator = random.Random(0)
    bytes_left = SAMPLE_BYTES
    for row, _ in source:
        if share < 1 and generator.random() >= share:
            continue
        for text in check_texts(task, task.texts(row)):
            bytes_left -= len(text.encode(errors="replace"))
            if bytes_left < 0:
                return
            yield text


def read_images(
    run: RunConfig, task: Task, processor: Processor, sources: dict[str, RowSource], *, training: bool
) -> None:
    """Decode and resize every image once, before training; encode() later reports the rows whose image is bad."""
    from llmstage.data.image_store import ImageStore
    from llmstage.data.quality.image_duplicates import unusable_images

    encoded = [source for split, source in sources.items() if is_encoded(split, sources, training=training)]
    task.image_store = ImageStore(processor.images, None if run.data.is_demo else cache_dir(run.data.cache))
    task.image_store.read(path for source in encoded for row, _ in source for path in task.images(row))
    if warning := unusable_images(task.image_store):
        console.warn(warning)
    if run.stage.name != "evaluate":
        task.augment = run.data.augment


def is_encoded(split: str, sources: dict[str, RowSource], *, training: bool) -> bool:
    """Return whether the run encodes a split; a run that only scores leaves `train` out unless there is nothing else."""
    return split != "train" or training or len(sources) == 1
