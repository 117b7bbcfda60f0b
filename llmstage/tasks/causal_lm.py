"""Next-token prediction on documents."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from llmstage.data.encoding.collate import labels_for, pack
from llmstage.data.rows import Columns, Row
from llmstage.demo.prose import prose_rows
from llmstage.evaluation.metrics.language_model import Unigram, language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.models.lm_loss import sum_by_segment, token_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_by_loss


class CausalLM(Task):
    """A document is split into windows of the context length; each token but the first is a target exactly once.

    Windows overlap by one token: the last token of a window is the first of the next one, where it is no target.
    """

    columns = Columns(required=("text",))
    auto_model = "AutoModelForCausalLM"
    packs = True
    learns_text = True
    demo_size = 2000

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return prose_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        if not isinstance(row["text"], str):
            return f"text is {type(row['text']).__name__}, not text"
        return None if row["text"].strip() else "text is empty"

    def texts(self, row: Row) -> list[str]:
        return [row["text"]]

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        encoded = self.processor.batch_plain_ids([row["text"] for row in rows])
        return [self._windows(row["text"], ids) for row, ids in zip(rows, encoded, strict=True)]

    def _windows(self, text: str, ids: Any) -> list[Example]:
        """Return the windows of a document, with lists or, if `ids` is an array, arrays."""
        bos, eos = ([] if token is None else [token] for token in (self.processor.bos_id, self.processor.eos_id))
        ids = (
            [*bos, *ids, *eos]
            if isinstance(ids, list)
            else np.concatenate([bos, ids, eos], dtype=np.int32, casting="unsafe")
        )
        num_bytes = len(text.encode())
        stride = self.context - 1
        starts = range(0, max(1, len(ids) - 1), stride)
        num_targets = len(ids) - 1  # of the whole document
        examples = []
        for start in starts:
            window = ids[start : start + self.context]
            window_bytes = num_bytes * (len(window) - 1) / max(1, num_targets)
            examples.append(Example({"input_ids": window}, ref={"bytes": window_bytes, "ids": window[1:]}))
        return examples

    def num_targets(self, example: Example) -> int:
        return len(example.input_ids) - 1

    def collate(self, rows: list[list[Example]]) -> Batch:
        ids = [[example.input_ids for example in row] for row in rows]
        packed = pack(ids, self.processor.pad_id, causal=True)
        # The first token of an example has no context, so it is no target.
        labels = labels_for([[[IGNORE_INDEX, *window[1:]] for window in row] for row in ids], IGNORE_INDEX)
        refs = [example.ref for row in rows for example in row]
        return Batch(packed.inputs, labels, refs, packed.segments, packed.num_tokens)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        return LossSum(losses.nll.sum(), len(losses.nll))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        assert batch.labels is not None and batch.segments is not None
        losses = token_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        count = len(batch.refs)
        sums = [
            sum_by_segment(values, losses.where, batch.segments, count)
            for values in (losses.nll, losses.correct, losses.correct | True)
        ]
        return [
            {"nll": nll, "correct": int(correct), "tokens": int(tokens)}
            for nll, correct, tokens in zip(*sums, strict=True)
        ]

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        return language_model_scores(
            [item["nll"] for item in predictions],
            [item["tokens"] for item in predictions],
            [item["correct"] for item in predictions],
            [ref["bytes"] for ref in refs],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return the scores of a unigram model of the training split."""
        end_ids = [self.processor.eos_id] if self.processor.eos_id is not None else []
        unigram = Unigram(
            ([*self.processor.plain_ids([row["text"]])[0], *end_ids] for row in train), len(self.processor)
        )
        sums = unigram.measure(ref["ids"] for ref in refs)
        return {"token frequencies": language_model_scores(*sums, [ref["bytes"] for ref in refs])}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Return a table of the quantiles of the loss over windows."""
        losses = sorted(item["nll"] / item["tokens"] for item in predictions if item["tokens"])
        if not losses:
            return []
        percentiles = [0, 5, 25, 50, 75, 95, 100]
        rows = [
            [f"{percent} %", f"{losses[min(len(losses) - 1, percent * len(losses) // 100)]:.3f}"]
            for percent in percentiles
        ]
        return [
            {"kind": "table", "title": "Loss per token over windows", "columns": ["quantile", "nats"], "rows": rows}
        ]

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        return errors_by_loss([item["nll"] for item in predictions], [item["tokens"] for item in predictions])

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """Return the log-probability of the text, summed over its windows."""
        nll, tokens = (sum(item[name] for item in predictions) for name in ("nll", "tokens"))
        return {
            "log_probability": -nll,
            "tokens": tokens,
            "perplexity": math.exp(nll / tokens) if tokens else None,
            "correct": sum(item["correct"] for item in predictions),
        }

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        return [
            {
                "prediction": None,
                "reference": None,
                "log_probability": -prediction["nll"],
                **{key: prediction[key] for key in ("tokens", "correct")},
            }
        ]


TASK = CausalLM
