"""Classification and regression of a text, a pair of texts, or a record with feature columns; one or several targets.

The model gives one vector of logits with a slice for each target. `llmstage/models/heads/` defines a target: its loss,
decoding and scores. `llmstage/data/table_columns.py` encodes the feature columns.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn

from llmstage import console
from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.task import Classification as ClassificationConfig
from llmstage.data.encoding.collate import pad
from llmstage.data.rows import Row
from llmstage.data.table_columns import FeatureTable, columns_of, is_bare_number, is_number, list_targets, text_of
from llmstage.demo.classification import classification_rows
from llmstage.demo.grading import grading_rows
from llmstage.demo.machines import CATEGORIES, NUMBERS, rows_for
from llmstage.errors import DataError, ModelError, UserError
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import MAX_VALIDATION_ROWS, name_with_sample, subsample
from llmstage.models.fusion import Extra, Fusion, NgramPath
from llmstage.models.heads import (
    BaselineRows,
    Head,
    HeadOptions,
    build_head,
    label_names,
    linear_baselines,
    load_head,
)
from llmstage.tasks.base import Batch, Example, LossSum, ReportItem, RowError, Task
from llmstage.tasks.base_errors import ExampleErrors, errors_of_targets

FLOAT_TARGETS = ("number", "multilabel")
MEAN_SCORE = "mean_score"
"""Name of the mean of the main scores of several targets."""


class Classification(Task):
    """A transformers …ForSequenceClassification model; each target has a slice of its logits."""

    auto_model = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"
    reference_columns = ("reference", "correct", "error")
    route = "classify"
    demo_size = 1200

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.options = config_of(cfg)
        self.target_types: dict[str, str] = dict(self.options.targets) or {"label": self.options.target}
        self.table = FeatureTable(self.options.features.numbers, self.options.features.categories)
        self.ngrams = self.options.features.ngrams
        self.columns, self.target_columns = columns_of(tuple(self.target_types), self.table), tuple(self.target_types)
        self.heads: list[Head] = []
        self.value_checkers = [
            build_head(target_type, column, self.head_options) for column, target_type in self.target_types.items()
        ]
        """Heads without labels, to check the values of rows before fit_labels()."""
        self.num_bare_numbers = self.num_texts = 0

    @property
    def single_target(self) -> bool:
        """Whether there is one target. Then predictions and references are not nested, and scores have no prefix."""
        return not self.options.targets

    @property
    def labels(self) -> list[str]:
        """The name of each logit of the first target."""
        return self.heads[0].labels

    @property
    def select(self) -> str:
        if self.cfg.select != "auto":
            return self.cfg.select
        return self.heads[0].select_metric if self.single_target else MEAN_SCORE

    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        unknown = [
            *sorted(set(self.table.numbers) - set(NUMBERS)),
            *sorted(set(self.table.categories) - set(CATEGORIES)),
        ]
        if unknown:
            raise UserError(
                f"data=demo has no feature column {', '.join(unknown)}. Possible are task.features.numbers=[{','.join(NUMBERS)}] "
                f"and task.features.categories=[{','.join(CATEGORIES)}]; for your own columns set data.train=<files>."
            )
        if self.single_target and not self.table and self.options.target in ("label", "ordinal"):
            return (classification_rows if self.options.target == "label" else grading_rows)(num_rows, seed)
        return rows_for(num_rows, seed, self.target_types, self.table.names, is_single_target=self.single_target)

    def check_row(self, row: Row) -> str | None:
        for column in ("text", "text_pair"):
            value = row.get(column)
            if is_number(value) and self.options.number_text == "error":
                return f"{column} is the number {value}, not text: set another column, or read digits as text with task.number_text=convert"
            if value is not None and not isinstance(value, str) and not is_number(value):
                return f"{column} is not text"
        if "text" in self.columns.required and not isinstance(row.get("text"), (str, int, float)):
            return "text is not text"
        if not self.table and not text_of(row, "text").strip():
            return "text is empty"
        for checker in self.value_checkers:
            reason = checker.check_value(row[checker.column])
            if reason:
                return reason
        return self.table.complaint(row)

    @property
    def head_options(self) -> HeadOptions:
        return HeadOptions(**{item.name: getattr(self.options, item.name) for item in fields(HeadOptions)})

    def texts(self, row: Row) -> list[str]:
        return [text for column in ("text", "text_pair") if (text := text_of(row, column))]

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Fit labels, means, standard deviations and categories to the training split."""
        self.heads = [
            build_head(target_type, column, self.head_options) for column, target_type in self.target_types.items()
        ]
        self.table = FeatureTable(self.options.features.numbers, self.options.features.categories)
        self.num_bare_numbers = self.num_texts = 0
        for row in rows:
            for head in self.heads:
                head.update(row[head.column])
            self.table.add(row)
            self.num_texts += 1
            self.num_bare_numbers += is_bare_number(text_of(row, "text"))
        for head in self.heads:
            head.fit()
        self.table.finish_fit()
        self.check_bare_numbers()

    def check_bare_numbers(self) -> None:
        """Raise DataError if most texts are numbers, which suggests a wrong column; print a note if some are."""
        if not self.num_bare_numbers or self.options.number_text == "convert":
            return
        summary = f"{self.num_bare_numbers} of {self.num_texts} training texts are bare numbers"
        if 2 * self.num_bare_numbers > self.num_texts:
            raise DataError(
                f"{summary}. Set the text column with data.columns.text=<column> and number columns with "
                f"task.features.numbers=[<column>]; task.number_text=convert reads the digits as text."
            )
        console.note(f"{summary}; they are read as text")

    def load_config(self, config: Any) -> None:
        saved = getattr(config, "llmstage", None) or {}
        if "targets" not in saved:
            if not self.single_target or self.options.target != "label" or self.table:
                raise ModelError(
                    f"The model has no targets {', '.join(self.target_types)} and no feature columns: it was not finetuned "
                    f"by stage=finetune task=classification with these options. Finetune it first."
                )
            self.heads = [
                load_head({"kind": "label", "word": "label", "labels": label_names(config)}, self.head_options)
            ]
            return
        self.heads = [load_head(item, self.head_options) for item in saved["targets"]]
        target_types = {head.column: head.target_type for head in self.heads}
        table = FeatureTable.from_dict(saved["features"])
        if target_types != self.target_types or set(table.names) != set(self.table.names):
            raise ModelError(
                f"The model was trained for {list_targets(target_types)} with the feature columns {list(table.names)}, and the targets of this run are "
                f"{list_targets(self.target_types)} with the feature columns {list(self.table.names)}. Take task.* from the model's run: "
                f"model.path=<run folder>."
            )
        # From the model, not from the options: without its n-grams, a model would silently score lower.
        self.table, self.ngrams = table, bool(saved.get("ngrams"))

    def model_options(self) -> dict[str, Any]:
        names = (
            self.labels
            if self.single_target
            else [f"{head.column}={name}" for head in self.heads for name in head.labels]
        )
        return {
            "num_labels": len(names),
            "id2label": dict(enumerate(names)),
            "label2id": {name: index for index, name in enumerate(names)},
            "problem_type": self.heads[0].problem_type if self.single_target else "multi_label_classification",
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
            "separator": self.options.separator,
        }

    def encode(self, row: Row) -> list[Example]:
        text, pair = text_of(row, "text"), text_of(row, "text_pair") or None
        ids, types, cut = self.processor.marked_ids(text, pair, self.context)
        try:
            labels = [number for head in self.heads for number in head.encode(row[head.column])]
            refs = {head.column: head.ref(row[head.column]) for head in self.heads}
        except ValueError as error:
            raise RowError(str(error)) from None
        if any(head.target_type in FLOAT_TARGETS for head in self.heads):
            labels = [float(number) for number in labels]
        arrays: dict[str, list[Any]] = {"input_ids": ids, "label": labels}
        if "token_type_ids" in self.processor.tokenizer.model_input_names:
            arrays["token_type_ids"] = types
        ref: dict[str, Any] = {"label": refs["label"]} if self.single_target else {"labels": refs}
        ref |= {"text": text, **({"text_pair": pair} if pair else {})}
        if self.table:
            arrays["numbers"], arrays["categories"] = self.table.encode(row)
            ref["features"] = self.table.raw_values(row)
        return [Example(arrays, ref=ref, cut=cut)]

    def dummy_target(self, row: Row) -> Row:
        return row | {head.column: head.placeholder for head in self.heads}

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        response = super().to_response(predictions, refs)
        for target_response in response.get("targets", {}).values():  # with several targets, each has the keys
            for key in self.reference_columns:
                target_response.pop(key, None)
        return response

    def collate(self, rows: list[list[Example]]) -> Batch:
        examples = [row[0] for row in rows]
        lengths = torch.tensor([len(example.input_ids) for example in examples])
        ids = pad([example.input_ids for example in examples], self.processor.pad_id)
        mask = (
            torch.arange(ids.shape[1])[None] < lengths[:, None]
        ).long()  # by position, not by id: pad may be a real token
        labels = torch.tensor([example.arrays["label"] for example in examples])  # [B, label widths]
        if labels.shape[1] == 1:
            labels = labels[:, 0]
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in examples[0].arrays:
            inputs["token_type_ids"] = pad([example.arrays["token_type_ids"] for example in examples], 0)
        if self.table:
            inputs["numbers"] = torch.tensor([example.arrays["numbers"] for example in examples], dtype=torch.float32)
            inputs["categories"] = torch.tensor(
                [example.arrays["categories"] for example in examples], dtype=torch.long
            )
        return Batch(inputs, labels, [example.ref for example in examples], num_tokens=int(lengths.sum()))

    def logits(self, model: nn.Module, batch: Batch) -> Tensor:
        """Return the logits [B, W] of all targets: those of the text model plus those of feature columns and n-grams."""
        inputs = {name: value for name, value in batch.inputs.items() if name not in ("numbers", "categories")}
        extra = getattr(model, "extra", None)
        output = model(**inputs, **({"output_hidden_states": True} if self.table else {}))
        logits: Tensor = output.logits.float()
        if extra is not None:
            hidden = output.hidden_states[-1].float() if self.table else None
            logits = logits + extra(inputs, hidden, batch.inputs.get("numbers"), batch.inputs.get("categories")).float()
        return logits

    def split_logits(self, logits: Tensor) -> tuple[Tensor, ...]:
        """Return the logits of each head, [B, width of the head]."""
        return torch.split(logits, [head.width for head in self.heads], dim=1)

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        logits = self.logits(model, batch)
        labels = batch.labels[:, None] if batch.labels.ndim == 1 else batch.labels
        logit_slices = self.split_logits(logits)
        targets = torch.split(labels, [head.label_width for head in self.heads], dim=1)
        losses = [head.loss(*pair) for head, *pair in zip(self.heads, logit_slices, targets, strict=True)]
        if self.single_target:
            return LossSum(*losses[0])
        # The count is in rows, not in class weights: the share of a target must not depend on the rows of the batch.
        weights = [self.options.weights.get(head.column, 1.0) for head in self.heads]
        total = torch.stack([weight * loss for weight, (loss, _) in zip(weights, losses, strict=True)]).sum()
        logs = {
            head.column: float(loss.detach()) / max(count, 1e-9)
            for head, (loss, count) in zip(self.heads, losses, strict=True)
        }
        return LossSum(total, len(labels) * sum(weights), logs)

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        logits = self.logits(model, batch)
        width = sum(head.width for head in self.heads)
        if logits.shape[1] != width:
            raise ModelError(
                f"The model has {logits.shape[1]} classes and the task {width}: {', '.join(self.labels[:9])}."
            )
        logit_slices = self.split_logits(logits)
        predictions = [head.decode(logit_slice) for head, logit_slice in zip(self.heads, logit_slices, strict=True)]
        if self.single_target:
            return list(predictions[0])
        return [
            {
                head.column: target_predictions[row]
                for head, target_predictions in zip(self.heads, predictions, strict=True)
            }
            for row in range(len(logits))
        ]

    def by_target(self, predictions: list[Any], refs: list[Any]) -> Iterable[tuple[Head, list[Any], list[Any]]]:
        """Yield (head, its predictions, its references)."""
        for head in self.heads:
            if self.single_target:
                yield head, predictions, [ref["label"] for ref in refs]
            else:
                yield head, [item[head.column] for item in predictions], [ref["labels"][head.column] for ref in refs]

    @property
    def needs_tuning(self) -> bool:  # type: ignore[override]
        return any(head.needs_tuning for head in self.heads)

    def tune(self, predictions: list[Any], refs: list[Any]) -> None:
        for head, target_predictions, target_refs in self.by_target(predictions, refs):
            if head.needs_tuning:
                head.tune(target_predictions, target_refs)

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        scores_of = {
            head.column: head.score(target_predictions, target_refs)
            for head, target_predictions, target_refs in self.by_target(predictions, refs)
        }
        if self.single_target:
            return scores_of[self.heads[0].column]
        main_scores = [scores_of[head.column][head.mean_metric].value for head in self.heads]
        scores = {MEAN_SCORE: Score(sum(main_scores) / len(main_scores), count=len(refs))}
        return scores | {
            f"{column}/{name}": score
            for column, target_scores in scores_of.items()
            for name, score in target_scores.items()
        }

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        items: list[ReportItem] = []
        for head, target_predictions, target_refs in self.by_target(predictions, refs):
            for item in head.report_items(target_predictions, target_refs):
                items.append(item if self.single_target else {**item, "title": f"{head.column}: {item['title']}"})
        return items

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        return errors_of_targets(self.by_target(predictions, refs))

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        inputs = {column: ref[column] for column in ("text", "text_pair", "features") if column in ref}
        lines = {
            head.column: head.record(target_predictions[0], target_refs[0])
            for head, target_predictions, target_refs in self.by_target([prediction], [ref])
        }
        if self.single_target:
            return [{**lines[self.heads[0].column], **inputs}]
        return [
            {
                "prediction": {column: line["prediction"] for column, line in lines.items()},
                "reference": {column: line["reference"] for column, line in lines.items()},
                "targets": {
                    column: {key: line[key] for key in line if key not in ("prediction", "reference")}
                    for column, line in lines.items()
                },
                **inputs,
            }
        ]

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return scores of a constant prediction and of linear models on the text, on the feature columns, and on both."""
        train_rows = list(train)
        rows = [train_rows[index] for index in subsample(len(train_rows))]
        validation = self.baseline_rows(list(islice(self.validation_rows, MAX_VALIDATION_ROWS)))
        columns = self.table.matrix(ref["features"] for ref in refs) if self.table else None
        test = BaselineRows([" ".join(self.texts(ref)) for ref in refs], columns, {})
        methods = linear_baselines(self.heads, self.baseline_rows(rows), validation, test)
        if self.single_target:
            predictions_of = {name: by_column[self.heads[0].column] for name, by_column in methods.items()}
        else:
            predictions_of = {
                name: [dict(zip(by_column, row, strict=True)) for row in zip(*by_column.values(), strict=True)]
                for name, by_column in methods.items()
            }
        return {
            name_with_sample(name, len(train_rows)): self.score(predictions, refs)
            for name, predictions in predictions_of.items()
        }

    def baseline_rows(self, rows: list[Row]) -> BaselineRows:
        """Return rows with their targets as the linear baselines read them."""
        texts = [" ".join(self.texts(row)) for row in rows]
        columns = self.table.matrix(rows) if self.table and rows else None
        return BaselineRows(
            texts, columns, {head.column: [head.ref(row[head.column]) for row in rows] for head in self.heads}
        )


def config_of(cfg: TaskConfig) -> ClassificationConfig:
    """Return the config, with default values for the options that the config of a user's own task lacks."""
    if isinstance(cfg, ClassificationConfig):
        return cfg
    return ClassificationConfig(
        **{item.name: getattr(cfg, item.name) for item in fields(ClassificationConfig) if hasattr(cfg, item.name)}
    )


TASK = Classification
