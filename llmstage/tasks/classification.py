"""One label for a text or a pair of texts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from llmstage.data.collate import pad
from llmstage.data.demo.classification import classification_rows
from llmstage.data.rows import Columns, Row
from llmstage.errors import DataError, ModelError
from llmstage.metrics.classification import classification_report_text, classification_scores, confusion
from llmstage.metrics.score import Score
from llmstage.schema.task import Classification as ClassificationConfig
from llmstage.tasks.base import Batch, Exhibit, Features, LossSum, RowError, Task


class Classification(Task):
    """Single label; the head of transformers' …ForSequenceClassification."""

    columns = Columns(required=("text", "label"), optional=("text_pair",), content=("text", "text_pair"))
    auto_model = "AutoModelForSequenceClassification"
    pipeline_tag = "text-classification"
    demo_size = 1200

    cfg: ClassificationConfig
    labels: list[str]
    weights: list[float] | None = None

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return classification_rows(num_rows, seed)

    def check_row(self, row: Row) -> str | None:
        if not isinstance(row["text"], str) or not isinstance(row.get("text_pair") or "", str):
            return "text is not text"
        if not row["text"].strip():
            return "text is empty"
        if not isinstance(row["label"], (str, int, bool)) or not str(row["label"]).strip():
            return f"label {row['label']!r} is not a name or a whole number"
        return None

    def texts(self, row: Row) -> list[str]:
        return [row["text"], *([row["text_pair"]] if row.get("text_pair") else [])]

    def learn(self, rows: Iterable[Row]) -> None:
        """The labels are those of the training split, in sorted order (numbers by value)."""
        counts: Counter[str] = Counter()
        kinds: dict[type, Any] = {}
        for row in rows:
            counts[str(row["label"])] += 1
            kinds.setdefault(type(row["label"]), row["label"])
        if len(kinds) > 1:
            seen = ", ".join(f"{value!r} ({kind.__name__})" for kind, value in kinds.items())
            raise DataError(
                f"Labels of different types in the training split: {seen}. Write them all as text or all as numbers."
            )
        if len(counts) < 2:
            raise DataError(
                f"The training split has {len(counts)} label ({', '.join(counts)}); two are needed. Check data.columns.label."
            )
        numeric = all(label.lstrip("-").isdigit() for label in counts)
        self.labels = sorted(counts, key=(lambda label: (int(label), label)) if numeric else None)
        if len(self.labels) > 2000:
            raise DataError(
                f"{len(self.labels)} different labels: data.columns.label seems to name a column of texts or ids."
            )
        if self.cfg.class_weights == "balanced":
            total = sum(counts.values())
            self.weights = [total / (len(counts) * counts[label]) for label in self.labels]

    def adopt(self, config: Any) -> None:
        names = [str(config.id2label[index]) for index in range(len(config.id2label))]
        if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
            names = [
                str(index) for index in range(len(names))
            ]  # transformers' own names say nothing: classes are 0, 1, …
        self.labels = names

    def model_options(self) -> dict[str, Any]:
        return {
            "num_labels": len(self.labels),
            "id2label": dict(enumerate(self.labels)),
            "label2id": {label: index for index, label in enumerate(self.labels)},
            "problem_type": "single_label_classification",
        }

    def cache_key(self) -> dict[str, Any]:
        return {"labels": self.labels}

    def encode(self, row: Row) -> list[Features]:
        label = str(row["label"])
        if label not in self.labels:
            raise RowError(f"unknown label '{label}'; the model knows: {', '.join(self.labels[:20])}")
        pair = row.get("text_pair") or None
        ids, types, cut = self.processor.marked_ids(row["text"], pair, self.context)
        arrays = {"input_ids": ids, "label": [self.labels.index(label)]}
        if "token_type_ids" in self.processor.tokenizer.model_input_names:
            arrays["token_type_ids"] = types
        return [
            Features(
                arrays, ref={"label": label, "text": row["text"], **({"text_pair": pair} if pair else {})}, cut=cut
            )
        ]

    def collate(self, rows: list[list[Features]]) -> Batch:
        features = [row[0] for row in rows]
        lengths = torch.tensor([len(item.input_ids) for item in features])
        ids = pad([item.input_ids for item in features], self.processor.pad_id)
        mask = (torch.arange(ids.shape[1])[None] < lengths[:, None]).long()  # padding told by position, not by id
        labels = torch.tensor([item.arrays["label"][0] for item in features])
        inputs = {"input_ids": ids, "attention_mask": mask}
        if "token_type_ids" in features[0].arrays:
            inputs["token_type_ids"] = pad([item.arrays["token_type_ids"] for item in features], 0)
        return Batch(inputs, labels, [item.ref for item in features], num_tokens=int(lengths.sum()))

    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        assert batch.labels is not None
        logits = model(**batch.inputs).logits.float()  # [B, C]
        if self.weights is None:
            return LossSum(F.cross_entropy(logits, batch.labels, reduction="sum"), len(batch.labels))
        weights = torch.tensor(self.weights, device=logits.device)
        total = F.cross_entropy(logits, batch.labels, weight=weights, reduction="sum")
        return LossSum(total, float(weights[batch.labels].sum()))

    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        log_p = torch.log_softmax(model(**batch.inputs).logits.float(), -1).cpu()  # [B, C]
        if log_p.shape[1] != len(self.labels):
            raise ModelError(
                f"The model has {log_p.shape[1]} classes and the task {len(self.labels)}: {', '.join(self.labels[:9])}."
            )
        best = log_p.argmax(-1).tolist()
        return [{"label": self.labels[index], "log_p": row} for index, row in zip(best, log_p.tolist(), strict=True)]

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        log_p = torch.tensor([item["log_p"] for item in predictions], dtype=torch.float64)
        predicted, expected = [item["label"] for item in predictions], [ref["label"] for ref in refs]
        scores = classification_scores(predicted, expected, self.labels, log_p.exp().numpy())
        target = torch.tensor([self.labels.index(label) for label in expected])
        return {**scores, "loss": Score(float(F.nll_loss(log_p, target)), count=len(refs), higher_is_better=False)}

    def exhibits(self, predictions: list[Any], refs: list[Any]) -> list[Exhibit]:
        predicted, expected = [item["label"] for item in predictions], [ref["label"] for ref in refs]
        report = classification_report_text(predicted, expected)
        shown: list[Exhibit] = [{"kind": "text", "title": "Per class (as scikit-learn prints it)", "text": report}]
        if len(self.labels) <= 30:
            matrix = confusion(predicted, expected, self.labels)
            shown.append(
                {
                    "kind": "matrix",
                    "title": "Confusion matrix",
                    "row_labels": self.labels,
                    "column_labels": self.labels,
                    "values": [list(map(int, row)) for row in matrix],
                    "row_name": "true",
                    "column_name": "predicted",
                }
            )
        else:
            wrong = Counter((true, said) for true, said in zip(expected, predicted, strict=True) if true != said)
            rows = [[true, said, str(count)] for (true, said), count in wrong.most_common(15)]
            shown.append(
                {
                    "kind": "table",
                    "title": "Most frequent confusions",
                    "columns": ["true", "predicted", "rows"],
                    "rows": rows,
                }
            )
        return shown

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        scores = dict(zip(self.labels, (round(value, 6) for value in prediction["log_p"]), strict=True))
        return [
            {
                "prediction": prediction["label"],
                "reference": ref["label"],
                "correct": prediction["label"] == ref["label"],
                "text": ref["text"],
                **({"text_pair": ref["text_pair"]} if "text_pair" in ref else {}),
                "log_probabilities": scores,
            }
        ]


TASK = Classification
