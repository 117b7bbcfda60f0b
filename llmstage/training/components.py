"""The parts of a run that training, scoring and inference share: task, processor, rows, encoded examples.

Also what the header line and report.json say of them, and how a training run may differ from its config (Variant).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from llmstage.config import RunConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.data.quality.split_leakage import Leaks
from llmstage.data.row_source import RowSource
from llmstage.errors import ModelError
from llmstage.models.adapter import add_adapter, has_adapter, is_adapter, merge_adapter, quantization
from llmstage.models.build import build_model, count_parameters
from llmstage.models.families import in_body
from llmstage.models.loading import IsFrozen
from llmstage.models.presets import TOWERS
from llmstage.models.weight_types import exceeds_memory, round_weights
from llmstage.paths import ModelSource
from llmstage.tasks.base import Task
from llmstage.tokenization.tokenizer import Processor
from llmstage.training.machine import Machine
from llmstage.training.packing import decide_packing


@dataclass(slots=True)
class RunComponents:
    """What a run needs beside its model. Inference has no `sources` and no `stores`."""

    task: Task
    processor: Processor
    sources: dict[str, RowSource]
    """The raw rows of each split."""
    stores: dict[str, ExampleStore]
    """The encoded examples of each split."""
    model_source: ModelSource | None
    """The folder or hub id of the model; None for a preset from scratch."""
    context: int
    """Tokens of an example, at most."""
    packing: bool
    """Whether several examples share a row of a batch; build() proves on the model that it may be so."""
    leaks: Leaks
    """Texts and groups that are in two splits, and the first and last time of each split."""

    @property
    def weights_dir(self) -> Path | None:
        """The folder with the weights of model.path, where there is one."""
        return self.model_source.model_dir if self.model_source is not None else None

    def build(self, run: RunConfig, device: torch.device, *, training: bool) -> Any:
        """Build the model on `device`; for training, with the adapter that the config names. Decide whether its rows are packed.

        Raise ModelError where a model that is to be scored has a head without trained weights.
        """
        quantized = quantization(run.adapter.quantize, device) if training else {}
        model = build_model(
            run.model,
            self.task.auto_model,
            self.processor,
            self.context,
            self.task.model_options(),
            self.model_source,
            offline=run.offline,
            extra=self.task.extra_module,
            quantized=quantized,
            is_frozen=frozen_weights(run, self.model_source, training=training),
        )
        if not training and run.model.dtype != "auto":
            round_weights(model)
        untrained = getattr(model, "new_weights", [])
        if untrained and not training:
            raise ModelError(
                f"{run.model.path} has no trained weights for task={run.task.name} ({', '.join(untrained[:3])} are missing), so "
                f"its scores would be chance. Finetune it first: llmstage stage=finetune task={run.task.name} model.path=…"
            )
        if training and has_adapter(model):
            merge_adapter(model)  # the adapter of an earlier run becomes part of the base model
        if training and run.adapter.name == "lora" and self.model_source is not None:
            base = self.model_source.model_dir
            cfg = run.adapter
            if run.model.add_tokens or run.model.resize_embeddings:
                cfg = replace(cfg, modules_to_save=sorted({*cfg.modules_to_save, *embedding_names(model)}))
            add_adapter(model, cfg, self.task.auto_model, str(base or self.model_source.hub_id))
        model = model if quantized else model.to(device)  # quantized weights are on the device already
        self.packing = decide_packing(run, self.task, model, self.context, packs=self.packing)
        return model


def embedding_names(model: Any) -> list[str]:
    """Return the names of the input embedding and of the output layer of a language model."""
    tables = (model.get_input_embeddings(), model.get_output_embeddings())
    return [name for name, module in model.named_modules() if module in tables]


def frozen_weights(run: RunConfig, source: ModelSource | None, *, training: bool) -> IsFrozen | None:
    """Return what says whether a weight is held in the type of the checkpoint, because it is not trained; None: no weight is.

    A model that is only used is fp32, which is faster on a CPU and gives the same numbers, unless it is large for this machine or
    model.dtype says otherwise. DoRA and PiSSA compute their initial weights from the base weights, which they need as fp32.
    """
    if source is None or (source.model_dir is not None and is_adapter(source.model_dir)):
        return None  # the updates of an adapter are merged into fp32 weights
    if not training:
        held = run.model.dtype in ("bfloat16", "float16") or exceeds_memory(source.model_dir)
        return in_body if held else None
    if run.adapter.name == "lora" and run.adapter.init == "default" and not run.adapter.dora:
        named = tuple(run.adapter.modules_to_save)
        return lambda model, name: in_body(model, name) and not set(named) & set(name.split("."))
    if run.model.freeze:
        towers = {part for tower in run.model.freeze for part in TOWERS[tower]}
        return lambda model, name: bool(towers & set(name.split(".")))
    return None


def token_ledger(components: RunComponents) -> dict[str, Any]:
    """Return rows, tokens, cuts and leaks of each split, for report.json."""
    ledgers: dict[str, Any] = {}
    leaks = components.leaks
    for split, store in components.stores.items():
        source = components.sources[split]
        entry = {**store.ledger.as_dict(), "cut_from_train": source.cut}
        entry["quarantined"] = source.quarantined + store.ledger.refused
        if source.cut_by:
            entry["cut_by"] = source.cut_by
        if split in leaks.time_ranges:
            entry["first_time"], entry["last_time"] = leaks.time_ranges[split]
        if split in leaks.texts:
            entry["overlap_with_train"] = leaks.texts[split]
        if split in leaks.groups:
            entry["groups_in_train"] = leaks.groups[split]
        ledgers[split] = entry
    return ledgers


def data_digest(components: RunComponents) -> str:
    """Return a fingerprint of the training data; a resumed run must have the same one."""
    images = components.task.image_store
    pixels = f"|{images.digest}" if images is not None else ""
    train = components.sources["train"].digest()
    return hashlib.sha256(f"{train}|{components.processor.digest()}|{components.context}{pixels}".encode()).hexdigest()


def header(run: RunConfig, components: RunComponents, out_dir: Path) -> str:
    """Return the line that a run begins with: stage, task, data, model, seed, folder."""
    counts = ", ".join(f"{store.ledger.rows:,} {split}" for split, store in components.stores.items())
    mapping = column_mapping(components)
    columns = "" if run.data.is_demo else " | " + ", ".join(f"{name}={column}" for name, column in mapping.items())
    data = f"{run.task.name} on {describe_data(components)} ({counts}{columns})"
    return f"llmstage {run.stage.name} | {data} | {run.model.path or run.model.name} | seed {run.seed} | {out_dir}"


def describe_data(components: RunComponents) -> str:
    """Return where the rows come from, each source once; for splits by time or group, by what, and the time of each split."""
    sources = components.sources.values()
    parts = list(dict.fromkeys(source.description.partition(", cut")[0].partition(", less")[0] for source in sources))
    parts += [f"cut by {key}" for key in {source.cut_by for source in sources} - {"", "content"}]
    spans = [f"{split} {' to '.join(dict.fromkeys(ends))}" for split, ends in components.leaks.time_ranges.items()]
    return "; ".join([*parts, *([", ".join(spans)] if spans else [])])


def column_mapping(components: RunComponents) -> dict[str, str]:
    """Return the column of the file for each column of the task."""
    return dict(next(iter(components.sources.values())).mapping)


def describe_model(run: RunConfig, components: RunComponents, model: nn.Module) -> dict[str, Any]:
    """Return the `model` entry of report.json."""
    config: Any = model.config
    extra: nn.Module | None = getattr(model, "extra", None)
    return {
        "name": run.model.path or run.model.name,
        "kind": run.model.family,
        "architecture": type(model).__name__,
        "parameters": count_parameters(model),
        "context": components.context,
        "vocab_size": config.get_text_config().vocab_size,
        "path": run.model.path,
        "pipeline_tag": components.task.pipeline_tag,
        "auto_class": components.task.auto_model,
        "own_weights": 0 if extra is None else count_parameters(extra),
        "started_untrained": list(getattr(model, "new_weights", [])),
    }


@dataclass(slots=True, frozen=True)
class Variant:
    """What control runs, the models that stage=explore trains and ladders of models change about a run.

    Everything else, such as checkpoints and resume, is as in any run. The defaults change nothing.
    """

    rows: dict[str, RowSource] | None = None
    """Splits that replace those of the config; `train` at least. A resumed run must get the same rows again."""
    order: Callable[[BatchOrder, ExampleStore], BatchOrder] | None = None
    """Returns the batches to train on, given the run's default order; a pure function of (seed, epoch), as that one is."""
    objective: Callable[[RunComponents, Machine], Task] | None = None
    """Returns the task as the training loop sees it, where the loss has further terms."""
    save_at: frozenset[int] = frozenset()
    """Steps after which a checkpoint is written, besides those of trainer.save_every."""
    by_character: bool = False
    """Whether a tokenizer that is trained here joins no Chinese characters, whatever the task."""
    updates_latest: bool = True
    """Whether outputs/latest names this run when it is completed."""
