"""One target of a task: a slice of the logits and everything that is said about it."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor

from llmstage.evaluation.metrics.score import Score

Labels = Literal["none", "balanced"]


@dataclass(slots=True)
class Knobs:
    """The options of a task that reach its heads."""

    class_weights: str = "none"
    label_smoothing: float = 0.0
    separator: str = ","
    min_count: int = 1
    order: list[str] = field(default_factory=list)
    positive: str | None = None
    threshold: str | float = 0.5
    temperature: str = "none"


class Head(ABC):
    """`see` each training value, then `close`; or `adopt` what a saved model says. A complaint is a ValueError."""

    kind: ClassVar[str]
    problem_type: ClassVar[str]
    """What transformers calls the head's loss."""
    headline: ClassVar[str]
    """The score that selects a checkpoint where task.select does not say."""
    share: ClassVar[str]
    """The score that goes into the mean over several targets: at most 1, higher is better."""

    labels: list[str]
    """A name for each logit."""
    label_width: int = 1
    """Numbers that encode() gives."""

    def __init__(self, word: str, knobs: Knobs) -> None:
        self.word, self.knobs = word, knobs
        self.temperature = 1.0

    @property
    def width(self) -> int:
        """Logits."""
        return len(self.labels)

    @property
    def example(self) -> Any:
        """Some value that encode() takes, for rows that have none of their own."""
        return self.labels[0]

    @abstractmethod
    def complaint(self, value: Any) -> str | None:
        """Why a row's value cannot be used, or None."""

    @abstractmethod
    def see(self, value: Any) -> None: ...

    @abstractmethod
    def close(self) -> None:
        """All training values were seen. Raises DataError where they cannot be learned."""

    def as_dict(self) -> dict[str, Any]:
        """For the model's config; load_config() reads it."""
        return {"kind": self.kind, "word": self.word, "labels": self.labels, "temperature": self.temperature}

    def load_config(self, saved: dict[str, Any]) -> None:
        self.labels, self.temperature = list(saved["labels"]), float(saved.get("temperature", 1.0))

    @abstractmethod
    def encode(self, value: Any) -> list[Any]:
        """`label_width` numbers: ints for classes, floats otherwise; ValueError where the value is unknown."""

    @abstractmethod
    def ref(self, value: Any) -> Any:
        """The value as score() compares it; JSON data."""

    @abstractmethod
    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """(sum, count) of logits [B, W] against labels [B, label_width]."""

    @abstractmethod
    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        """A prediction for each row of logits [B, W]."""

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        """Fit temperature and thresholds on the validation split, where the options ask for it."""

    @property
    def tunes(self) -> bool:
        return False

    @abstractmethod
    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]: ...

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        return []

    error_of: ClassVar[str] = "accuracy"
    """What error() measures."""
    error_is_share: ClassVar[bool] = True
    """Errors are at most 1, and the score is 1 - error."""

    def error(self, prediction: dict[str, Any], ref: Any) -> float:
        """How wrong a prediction is: 0 is right."""
        return float(not self.record(prediction, ref)["correct"])

    def confidence(self, prediction: dict[str, Any]) -> float | None:
        """Probability of what was said, where it is told."""
        return None

    @abstractmethod
    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        """`prediction`, `reference` and what else a line of predictions.jsonl says."""

    @abstractmethod
    def prior(self, known: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        """(name, predictions) of a method that looks at no row; `known`: refs of the training split."""

    @abstractmethod
    def linear(self, x_train: Any, known: list[Any], x: Any) -> tuple[str, list[dict[str, Any]]]:
        """(name, predictions) of a linear model on feature matrices of the training rows and of those asked for."""


def log_probabilities(logits: Tensor, temperature: float) -> Tensor:
    """[B, C] on the CPU, float32; a temperature of 1 leaves the numbers as they are."""
    return torch.log_softmax((logits if temperature == 1.0 else logits / temperature).float(), -1).cpu()
