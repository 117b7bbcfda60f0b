"""A trained model that is ready to predict: its task, tokenizer and weights, without a split to score."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from llmstage.config import RunConfig
from llmstage.data.encoding.order import Rows, of_one_length, scoring_batches, split_by_length
from llmstage.data.file_source import open_side_tables
from llmstage.data.image_store import ImageStore
from llmstage.data.inference_rows import InferenceSource, open_inference_source
from llmstage.data.row_source import ListSource, RowSource
from llmstage.data.rows import BadRows, Row
from llmstage.kernels.modernbert_encoder import supported_body, use_fast_encoder
from llmstage.models.loading import max_positions
from llmstage.tasks.base import Example, RowError, Task
from llmstage.tasks.base_contract import check_examples
from llmstage.training.components import RunComponents
from llmstage.training.machine import DTYPES, Machine, fast_bf16, scoring_precision
from llmstage.training.setup import prepare_task

CALL_TOKENS = 40
"""Tokens whose computation on a CPU costs as much as one more call of the model."""


@dataclass(slots=True)
class InferenceSession:
    """What the stages that use a trained model work with: predict, chat, serve, monitor, export."""

    run: RunConfig
    components: RunComponents
    model: Any
    machine: Machine
    source: RowSource | None
    """The rows of data.test, prepared by the task; None where the stage reads no rows."""
    file_source: InferenceSource | None = None
    """The files behind `source`."""
    precision: str = "fp32"
    """Precision of predictions other than generated text: what trainer.eval_precision resolves to here."""

    @property
    def task(self) -> Task:
        return self.components.task

    @property
    def max_length(self) -> int:
        """Tokens of prompt and answer together, at most."""
        return max_positions(self.model.config) or self.components.context

    @torch.no_grad()
    def predict(self, rows: Sequence[Row], numbers: Sequence[int]) -> list[dict[str, Any] | str]:
        """Return the response to each row; for a row that cannot be encoded, the reason as a string.

        `numbers`: the index of each row in its source.
        """
        task = self.task
        if self.run.task.reads_images:
            task.image_store = ImageStore(self.components.processor.images)
            task.image_store.read(path for row in rows for path in task.images(row))

        # A row has one example or several (windows of a long text).
        responses: list[dict[str, Any] | str] = [""] * len(rows)
        row_of_example: list[int] = []
        examples: list[Example] = []
        for index, encoded in enumerate(encode_rows(task, rows)):
            if isinstance(encoded, str):
                responses[index] = encoded
                continue
            for example in encoded:
                example.row = numbers[index]
            row_of_example += [index] * len(encoded)
            examples += encoded

        predictions = self.predict_examples(examples)
        examples_of_row: dict[int, list[int]] = {}
        for number, index in enumerate(row_of_example):
            examples_of_row.setdefault(index, []).append(number)
        for index, row_examples in examples_of_row.items():
            refs = [examples[number].ref for number in row_examples]
            responses[index] = task.to_response([predictions[number] for number in row_examples], refs)
        return responses

    def predict_examples(self, examples: list[Example]) -> dict[int, Any]:
        """Return the prediction of each example by its index; examples of similar length share a batch."""
        predictions: dict[int, Any] = {}
        for batch_rows in self.batches(examples):
            batch = self.task.collate([[examples[index] for index in row] for row in batch_rows])
            batch = batch.to(self.machine.device)
            with self.machine.autocast(self.precision):
                results = self.task.predict(self.model, batch, generate=True)
            predictions.update(zip([index for row in batch_rows for index in row], results, strict=True))
        return predictions

    def batches(self, examples: list[Example]) -> list[Rows]:
        """Return the batches of a set of examples, by index."""
        if not examples:
            return []
        lengths = np.array([len(example.input_ids) for example in examples], dtype=np.int64)
        batch_tokens, packing = self.run.trainer.eval_batch_tokens, self.components.packing
        batches = list(
            scoring_batches(lengths, range(len(examples)), batch_tokens, packing=packing, context=self.task.context)
        )
        if self.task.reads_padding:
            return [part for batch in batches for part in of_one_length(batch, lengths)]
        # On a CPU, padding costs more than a further call: only examples of nearly equal length stay in one batch.
        if not packing and not self.model.can_generate() and self.machine.device.type == "cpu":
            return [part for batch in batches for part in split_by_length(batch, lengths, CALL_TOKENS)]
        return batches


def encode_rows(task: Task, rows: Sequence[Row]) -> list[list[Example] | str]:
    """Return the examples of each row; for a row that cannot be encoded, the reason."""
    try:
        return list(check_examples(task, rows, task.encode_unlabeled(list(rows))))
    except RowError:
        pass  # at least one row is bad: encode them one by one
    results: list[list[Example] | str] = []
    for row in rows:
        try:
            results.append(check_examples(task, [row], task.encode_unlabeled([row]))[0])
        except RowError as error:
            results.append(str(error))
    return results


def load_session(
    run: RunConfig,
    machine: Machine,
    bad_rows: BadRows,
    *,
    reads_rows: bool | None = None,
    check_task: Callable[[Task], None] | None = None,
) -> InferenceSession:
    """Load the model that model.path names, with its task and, where the stage reads rows, those of data.test.

    `reads_rows`: whether data.test is opened; None: where the stage reads rows. `check_task`: raises an error for a task that
    the stage cannot use, before the weights are loaded. Raise ModelError, DataError.
    """
    source: RowSource | None = None
    file_source: InferenceSource | None = None

    def open_rows(task: Task) -> dict[str, RowSource]:
        """Open data.test and give it to the task, which may learn from it (which items it can recommend)."""
        nonlocal source, file_source
        data, tables = open_side_tables(run.data, task.columns, task.tables, task.check_table_row, bad_rows)
        if run.stage.reads_rows if reads_rows is None else reads_rows:
            file_source = open_inference_source(
                data, task.columns, task.target_columns, lambda row: task.check_row(task.dummy_target(row)), bad_rows
            )
        rows = file_source or ListSource("test", [], "no rows", task.columns.required)
        source = task.prepare_inference(rows, tables, data)
        return {}  # no split is encoded here: predict() encodes rows as they come

    components = prepare_task(run, open_rows, training=False, keep_labels=True)
    if check_task is not None:
        check_task(components.task)
    model = components.build(run, machine.device, training=False).eval()
    body = supported_body(model)
    precision = inference_precision(run, machine, fast_encoder=body is not None)
    # An exported graph needs the layers of transformers.
    replaced = body is not None and run.stage.name != "export" and use_fast_encoder(body, DTYPES[precision])
    if not replaced and precision == "bf16" and not model.can_generate():
        cast_linear_weights(model)
    return InferenceSession(
        run, components, model, machine, source if file_source is not None else None, file_source, precision
    )


def inference_precision(run: RunConfig, machine: Machine, *, fast_encoder: bool) -> str:
    """Return what trainer.eval_precision resolves to.

    `auto` is fp32, which gives the same numbers on every machine. The one exception is a server on a CPU with fast bf16 whose
    model runs on kernels/modernbert_encoder.py (`fast_encoder`): bf16 was measured to be faster there.
    """
    fast = run.trainer.eval_precision == "auto" and machine.device.type == "cpu" and fast_bf16(machine.device)
    return "bf16" if fast and fast_encoder and run.stage.name == "serve" else scoring_precision(run.trainer)


def cast_linear_weights(model: nn.Module) -> None:
    """Cast the weights of linear layers to bf16 once, as autocast does in every forward pass.

    The numbers are the same, and a batch of a few short texts takes half the time. Weights that another module shares, and
    those of the task's own module (some tasks use it outside autocast), stay as they are.
    """
    extra: Any = getattr(model, "extra", None)
    task_modules = set() if extra is None else set(extra.modules())
    shared = {
        id(weight)
        for module in model.modules()
        if type(module) is not nn.Linear
        for weight in module.parameters(recurse=False)
    }
    for module in model.modules():
        if type(module) is nn.Linear and module not in task_modules and id(module.weight) not in shared:
            module.to(torch.bfloat16)
