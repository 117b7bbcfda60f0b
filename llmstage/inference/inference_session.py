"""A trained model, ready for use: its task, tokenizer and weights, without any rows to score."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from llmstage.config import RunConfig
from llmstage.data.encoding.order import alike, scoring_batches
from llmstage.data.image_store import ImageStore
from llmstage.data.inference_rows import open_asked
from llmstage.data.quality.split_leakage import Leaks
from llmstage.data.quarantine import BadRows
from llmstage.data.row_source import ListSource, RowSource
from llmstage.data.rows import Row
from llmstage.data.side_tables import open_side_tables
from llmstage.errors import ModelError
from llmstage.kernels.modernbert_encoder import plain_body, use_lean_encoder
from llmstage.naming import load_module
from llmstage.paths import locate_model
from llmstage.tasks.base import Example, RowError, Task
from llmstage.training.machine import DTYPES, Machine, fast_bf16, scoring_precision
from llmstage.training.setup import (
    RunComponents,
    choose_processor,
    family,
    model_config,
    quiet_libraries,
    resolve_context,
)

CALL = 40
"""Tokens of a batch that cost as much as one more call of a model on a CPU does beside its tokens."""


@dataclass(slots=True)
class Ready:
    """What stages need that use a model."""

    run: RunConfig
    pieces: RunComponents
    model: Any
    machine: Machine
    source: RowSource | None
    """The rows of data.test as the task asks for them, where the stage reads rows."""
    asked: Any = None
    """The files behind `source`."""
    precision: str = "fp32"
    """Of answers that are not written: what trainer.eval_precision comes to here."""

    @property
    def task(self) -> Task:
        return self.pieces.task

    @property
    def longest(self) -> int:
        """Tokens that the model can read and write in one text."""
        config: Any = self.model.config.get_text_config()
        return int(getattr(config, "max_position_embeddings", None) or self.pieces.context)

    @torch.no_grad()
    def answer(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any] | str]:
        """What the model says of each row; of a row that cannot be read, the reason as a text. `numbers`: of the rows."""
        task, pieces, run = self.task, self.pieces, self.run
        if run.task.reads_images:
            task.pictures = ImageStore(pieces.processor.images)
            task.pictures.read(place for row in rows for place in task.images(row))
        owners: list[int] = []
        features: list[Example] = []
        out: list[dict[str, Any] | str] = [""] * len(rows)
        for at, made in enumerate(encoded(task, rows)):
            if isinstance(made, str):
                out[at] = made
                continue
            for item in made:
                item.row = numbers[at]
            owners += [at] * len(made)
            features += made
        found: dict[int, Any] = {}
        lengths = np.array([len(item.input_ids) for item in features], dtype=np.int64)
        batches = (
            scoring_batches(
                lengths,
                range(len(features)),
                run.trainer.eval_batch_tokens,
                packing=pieces.packing,
                context=task.context,
            )
            if features
            else []
        )
        if not pieces.packing and not self.model.can_generate() and self.machine.device.type == "cpu":
            batches = [part for whole in batches for part in alike(whole, lengths, CALL)]
        for batch_rows in batches:
            batch = task.collate([[features[index] for index in row] for row in batch_rows]).to(self.machine.device)
            with self.machine.autocast(self.precision):
                said = task.predict(self.model, batch, generate=True)
            found.update(zip([index for row in batch_rows for index in row], said, strict=True))
        own: dict[int, list[int]] = {}
        for index, at in enumerate(owners):
            own.setdefault(at, []).append(index)
        for at, indices in own.items():
            out[at] = task.to_response([found[index] for index in indices], [features[index].ref for index in indices])
        return out


def round_once(model: nn.Module) -> None:
    """The weights of products in bf16, as autocast makes them anew for every forward: the same numbers, in half the time where
    a batch is a few short texts. Weights that something else reads as well, and those of a task's own module, stay as they are."""
    extra: Any = getattr(model, "extra", None)  # some tasks read it outside autocast
    apart = set() if extra is None else set(extra.modules())
    others = {
        id(weight)
        for module in model.modules()
        if type(module) is not nn.Linear
        for weight in module.parameters(recurse=False)
    }
    for module in model.modules():
        if type(module) is nn.Linear and module not in apart and id(module.weight) not in others:
            module.to(torch.bfloat16)


def precision_of(run: RunConfig, machine: Machine, *, lean: bool) -> str:
    """What trainer.eval_precision comes to. auto: fp32, in which numbers are the same on every machine, but for rows that many ask a
    server for, where the processor multiplies bf16 fast and the encoder is one of models/lean_encoder.py (`lean`): what was measured."""
    fast = run.trainer.eval_precision == "auto" and machine.device.type == "cpu" and fast_bf16(machine.device)
    return "bf16" if fast and lean and run.stage.name == "serve" else scoring_precision(run.trainer)


def encoded(task: Task, rows: Sequence[Row]) -> list[list[Example] | str]:
    """Features of each row, or why there are none."""
    try:
        return list(task.encode_unlabeled(list(rows)))
    except RowError:
        pass  # one of them: find it
    out: list[list[Example] | str] = []
    for row in rows:
        try:
            out.append(task.encode_unlabeled([row])[0])
        except RowError as error:
            out.append(str(error))
    return out


def make_ready(run: RunConfig, machine: Machine, bad_rows: BadRows) -> Ready:
    """The model that model.path names. Rows are opened first where data.test is read, since a task may learn from them what
    there is to be recommended. Raises ModelError."""
    quiet_libraries(offline=run.offline)
    module = load_module("tasks", run.task.name, trusted=True)
    task = cast(Task, module.TASK(run.task, run.generation))
    place = locate_model(str(run.model.path))
    config = model_config(place, offline=run.offline)
    kind = family(config)
    if kind not in run.task.takes():
        raise ModelError(
            f"task={run.task.name} does not fit model.path={run.model.path} (family {kind}). It takes: {', '.join(run.task.takes())}."
        )
    task.set_model_family(kind)
    own, tables = open_side_tables(run.data, task.columns, task.tables, task.check_table_row, bad_rows)
    asked = None
    if run.stage.reads_rows:
        asked = open_asked(
            own, task.columns, task.target_columns, lambda row: task.check_row(task.dummy_target(row)), bad_rows
        )
    source = task.prepare_inference(asked or ListSource("test", [], "no rows", task.columns.required), tables, own)
    context = resolve_context(run, place)
    task.load_config(config)
    processor = choose_processor(run, task, {}, place, context, None)
    task.attach_tokenizer(processor, context)
    pieces = RunComponents(
        task, processor, {}, {}, place, context, task.packs and run.trainer.packing != "off", Leaks()
    )
    model = pieces.build(run, machine.device, training=False).eval()
    body = plain_body(model)
    precision = precision_of(run, machine, lean=body is not None)
    if body is not None and run.stage.name != "export":  # other runtimes are given transformers' own layers
        use_lean_encoder(body, DTYPES[precision])
    elif precision == "bf16" and not model.can_generate():
        round_once(model)
    return Ready(run, pieces, model, machine, source if asked else None, asked, precision)
