"""The head for multi-label targets: any number of labels for each row, one sigmoid for each label."""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage import console
from llmstage.errors import DataError
from llmstage.evaluation.metrics.binary_ranking import best_threshold
from llmstage.evaluation.metrics.calibration import fit_temperature_multilabel, reliability
from llmstage.evaluation.metrics.classification import label_table, multilabel_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import logistic_multilabel
from llmstage.models.heads.base import Head, HeadOptions
from llmstage.models.heads.single_label import MAX_LABELS, TINY

MAX_POS_WEIGHT = 20.0
"""Upper bound of pos_weight: a label of one row in ten thousand would otherwise dominate the gradient."""


class MultilabelHead(Head):
    target_type = "multilabel"
    problem_type = "multi_label_classification"
    select_metric = mean_metric = "micro_f1"

    def __init__(self, column: str, options: HeadOptions) -> None:
        super().__init__(column, options)
        self.dropped: list[str] = []
        """Labels that occur in fewer training rows than task.min_count; encode() ignores them."""
        self.min_count = options.min_count
        self.noted_labels: set[str] = set()
        """Labels without a training row about which a note was printed."""
        self.thresholds: list[float] = []
        self.pos_weights: list[float] | None = None
        self.counts: Counter[str] = Counter()
        self.num_rows = 0

    @property
    def label_width(self) -> int:  # type: ignore[override]
        return len(self.labels)

    def label_names(self, value: Any) -> list[str]:
        """Return the distinct labels of a row. `value`: a list, or a text that task.separator splits."""
        parts = value.split(self.options.separator) if isinstance(value, str) else value
        return list(dict.fromkeys(name for part in parts if (name := str(part).strip())))

    @property
    def placeholder(self) -> Any:
        return []

    def check_value(self, value: Any) -> str | None:
        if isinstance(value, str):
            return None
        if not isinstance(value, list) or not all(isinstance(item, (str, int)) for item in value):
            return f"{self.column} {value!r:.60} is neither a list of labels nor a text that task.separator splits"
        return None

    def update(self, value: Any) -> None:
        self.num_rows += 1
        self.counts.update(self.label_names(value))

    def fit(self) -> None:
        labels = sorted(name for name, count in self.counts.items() if count >= self.options.min_count)
        self.dropped = sorted(set(self.counts) - set(labels))
        if not labels:
            raise DataError(
                f"No label of '{self.column}' occurs in at least {self.options.min_count} training rows. Lower task.min_count, or check "
                f"data.columns.{self.column} and task.separator={self.options.separator!r}."
            )
        if len(labels) > MAX_LABELS:
            raise DataError(
                f"{len(labels)} different labels in '{self.column}': is task.separator={self.options.separator!r} the right one? "
                f"task.min_count=<rows> drops rare labels."
            )
        if self.dropped:
            rows = sum(self.counts[name] for name in self.dropped)
            console.note(
                f"{len(self.dropped)} rare labels ({rows} uses in the training split) are dropped by task.min_count="
                f"{self.options.min_count}: {', '.join(self.dropped[:12])}{' …' if len(self.dropped) > 12 else ''}"
            )
        self.labels, self.thresholds = labels, [self.initial_threshold] * len(labels)
        if self.options.class_weights == "balanced":
            self.pos_weights = [
                min(MAX_POS_WEIGHT, max(1.0, (self.num_rows - self.counts[name]) / self.counts[name]))
                for name in labels
            ]

    @property
    def initial_threshold(self) -> float:
        """Threshold before tune()."""
        return 0.5 if self.options.threshold == "tuned" else float(self.options.threshold)

    def as_dict(self) -> dict[str, Any]:
        return {
            **super().as_dict(),
            "thresholds": self.thresholds,
            "dropped": self.dropped,
            "min_count": self.min_count,
        }

    def load_config(self, saved: dict[str, Any]) -> None:
        super().load_config(saved)
        self.thresholds = list(saved.get("thresholds") or [self.initial_threshold] * len(self.labels))
        self.dropped, self.min_count = list(saved.get("dropped") or []), int(saved.get("min_count", 1))

    def encode(self, value: Any) -> list[Any]:
        names = set(self.label_names(value))
        unknown = names - set(self.labels) - set(self.dropped)
        if unknown and self.min_count > 1:  # 0 training rows are fewer than min_count: the same rule drops these labels
            if not_noted := sorted(unknown - self.noted_labels):
                console.note(
                    f"{self.column} {', '.join(map(repr, not_noted))} occurs in no training row: dropped by task.min_count"
                )
                self.noted_labels |= unknown
        elif unknown:
            raise ValueError(
                f"unknown {self.column} {', '.join(map(repr, sorted(unknown)))}; the model knows: "
                f"{', '.join(self.labels[:20])}. task.min_count=2 drops labels of fewer than two training rows"
            )
        return [float(label in names) for label in self.labels]

    def ref(self, value: Any) -> Any:
        names = set(self.label_names(value))
        return [label for label in self.labels if label in names]

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Return the binary cross-entropy, summed over rows and averaged over labels."""
        weight = None if self.pos_weights is None else torch.tensor(self.pos_weights, device=logits.device)
        target = labels.float()
        if self.options.label_smoothing:
            target = target * (1 - self.options.label_smoothing) + self.options.label_smoothing / 2
        total = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="sum")
        return total / self.width, len(labels)

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        probabilities = torch.sigmoid(logits.float() / self.temperature).cpu().tolist()
        return [self.decide(row) for row in probabilities]

    def decide(self, probabilities: list[float]) -> dict[str, Any]:
        labels = [
            label
            for label, probability, threshold in zip(self.labels, probabilities, self.thresholds, strict=True)
            if probability >= threshold
        ]
        return {"labels": labels, "p": probabilities}

    @property
    def needs_tuning(self) -> bool:
        return self.options.temperature == "scaled" or self.options.threshold == "tuned"

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        probabilities, truth = probability_rows(predictions), self.label_matrix(refs)
        if self.options.temperature == "scaled":
            clipped = np.clip(probabilities, 1e-7, 1 - 1e-7)
            logits = np.log(clipped / (1 - clipped))
            temperature = fit_temperature_multilabel(logits, truth)
            self.temperature = round(self.temperature * temperature, 6)
            probabilities = 1 / (1 + np.exp(-logits / temperature))
        if self.options.threshold == "tuned":
            self.thresholds = [best_threshold(truth[:, k], probabilities[:, k]) for k in range(self.width)]

    def label_matrix(self, rows: list[list[str]]) -> Any:
        """Return the indicator matrix [N, K]: True where a row has the label."""
        column_of = {label: index for index, label in enumerate(self.labels)}
        matrix = np.zeros((len(rows), self.width), dtype=bool)
        for row, row_names in enumerate(rows):
            matrix[row, [column_of[name] for name in row_names]] = True
        return matrix

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        probabilities, truth = probability_rows(predictions), self.label_matrix(refs)
        scores = multilabel_scores(self.label_matrix([item["labels"] for item in predictions]), truth, probabilities)
        clipped = np.clip(probabilities, TINY, 1 - TINY)
        loss = float(-(np.log(clipped) * truth + np.log1p(-clipped) * ~truth).mean())
        return {**scores, "loss": Score(loss, count=len(refs), higher_is_better=False)}

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        probabilities, truth = probability_rows(predictions), self.label_matrix(refs)
        predicted = self.label_matrix([item["labels"] for item in predictions])
        confidence = np.where(probabilities >= 0.5, probabilities, 1 - probabilities).reshape(-1)
        correct = ((probabilities >= 0.5) == truth).reshape(-1)
        return [label_table(predicted, truth, self.labels, self.thresholds), *reliability(confidence, correct)]

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        return {
            "prediction": prediction["labels"], "reference": ref, "correct": set(prediction["labels"]) == set(ref),
            "probabilities": dict(zip(self.labels, (round(share, 6) for share in prediction["p"]), strict=True)),
        }  # fmt: skip

    def prior_baseline(self, train_refs: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        """Predict the labels that at least half of the training rows have, or else the most frequent one."""
        probabilities = self.label_matrix(train_refs).mean(axis=0)
        labels = [label for label, probability in zip(self.labels, probabilities, strict=True) if probability >= 0.5]
        labels = labels or [self.labels[int(probabilities.argmax())]]
        return "most frequent labels", [{"labels": labels, "p": probabilities.tolist()} for _ in range(num_rows)]

    def linear_baseline(
        self, x_train: Any, train_refs: list[Any], x: Any, validation: tuple[Any, list[Any]] | None
    ) -> tuple[str, list[dict[str, Any]]]:
        judged = (validation[0], self.label_matrix(validation[1])) if validation else None
        probabilities, threshold = logistic_multilabel(x_train, self.label_matrix(train_refs), x, judged)
        label_rows = [
            [label for label, probability in zip(self.labels, row, strict=True) if probability >= threshold]
            for row in probabilities
        ]
        rows = [{"labels": labels, "p": row.tolist()} for labels, row in zip(label_rows, probabilities, strict=True)]
        return "logistic regression", rows


def probability_rows(predictions: list[dict[str, Any]]) -> Any:
    """Return the probabilities [N, K]."""
    return np.array([item["p"] for item in predictions], dtype=np.float64)
