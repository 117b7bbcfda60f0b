"""The head for regression targets: a number such as a price, a rating or a duration.

The model learns the standardised value; predictions and scores are in the unit of the data.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch.nn.functional as F
from torch import Tensor

from llmstage.data.table_columns import parse_number
from llmstage.errors import DataError
from llmstage.evaluation.metrics.regression import quantile_items, regression_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import ridge
from llmstage.models.heads.base import Head, HeadOptions


class NumberHead(Head):
    """One logit z with the squared error as its loss. The prediction is mean + std * z, with mean and standard deviation of
    the training split."""

    target_type = "number"
    problem_type = "regression"
    select_metric = "mae"
    mean_metric = "spearman"  # bounded: R2 has no lower bound and could outweigh the other targets

    def __init__(self, column: str, options: HeadOptions) -> None:
        super().__init__(column, options)
        self.labels = [column]
        self.mean, self.std = 0.0, 1.0
        self.values: list[float] = []

    @property
    def placeholder(self) -> Any:
        return 0.0

    def check_value(self, value: Any) -> str | None:
        try:
            number = parse_number(value)
        except ValueError as error:
            return f"{self.column}: {error}"
        return f"{self.column} is empty" if number is None else None

    def update(self, value: Any) -> None:
        self.values.append(self.ref(value))

    def fit(self) -> None:
        values = np.array(self.values, dtype=np.float64)
        self.values = []
        self.mean, self.std = float(values.mean()), float(values.std())
        if self.std <= 1e-9 * max(1.0, abs(self.mean)):
            raise DataError(
                f"'{self.column}' is {self.mean:g} in every training row: there is nothing to learn. Check data.columns.{self.column}."
            )

    def as_dict(self) -> dict[str, Any]:
        return {**super().as_dict(), "mean": self.mean, "std": self.std}

    def load_config(self, saved: dict[str, Any]) -> None:
        super().load_config(saved)
        self.mean, self.std = float(saved.get("mean", 0.0)), float(saved.get("std", 1.0))

    def encode(self, value: Any) -> list[Any]:
        return [(self.ref(value) - self.mean) / self.std]

    def ref(self, value: Any) -> float:
        number = parse_number(value)
        if number is None:
            raise ValueError(f"{self.column} is empty")
        return number

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        return F.mse_loss(logits, labels.float(), reduction="sum"), len(labels)

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        return to_predictions([self.mean + self.std * value for value in logits[:, 0].float().cpu().tolist()])

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        predicted, expected = value_rows(predictions), np.array(refs, dtype=np.float64)
        loss = float((((predicted - expected) / self.std) ** 2).mean()) if len(refs) else math.nan
        return {
            **regression_scores(predicted, expected),
            "loss": Score(loss, count=len(refs), higher_is_better=False),
        }

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        return quantile_items(value_rows(predictions), np.array(refs, dtype=np.float64))

    error_metric = "deviation"
    error_is_bounded = False

    def error(self, prediction: dict[str, Any], ref: Any) -> float:
        """Return the absolute error in standard deviations of the training split."""
        return abs(float(prediction["value"]) - float(ref)) / self.std

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        return {"prediction": prediction["value"], "reference": ref, "error": prediction["value"] - ref}

    def prior_baseline(self, train_refs: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        return "mean of the training split", to_predictions([float(np.mean(train_refs))] * num_rows)

    def linear_baseline(
        self, x_train: Any, train_refs: list[Any], x: Any, validation: tuple[Any, list[Any]] | None
    ) -> tuple[str, list[dict[str, Any]]]:
        return "ridge regression", to_predictions(ridge(x_train, train_refs, x, validation).tolist())


def to_predictions(values: list[float]) -> list[dict[str, Any]]:
    return [{"value": value} for value in values]


def value_rows(predictions: list[dict[str, Any]]) -> Any:
    """Return the predicted values [N]."""
    return np.array([item["value"] for item in predictions], dtype=np.float64)
