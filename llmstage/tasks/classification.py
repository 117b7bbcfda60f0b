"""Labels, grades or numbers for a text, a pair of texts, or a record: one target or several, from one pass of one body.

What a target is (its loss, decoding, scores) is told by its head, `llmstage/models/heads/`; the columns beside the text by
`llmstage/data/table_columns.py`. Here they are put together: one vector of logits, a slice for each head.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from typing import Any

import torch
from torch import Tensor, nn

from llmstage import console
from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.task import Classification as ClassificationConfig
from llmstage.data.column_roles import columns_of, is_number, listed, text_of
from llmstage.data.encoding.collate import pad
from llmstage.data.rows import Row
from llmstage.data.table_columns import FeatureTable, is_bare_number
from llmstage.demo.classification import classification_rows
from llmstage.demo.grading import grading_rows
from llmstage.demo.machines import CATEGORIES, NUMBERS, rows_for
from llmstage.errors import DataError, ModelError, UserError
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import capped, thin
from llmstage.models.fusion import Extra, Fusion, NgramPath
from llmstage.models.heads import Head, Knobs, adopt_head, linear_methods, make_head, plain_labels
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import Errors, errors_of_targets

FLOATS = ("number", "multilabel")
MEAN = "mean_score"
"""Mean of the targets' main scores, where there are several."""


