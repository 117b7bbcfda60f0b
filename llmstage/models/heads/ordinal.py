"""The head for ordinal targets: ordered classes such as grades, stars, severities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage.errors import DataError
from llmstage.evaluation.metrics.calibration import fit_temperature, reliability
from llmstage.evaluation.metrics.classification import ordinal_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.models.heads.base import log_probabilities
from llmstage.models.heads.single_label import MAX_LABELS, LabelHead, confusion_item, log_probability_rows


class OrdinalHead(LabelHead):
    """Predict the probabilities of the levels; the prediction is the rounded mean level, which maximises the quadratic kappa.

    The loss is cross-entropy plus the ranked probability score, the squared distance of the cumulative distributions
    (Epstein 1969, J. Appl. Meteorol. 8:985-987; as a loss: Hou, Yu & Samaras 2016, squared earth mover's distance), so
    that an error of three levels costs more than an error of one. There is one logit for each level, so that other
    libraries, too, read levels from the saved model.
    """

    target_type = "ordinal"
    select_metric = mean_metric = "qwk"

    def fit(self) -> None:
        if self.options.order:
            self.labels = list(self.options.order)
            unknown = sorted(set(self.counts) - set(self.labels))
            if unknown:
                raise DataError(
                    f"'{self.column}' has values that task.order does not name: {', '.join(unknown[:9])}. "
                    f"task.order=[{','.join(self.labels)}]"
                )
            if len(set(self.labels)) < max(2, len(self.labels)):
                raise DataError(f"task.order={self.labels} must name two or more levels, each once.")
        else:
            self.labels = self.levels_by_value()
        if len(self.labels) > MAX_LABELS:
            raise DataError(f"{len(self.labels)} levels in '{self.column}': for a number use task.target=number.")
        if self.options.class_weights == "balanced":
            total, num_levels = sum(self.counts.values()), len(self.counts)
            self.weights = [total / (num_levels * max(1, self.counts[label])) for label in self.labels]

    def check_value(self, value: Any) -> str | None:
        return super().check_value(str(value) if isinstance(value, float) else value)

    def levels_by_value(self) -> list[str]:
        """Return the levels of the training split, sorted as numbers."""
        self.sorted_labels()  # raises DataError for a single level and for levels of different types
        try:
            return sorted(self.counts, key=float)
        except ValueError:
            names = ", ".join(sorted(self.counts)[:9])
            raise DataError(
                f"The levels of '{self.column}' are words ({names}), so their order is unknown: set task.order=[lowest,…,highest]."
            ) from None

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        target = labels[:, 0].long()
        losses = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.options.label_smoothing)  # [B]
        cumulative = torch.softmax(logits, -1).cumsum(-1)[:, :-1]  # [B, C-1] P(level <= k)
        target_cumulative = (target[:, None] <= torch.arange(cumulative.shape[1], device=logits.device)).to(
            cumulative.dtype
        )
        losses = losses + ((cumulative - target_cumulative) ** 2).sum(-1)
        if self.weights is None:
            return losses.sum(), len(target)
        weights = torch.tensor(self.weights, device=logits.device)[target]
        return (losses * weights).sum(), float(weights.sum())

    def decide(self, log_p: Tensor) -> list[dict[str, Any]]:
        """Return for each row the level that is nearest to the mean level."""
        mean_level = log_p.exp() @ torch.arange(self.width, dtype=log_p.dtype)  # [B]
        level = (mean_level + 0.5).floor().clamp(0, self.width - 1).long()
        return [
            {"label": self.labels[index], "value": mean, "log_p": row}
            for index, mean, row in zip(level.tolist(), mean_level.tolist(), log_p.tolist(), strict=True)
        ]

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        return self.decide(log_probabilities(logits, self.temperature))

    @property
    def needs_tuning(self) -> bool:
        return self.options.temperature == "scaled"

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        self.temperature = round(
            self.temperature * fit_temperature(log_probability_rows(predictions), self.class_indices(refs)), 6
        )

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        predicted = np.array([self.labels.index(item["label"]) for item in predictions], dtype=np.int64)
        values = np.array([item["value"] for item in predictions], dtype=np.float64)
        truth = self.class_indices(refs)
        loss = float(-log_probability_rows(predictions)[np.arange(len(truth)), truth].mean())
        scores = ordinal_scores(predicted, truth, self.width, values)
        return {**scores, "loss": Score(loss, count=len(refs), higher_is_better=False)}

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        log_p, truth = log_probability_rows(predictions), self.class_indices(refs)
        matrix = confusion_item([item["label"] for item in predictions], refs, self.labels)
        return [matrix, *reliability(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth)]

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        return {**super().record(prediction, ref), "value": round(prediction["value"], 4)}

    def from_probabilities(self, classes: list[str], probabilities: Any) -> list[dict[str, Any]]:
        rows = super().from_probabilities(classes, probabilities)
        return self.decide(torch.tensor([row["log_p"] for row in rows], dtype=torch.float64))
