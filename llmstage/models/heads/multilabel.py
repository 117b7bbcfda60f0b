"""Any number of labels a row, each a yes or no of its own."""

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
from llmstage.evaluation.metrics.multilabel import label_table, multilabel_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.sklearn_baselines import logistic_multilabel
from llmstage.models.heads.base import Head, Knobs
from llmstage.models.heads.single_label import MOST_LABELS, TINY

MOST_WEIGHT = 20.0
"""pos_weight is at most this: a label of one row in ten thousand would otherwise shake every other."""


class MultilabelHead(Head):
    kind = "multilabel"
    problem_type = "multi_label_classification"
    headline = share = "micro_f1"

    def __init__(self, word: str, knobs: Knobs) -> None:
        super().__init__(word, knobs)
        self.dropped: list[str] = []
        """Labels of fewer training rows than task.min_count; they are known and ignored."""
        self.min_count = knobs.min_count
        self.told: set[str] = set()
        """Labels without a training row that were told."""
        self.thresholds: list[float] = []
        self.weights: list[float] | None = None
        self.counts: Counter[str] = Counter()
        self.rows = 0

    @property
    def label_width(self) -> int:  # type: ignore[override]
        return len(self.labels)

    def names(self, value: Any) -> list[str]:
        """The labels of a row, each once: a list, or text split by task.separator; none where there is nothing."""
        parts = value.split(self.knobs.separator) if isinstance(value, str) else value
        return list(dict.fromkeys(name for part in parts if (name := str(part).strip())))

    @property
    def example(self) -> Any:
        return []

    def complaint(self, value: Any) -> str | None:
        if isinstance(value, str):
            return None
        if not isinstance(value, list) or not all(isinstance(item, (str, int)) for item in value):
            return f"{self.word} {value!r:.60} is neither a list of labels nor text split by task.separator"
        return None

    def see(self, value: Any) -> None:
        self.rows += 1
        self.counts.update(self.names(value))

    def close(self) -> None:
        kept = sorted(name for name, count in self.counts.items() if count >= self.knobs.min_count)
        self.dropped = sorted(set(self.counts) - set(kept))
        if not kept:
            raise DataError(
                f"No label of '{self.word}' occurs in {self.knobs.min_count} training rows. Lower task.min_count, or check "
                f"data.columns.{self.word} and task.separator={self.knobs.separator!r}."
            )
        if len(kept) > MOST_LABELS:
            raise DataError(
                f"{len(kept)} different labels in '{self.word}': is task.separator={self.knobs.separator!r} the right one? "
                f"task.min_count= drops rare labels."
            )
        if self.dropped:
            rows = sum(self.counts[name] for name in self.dropped)
            console.note(
                f"{len(self.dropped)} rare labels ({rows} uses in train) are dropped by task.min_count="
                f"{self.knobs.min_count}: {', '.join(self.dropped[:12])}{' …' if len(self.dropped) > 12 else ''}"
            )
        self.labels, self.thresholds = kept, [self.start] * len(kept)
        if self.knobs.class_weights == "balanced":
            self.weights = [
                min(MOST_WEIGHT, max(1.0, (self.rows - self.counts[name]) / self.counts[name])) for name in kept
            ]

    @property
    def start(self) -> float:
        return 0.5 if self.knobs.threshold == "tuned" else float(self.knobs.threshold)

    def as_dict(self) -> dict[str, Any]:
        return {
            **super().as_dict(),
            "thresholds": self.thresholds,
            "dropped": self.dropped,
            "min_count": self.min_count,
        }

    def load_config(self, saved: dict[str, Any]) -> None:
        super().load_config(saved)
        self.thresholds = list(saved.get("thresholds") or [self.start] * len(self.labels))
        self.dropped, self.min_count = list(saved.get("dropped") or []), int(saved.get("min_count", 1))

    def encode(self, value: Any) -> list[Any]:
        names = set(self.names(value))
        strange = names - set(self.labels) - set(self.dropped)
        if strange and self.min_count > 1:  # no training row is fewer than min_count, so the same rule drops them
            if fresh := sorted(strange - self.told):
                console.note(f"{self.word} {', '.join(map(repr, fresh))} in no training row: dropped by task.min_count")
                self.told |= strange
        elif strange:
            raise ValueError(
                f"unknown {self.word} {', '.join(map(repr, sorted(strange)))}; the model knows: "
                f"{', '.join(self.labels[:20])}. task.min_count=2 drops labels that training has not or hardly seen"
            )
        return [float(label in names) for label in self.labels]

    def ref(self, value: Any) -> Any:
        names = set(self.names(value))
        return [label for label in self.labels if label in names]

    def loss(self, logits: Tensor, labels: Tensor) -> tuple[Tensor, float]:
        """Binary cross-entropy, summed over rows and averaged over labels."""
        weight = None if self.weights is None else torch.tensor(self.weights, device=logits.device)
        target = labels.float()
        if self.knobs.label_smoothing:
            target = target * (1 - self.knobs.label_smoothing) + self.knobs.label_smoothing / 2
        total = F.binary_cross_entropy_with_logits(logits, target, pos_weight=weight, reduction="sum")
        return total / self.width, len(labels)

    def decode(self, logits: Tensor) -> list[dict[str, Any]]:
        shares = torch.sigmoid(logits.float() / self.temperature).cpu().tolist()
        return [self.decided(row) for row in shares]

    def decided(self, shares: list[float]) -> dict[str, Any]:
        labels = [
            label for label, share, least in zip(self.labels, shares, self.thresholds, strict=True) if share >= least
        ]
        return {"labels": labels, "p": shares}

    @property
    def tunes(self) -> bool:
        return self.knobs.temperature == "scaled" or self.knobs.threshold == "tuned"

    def tune(self, predictions: list[dict[str, Any]], refs: list[Any]) -> None:
        shares, truth = share_rows(predictions), self.hits(refs)
        if self.knobs.temperature == "scaled":
            kept = np.clip(shares, 1e-7, 1 - 1e-7)
            logits = np.log(kept / (1 - kept))
            more = fit_temperature_multilabel(logits, truth)
            self.temperature = round(self.temperature * more, 6)
            shares = 1 / (1 + np.exp(-logits / more))
        if self.knobs.threshold == "tuned":
            self.thresholds = [best_threshold(truth[:, k], shares[:, k]) for k in range(self.width)]

    def hits(self, names: list[list[str]]) -> Any:
        """[N, K], True where a row has the label."""
        place = {label: index for index, label in enumerate(self.labels)}
        out = np.zeros((len(names), self.width), dtype=bool)
        for row, said in enumerate(names):
            out[row, [place[name] for name in said]] = True
        return out

    def score(self, predictions: list[dict[str, Any]], refs: list[Any]) -> dict[str, Score]:
        shares, truth = share_rows(predictions), self.hits(refs)
        scores = multilabel_scores(self.hits([item["labels"] for item in predictions]), truth, shares)
        kept = np.clip(shares, TINY, 1 - TINY)
        loss = float(-(np.log(kept) * truth + np.log1p(-kept) * ~truth).mean())
        return {**scores, "loss": Score(loss, count=len(refs), higher_is_better=False)}

    def report_items(self, predictions: list[dict[str, Any]], refs: list[Any]) -> list[dict[str, Any]]:
        shares, truth = share_rows(predictions), self.hits(refs)
        predicted = self.hits([item["labels"] for item in predictions])
        sure = np.where(shares >= 0.5, shares, 1 - shares).reshape(-1)
        right = ((shares >= 0.5) == truth).reshape(-1)
        return [label_table(predicted, truth, self.labels, self.thresholds), *reliability(sure, right)]

    def record(self, prediction: dict[str, Any], ref: Any) -> dict[str, Any]:
        return {
            "prediction": prediction["labels"], "reference": ref, "correct": set(prediction["labels"]) == set(ref),
            "probabilities": dict(zip(self.labels, (round(share, 6) for share in prediction["p"]), strict=True)),
        }  # fmt: skip

    def prior(self, known: list[Any], num_rows: int) -> tuple[str, list[dict[str, Any]]]:
        """Every row gets the labels that more than half of the training rows have, or else the most frequent one."""
        shares = self.hits(known).mean(axis=0)
        said = [label for label, share in zip(self.labels, shares, strict=True) if share >= 0.5]
        said = said or [self.labels[int(shares.argmax())]]
        return "most frequent labels", [{"labels": said, "p": shares.tolist()} for _ in range(num_rows)]

    def linear(self, x_train: Any, known: list[Any], x: Any) -> tuple[str, list[dict[str, Any]]]:
        shares = logistic_multilabel(x_train, self.hits(known), x)
        said = [[label for label, share in zip(self.labels, row, strict=True) if share >= 0.5] for row in shares]
        rows = [{"labels": labels, "p": row.tolist()} for labels, row in zip(said, shares, strict=True)]
        return "logistic regression", rows


def share_rows(predictions: list[dict[str, Any]]) -> Any:
    """Probabilities [N, K]."""
    return np.array([item["p"] for item in predictions], dtype=np.float64)
