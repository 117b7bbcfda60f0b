"""Hidden tokens from what stands on both sides of them (BERT, Devlin 2019)."""

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
from llmstage.evaluation.metrics.language_model import masked_language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.unigram import Unigram
from llmstage.models.lm_loss import masked_losses
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import Errors, errors_by_loss
from llmstage.tokenization.tokenizer import Processor


class MaskedLM(Task):
    """A document is cut into windows of like length, each marked as the tokenizer marks a text.

    Masks are drawn in collate(): in training from (seed, epoch, feature), so anew each time a feature is seen and the same
    in a resumed run; in scoring from (task.mask_seed, row, window), so a row is always hidden in the same way.
    """

    columns = Columns(required=("text",))
    auto_model = "AutoModelForMaskedLM"
    pipeline_tag = "fill-mask"
    packs = True
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
                "The model's tokenizer has no mask token, so nothing can be hidden from it: task=masked_lm takes encoders "
                "such as model=bert_tiny. For a decoder: task=causal_lm."
            )
        self.mask_id = int(processor.tokenizer.mask_token_id)
        self.special = frozenset(int(token) for token in processor.tokenizer.all_special_ids)
        self.plain = np.array([token for token in range(len(processor)) if token not in self.special])
        self.before, self.after = processor.marks()

    def cache_key(self) -> dict[str, Any]:
        return {"mask": [self.cfg.mask_share, self.cfg.whole_word, self.cfg.mask_seed]}  # the ledger counts targets

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        texts = [row["text"] for row in rows]
        if not self.cfg.whole_word:
            return [self._windows(ids, None) for ids in self.processor.plain_ids(texts)]
        coded = self.processor.plain_places(texts)
        return [
            self._windows(ids, word_numbers(text, offsets)) for text, (ids, offsets) in zip(texts, coded, strict=True)
        ]

    def _windows(self, ids: list[int], words: list[int] | None) -> list[Example]:
        """As few windows as the context allows, of like length: a short rest would have little to guess from."""
        room = self.context - len(self.before) - len(self.after)
        count = max(1, -(-len(ids) // room))
        edges = [len(ids) * number // count for number in range(count + 1)]
        features, cut = [], 0
        for number, (start, stop) in enumerate(itertools.pairwise(edges)):
            window = ids[start:stop]
            if all(token in self.special for token in window):  # nothing but unknown tokens
                cut += len(window)
                continue
            arrays = {"input_ids": [*self.before, *window, *self.after], "window": [number]}
            if words is not None:
                arrays["word"] = [*[-1] * len(self.before), *words[start:stop], *[-1] * len(self.after)]
            features.append(Example(arrays, ref={"ids": window}))
        if not features:
            raise RowError("the tokenizer finds no token in the text that it knows")
        features[0].cut = cut
        return features

    def _masked(self, features: Example) -> tuple[list[int], list[int]]:
        """(what the model sees [T], hidden positions)."""
        # A row that no loader has numbered yet is -1; seeds are not negative.
        seed = features.draw or (self.cfg.mask_seed, features.row + 1, features.arrays["window"][0])
        return draw_mask(
            features.input_ids,
            features.arrays.get("word"),
            self.cfg.mask_share,
            self.mask_id,
            self.plain,
            self.special,
            np.random.default_rng(seed),
        )

    def num_targets(self, features: Example) -> int:
        return len(self._masked(features)[1])

    def collate(self, rows: list[list[Example]]) -> Batch:
        shown, labels = [], []
        for row in rows:
            drawn = [self._masked(features) for features in row]
            shown.append([ids for ids, _ in drawn])
            labels.append(
                [hidden(features.input_ids, places) for features, (_, places) in zip(row, drawn, strict=True)]
            )
        packed = pack(shown, self.processor.pad_id, causal=False)
        if all(len(row) == 1 for row in rows):  # plain rows, as any library gives them to a model
            inputs = {"input_ids": packed.inputs["input_ids"], "attention_mask": (packed.segments >= 0).long()}
        else:
            inputs = packed.inputs
        refs = [features.ref for row in rows for features in row]
        return Batch(inputs, labels_for(labels, IGNORE_INDEX), refs, packed.segments, packed.num_tokens)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        losses = masked_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        return LossSum(losses.nll.sum(), len(losses.nll))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        assert batch.labels is not None and batch.segments is not None
        losses = masked_losses(model, batch.inputs, batch.labels, IGNORE_INDEX)
        where = losses.where.cpu()
        owners = batch.segments.cpu().reshape(-1)[where].tolist()
        seen = batch.inputs["input_ids"].cpu().reshape(-1)[where].tolist()
        told = batch.labels.cpu().reshape(-1)[where].tolist()
        items: list[dict[str, Any]] = [{"nll": [], "said": [], "told": [], "shown": []} for _ in batch.refs]
        for owner, nll, best, token, target in zip(
            owners, losses.nll.double().tolist(), losses.best.tolist(), seen, told, strict=True
        ):
            shown = 0 if token == self.mask_id else 2 if token == target else 1  # as in SHOWN
            for key, value in (("nll", nll), ("said", best), ("told", target), ("shown", shown)):
                items[owner][key].append(value)
        return items

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        return masked_language_model_scores(
            [sum(item["nll"]) for item in predictions],
            [len(item["nll"]) for item in predictions],
            [correct(item) for item in predictions],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Token frequencies. They look at no neighbours, so they are measured on every token, not only on hidden ones."""
        unigram = Unigram((self.processor.plain_ids([row["text"]])[0] for row in train), len(self.processor))
        nll, tokens, correct = unigram.measure(ref["ids"] for ref in refs)
        return {"token frequencies": masked_language_model_scores(nll, tokens, correct)}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """How well hidden tokens are told by what stood in their place."""
        rows = []
        for number, way in enumerate(SHOWN):
            part = [
                (nll, said == told)
                for item in predictions
                for nll, said, told, shown in zip(*(item[key] for key in KEYS), strict=True)
                if shown == number
            ]
            if part:
                loss, hits = (sum(column) / len(part) for column in zip(*part, strict=True))
                rows.append([way, str(len(part)), f"{loss:.3f}", f"{hits:.3f}"])
        columns = ["shown as", "tokens", "nats a token", "accuracy"]
        return [{"kind": "table", "title": "Hidden tokens by what the model saw", "columns": columns, "rows": rows}]

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        return errors_by_loss([sum(item["nll"]) for item in predictions], [len(item["nll"]) for item in predictions])

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """What the model puts in the place of the hidden tokens of all windows, and what stood there."""
        whole = {key: [value for item in predictions for value in item[key]] for key in KEYS}
        return self.records(whole, None)[0]

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        return [
            {
                "prediction": [self.processor.decode([token]) for token in prediction["said"]],
                "reference": [self.processor.decode([token]) for token in prediction["told"]],
                "log_probability": -sum(prediction["nll"]),
                "tokens": len(prediction["told"]),
                "correct": correct(prediction),
            }
        ]


KEYS = ("nll", "said", "told", "shown")
"""Of a prediction, one value for each hidden token."""


def correct(prediction: dict[str, Any]) -> int:
    return sum(said == told for said, told in zip(prediction["said"], prediction["told"], strict=True))


def hidden(ids: list[int], places: list[int]) -> list[int]:
    """Labels [T]: the true token at a hidden place."""
    labels = [IGNORE_INDEX] * len(ids)
    for place in places:
        labels[place] = ids[place]
    return labels


TASK = MaskedLM
