"""Named entity recognition: a tag for each word of a text."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from llmstage import console
from llmstage.config.task import TokenClassification as TokenClassificationConfig
from llmstage.data.encoding.collate import labels_for, pack
from llmstage.data.rows import Columns, Row
from llmstage.data.tag_schemes import (
    Span,
    detect_scheme,
    first_illegal,
    label_names,
    lenient_spans,
    may_follow,
    output_scheme,
    spans_of,
    split_tag,
    tag_complaint,
    tags_of,
)  # fmt: skip
from llmstage.data.tagged_rows import FrequentTags, Gazetteer, check_tagged, describe_spans, tags_in, text_of, units
from llmstage.data.token_spans import Offsets, align_spans, word_windows
from llmstage.demo.token_classification import entity_rows
from llmstage.errors import DataError, ModelError
from llmstage.evaluation.metrics.entity_tags import tag_scores, type_scores
from llmstage.evaluation.metrics.score import Score, ratio
from llmstage.models.token_head import best_path, token_logits
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors
from llmstage.tokenization.tokenizer import Processor

MAX_CACHED_WORDS = 1_000_000
"""Upper bound of the words whose subword tokens are cached."""


class TokenClassification(Task):
    """The label of a word is at its first subword token. A sentence longer than the context is split into overlapping windows.

    Each word is a target and predicted in one window only; merge() restores the sentence.
    """

    columns = Columns(
        required=(),
        optional=("tokens", "tags", "text", "spans", "first_line"),
        content=("tokens", "text"),
        either=(("tokens", "tags"), ("text", "spans")),
    )
    auto_model = "AutoModelForTokenClassification"
    pipeline_tag = "token-classification"
    target_columns = ("tags", "spans")
    reference_columns = ("reference", "correct", "reference_spans")
    packs = True
    route = "tag"
    demo_size = 1600

    cfg: TokenClassificationConfig
    labels: list[str]
    data_scheme: str
    """Tag scheme of the rows."""
    scheme: str
    """Tag scheme of labels, predictions and references: iob2, or iobes if the data marks the ends of entities."""
    repaired: tuple[int, int] | None = None
    """(repaired sentences, all sentences) of the training split, if task.repair=true."""

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return entity_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        return check_tagged(row, self.cfg.names)

    def _spans(self, row: Row, offsets: Offsets) -> tuple[list[Span], bool]:
        """Return (entities by word, whether their tags were repaired). Raise RowError for an illegal tag sequence."""
        tags = tags_in(row, self.cfg.names)
        if tags is None:
            spans = align_spans(row["spans"], row["text"], offsets)
            assert not isinstance(spans, str), spans  # check_row has seen the row
            return spans, False
        illegal = first_illegal(tags, self.data_scheme)
        if illegal is None:
            return spans_of(tags, self.data_scheme), False
        if self.cfg.repair:
            return lenient_spans(tags, self.data_scheme), True
        index, reason = illegal
        location = f"line {row['first_line'] + index}" if row.get("first_line") else f"token {index + 1}"
        raise RowError(
            f"{location} ({row['tokens'][index]!r}): {reason}; set task.scheme if it is another scheme, "
            f"or task.repair=true to repair such sequences"
        )

    def texts(self, row: Row) -> list[str]:
        """Return the single words, as encode() uses them, so that no vocabulary entry spans two words."""
        return units(*text_of(row))

    # labels

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Fit entity types and tag scheme to the training split."""
        sequences: list[list[str]] = []
        entity_types: set[str] = set()
        for row in rows:
            tags = tags_in(row, self.cfg.names)
            if tags is None:
                entity_types.update(span["label"] for span in row["spans"])
            else:
                sequences.append(tags)
                entity_types.update(split_tag(tag)[1] for tag in tags if tag != "O")
        if not entity_types:
            raise DataError(
                "The training split has no entity: every tag is O. Check data.columns.tags (in CoNLL files a column "
                "number from 0; by default the last column)."
            )
        self.data_scheme = self.cfg.scheme if self.cfg.scheme != "auto" else detect_scheme(sequences)
        self.scheme = output_scheme(self.data_scheme)
        self.labels = label_names(entity_types, self.scheme)
        if self.cfg.repair:
            count = sum(first_illegal(tags, self.data_scheme) is not None for tags in sequences)
            self.repaired = count, len(sequences)
            console.note(
                f"task.repair=true: {count} of {len(sequences)} sentences of the training split had illegal tags"
            )

    def load_config(self, config: Any) -> None:
        self.labels = [str(config.id2label[index]) for index in range(len(config.id2label))]
        error = next((reason for label in self.labels if (reason := tag_complaint(label))), None)
        if error:
            raise ModelError(f"The labels of the model are not tags: {error}. Is it a token classifier for entities?")
        marks_ends = any(label[0] in "ES" for label in self.labels if label != "O")
        self.scheme = "iobes" if marks_ends else "iob2"
        saved = (getattr(config, "llmstage", None) or {}).get("scheme", self.scheme)
        self.data_scheme = self.cfg.scheme if self.cfg.scheme != "auto" else saved

    def model_options(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "llmstage": {"scheme": self.data_scheme},
        }

    # features

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        self._subwords: dict[str, list[int]] = {}
        self._label_index = {label: index for index, label in enumerate(self.labels)}
        ids = processor.plain_ids(["a"])[0]
        marked, _, _ = processor.marked_ids("a", None, context)
        start = next(start for start in range(len(marked)) if marked[start : start + len(ids)] == ids)
        self._prefix, self._suffix = marked[:start], marked[start + len(ids) :]
        allowed = np.array(
            [[may_follow(before, after, self.scheme) for after in self.labels] for before in self.labels]
        )
        edges = np.array(
            [[may_follow(None, before, self.scheme) for before in self.labels], [may_follow(before, None, self.scheme) for before in self.labels]]
        )  # fmt: skip
        self._transitions, self._edges = np.where(allowed, 0.0, -np.inf), np.where(edges, 0.0, -np.inf)

    def cache_key(self) -> dict[str, Any]:
        options = {"labels": self.labels, "scheme": self.data_scheme}
        return {**options, "repair": self.cfg.repair, "names": self.cfg.names}

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        texts = [text_of(row) for row in rows]
        words = [units(text, offsets) for text, offsets in texts]
        if len(self._subwords) > MAX_CACHED_WORDS:
            self._subwords = {}
        new_words = list(dict.fromkeys(word for row_words in words for word in row_words if word not in self._subwords))
        unk_id = self.processor.tokenizer.unk_token_id
        no_subwords = [self.processor.pad_id if unk_id is None else int(unk_id)]  # for a word without subword tokens
        self._subwords.update(
            zip(new_words, (ids or no_subwords for ids in self.processor.plain_ids(new_words)), strict=True)
        )
        return [self._encode(row, *text, row_words) for row, text, row_words in zip(rows, texts, words, strict=True)]

    def _encode(self, row: Row, text: str, offsets: Offsets, words: list[str]) -> list[Example]:
        spans, repaired = self._spans(row, offsets)
        unknown_types = sorted(
            {entity_type for entity_type, _, _ in spans if not any(label[2:] == entity_type for label in self.labels)}
        )
        if unknown_types:
            known = sorted({label[2:] for label in self.labels} - {""})
            raise RowError(f"unknown entity type '{unknown_types[0]}'; the model knows: {', '.join(known[:20])}")
        tags = tags_of(spans, len(words), self.scheme)
        max_tokens = self.context - len(self._prefix) - len(self._suffix)
        subwords = [self._subwords[word] for word in words]
        # Of a word longer than a window, only the beginning remains.
        cut = sum(max(0, len(ids) - max_tokens) for ids in subwords)
        subwords = [ids[:max_tokens] for ids in subwords]
        windows = word_windows([len(ids) for ids in subwords], max_tokens)
        examples = []
        # Words first..end are in the window; words start..stop are its targets, the others are context.
        for number, (first, start, stop, end) in enumerate(windows):
            ids, labels = list(self._prefix), [IGNORE_INDEX] * len(self._prefix)
            for index in range(first, end):
                ids += subwords[index]
                labels += [self._label_index[tags[index]] if start <= index < stop else IGNORE_INDEX]
                labels += [IGNORE_INDEX] * (len(subwords[index]) - 1)
            ref = {
                "text": text if number == 0 else "",
                "offsets": [list(offset) for offset in offsets[start:stop]],
                "tags": tags[start:stop],
                "parts": len(windows),
                "repaired": repaired,
            }
            arrays = {"input_ids": ids + self._suffix, "labels": labels + [IGNORE_INDEX] * len(self._suffix)}
            examples.append(Example(arrays, ref=ref, cut=cut if number == 0 else 0))
        return examples

    def dummy_target(self, row: Row) -> Row:
        tokens = row.get("tokens")
        return row | ({"tags": ["O"] * len(tokens)} if isinstance(tokens, list) else {"spans": []})

    def num_targets(self, example: Example) -> int:
        return sum(label != IGNORE_INDEX for label in example.arrays["labels"])

    def collate(self, rows: list[list[Example]]) -> Batch:
        ids = [[example.input_ids for example in row] for row in rows]
        unpacked = all(len(row) == 1 for row in rows)
        packed = pack(ids, self.processor.pad_id, causal=unpacked)  # rows with one example need no block mask
        if unpacked:
            packed.inputs["attention_mask"] = (
                packed.segments >= 0
            ).long()  # by position, not by id: pad may be a real token
        labels = labels_for([[example.arrays["labels"] for example in row] for row in rows], IGNORE_INDEX)
        refs = [example.ref for row in rows for example in row]
        return Batch(packed.inputs, labels, refs, packed.segments, packed.num_tokens)

    # model

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        flat = batch.labels.reshape(-1)
        positions = (flat != IGNORE_INDEX).nonzero().squeeze(1)
        logits = token_logits(model, batch.inputs, positions).float()  # [N, C]
        return LossSum(F.cross_entropy(logits, flat[positions], reduction="sum"), len(positions))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        assert batch.labels is not None and batch.segments is not None
        flat = batch.labels.reshape(-1)
        positions = (flat != IGNORE_INDEX).nonzero().squeeze(1)
        logits = token_logits(model, batch.inputs, positions).float()
        if logits.shape[1] != len(self.labels):
            raise ModelError(f"The model has {logits.shape[1]} classes and the task {len(self.labels)} tags.")
        log_p = torch.log_softmax(logits, -1).double().cpu().numpy()  # [N, C]
        nll = -log_p[np.arange(len(log_p)), flat[positions].cpu().numpy()]
        segments = batch.segments.reshape(-1)[positions].cpu().numpy()
        starts = np.searchsorted(segments, np.arange(len(batch.refs) + 1))
        predictions = []
        for ref, start, stop in zip(batch.refs, starts, starts[1:], strict=False):
            prediction = {**self._decoded(log_p[start:stop]), "nll": float(nll[start:stop].sum())}
            if ref is not None and ref["parts"] > 1:  # merge() decodes the windows again as one sentence
                prediction["log_p"] = log_p[start:stop].tolist()
            predictions.append(prediction)
        return predictions

    def _decoded(self, log_p: np.ndarray) -> dict[str, Any]:
        path = log_p.argmax(1)
        if self.cfg.decode == "viterbi":
            # If the most probable tags form a legal sequence, it is the best path.
            legal = (
                self._edges[0, path[0]] + self._edges[1, path[-1]] + self._transitions[path[:-1], path[1:]].sum() == 0
            )
            path = path if legal else np.array(best_path(log_p, self._transitions, self._edges))
        confidence = np.exp(log_p[np.arange(len(path)), path])
        return {
            "labels": [int(index) for index in path],
            "confidence": [round(float(value), 6) for value in confidence],
        }

    def _predicted_tags(self, prediction: dict[str, Any]) -> list[str]:
        return [self.labels[index] for index in prediction["labels"]]

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        merged: tuple[list[Any], list[Any], list[int]] = ([], [], [])
        start = 0
        while start < len(refs):
            end = start + refs[start]["parts"]
            prediction, ref = predictions[start], refs[start]
            if end > start + 1:
                windows = predictions[start:end]
                log_p = np.array([row_log_p for window in windows for row_log_p in window["log_p"]])
                prediction = {**self._decoded(log_p), "nll": sum(window["nll"] for window in windows)}
                joined = {
                    key: [item for window in refs[start:end] for item in window[key]] for key in ("offsets", "tags")
                }
                ref = {**ref, **joined, "parts": 1}
            for column, value in zip(merged, (prediction, ref, rows[start]), strict=True):
                column.append(value)
            start = end
        return merged

    # scores

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        predicted_tags, true_tags = [self._predicted_tags(item) for item in predictions], [ref["tags"] for ref in refs]
        lengths = [len(tags) for tags in true_tags]
        loss = ratio([item["nll"] for item in predictions], lengths, count=sum(lengths), higher_is_better=False)
        return {**tag_scores(predicted_tags, true_tags, self.scheme), "loss": loss}

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return scores of the most frequent tag of each word, and of a gazetteer of training entities (longest match)."""
        frequent_tags, gazetteer = FrequentTags(), Gazetteer()
        for row in train:
            text, offsets = text_of(row)
            try:
                spans, _ = self._spans(row, offsets)
            except RowError:
                continue  # quarantined
            row_words = [text[start:end] for start, end in offsets]
            frequent_tags.add(row_words, tags_of(spans, len(row_words), self.scheme))
            gazetteer.add(row_words, spans)
        true_tags = [ref["tags"] for ref in refs]
        words = [[ref["text"][start:end] for start, end in ref["offsets"]] for ref in refs]
        scores = {}
        methods: dict[str, FrequentTags | Gazetteer] = {
            "most frequent tag of the word": frequent_tags,
            "entities of train looked up": gazetteer,
        }
        for name, method in methods.items():
            predicted_tags = [
                tags_of(method.spans(row_words, self.scheme), len(row_words), self.scheme) for row_words in words
            ]
            scores[name] = tag_scores(predicted_tags, true_tags, self.scheme)
        return scores

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        table = type_scores(
            [self._predicted_tags(item) for item in predictions], [ref["tags"] for ref in refs], self.scheme
        )
        columns = ("precision", "recall", "f1", "support")
        rows = [
            [entity_type, *(f"{row[name]:.4f}" for name in columns[:3]), str(row["support"])]
            for entity_type, row in table.items()
        ]
        by_type = {"kind": "table", "title": "Entities by type", "columns": ["type", *columns], "rows": rows}
        items: list[ReportItem] = [{**by_type, "report_key": "types", "values": table}]
        notes = []
        if not any(tag != "O" for ref in refs for tag in ref["tags"]):
            notes.append(
                "The references contain no entity: precision, recall and F1 are 0 by convention, not measured."
            )
        if self.cfg.repair:
            count = sum(ref["repaired"] for ref in refs)
            notes.append(f"Illegal tags were repaired in {count} of {len(refs)} sentences of this split.")
            if self.repaired:
                notes.append(f"In the training split: in {self.repaired[0]} of {self.repaired[1]} sentences.")
        return [*items, {"kind": "text", "title": "About the tags", "text": "\n".join(notes)}] if notes else items

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        """Return 1 - F1 of the entities of each sentence; 0 if there are neither true nor predicted entities."""
        values: list[float | None] = []
        for prediction, ref in zip(predictions, refs, strict=True):
            predicted_spans, true_spans = (
                set(spans_of(tags, self.scheme)) for tags in (self._predicted_tags(prediction), ref["tags"])
            )
            values.append(
                1 - 2 * len(predicted_spans & true_spans) / (len(predicted_spans) + len(true_spans))
                if predicted_spans or true_spans
                else 0.0
            )
        return ExampleErrors("f1", values)

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        text, offsets = ref["text"], ref["offsets"]
        predicted_tags, confidence = self._predicted_tags(prediction), prediction["confidence"]
        predicted_spans = spans_of(predicted_tags, self.scheme)
        spans = describe_spans(predicted_spans, text, offsets)
        for span, (_, start, stop) in zip(spans, predicted_spans, strict=True):
            # The geometric mean of the tag probabilities does not depend on the length of the entity.
            span["confidence"] = round(float(np.exp(np.log(np.maximum(confidence[start:stop], 1e-12)).mean())), 6)
        return [
            {
                "prediction": predicted_tags,
                "reference": ref["tags"],
                "correct": predicted_tags == ref["tags"],
                "text": text,
                "tokens": [text[start:end] for start, end in offsets],
                "spans": spans,
                "reference_spans": describe_spans(spans_of(ref["tags"], self.scheme), text, offsets),
            }
        ]


TASK = TokenClassification
