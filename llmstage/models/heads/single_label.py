"""One label of several; for two labels also how well the positive one is found."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from llmstage.errors import DataError
from llmstage.evaluation.metrics.binary_ranking import best_threshold, curve_exhibits, ranking_scores
from llmstage.evaluation.metrics.calibration import fit_temperature, reliability
from llmstage.evaluation.metrics.classification import classification_report_text, classification_scores, confusion
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import logistic, majority
from llmstage.models.heads.base import Head, Knobs, log_probabilities

MOST_LABELS = 2000
TINY = 1e-9
"""Probability of a class that a simple method never saw; its logarithm must be finite."""


class LabelHead(Head):
    kind = "label"
    problem_type = "single_label_classification"
    headline = share = "macro_f1"

    def __init__(self, word: str, knobs: Knobs) -> None:
        super().__init__(word, knobs)
        self.weights: list[float] | None = None
        self.positive: str | None = None
        """Of two labels the one that is looked for."""
        self.threshold = 0.5
        """Of two labels: the probability from which on the positive one is said."""
        self.counts: Counter[str] = Counter()
        self.kinds: dict[type, Any] = {}

    def complaint(self, value: Any) -> str | None:
        if not isinstance(value, (str, int, bool)) or not str(value).strip():
            return f"{self.word} {value!r} is not a name or a whole number"
        return None

    def see(self, value: Any) -> None:
        self.counts[str(value)] += 1
        self.kinds.setdefault(type(value), value)

    def close(self) -> None:
        """The labels are those of the training split, in sorted order (numbers by value)."""
        counts, self.labels = self.counts, self.sorted_labels()
        if len(self.labels) > MOST_LABELS:
            raise DataError(
                f"{len(self.labels)} different labels: data.columns.{self.word} seems to name a column of texts or ids."
            )
        if self.knobs.class_weights == "balanced":
            total = sum(counts.values())
            self.weights = [total / (len(counts) * counts[label]) for label in self.labels]
        if self.knobs.positive is not None and (len(self.labels) != 2 or self.knobs.positive not in self.labels):
            raise DataError(
                f"task.positive={self.knobs.positive} must be one of two labels; '{self.word}' has {len(self.labels)}: "
                f"{', '.join(self.labels[:9])}."
            )
        if len(self.labels) == 2:  # of equally frequent ones the second: 1 of 0 and 1, yes of no and yes
            rarer = min(reversed(self.labels), key=lambda label: counts[label])
            self.positive = self.knobs.positive or rarer

    def sorted_labels(self) -> list[str]:
        if len(self.kinds) > 1:
            seen = ", ".join(f"{value!r} ({kind.__name__})" for kind, value in self.kinds.items())
            raise DataError(
                f"Labels of different types in the training split: {seen}. Write them all as text or all as numbers."
            )
        if len(self.counts) < 2:
            raise DataError(
                f"The training split has {len(self.counts)} label ({', '.join(self.counts)}); two are needed. "
                f"Check data.columns.{self.word}."
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
            raise ValueError(f"unknown {self.word} '{label}'; the model knows: {', '.join(self.labels[:20])}")
        return [self.labels.index(label)]

    def ref(self, value: Any) -> Any:
        return str(value)

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        target, smoothing = labels[:, 0].long(), self.knobs.label_smoothing
        if self.weights is None:
            return F.cross_entropy(logits, target, reduction="sum", label_smoothing=smoothing), len(target)
        weights = torch.tensor(self.weights, device=logits.device)
        total = F.cross_entropy(logits, target, weight=weights, reduction="sum", label_smoothing=smoothing)
        return total, float(weights[target].sum())

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        return self.decided(log_probabilities(logits, self.temperature))

    def decided(self, log_p: Tensor) -> list[dict[str, Any]]:
        """The likeliest label; of two the positive one from `threshold` on."""
        best = log_p.argmax(-1)  # [B]
        if self.positive is not None and self.threshold != 0.5:
            place = self.labels.index(self.positive)
            best = torch.where(log_p[:, place].exp() >= self.threshold, place, 1 - place)
        return [
            {"label": self.labels[index], "log_p": row}
            for index, row in zip(best.tolist(), log_p.tolist(), strict=True)
        ]

    @property
    def tunes(self) -> bool:
        return self.knobs.temperature == "scaled" or self.knobs.threshold == "tuned"

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        logits, truth = log_rows(predictions), self.truth(refs)
        if self.knobs.temperature == "scaled":
            # The predictions were made at the present temperature; theirs is put on top.
            self.temperature = round(self.temperature * fit_temperature(logits, truth), 6)
            logits = torch.log_softmax(torch.from_numpy(logits / self.temperature), -1).numpy()
        if self.positive is not None and self.knobs.threshold == "tuned":
            place = self.labels.index(self.positive)
            self.threshold = best_threshold(truth == place, np.exp(logits[:, place]))

    def truth(self, refs: list[Any]) -> Any:
        return np.array([self.labels.index(ref) for ref in refs], dtype=np.int64)

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        log_p = torch.tensor([item["log_p"] for item in predictions], dtype=torch.float64)
        shares = log_p.exp().numpy()
        scores = classification_scores([item["label"] for item in predictions], refs, self.labels, shares)
        truth = self.truth(refs)
        if self.positive is not None:
            place = self.labels.index(self.positive)
            scores |= ranking_scores(truth == place, log_p[:, place].numpy())
        loss = float(F.nll_loss(log_p, torch.from_numpy(truth)))
        return {**scores, "loss": Score(loss, count=len(refs), higher_is_better=False)}

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        predicted = [item["label"] for item in predictions]
        report = classification_report_text(predicted, refs)
        shown: list[dict[str, Any]] = [
            {"kind": "text", "title": "Per class (as scikit-learn prints it)", "text": report},
            confusion_exhibit(predicted, refs, self.labels),
        ]
        log_p, truth = log_rows(predictions), self.truth(refs)
        if self.positive is not None:
            place = self.labels.index(self.positive)
            shown += curve_exhibits(truth == place, np.exp(log_p[:, place]), self.positive)
            if self.threshold != 0.5:
                shown[0]["note"] = f"'{self.positive}' is said from a probability of {self.threshold:.3f} on."
        shown += reliability(np.exp(log_p.max(axis=1)), log_p.argmax(axis=1) == truth)
        return shown

    def error(self, prediction: dict[str, Any], ref: Any) -> float:
        return float(prediction["label"] != ref)

    def confidence(self, prediction: dict[str, Any]) -> float | None:
        return math.exp(prediction["log_p"][self.labels.index(prediction["label"])])

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        scores = dict(zip(self.labels, (round(value, 6) for value in prediction["log_p"]), strict=True))
        return {
            "prediction": prediction["label"], "reference": ref, "correct": prediction["label"] == ref,
            "probability": round(float(np.exp(scores[prediction["label"]])), 6), "log_probabilities": scores,
        }  # fmt: skip

    def prior(self, known: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        return "majority class", self.from_shares(*majority(known, num_rows))

    def linear(self, x_train: Any, known: list[Any], x: Any) -> tuple[str, list[dict[str, Any]]]:
        return "logistic regression", self.from_shares(*logistic(x_train, known, x))

    def from_shares(self, classes: list[str], shares: Any) -> list[dict[str, Any]]:
        """Predictions from a simple method's probabilities [N, classes], by its own likeliest class."""
        out = np.full((len(shares), len(self.labels)), TINY)
        for column, name in enumerate(classes):
            if name in self.labels:
                out[:, self.labels.index(name)] = np.maximum(shares[:, column], TINY)
        log_p = np.log(out / out.sum(axis=1, keepdims=True))
        return [
            {"label": self.labels[int(index)], "log_p": row}
            for index, row in zip(log_p.argmax(axis=1), log_p.tolist(), strict=True)
        ]


def log_rows(predictions: list[dict[str, Any]]) -> Any:
    """Log-probabilities [N, C]."""
    return np.array([item["log_p"] for item in predictions], dtype=np.float64)


def confusion_exhibit(predicted: list[str], expected: list[str], labels: list[str]) -> dict[str, Any]:
    """The whole matrix, or the most frequent confusions where it would not fit on a page."""
    if len(labels) <= 30:
        matrix = confusion(predicted, expected, labels)
        return {
            "kind": "matrix", "title": "Confusion matrix", "row_labels": labels, "column_labels": labels,
            "values": [list(map(int, row)) for row in matrix], "row_name": "true", "column_name": "predicted",
        }  # fmt: skip
    wrong = Counter((true, said) for true, said in zip(expected, predicted, strict=True) if true != said)
    rows = [[true, said, str(count)] for (true, said), count in wrong.most_common(15)]
    return {
        "kind": "table", "title": "Most frequent confusions", "columns": ["true", "predicted", "rows"], "rows": rows,
    }  # fmt: skip
