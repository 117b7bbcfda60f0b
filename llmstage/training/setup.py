"""The pieces of a run, in the order they need each other: task, rows, tokenizer, features, model."""

from __future__ import annotations

import hashlib
import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import torch
from transformers import AutoConfig
from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES
from transformers.utils import logging as transformers_logging

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.checks import DECODERS, ENCODERS, SEEING, TWO_TOWERS
from llmstage.data.encoding.encode import check_ledger, encode_split
from llmstage.data.encoding.store import ExampleStore
from llmstage.data.file_source import open_splits
from llmstage.data.quality.split_leakage import Leaks, find_leaks
from llmstage.data.quarantine import BadRows
from llmstage.data.row_source import ListSource, RowSource
from llmstage.data.side_tables import open_side_tables
from llmstage.data.splits import row_hash
from llmstage.errors import DataError, ModelError
from llmstage.models.adapter import add_adapter, has_adapter, merge_adapter, quantization
from llmstage.models.build import build_model
from llmstage.models.presets import preset_eyes
from llmstage.naming import load_module
from llmstage.paths import ModelSource, cache_dir, locate_model
from llmstage.tasks.base import RowError, Task
from llmstage.tokenization.tokenizer import SAMPLE_BYTES, Processor, load_processor, train_processor
from llmstage.tokenization.vision import eyes_of, tower_images

DEFAULT_CONTEXT = {"gpt": 256, "bert": 128, "t5": 256, "clip": 77, "vlm": 256}
DEMO_HELD_OUT = 200
"""Rows of the demo world's validation and test splits, at most."""


@dataclass(slots=True)
class RunComponents:
    """Everything that is the same for training and for scoring."""

    task: Task
    processor: Processor
    sources: dict[str, RowSource]
    stores: dict[str, ExampleStore]
    place: ModelSource | None
    """Where the model comes from; None for a preset from scratch."""
    context: int
    packing: bool
    leaks: Leaks
    """What stands on two sides of the splits, and when each split begins and ends."""

    def build(self, run: RunConfig, device: torch.device, *, training: bool) -> Any:
        """The model; for scoring, one whose head was never trained is refused. For training, with the adapter asked for."""
        quantized = quantization(run.adapter.quantize, device) if training else {}
        options = self.task.model_options()
        model = build_model(
            run.model,
            self.task.auto_model,
            self.processor,
            self.context,
            options,
            self.place,
            offline=run.offline,
            extra=self.task.extra_module,
            quantized=quantized,
        )
        fresh = getattr(model, "new_weights", [])
        if fresh and not training:
            raise ModelError(
                f"{run.model.path} has no trained weights for task={run.task.name} ({', '.join(fresh[:3])} are missing), so "
                f"its scores would be chance. Finetune it first: llmstage stage=finetune task={run.task.name} model.path=…"
            )
        if training and has_adapter(model):
            merge_adapter(model)  # what an earlier run learned is part of the base now
        if training and run.adapter.name == "lora" and self.place is not None:
            base = self.place.model_dir
            add_adapter(model, run.adapter, self.task.auto_model, str(base or self.place.hub_id))
        return model if quantized else model.to(device)


def quiet_libraries(*, offline: bool) -> None:
    """Their bars and hints would stand among our own lines."""
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    if offline:
        os.environ["HF_HUB_OFFLINE"] = os.environ["HF_DATASETS_OFFLINE"] = "1"
    transformers_logging.disable_progress_bar()
    transformers_logging.set_verbosity_error()


def setup_run(
    run: RunConfig,
    out_dir: Path,
    *,
    training: bool,
    fixed: dict[str, Any],
    resume_from: Path | None,
    rows: dict[str, RowSource] | None = None,
    by_character: bool = False,
) -> RunComponents:
    """Rows to features. `fixed` and `resume_from`: decisions and tokenizer of an earlier part of the same run. `rows`: the
    splits, where they are not those that the config names; the model's labels then stay as they are. `by_character`: a tokenizer that is
    trained here joins no Chinese characters, whatever the task."""
    quiet_libraries(offline=run.offline)
    module = load_module("tasks", run.task.name, trusted=True)
    task = cast(Task, module.TASK(run.task, run.generation))
    task.by_character = task.by_character or by_character
    sources = rows or open_sources(run, task, out_dir)
    if training and "train" not in sources:
        raise DataError("There are no training rows: data.train is missing. Give data.train=<files>.")
    place = locate_model(run.model.path) if run.model.path else None
    kind = family(model_config(place, offline=run.offline)) if place else run.model.family
    if kind not in run.task.takes():  # the door knows the families of common local models only
        raise ModelError(
            f"task={run.task.name} does not fit model.path={run.model.path} (family {kind}). "
            f"It takes: {', '.join(run.task.takes())}."
        )
    task.set_model_family(kind)
    context = int(fixed.get("context") or resolve_context(run, place))
    if place is not None and (rows or not training):
        task.load_config(model_config(place, offline=run.offline))
    elif "train" in sources:
        task.fit_labels(row for row, _ in sources["train"].unlimited())
    processor = choose_processor(run, task, sources, place, context, resume_from)
    if run.task.reads_images:
        read_pictures(run, task, processor, sources, training=training)
    task.attach_tokenizer(processor, context)
    if run.trainer.packing == "on" and not task.packs:
        raise ModelError(
            f"trainer.packing=on: task={run.task.name} does not pack; its rows are batched by length. Use packing=auto."
        )
    packing = task.packs and run.trainer.packing != "off"
    stores = {}
    for split, source in sources.items():
        if split == "train" and not training and len(sources) > 1:
            continue
        stores[split] = encode(run, task, source, context, training=training)
        check_ledger(split, stores[split], run.data.max_lost, context)
    leaks = Leaks() if run.data.is_demo else find_leaks(sources, run.data.split.group, run.data.split.time)
    if task.pictures is not None and not run.data.is_demo:
        leaks.told += look_alikes(task, {split: sources[split] for split in stores})
    return RunComponents(task, processor, sources, stores, place, context, packing, leaks)


