"""A tag for each token: named entities in text."""

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
from llmstage.data.ner_baselines import FrequentTags, Gazetteer
from llmstage.data.rows import Columns, Row
from llmstage.data.tag_schemes import (
    Span,
    detect_scheme,
    family,
    first_illegal,
    label_names,
    malformed,
    may_follow,
    mended_spans,
    spans_of,
    split_tag,
    tags_of,
)  # fmt: skip
from llmstage.data.tagged_rows import check_tagged, describe_spans, tags_in, text_of, units
from llmstage.data.token_spans import Offsets, lay_spans, word_windows
from llmstage.demo.token_classification import entity_rows
from llmstage.errors import DataError, ModelError
from llmstage.evaluation.metrics.entity_tags import tag_scores, type_scores
from llmstage.evaluation.metrics.intervals import ratio
from llmstage.evaluation.metrics.score import Score
from llmstage.models.token_head import best_path, token_logits
from llmstage.tasks.base import IGNORE_INDEX, Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import Errors
from llmstage.tokenization.tokenizer import Processor

MOST_WORDS = 1_000_000
"""Words whose pieces are remembered at once."""


class TokenClassification(Task):
    """Labels stand on the first piece of each word. A sentence longer than the context is cut into windows that share
    context; each word is learned and predicted in one of them, and merge() brings the sentence together again."""

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
    """Scheme of the rows' tags."""
    scheme: str
    """Scheme of labels, predictions and references: iob2, or iobes where the data marks ends of entities."""
    repaired: tuple[int, int] | None = None
    """(sentences repaired, sentences) of the training split, where task.repair is on."""

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return entity_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        return check_tagged(row, self.cfg.names)

    def _spans(self, row: Row, offsets: Offsets) -> tuple[list[Span], bool]:
        """(entities by token, whether the tags had to be repaired)."""
        tags = tags_in(row, self.cfg.names)
        if tags is None:
            laid = lay_spans(row["spans"], row["text"], offsets)
            assert not isinstance(laid, str), laid  # check_row has seen the row
            return laid, False
        wrong = first_illegal(tags, self.data_scheme)
        if wrong is None:
            return spans_of(tags, self.data_scheme), False
        if self.cfg.repair:
            return mended_spans(tags, self.data_scheme), True
        index, reason = wrong
        place = f"line {row['first_line'] + index}" if row.get("first_line") else f"token {index + 1}"
        raise RowError(
            f"{place} ({row['tokens'][index]!r}): {reason}; set task.scheme if it is another scheme, "
            f"or task.repair=true to read such sequences kindly"
        )

    def texts(self, row: Row) -> list[str]:
        """Word by word, as they are encoded: no entry of a tokenizer trained on them reaches over two words."""
        return units(*text_of(row))

    # labels

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Types of entities and the scheme, from the training split."""
        sequences: list[list[str]] = []
        kinds: set[str] = set()
        for row in rows:
            tags = tags_in(row, self.cfg.names)
            if tags is None:
                kinds.update(span["label"] for span in row["spans"])
            else:
                sequences.append(tags)
                kinds.update(split_tag(tag)[1] for tag in tags if tag != "O")
        if not kinds:
            raise DataError(
                "The training split has no entity: every tag is O. Check data.columns.tags (for CoNLL files a column "
                "number, counted from 0; the last is taken)."
            )
        self.data_scheme = self.cfg.scheme if self.cfg.scheme != "auto" else detect_scheme(sequences)
        self.scheme = family(self.data_scheme)
        self.labels = label_names(kinds, self.scheme)
        if self.cfg.repair:
            count = sum(first_illegal(tags, self.data_scheme) is not None for tags in sequences)
            self.repaired = count, len(sequences)
            console.note(
                f"task.repair=true: {count} of {len(sequences)} sentences of the training split had illegal tags"
            )

    def load_config(self, config: Any) -> None:
        self.labels = [str(config.id2label[index]) for index in range(len(config.id2label))]
        wrong = next((reason for label in self.labels if (reason := malformed(label))), None)
        if wrong:
            raise ModelError(f"The model's labels are no tags: {wrong}. Is it a token classifier for entities?")
        ends = any(label[0] in "ES" for label in self.labels if label != "O")
        self.scheme = "iobes" if ends else "iob2"
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
        self._pieces: dict[str, list[int]] = {}
        self._index = {label: index for index, label in enumerate(self.labels)}
        inner = processor.plain_ids(["a"])[0]
        whole, _, _ = processor.marked_ids("a", None, context)
        at = next(at for at in range(len(whole)) if whole[at : at + len(inner)] == inner)
        self._front, self._back = whole[:at], whole[at + len(inner) :]
        allowed = np.array([[may_follow(one, two, self.scheme) for two in self.labels] for one in self.labels])
        edges = np.array(
            [[may_follow(None, one, self.scheme) for one in self.labels], [may_follow(one, None, self.scheme) for one in self.labels]]
        )  # fmt: skip
        self._step, self._edges = np.where(allowed, 0.0, -np.inf), np.where(edges, 0.0, -np.inf)

    def cache_key(self) -> dict[str, Any]:
        told = {"labels": self.labels, "scheme": self.data_scheme}
        return {**told, "repair": self.cfg.repair, "names": self.cfg.names}

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        texts = [text_of(row) for row in rows]
        words = [units(text, offsets) for text, offsets in texts]
        if len(self._pieces) > MOST_WORDS:
            self._pieces = {}
        new = list(dict.fromkeys(unit for line in words for unit in line if unit not in self._pieces))
        unknown = self.processor.tokenizer.unk_token_id
        nothing = [self.processor.pad_id if unknown is None else int(unknown)]  # a word that leaves no piece
        self._pieces.update(zip(new, (ids or nothing for ids in self.processor.plain_ids(new)), strict=True))
        return [self._encode(row, *text, line) for row, text, line in zip(rows, texts, words, strict=True)]

    def _encode(self, row: Row, text: str, offsets: Offsets, words: list[str]) -> list[Example]:
        spans, repaired = self._spans(row, offsets)
        strange = sorted({kind for kind, _, _ in spans if not any(label[2:] == kind for label in self.labels)})
        if strange:
            known = sorted({label[2:] for label in self.labels} - {""})
            raise RowError(f"unknown entity type '{strange[0]}'; the model knows: {', '.join(known[:20])}")
        tags = tags_of(spans, len(words), self.scheme)
        room = self.context - len(self._front) - len(self._back)
        pieces = [self._pieces[word] for word in words]
        cut = sum(max(0, len(ids) - room) for ids in pieces)  # a word longer than a window keeps its beginning
        pieces = [ids[:room] for ids in pieces]
        parts = word_windows([len(ids) for ids in pieces], room)
        features = []
        for number, (first, start, stop, end) in enumerate(parts):
            ids, labels = list(self._front), [IGNORE_INDEX] * len(self._front)
            for index in range(first, end):
                ids += pieces[index]
                labels += [self._index[tags[index]] if start <= index < stop else IGNORE_INDEX]
                labels += [IGNORE_INDEX] * (len(pieces[index]) - 1)
            ref = {
                "text": text if number == 0 else "",
                "offsets": [list(place) for place in offsets[start:stop]],
                "tags": tags[start:stop],
                "parts": len(parts),
                "repaired": repaired,
            }
            arrays = {"input_ids": ids + self._back, "labels": labels + [IGNORE_INDEX] * len(self._back)}
            features.append(Example(arrays, ref=ref, cut=cut if number == 0 else 0))
        return features

    def dummy_target(self, row: Row) -> Row:
        tokens = row.get("tokens")
        return row | ({"tags": ["O"] * len(tokens)} if isinstance(tokens, list) else {"spans": []})

    def num_targets(self, features: Example) -> int:
        return sum(label != IGNORE_INDEX for label in features.arrays["labels"])

    def collate(self, rows: list[list[Example]]) -> Batch:
        ids = [[features.input_ids for features in row] for row in rows]
        alone = all(len(row) == 1 for row in rows)
        packed = pack(ids, self.processor.pad_id, causal=alone)  # rows of one feature need no block mask
        if alone:
            packed.inputs["attention_mask"] = (packed.segments >= 0).long()  # told by position, not by id
        labels = labels_for([[features.arrays["labels"] for features in row] for row in rows], IGNORE_INDEX)
        refs = [features.ref for row in rows for features in row]
        return Batch(packed.inputs, labels, refs, packed.segments, packed.num_tokens)

    # model

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        flat = batch.labels.reshape(-1)
        where = (flat != IGNORE_INDEX).nonzero().squeeze(1)
        logits = token_logits(model, batch.inputs, where).float()  # [N, C]
        return LossSum(F.cross_entropy(logits, flat[where], reduction="sum"), len(where))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        assert batch.labels is not None and batch.segments is not None
        flat = batch.labels.reshape(-1)
        where = (flat != IGNORE_INDEX).nonzero().squeeze(1)
        logits = token_logits(model, batch.inputs, where).float()
        if logits.shape[1] != len(self.labels):
            raise ModelError(f"The model has {logits.shape[1]} classes and the task {len(self.labels)} tags.")
        log_p = torch.log_softmax(logits, -1).double().cpu().numpy()  # [N, C]
        nll = -log_p[np.arange(len(log_p)), flat[where].cpu().numpy()]
        owner = batch.segments.reshape(-1)[where].cpu().numpy()
        borders = np.searchsorted(owner, np.arange(len(batch.refs) + 1))
        out = []
        for ref, start, stop in zip(batch.refs, borders, borders[1:], strict=False):
            part = {**self._decoded(log_p[start:stop]), "nll": float(nll[start:stop].sum())}
            if ref is not None and ref["parts"] > 1:  # windows are decoded anew when they are one sentence again
                part["log_p"] = log_p[start:stop].tolist()
            out.append(part)
        return out

    def _decoded(self, log_p: np.ndarray) -> dict[str, Any]:
        path = log_p.argmax(1)
        if self.cfg.decode == "viterbi":
            # Where every token's best tag makes a legal sequence, it is the best one.
            legal = self._edges[0, path[0]] + self._edges[1, path[-1]] + self._step[path[:-1], path[1:]].sum() == 0
            path = path if legal else np.array(best_path(log_p, self._step, self._edges))
        sure = np.exp(log_p[np.arange(len(path)), path])
        return {
            "labels": [int(index) for index in path],
            "confidence": [round(float(value), 6) for value in sure],
        }

    def _said(self, prediction: dict[str, Any]) -> list[str]:
        return [self.labels[index] for index in prediction["labels"]]

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        merged: tuple[list[Any], list[Any], list[int]] = ([], [], [])
        at = 0
        while at < len(refs):
            end = at + refs[at]["parts"]
            prediction, ref = predictions[at], refs[at]
            if end > at + 1:
                parts = predictions[at:end]
                log_p = np.array([line for part in parts for line in part["log_p"]])
                prediction = {**self._decoded(log_p), "nll": sum(part["nll"] for part in parts)}
                joined = {key: [item for part in refs[at:end] for item in part[key]] for key in ("offsets", "tags")}
                ref = {**ref, **joined, "parts": 1}
            for column, value in zip(merged, (prediction, ref, rows[at]), strict=True):
                column.append(value)
            at = end
        return merged

    # scores

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        said, told = [self._said(item) for item in predictions], [ref["tags"] for ref in refs]
        lengths = [len(tags) for tags in told]
        loss = ratio([item["nll"] for item in predictions], lengths, count=sum(lengths), higher_is_better=False)
        return {**tag_scores(said, told, self.scheme), "loss": loss}

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """The most frequent tag of each word, and the entities of the training split looked up (longest match)."""
        words, names = FrequentTags(), Gazetteer()
        for row in train:
            text, offsets = text_of(row)
            try:
                spans, _ = self._spans(row, offsets)
            except RowError:
                continue  # quarantined
            tokens = [text[start:end] for start, end in offsets]
            words.add(tokens, tags_of(spans, len(tokens), self.scheme))
            names.add(tokens, spans)
        told = [ref["tags"] for ref in refs]
        asked = [[ref["text"][start:end] for start, end in ref["offsets"]] for ref in refs]
        found = {}
        methods: dict[str, FrequentTags | Gazetteer] = {
            "most frequent tag of the word": words,
            "entities of train looked up": names,
        }
        for name, method in methods.items():
            said = [tags_of(method.spans(tokens, self.scheme), len(tokens), self.scheme) for tokens in asked]
            found[name] = tag_scores(said, told, self.scheme)
        return found

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        table = type_scores([self._said(item) for item in predictions], [ref["tags"] for ref in refs], self.scheme)
        columns = ("precision", "recall", "f1", "support")
        rows = [
            [kind, *(f"{row[name]:.4f}" for name in columns[:3]), str(row["support"])] for kind, row in table.items()
        ]
        by_type = {"kind": "table", "title": "Entities by type", "columns": ["type", *columns], "rows": rows}
        shown: list[ReportItem] = [{**by_type, "report_key": "types", "values": table}]
        notes = []
        if not any(tag != "O" for ref in refs for tag in ref["tags"]):
            notes.append("The references hold no entity: precision, recall and F1 are 0 by convention, not measured.")
        if self.cfg.repair:
            count = sum(ref["repaired"] for ref in refs)
            notes.append(f"Illegal tags were repaired in {count} of {len(refs)} sentences of this split.")
            if self.repaired:
                notes.append(f"In the training split: in {self.repaired[0]} of {self.repaired[1]} sentences.")
        return [*shown, {"kind": "text", "title": "About the tags", "text": "\n".join(notes)}] if notes else shown

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        """1 - F1 of a sentence's entities; where it has none and none was said, it is right."""
        values: list[float | None] = []
        for prediction, ref in zip(predictions, refs, strict=True):
            said, told = (set(spans_of(tags, self.scheme)) for tags in (self._said(prediction), ref["tags"]))
            values.append(1 - 2 * len(said & told) / (len(said) + len(told)) if said or told else 0.0)
        return Errors("f1", values)

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        text, offsets = ref["text"], ref["offsets"]
        said, sure = self._said(prediction), prediction["confidence"]
        found = spans_of(said, self.scheme)
        spans = describe_spans(found, text, offsets)
        for span, (_, start, stop) in zip(spans, found, strict=True):
            # Geometric mean of its tags' probabilities, so that long entities compare with short ones.
            span["confidence"] = round(float(np.exp(np.log(np.maximum(sure[start:stop], 1e-12)).mean())), 6)
        return [
            {
                "prediction": said,
                "reference": ref["tags"],
                "correct": said == ref["tags"],
                "text": text,
                "tokens": [text[start:end] for start, end in offsets],
                "spans": spans,
                "reference_spans": describe_spans(spans_of(ref["tags"], self.scheme), text, offsets),
            }
        ]


TASK = TokenClassification
