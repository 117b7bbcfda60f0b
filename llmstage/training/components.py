"""The parts of a run that training, scoring and inference share: task, processor, rows, encoded examples."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import torch

from llmstage.config import RunConfig
from llmstage.data.encoding.store import ExampleStore
from llmstage.data.quality.split_leakage import Leaks
from llmstage.data.row_source import RowSource
from llmstage.errors import ModelError
from llmstage.models.adapter import add_adapter, has_adapter, merge_adapter, quantization
from llmstage.models.build import build_model
from llmstage.paths import ModelSource
from llmstage.tasks.base import Task
from llmstage.tokenization.tokenizer import Processor


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
    """Whether several examples share a row of a batch."""
    leaks: Leaks
    """Texts and groups that are in two splits, and the first and last time of each split."""

    def build(self, run: RunConfig, device: torch.device, *, training: bool) -> Any:
        """Build the model on `device`; for training, with the adapter that the config names.

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
        )
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
            add_adapter(model, run.adapter, self.task.auto_model, str(base or self.model_source.hub_id))
        return model if quantized else model.to(device)  # quantized weights are on the device already


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
