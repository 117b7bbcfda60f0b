"""The base class of a target's head: values to labels, the loss, decoding, scores; and its simple baselines.

A classification task has one or several targets (columns of a row). The model gives one vector of logits; each head
owns a slice of it. The subclasses are in the files beside this one, one for each type of target.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor

from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import concat_features, tfidf, tfidf_name

TargetPredictions = dict[str, list[dict[str, Any]]]
"""Predictions of each target, by its column."""


@dataclass(slots=True)
class HeadOptions:
    """The task options that the heads read."""

    class_weights: str = "none"
    label_smoothing: float = 0.0
    separator: str = ","
    min_count: int = 1
    order: list[str] = field(default_factory=list)
    positive: str | None = None
    threshold: str | float = 0.5
    temperature: str = "none"


class Head(ABC):
    """Call update() for each training value and then fit(), or load_config() with the entry of a saved model.

    encode() and ref() raise ValueError for a value that the head does not know.
    """

    target_type: ClassVar[str]
    problem_type: ClassVar[str]
    """The `problem_type` of a transformers config."""
    select_metric: ClassVar[str]
    """The score that selects the best checkpoint where task.select=auto."""
    mean_metric: ClassVar[str]
    """The score that enters `mean_score` where there are several targets: at most 1, higher is better."""

    labels: list[str]
    """The name of each logit."""
    label_width: int = 1
    """Length of what encode() returns."""

    def __init__(self, column: str, options: HeadOptions) -> None:
        self.column, self.options = column, options
        self.temperature = 1.0

    @property
    def width(self) -> int:
        """Number of logits."""
        return len(self.labels)

    @property
    def placeholder(self) -> Any:
        """A value that encode() accepts, for rows without a target."""
        return self.labels[0]

    @abstractmethod
    def check_value(self, value: Any) -> str | None:
        """Return the reason why a value of a row cannot be used, or None."""

    @abstractmethod
    def update(self, value: Any) -> None:
        """Count one value of the training split."""

    @abstractmethod
    def fit(self) -> None:
        """Fit labels or statistics on the values that update() counted. Raise DataError if nothing can be learned."""

    def as_dict(self) -> dict[str, Any]:
        """Return the entry of the model's config.json that load_config() reads."""
        return {"kind": self.target_type, "word": self.column, "labels": self.labels, "temperature": self.temperature}

    def load_config(self, saved: dict[str, Any]) -> None:
        self.labels, self.temperature = list(saved["labels"]), float(saved.get("temperature", 1.0))

    @abstractmethod
    def encode(self, value: Any) -> list[Any]:
        """Return `label_width` numbers: ints for classes, else floats. Raise ValueError for an unknown value."""

    @abstractmethod
    def ref(self, value: Any) -> Any:
        """Return the value in the form that score() compares; JSON data."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Return (sum, count) of the loss of logits [B, W] against labels [B, label_width]."""

    @abstractmethod
    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        """Return a prediction for each row of the logits [B, W]."""

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        """Fit temperature and thresholds on the validation split where the options say so."""

    @property
    def needs_tuning(self) -> bool:
        """Whether tune() does anything."""
        return False

    @abstractmethod
    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]: ...

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        """Return tables and charts for the report."""
        return []

    error_metric: ClassVar[str] = "accuracy"
    """The metric that error() measures."""
    error_is_bounded: ClassVar[bool] = True
    """True: errors are at most 1, and the score is 1 - error."""

    def error(self, prediction: dict[str, Any], ref: Any) -> float:
        """Return the error of a prediction; 0 is correct."""
        return float(not self.record(prediction, ref)["correct"])

    def confidence(self, prediction: dict[str, Any]) -> float | None:
        """Return the probability of the predicted value, or None where the head has none."""
        return None

    @abstractmethod
    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        """Return `prediction`, `reference` and the head's other keys of a line of predictions.jsonl."""

    @abstractmethod
    def prior_baseline(self, train_refs: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        """Return (name, predictions) of a constant prediction. `train_refs`: refs of the training split."""

    @abstractmethod
    def linear_baseline(
        self, x_train: Any, train_refs: list[Any], x: Any, validation: tuple[Any, list[Any]] | None
    ) -> tuple[str, list[dict[str, Any]]]:
        """Return (name, predictions) of a linear model whose settings are chosen on the validation rows.

        `x_train`, `x`: feature matrices [rows, features]; `train_refs`: refs of the training rows; `validation`: features and
        refs of the validation rows, None where there are none.
        """


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """Return log-probabilities [B, C], float32, on the CPU. A temperature of 1 does not change the numbers."""
    return torch.log_softmax((logits if temperature == 1.0 else logits / temperature).float(), -1).cpu()


@dataclass(slots=True)
class BaselineRows:
    """Rows of one split as the linear baselines read them."""

    texts: list[str]
    columns: Any | None
    """Matrix of the feature columns; None without columns."""
    refs: dict[str, list[Any]]
    """Refs by target column."""


def linear_baselines(
    heads: list[Head], train: BaselineRows, validation: BaselineRows, test: BaselineRows
) -> dict[str, TargetPredictions]:
    """Return predictions for the rows of `test` by a constant and by linear models on text, on columns, and on both.

    The result is {method: {column: predictions}}. Without validation rows the linear models hold out training rows.
    """
    inputs: dict[str, tuple[Any, ...]] = {}  # features of the training, validation and test rows
    if any(text.strip() for text in train.texts):
        inputs[tfidf_name(train.texts)] = tfidf(train.texts, validation.texts or [""], test.texts)
    if train.columns is not None:
        inputs["columns"] = (train.columns, validation.columns, test.columns)
    if len(inputs) == 2:
        by_text, by_columns = inputs.values()
        inputs["text and columns"] = tuple(
            concat_features(*parts) if parts[1] is not None else None for parts in zip(by_text, by_columns, strict=True)
        )
    # With several targets, one method has a different name for each head; a common name keeps them in one row.
    single_target = len(heads) == 1
    methods: dict[str, TargetPredictions] = {}
    for head in heads:
        name, predictions = head.prior_baseline(train.refs[head.column], len(test.texts))
        methods.setdefault(name if single_target else "most frequent or mean", {})[head.column] = predictions
        for input_name, (x_train, x_validation, x) in inputs.items():
            judged = (x_validation, validation.refs[head.column]) if validation.texts else None
            name, predictions = head.linear_baseline(x_train, train.refs[head.column], x, judged)
            method = f"{input_name}, {name if single_target else 'linear model'}"
            methods.setdefault(method, {})[head.column] = predictions
    return methods
