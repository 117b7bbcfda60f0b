"""Ordered classes: grades, stars, severities."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage.errors import DataError
from llmstage.evaluation.metrics.calibration import fit_temperature, reliability
from llmstage.evaluation.metrics.ordinal import ordinal_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.models.heads.base import log_probabilities
from llmstage.models.heads.single_label import MOST_LABELS, LabelHead, confusion_exhibit, log_rows


class OrdinalHead(LabelHead):
    """Probabilities of the levels whose mean, rounded, is the prediction: what quadratic weights reward.

    The loss is cross-entropy plus the ranked probability score, the squared distance of the cumulative distributions
    (Epstein 1969, J. Appl. Meteorol. 8:985-987; as a loss: Hou, Yu & Samaras 2016, squared earth mover's distance), so
    that a miss by three levels costs more than one by one. A logit a level, so that `model/` says levels elsewhere too.
    """

    kind = "ordinal"
    headline = share = "qwk"

    def close(self) -> None:
        if self.knobs.order:
            self.labels = list(self.knobs.order)
            strange = sorted(set(self.counts) - set(self.labels))
            if strange:
                raise DataError(
                    f"'{self.word}' has values that task.order does not name: {', '.join(strange[:9])}. "
                    f"task.order=[{','.join(self.labels)}]"
                )
            if len(set(self.labels)) < max(2, len(self.labels)):
                raise DataError(f"task.order={self.labels} must name two or more levels, each once.")
        else:
            self.labels = self.by_value()
        if len(self.labels) > MOST_LABELS:
            raise DataError(f"{len(self.labels)} levels in '{self.word}': for a number use task.target=number.")
        if self.knobs.class_weights == "balanced":
            total, used = sum(self.counts.values()), len(self.counts)
            self.weights = [total / (used * max(1, self.counts[label])) for label in self.labels]

    def complaint(self, value: Any) -> str | None:
        return super().complaint(str(value) if isinstance(value, float) else value)

    def by_value(self) -> list[str]:
        self.sorted_labels()  # its complaints: one level, levels of different types
        try:
            return sorted(self.counts, key=float)
        except ValueError:
            names = ", ".join(sorted(self.counts)[:9])
            raise DataError(
                f"The levels of '{self.word}' are words ({names}), so their order must be told: task.order=[lowest,…,highest]."
            ) from None

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        target = labels[:, 0].long()
        each = F.cross_entropy(logits, target, reduction="none", label_smoothing=self.knobs.label_smoothing)  # [B]
        below = torch.softmax(logits, -1).cumsum(-1)[:, :-1]  # [B, C-1] P(level <= k)
        reached = (target[:, None] <= torch.arange(below.shape[1], device=logits.device)).to(below.dtype)
        each = each + ((below - reached) ** 2).sum(-1)
        if self.weights is None:
            return each.sum(), len(target)
        weights = torch.tensor(self.weights, device=logits.device)[target]
        return (each * weights).sum(), float(weights.sum())

    def decided(self, log_p: Tensor) -> list[dict[str, Any]]:
        """The level next to the expected one."""
        value = log_p.exp() @ torch.arange(self.width, dtype=log_p.dtype)  # [B]
        level = (value + 0.5).floor().clamp(0, self.width - 1).long()
        return [
            {"label": self.labels[index], "value": mean, "log_p": row}
            for index, mean, row in zip(level.tolist(), value.tolist(), log_p.tolist(), strict=True)
        ]

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        return self.decided(log_probabilities(logits, self.temperature))

    @property
    def tunes(self) -> bool:
        return self.knobs.temperature == "scaled"

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        self.temperature = round(self.temperature * fit_temperature(log_rows(predictions), self.truth(refs)), 6)

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        places = np.array([self.labels.index(item["label"]) for item in predictions], dtype=np.int64)
        values = np.array([item["value"] for item in predictions], dtype=np.float64)
        truth = self.truth(refs)
        loss = float(-log_rows(predictions)[np.arange(len(truth)), truth].mean())
        scores = ordinal_scores(places, truth, self.width, values)
        return {**scores, "loss": Score(loss, count=len(refs), higher_is_better=False)}

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        log_p, truth = log_rows(predictions), self.truth(refs)
        matrix = confusion_exhibit([item["label"] for item in predictions], refs, self.labels)
        return [matrix, *reliability(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth)]

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        return {**super().record(prediction, ref), "value": round(prediction["value"], 4)}

    def from_shares(self, classes: list[str], shares: Any) -> list[dict[str, Any]]:
        rows = super().from_shares(classes, shares)
        return self.decided(torch.tensor([row["log_p"] for row in rows], dtype=torch.float64))