def read_pictures(
    run: RunConfig, task: Task, processor: Processor, sources: dict[str, RowSource], *, training: bool
) -> None:
    """Decode and resize every picture once, before anything is trained; encode() then names the rows of bad ones."""
    from llmstage.data.image_store import ImageStore
    from llmstage.data.quality.image_duplicates import bad_pictures

    wanted = [source for split, source in sources.items() if split != "train" or training or len(sources) == 1]
    task.pictures = ImageStore(processor.images, None if run.data.is_demo else cache_dir(run.data.cache))
    task.pictures.read(place for source in wanted for row, _ in source for place in task.images(row))
    if told := bad_pictures(task.pictures):
        console.warn(told)
    if run.stage.name != "evaluate":
        task.augment = run.data.augment


def look_alikes(task: Task, sources: dict[str, RowSource]) -> list[str]:
    """Told before training starts, and again in the report."""
    from llmstage.data.quality.image_duplicates import repeated_captions, shared_pictures

    assert task.pictures is not None
    told = shared_pictures(sources, task.pictures, task.images)
    repeats = repeated_captions(sources["train"]) if "train" in sources and not task.additive_loss else None
    told += [repeats] if repeats else []
    for line in told:
        console.warn(line)
    return told


def open_sources(run: RunConfig, task: Task, out_dir: Path) -> dict[str, RowSource]:
    if not run.data.is_demo:
        bad_rows = BadRows(run.data.on_bad_row, out_dir)
        own, tables = open_side_tables(run.data, task.columns, task.tables, task.check_table_row, bad_rows)
        if task.custom_splits:
            own = replace(own, limit=None, split=replace(own.split, validation=0.0, test=0.0))
        given = open_splits(own, task.columns, task.check_row, out_dir, bad_rows=bad_rows)
        return task.build_splits(given, tables, run.data)
    wanted = run.data.demo_rows or task.demo_size
    if run.data.limit:
        wanted = min(wanted, run.data.limit)
    if task.custom_splits:
        rows = task.demo_rows(wanted, 3 * run.seed)
        demo = ListSource("train", rows, f"demo world, seed {run.seed}", task.columns.identity)
        return task.build_splits({"train": demo}, {}, run.data)
    held_out = max(10, min(DEMO_HELD_OUT, wanted // 5))
    sources: dict[str, RowSource] = {}
    seen: set[int] = set()
    for number, (split, size) in enumerate((("train", wanted), ("validation", held_out), ("test", held_out))):
        make = task.demo_test_rows if split == "test" else task.demo_rows
        rows = make(size, 3 * run.seed + number)
        fresh = [row for row in rows if row_hash(row, task.columns.identity, 0) not in seen]
        seen.update(row_hash(row, task.columns.identity, 0) for row in rows)
        sources[split] = ListSource(split, fresh, f"demo world, seed {run.seed}", task.columns.identity)
    return sources


def model_config(place: ModelSource, *, offline: bool) -> Any:
    source = str(place.model_dir or place.hub_id)
    try:
        return AutoConfig.from_pretrained(
            source, trust_remote_code=False, local_files_only=offline or place.model_dir is not None
        )
    except (OSError, ValueError, KeyError) as error:
        where = (
            ""
            if place.model_dir is not None
            else " There is no such folder here, and as a hub id it cannot be reached."
        )
        raise ModelError(f"model.path={source} is no model.{where} {str(error).strip().splitlines()[0]}") from None


def family(config: Any) -> Literal["gpt", "bert", "t5", "clip", "vlm"]:
    """The kind of model that a transformers config describes."""
    if config.model_type in TWO_TOWERS:
        return "clip"
    if config.model_type in SEEING:
        return "vlm"
    if getattr(config, "is_encoder_decoder", False):
        return "t5"
    # Many are registered for both, as BERT is; those of the common decoders are told by name.
    masked = config.model_type in MODEL_FOR_MASKED_LM_MAPPING_NAMES and config.model_type not in DECODERS
    return "bert" if config.model_type in ENCODERS or masked else "gpt"


def resolve_context(run: RunConfig, place: ModelSource | None) -> int:
    most = None
    kind = run.model.family
    if place is not None:
        config = model_config(place, offline=run.offline)
        most = getattr(config.get_text_config(), "max_position_embeddings", None)
        kind = family(config)
    if run.data.context != "auto":
        if most and int(run.data.context) > most:
            raise ModelError(
                f"data.context={run.data.context} is more than the {most} positions of {run.model.path}. Set data.context={most}."
            )
        return int(run.data.context)
    return min(DEFAULT_CONTEXT[kind], most or DEFAULT_CONTEXT[kind])


def choose_processor(
    run: RunConfig,
    task: Task,
    sources: dict[str, RowSource],
    place: ModelSource | None,
    context: int,
    resume_from: Path | None,
) -> Processor:
    sees = run.task.reads_images
    if resume_from is not None or place is not None:
        local = resume_from is not None or run.offline or (place is not None and place.model_dir is not None)
        source = str(resume_from or (place and (place.model_dir or place.hub_id)))
        processor = load_processor(source, local=local, sees=sees)
        if sees:
            known = ModelSource(resume_from) if resume_from else place
            assert known is not None
            processor.eyes = eyes_of(model_config(known, offline=run.offline))
        return processor
    processor = trained_processor(run, task, sources, context)
    if sees:
        processor.images = tower_images(run.model.vision)
        processor.eyes = preset_eyes(run.model) if run.model.family == "vlm" else None
    return processor


def trained_processor(run: RunConfig, task: Task, sources: dict[str, RowSource], context: int) -> Processor:
    cache = cache_dir(run.data.cache) if not run.data.is_demo else None
    key = hashlib.sha256(
        f"4|{sources['train'].digest()}|{run.model.vocab_size}|{run.model.family}|{context}|{run.task.name}|{task.by_character}".encode()
    ).hexdigest()
    folder = cache / "tokenizers" / key if cache else None
    if folder and (folder / "tokenizer_config.json").is_file():
        return load_processor(str(folder), local=True)
    console.note(f"training a tokenizer of {run.model.vocab_size} entries on the training split")
    processor = train_processor(
        sample_texts(task, sources["train"]),
        run.model.vocab_size,
        run.model.family,
        context,
        by_character=task.by_character,
    )
    if folder:
        draft = folder.with_name(f".tmp-{folder.name}-{os.getpid()}")
        processor.save(draft)
        if not folder.exists():
            draft.rename(folder)
    return processor


def sample_texts(task: Task, source: RowSource) -> Iterator[str]:
    """The texts of the training split; of a large one a seeded sample of about SAMPLE_BYTES."""
    files = getattr(source, "files", None) or getattr(getattr(source, "base", None), "files", None) or []
    whole = sum(file.path.stat().st_size for file, _ in files)
    # Files of pictures are large and their texts are not.
    share = min(1.0, SAMPLE_BYTES / whole) if whole and not task.columns.images else 1.0
    draw = random.Random(0)
    left = SAMPLE_BYTES
    for row, _ in source:
        if share < 1 and draw.random() >= share:
            continue
        for text in task.texts(row):
            left -= len(text.encode(errors="replace"))
            if left < 0:
                return
            yield text


def encode(run: RunConfig, task: Task, source: RowSource, context: int, *, training: bool) -> ExampleStore:
    # A quarantined row must be written to this run's folder, so its data is read again.
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


def ledger(pieces: RunComponents) -> dict[str, Any]:
    """The token ledger of each split, for report.json."""
    out = {}
    for split, store in pieces.stores.items():
        source = pieces.sources[split]
        out[split] = {**store.ledger.as_dict(), "cut_from_train": source.cut}
        out[split]["quarantined"] = source.quarantined + store.ledger.refused
        if source.cut_by:
            out[split]["cut_by"] = source.cut_by
        if split in pieces.leaks.spans:
            out[split]["first_time"], out[split]["last_time"] = pieces.leaks.spans[split]
        if split in pieces.leaks.texts:
            out[split]["overlap_with_train"] = pieces.leaks.texts[split]
        if split in pieces.leaks.groups:
            out[split]["groups_in_train"] = pieces.leaks.groups[split]
    return out


def data_digest(pieces: RunComponents) -> str:
    """Fingerprint of what is trained on; a resumed run must see the same."""
    pixels = f"|{pieces.task.pictures.digest}" if pieces.task.pictures is not None else ""
    return hashlib.sha256(
        f"{pieces.sources['train'].digest()}|{pieces.processor.digest()}|{pieces.context}{pixels}".encode()
    ).hexdigest()