class Classification(Task):
    """The head of transformers' …ForSequenceClassification, a slice of its logits for each target."""

    auto_model = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"
    reference_columns = ("reference", "correct", "error")
    route = "classify"
    demo_size = 1200

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.knobs = knobs_of(cfg)
        self.kinds: dict[str, str] = dict(self.knobs.targets) or {"label": self.knobs.target}
        self.table = FeatureTable(self.knobs.features.numbers, self.knobs.features.categories)
        self.ngrams = self.knobs.features.ngrams
        self.columns, self.target_columns = columns_of(tuple(self.kinds), self.table), tuple(self.kinds)
        self.heads: list[Head] = []
        self.probes = [make_head(kind, word, self.head_knobs) for word, kind in self.kinds.items()]
        """Heads that know no labels yet: they only check values."""
        self.bare_numbers = self.texts_seen = 0

    @property
    def alone(self) -> bool:
        """One target: predictions and references are its own, and its scores have no prefix."""
        return not self.knobs.targets

    @property
    def labels(self) -> list[str]:
        """A name for each logit of the first target."""
        return self.heads[0].labels

    @property
    def select(self) -> str:
        if self.cfg.select != "auto":
            return self.cfg.select
        return self.heads[0].headline if self.alone else MEAN

    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        strange = [
            *sorted(set(self.table.numbers) - set(NUMBERS)),
            *sorted(set(self.table.categories) - set(CATEGORIES)),
        ]
        if strange:
            raise UserError(
                f"data=demo has no feature column {', '.join(strange)}. It has task.features.numbers=[{','.join(NUMBERS)}] "
                f"and task.features.categories=[{','.join(CATEGORIES)}]; for your own columns give data.train=<files>."
            )
        if self.alone and not self.table and self.knobs.target in ("label", "ordinal"):
            return (classification_rows if self.knobs.target == "label" else grading_rows)(num_rows, seed)
        return rows_for(num_rows, seed, self.kinds, self.table.words, alone=self.alone)

    def check_row(self, row: Row) -> str | None:
        for word in ("text", "text_pair"):
            value = row.get(word)
            if is_number(value) and self.knobs.number_text == "error":
                return f"{word} is the number {value}, not text: name another column, or read digits with task.number_text=convert"
            if value is not None and not isinstance(value, str) and not is_number(value):
                return f"{word} is not text"
        if "text" in self.columns.required and not isinstance(row.get("text"), (str, int, float)):
            return "text is not text"
        if not self.table and not text_of(row, "text").strip():
            return "text is empty"
        for probe in self.probes:
            reason = probe.complaint(row[probe.word])
            if reason:
                return reason
        return self.table.complaint(row)

    @property
    def head_knobs(self) -> Knobs:
        return Knobs(**{item.name: getattr(self.knobs, item.name) for item in fields(Knobs)})

    def texts(self, row: Row) -> list[str]:
        return [text for word in ("text", "text_pair") if (text := text_of(row, word))]

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Labels, means and deviations, categories: all from the training split alone."""
        self.heads = [make_head(kind, word, self.head_knobs) for word, kind in self.kinds.items()]
        self.table = FeatureTable(self.knobs.features.numbers, self.knobs.features.categories)
        self.bare_numbers = self.texts_seen = 0
        for row in rows:
            for head in self.heads:
                head.see(row[head.word])
            self.table.see(row)
            self.texts_seen += 1
            self.bare_numbers += is_bare_number(text_of(row, "text"))
        for head in self.heads:
            head.close()
        self.table.close()
        self.check_texts()

    def check_texts(self) -> None:
        """A text column of numbers is most likely the wrong column; a few such rows are told."""
        if not self.bare_numbers or self.knobs.number_text == "convert":
            return
        told = f"{self.bare_numbers} of {self.texts_seen} training texts are bare numbers"
        if 2 * self.bare_numbers > self.texts_seen:
            raise DataError(
                f"{told}. Name the text with data.columns.text=<column> and number columns with "
                f"task.features.numbers=[<column>]; task.number_text=convert reads the digits as text."
            )
        console.note(f"{told}; they are read as text")

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        if "targets" not in saved:
            if not self.alone or self.knobs.target != "label" or self.table:
                raise ModelError(
                    f"The model says nothing of targets {', '.join(self.kinds)} or of feature columns: it was not finetuned "
                    f"by stage=finetune task=classification with these options. Finetune it first."
                )
            self.heads = [
                adopt_head({"kind": "label", "word": "label", "labels": plain_labels(config)}, self.head_knobs)
            ]
            return
        self.heads = [adopt_head(item, self.head_knobs) for item in saved["targets"]]
        kinds = {head.word: head.kind for head in self.heads}
        table = FeatureTable.from_dict(saved["features"])
        if kinds != self.kinds or set(table.words) != set(self.table.words):
            raise ModelError(
                f"The model was trained for {listed(kinds)} with the feature columns {list(table.words)}, and this run asks "
                f"for {listed(self.kinds)} with {list(self.table.words)}. Take task.* from the model's run: model.path=<run folder>."
            )
        # Taken from the model and not from the options: without its n-grams a model would quietly score less.
        self.table, self.ngrams = table, bool(saved.get("ngrams"))

    def model_options(self) -> dict[str, Any]:
        names = self.labels if self.alone else [f"{head.word}={name}" for head in self.heads for name in head.labels]
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": self.heads[0].problem_type if self.alone else "multi_label_classification",
            "llmstage": {
                "targets": [head.as_dict() for head in self.heads],
                "features": self.table.as_dict(),
                "ngrams": self.ngrams,
            },
        }

    def extra_module(self, config: Any) -> nn.Module | None:
        if not self.table and not self.ngrams:
            return None
        width, dropout = sum(head.width for head in self.heads), float(getattr(config, "attention_dropout", 0.0))
        fusion = None
        if self.table:
            fusion = Fusion(config.hidden_size, len(self.table.numbers), self.table.sizes(), width, dropout)
        return Extra(fusion, NgramPath(width, dropout) if self.ngrams else None)

    def cache_key(self) -> dict[str, Any]:
        return {
            "heads": [head.as_dict() for head in self.heads],
            "features": self.table.as_dict(),
            "separator": self.knobs.separator,
        }

    def encode(self, row: Row) -> list[Example]:
        text, pair = text_of(row, "text"), text_of(row, "text_pair") or None
        ids, types, cut = self.processor.marked_ids(text, pair, self.context)
        try:
            labels = [number for head in self.heads for number in head.encode(row[head.word])]
            refs = {head.word: head.ref(row[head.word]) for head in self.heads}
        except ValueError as error:
            raise RowError(str(error)) from None
        if any(head.kind in FLOATS for head in self.heads):
            labels = [float(number) for number in labels]
        arrays: dict[str, list[Any]] = {"input_ids": ids, "label": labels}
        if "token_type_ids" in self.processor.tokenizer.model_input_names:
            arrays["token_type_ids"] = types
        ref: dict[str, Any] = {"label": refs["label"]} if self.alone else {"labels": refs}
        ref |= {"text": text, **({"text_pair": pair} if pair else {})}
        if self.table:
            arrays["numbers"], arrays["categories"] = self.table.encode(row)
            ref["features"] = self.table.shown(row)
        return [Example(arrays, ref=ref, cut=cut)]

    def dummy_target(self, row: Row) -> Row:
        return row | {head.word: head.example for head in self.heads}

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        told = super().to_response(predictions, refs)
        for own in told.get("targets", {}).values():  # of several targets each compares itself
            for key in self.reference_columns:
                own.pop(key, None)
        return told

    def collate(self, rows: list[list[Example]]) -> Batch:
        features = [row[0] for row in rows]
        lengths = torch.tensor([len(item.input_ids) for item in features])
        ids = pad([item.input_ids for item in features], self.processor.pad_id)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()  # padding told by position, not by id
        labels = torch.tensor([item.arrays["label"] for item in features])  # [B, label widths]
        if labels.shape[1] == 1:
            labels = labels[:, 0]
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in features[0].arrays:
            inputs["token_type_ids"] = pad([item.arrays["token_type_ids"] for item in features], 0)
        if self.table:
            inputs["numbers"] = torch.tensor([item.arrays["numbers"] for item in features], dtype=torch.float32)
            inputs["categories"] = torch.tensor([item.arrays["categories"] for item in features], dtype=torch.long)
        return Batch(inputs, labels, [item.ref for item in features], num_tokens=int(lengths.sum()))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """[B, W] of all heads: the text head's, plus what features and n-grams add."""
        inputs = {name: value for name, value in batch.inputs.items() if name not in ("numbers", "categories")}
        extra = getattr(model, "extra", None)
        out = model(**inputs, **({"output_hidden_states": True} if self.table else {}))
        logits: Tensor = out.logits.float()
        if extra is not None:
            hidden = out.hidden_states[-1].float() if self.table else None
            logits = logits + extra(inputs, hidden, batch.inputs.get("numbers"), batch.inputs.get("categories")).float()
        return logits

    def slices(self, logits: Tensor) -> tuple[Tensor, ...]:
        """The logits of each head, [B, its width]."""
        return torch.split(logits, [head.width for head in self.heads], dim=1)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        logits = self.logits(model, batch)
        labels = batch.labels[:, None] if batch.labels.ndim == 1 else batch.labels
        widths = self.slices(logits)
        targets = torch.split(labels, [head.label_width for head in self.heads], dim=1)
        parts = [head.loss(*pair) for head, *pair in zip(self.heads, widths, targets, strict=True)]
        if self.alone:
            return LossSum(*parts[0])
        # Rows, not the classes' weights, are counted, so that a target's share does not depend on which rows meet.
        shares = [self.knobs.weights.get(head.word, 1.0) for head in self.heads]
        total = torch.stack([share * part for share, (part, _) in zip(shares, parts, strict=True)]).sum()
        logs = {
            head.word: float(part.detach()) / max(count, 1e-9)
            for head, (part, count) in zip(self.heads, parts, strict=True)
        }
        return LossSum(total, len(labels) * sum(shares), logs)

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        logits = self.logits(model, batch)
        width = sum(head.width for head in self.heads)
        if logits.shape[1] != width:
            raise ModelError(
                f"The model has {logits.shape[1]} classes and the task {width}: {', '.join(self.labels[:9])}."
            )
        slices = self.slices(logits)
        said = [head.decode(part) for head, part in zip(self.heads, slices, strict=True)]
        if self.alone:
            return list(said[0])
        return [
            {head.word: rows[row] for head, rows in zip(self.heads, said, strict=True)} for row in range(len(logits))
        ]

    def parts(self, predictions: list[Any], refs: list[Any]) -> Iterable[tuple[Head, list[Any], list[Any]]]:
        """(head, its predictions, its references)"""
        for head in self.heads:
            if self.alone:
                yield head, predictions, [ref["label"] for ref in refs]
            else:
                yield head, [item[head.word] for item in predictions], [ref["labels"][head.word] for ref in refs]

    @property
    def tunes(self) -> bool:  # type: ignore[override]
        return any(head.tunes for head in self.heads)

    def tune(self, predictions: list[Any], refs: list[Any]) -> None:
        for head, said, told in self.parts(predictions, refs):
            if head.tunes:
                head.tune(said, told)

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        found = {head.word: head.score(said, told) for head, said, told in self.parts(predictions, refs)}
        if self.alone:
            return found[self.heads[0].word]
        main = [found[head.word][head.share].value for head in self.heads]
        scores = {MEAN: Score(sum(main) / len(main), count=len(refs))}
        return scores | {f"{word}/{name}": score for word, own in found.items() for name, score in own.items()}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        shown: list[ReportItem] = []
        for head, said, told in self.parts(predictions, refs):
            for exhibit in head.report_items(said, told):
                shown.append(exhibit if self.alone else {**exhibit, "title": f"{head.word}: {exhibit['title']}"})
        return shown

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        return errors_of_targets(self.parts(predictions, refs))

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        beside_it = {word: ref[word] for word in ("text", "text_pair", "features") if word in ref}
        lines = {head.word: head.record(said[0], told[0]) for head, said, told in self.parts([prediction], [ref])}
        if self.alone:
            return [{**lines[self.heads[0].word], **beside_it}]
        return [
            {
                "prediction": {word: line["prediction"] for word, line in lines.items()},
                "reference": {word: line["reference"] for word, line in lines.items()},
                "targets": {
                    word: {key: line[key] for key in line if key not in ("prediction", "reference")}
                    for word, line in lines.items()
                },
                **beside_it,
            }
        ]

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """A method that looks at no row, linear models on the text, on the feature columns, and on both."""
        known = list(train)
        rows = [known[index] for index in thin(len(known))]
        texts = [[" ".join(self.texts(row)) for row in side] for side in (rows, refs)]
        tables = [self.table.matrix(rows), self.table.matrix(ref["features"] for ref in refs)] if self.table else None
        targets = {head.word: [head.ref(row[head.word]) for row in rows] for head in self.heads}
        said = linear_methods(self.heads, targets, texts[0], texts[1], tables)
        if self.alone:
            named = {name: parts[self.heads[0].word] for name, parts in said.items()}
        else:
            named = {
                name: [dict(zip(parts, row, strict=True)) for row in zip(*parts.values(), strict=True)]
                for name, parts in said.items()
            }
        return {capped(name, len(known)): self.score(predictions, refs) for name, predictions in named.items()}


def knobs_of(cfg: TaskConfig) -> ClassificationConfig:
    """The config itself, or, of a task outside that knows fewer keys, those it has and the defaults of the others."""
    if isinstance(cfg, ClassificationConfig):
        return cfg
    return ClassificationConfig(
        **{item.name: getattr(cfg, item.name) for item in fields(ClassificationConfig) if hasattr(cfg, item.name)}
    )


TASK = Classification
