"""Masked language modelling: predict masked tokens from the context on both sides (BERT, Devlin 2019)."""

from __future__ import annotations

import itertools
from collections.abc import Iterable
from typing import Any

import numpy as np
from torch import nn

from llmstage.config.task import MaskedLm as MaskedLMConfig
from llmstage.data.encoding.collate import labels_for, pack
from llmstage.data.encoding.masking import SHOWN, draw_mask, word_numbers
from llmstage.data.rows import Columns, Row
from llmstage.demo.prose import prose_rows
from llmstage.errors import ModelError
from llmstage.evaluation.metrics.language_model import Unigram, masked_language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.models.lm_loss import masked_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_by_loss
from llmstage.tokenization.tokenizer import Processor


class MaskedLM(Task):
    """A document is split into windows of similar length, each with the special tokens of the tokenizer.

    collate() draws the masks. In training the seed is (seed, epoch, example): each epoch has other masks, and a resumed run
    has the same ones. In scoring it is (task.mask_seed, row, window): the masks of a row never change.
    """

    columns = Columns(required=("text",))
    auto_model = "AutoModelForMaskedLM"
    pipeline_tag = "fill-mask"
    packs = True
    learns_text = True
    embeds = True
    demo_size = 2000

    cfg: MaskedLMConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return prose_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        if not isinstance(row["text"], str):
            return f"text is {type(row['text']).__name__}, not text"
        return None if row["text"].strip() else "text is empty"

    def texts(self, row: Row) -> list[str]:
        return [row["text"]]

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        if processor.tokenizer.mask_token_id is None:
            raise ModelError(
                "The tokenizer of the model has no mask token. task=masked_lm takes encoders "
                "such as model=bert_tiny. For a decoder: task=causal_lm."
            )
        self.mask_id = int(processor.tokenizer.mask_token_id)
        self.special = frozenset(int(token) for token in processor.tokenizer.all_special_ids)
        self.plain = np.array([token for token in range(len(processor)) if token not in self.special])
        self.before, self.after = processor.special_ids()

    def cache_key(self) -> dict[str, Any]:
        return {
            "mask": [self.cfg.mask_share, self.cfg.whole_word, self.cfg.mask_seed]
        }  # the counts of target tokens depend on them

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        texts = [row["text"] for row in rows]
        if not self.cfg.whole_word:
            return [self._windows(ids, None) for ids in self.processor.plain_ids(texts)]
        encoded = self.processor.plain_offsets(texts)
        return [
            self._windows(ids, word_numbers(text, offsets)) for text, (ids, offsets) in zip(texts, encoded, strict=True)
        ]

    def _windows(self, ids: list[int], words: list[int] | None) -> list[Example]:
        """Return as few windows as the context allows, of similar length: a short last window would have little context."""
        max_tokens = self.context - len(self.before) - len(self.after)
        count = max(1, -(-len(ids) // max_tokens))
        edges = [len(ids) * number // count for number in range(count + 1)]
        examples, cut = [], 0
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            window = ids[start:stop]
            if all(token in self.special for token in window):  # only unknown tokens
                cut += len(window)
                continue
            arrays = {"input_ids": [*self.before, *window, *self.after], "window": [number]}
            if words is not None:
                arrays["word"] = [*[-1] * len(self.before), *words[start:stop], *[-1] * len(self.after)]
            examples.append(Example(arrays, ref={"ids": window}))
        if not examples:
            raise RowError("the tokenizer knows no token of the text")
        examples[0].cut = cut
        return examples

    def _masked(self, example: Example) -> tuple[list[int], list[int]]:
        """Return (masked ids [T], masked positions)."""
        # `row` is -1 before a loader sets it, and seeds must not be negative.
        seed = example.draw or (self.cfg.mask_seed, example.row + 1, example.arrays["window"][0])
        return draw_mask(
            example.input_ids,
            example.arrays.get("word"),
            self.cfg.mask_share,
            self.mask_id,
            self.plain,
            self.special,
            np.random.default_rng(seed),
        )

    def num_targets(self, example: Example) -> int:
        return len(self._masked(example)[1])

    def collate(self, rows: list[list[Example]]) -> Batch:
        masked_ids, labels = [], []
        for row in rows:
            masked = [self._masked(example) for example in row]
            masked_ids.append([ids for ids, _ in masked])
            labels.append(
                [labels_at(example.input_ids, positions) for example, (_, positions) in zip(row, masked, strict=True)]
            )
        packed = pack(masked_ids, self.processor.pad_id, causal=False)
        if all(len(row) == 1 for row in rows):  # without packing, a padding mask is enough
            inputs = {"input_ids": packed.inputs["input_ids"], "attention_mask": (packed.segments >= 0).long()}
        else:
            inputs = packed.inputs
        refs = [example.ref for row in rows for example in row]
        return Batch(inputs, labels_for(labels, IGNORE_INDEX), refs, packed.segments, packed.num_tokens)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        losses = masked_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        return LossSum(losses.nll.sum(), len(losses.nll))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        assert batch.labels is not None and batch.segments is not None
        losses = masked_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        flat_positions = losses.where.cpu()
        segments = batch.segments.cpu().reshape(-1)[flat_positions].tolist()
        input_tokens = batch.inputs["input_ids"].cpu().reshape(-1)[flat_positions].tolist()
        targets = batch.labels.cpu().reshape(-1)[flat_positions].tolist()
        items: list[dict[str, Any]] = [{"nll": [], "predicted": [], "target": [], "shown": []} for _ in batch.refs]
        for segment, nll, predicted, token, target in zip(
            segments, losses.nll.double().tolist(), losses.best.tolist(), input_tokens, targets, strict=True
        ):
            replacement = 0 if token == self.mask_id else 2 if token == target else 1  # index in SHOWN
            for key, value in (("nll", nll), ("predicted", predicted), ("target", target), ("shown", replacement)):
                items[segment][key].append(value)
        return items

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        return masked_language_model_scores(
            [sum(item["nll"]) for item in predictions],
            [len(item["nll"]) for item in predictions],
            [num_correct(item) for item in predictions],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return the scores of a unigram model, over all tokens: without context, masking makes no difference."""
        unigram = Unigram((self.processor.plain_ids([row["text"]])[0] for row in train), len(self.processor))
        nll, tokens, correct = unigram.measure(ref["ids"] for ref in refs)
        return {"token frequencies": masked_language_model_scores(nll, tokens, correct)}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Return a table of the scores by replacement of the masked token."""
        rows = []
        for number, replacement in enumerate(SHOWN):
            masked_tokens = [
                (nll, predicted == target)
                for item in predictions
                for nll, predicted, target, shown in zip(*(item[key] for key in KEYS), strict=True)
                if shown == number
            ]
            if masked_tokens:
                loss, hits = (sum(column) / len(masked_tokens) for column in zip(*masked_tokens, strict=True))
                rows.append([replacement, str(len(masked_tokens)), f"{loss:.3f}", f"{hits:.3f}"])
        columns = ["replaced by", "tokens", "nats per token", "accuracy"]
        return [{"kind": "table", "title": "Masked tokens by their replacement", "columns": columns, "rows": rows}]

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        return errors_by_loss([sum(item["nll"]) for item in predictions], [len(item["nll"]) for item in predictions])

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """Return the predicted and the true tokens of all masked positions of all windows."""
        all_windows = {key: [value for item in predictions for value in item[key]] for key in KEYS}
        return self.records(all_windows, None)[0]

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        return [
            {
                "prediction": [self.processor.decode([token]) for token in prediction["predicted"]],
                "reference": [self.processor.decode([token]) for token in prediction["target"]],
                "log_probability": -sum(prediction["nll"]),
                "tokens": len(prediction["target"]),
                "correct": num_correct(prediction),
            }
        ]


KEYS = ("nll", "predicted", "target", "shown")
"""Keys of a prediction, each with one value for each masked token."""


def num_correct(prediction: dict[str, Any]) -> int:
    """Return the number of correctly predicted tokens."""
    return sum(
        predicted == target for predicted, target in zip(prediction["predicted"], prediction["target"], strict=True)
    )


def labels_at(ids: list[int], positions: list[int]) -> list[int]:
    """Return the labels [T]: the true token at the given positions, else IGNORE_INDEX."""
    labels = [IGNORE_INDEX] * len(ids)
    for position in positions:
        labels[position] = ids[position]
    return labels


TASK = MaskedLM
