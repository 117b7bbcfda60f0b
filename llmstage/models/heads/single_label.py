"""The head for single-label targets. With two labels, it also has a positive label, its threshold and its ranking scores."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage.errors import DataError
from llmstage.evaluation.metrics.binary_ranking import best_threshold, curve_items, ranking_scores
from llmstage.evaluation.metrics.calibration import fit_temperature, reliability
from llmstage.evaluation.metrics.classification import classification_report_text, classification_scores, confusion
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import logistic, majority
from llmstage.models.heads.base import Head, HeadOptions, log_probabilities

MAX_LABELS = 2000
TINY = 1e-9
"""Probability of a class that a baseline never saw; its logarithm must be finite."""


class LabelHead(Head):
    target_type = "label"
    problem_type = "single_label_classification"
    select_metric = mean_metric = "macro_f1"

    def __init__(self, column: str, options: HeadOptions) -> None:
        super().__init__(column, options)
        self.weights: list[float] | None = None
        self.positive: str | None = None
        """With two labels, the positive one."""
        self.threshold = 0.5
        """With two labels, the probability from which on the positive one is predicted."""
        self.counts: Counter[str] = Counter()
        self.value_types: dict[type, Any] = {}

    def check_value(self, value: Any) -> str | None:
        if not isinstance(value, (str, int, bool)) or not str(value).strip():
            return f"{self.column} {value!r} is neither a name nor an integer"
        return None

    def update(self, value: Any) -> None:
        self.counts[str(value)] += 1
        self.value_types.setdefault(type(value), value)

    def fit(self) -> None:
        """Take the labels of the training split in sorted order (numbers by value)."""
        counts, self.labels = self.counts, self.sorted_labels()
        if len(self.labels) > MAX_LABELS:
            raise DataError(
                f"{len(self.labels)} different labels in '{self.column}': data.columns.{self.column} seems to name a column of texts or ids."
            )
        if self.options.class_weights == "balanced":
            total = sum(counts.values())
            self.weights = [total / (len(counts) * counts[label]) for label in self.labels]
        if self.options.positive is not None and (len(self.labels) != 2 or self.options.positive not in self.labels):
            raise DataError(
                f"task.positive={self.options.positive} must be one of two labels; '{self.column}' has {len(self.labels)} labels: "
                f"{', '.join(self.labels[:9])}."
            )
        if len(self.labels) == 2:  # of two equally frequent labels the second: 1 of (0, 1), yes of (no, yes)
            rarer = min(reversed(self.labels), key=lambda label: counts[label])
            self.positive = self.options.positive or rarer

    def sorted_labels(self) -> list[str]:
        """Return the labels in sorted order. Raise DataError for mixed types and for fewer than two labels."""
        if len(self.value_types) > 1:
            examples = ", ".join(f"{value!r} ({value_type.__name__})" for value_type, value in self.value_types.items())
            raise DataError(
                f"Labels of different types in the training split: {examples}. Write them all as text or all as numbers."
            )
        if len(self.counts) < 2:
            raise DataError(
                f"The training split has {len(self.counts)} label ({', '.join(self.counts)}); two are needed. "
                f"Check data.columns.{self.column}."
            )
        numeric = all(label.lstrip("-").isdigit() for label in self.counts)
        return sorted(self.counts, key=(lambda label: (int(label), label)) if numeric else None)

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "positive": self.positive, "threshold": self.threshold}

    def load_config(self, saved: dict[str, Any]) -> None:
        super().load_config(saved)
        self.positive, self.threshold = saved.get("positive"), float(saved.get("threshold", 0.5))

    def encode(self, value: Any) -> list[Any]:
        label = str(value)
        if label not in self.labels:
            raise ValueError(f"unknown {self.column} '{label}'; the model knows: {', '.join(self.labels[:20])}")
        return [self.labels.index(label)]

    def ref(self, value: Any) -> Any:
        return str(value)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        target, smoothing = labels[:, 0].long(), self.options.label_smoothing
        if self.weights is None:
            return F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing), len(target)
        weights = torch.tensor(self.weights, device=logits.device)
        total = F.cross_entropy(logits, target, weight=weights, reduction="sum", label_smoothing=smoothing)
        return total, float(weights[target].sum())

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        return self.decide(log_probabilities(logits, self.temperature))

    def decide(self, log_p: Tensor) -> list[dict[str, Any]]:
        """Return the most probable label; with two labels, the positive one from `threshold` on."""
        best = log_p.argmax(-1)  # [B]
        if self.positive is not None and self.threshold != 0.5:
            positive_index = self.labels.index(self.positive)
            best = torch.where(log_p[:, positive_index].exp() >= self.threshold, positive_index, 1 - positive_index)
        return [
            {"label": self.labels[index], "log_p": row}
            for index, row in zip(best.tolist(), log_p.tolist(), strict=True)
        ]

    @property
    def needs_tuning(self) -> bool:
        return self.options.temperature == "scaled" or self.options.threshold == "tuned"

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        logits, truth = log_probability_rows(predictions), self.class_indices(refs)
        if self.options.temperature == "scaled":
            # The predictions already have the present temperature, so the fitted one multiplies it.
            self.temperature = round(self.temperature * fit_temperature(logits, truth), 6)
            logits = torch.log_softmax(torch.from_numpy(logits / self.temperature), -1).numpy()
        if self.positive is not None and self.options.threshold == "tuned":
            positive_index = self.labels.index(self.positive)
            self.threshold = best_threshold(truth == positive_index, np.exp(logits[:, positive_index]))

    def class_indices(self, refs: list[Any]) -> Any:
        """Return the index of each label [N]."""
        return np.array([self.labels.index(ref) for ref in refs], dtype=np.int64)

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        log_p = torch.tensor([item["log_p"] for item in predictions], dtype=torch.float64)
        probabilities = log_p.exp().numpy()
        scores = classification_scores([item["label"] for item in predictions], refs, self.labels, probabilities)
        truth = self.class_indices(refs)
        if self.positive is not None:
            positive_index = self.labels.index(self.positive)
            scores |= ranking_scores(truth == positive_index, log_p[:, positive_index].numpy())
        loss = float(F.nll_loss(log_p, torch.from_numpy(truth)))
        return {**scores, "loss": Score(loss, count=len(refs), higher_is_better=False)}

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        predicted = [item["label"] for item in predictions]
        report = classification_report_text(predicted, refs)
        items: list[dict[str, Any]] = [
            {"kind": "text", "title": "Per class (as scikit-learn prints it)", "text": report},
            confusion_item(predicted, refs, self.labels),
        ]
        log_p, truth = log_probability_rows(predictions), self.class_indices(refs)
        if self.positive is not None:
            positive_index = self.labels.index(self.positive)
            items += curve_items(truth == positive_index, np.exp(log_p[:, positive_index]), self.positive)
            if self.threshold != 0.5:
                items[0]["note"] = f"'{self.positive}' is predicted from a probability of {self.threshold:.3f} on."
        items += reliability(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth)
        return items

    def error(self, prediction: dict[str, Any], ref: Any) -> float:
        return float(prediction["label"] != ref)

    def confidence(self, prediction: dict[str, Any]) -> float | None:
        return math.exp(prediction["log_p"][self.labels.index(prediction["label"])])

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        log_probabilities = dict(zip(self.labels, (round(value, 6) for value in prediction["log_p"]), strict=True))
        return {
            "prediction": prediction["label"], "reference": ref, "correct": prediction["label"] == ref,
            "probability": round(float(np.exp(log_probabilities[prediction["label"]])), 6), "log_probabilities": log_probabilities,
        }  # fmt: skip

    def prior_baseline(self, train_refs: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        return "majority class", self.from_probabilities(*majority(train_refs, num_rows))

    def linear_baseline(
        self, x_train: Any, train_refs: list[Any], x: Any, validation: tuple[Any, list[Any]] | None
    ) -> tuple[str, list[dict[str, Any]]]:
        return "logistic regression", self.from_probabilities(*logistic(x_train, train_refs, x, validation))

    def from_probabilities(self, classes: list[str], probabilities: Any) -> list[dict[str, Any]]:
        """Return predictions from the probabilities [N, classes] of a baseline: its most probable class."""
        probability_matrix = np.full((len(probabilities), len(self.labels)), TINY)
        for column, name in enumerate(classes):
            if name in self.labels:
                probability_matrix[:, self.labels.index(name)] = np.maximum(probabilities[:, column], TINY)
        log_p = np.log(probability_matrix / probability_matrix.sum(axis=1, keepdims=True))
        return [
            {"label": self.labels[int(index)], "log_p": row}
            for index, row in zip(log_p.argmax(axis=1), log_p.tolist(), strict=True)
        ]


def log_probability_rows(predictions: list[dict[str, Any]]) -> Any:
    """Return the log-probabilities [N, C]."""
    return np.array([item["log_p"] for item in predictions], dtype=np.float64)


def confusion_item(predicted: list[str], expected: list[str], labels: list[str]) -> dict[str, Any]:
    """Return the confusion matrix, or a table of the most frequent confusions for more than 30 labels."""
    if len(labels) <= 30:
        matrix = confusion(predicted, expected, labels)
        return {
            "kind": "matrix", "title": "Confusion matrix", "row_labels": labels, "column_labels": labels,
            "values": [list(map(int, row)) for row in matrix], "row_name": "true", "column_name": "predicted",
        }  # fmt: skip
    confusions = Counter(
        (true_label, predicted_label)
        for true_label, predicted_label in zip(expected, predicted, strict=True)
        if true_label != predicted_label
    )
    rows = [
        [true_label, predicted_label, str(count)] for (true_label, predicted_label), count in confusions.most_common(15)
    ]
    return {
        "kind": "table", "title": "Most frequent confusions", "columns": ["true", "predicted", "rows"], "rows": rows,
    }  # fmt: skip
