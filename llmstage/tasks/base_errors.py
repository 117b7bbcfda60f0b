"""The error of each prediction, in which stage=explore looks for weak slices."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmstage.evaluation.metrics.answers import exact_and_f1
from llmstage.models.heads.base import Head


@dataclass(slots=True)
class ExampleErrors:
    """Errors of N predictions, in their order."""

    metric: str
    """Name of the metric: `accuracy`, `f1`, `reciprocal_rank`, `loss`, …"""
    values: list[float | None]
    """At least 0; 0 is correct. None without a prediction."""
    share: bool = True
    """True: errors are at most 1 and the score is 1 - error. False: the score is the error, e.g. nats per token."""
    weights: list[float] = field(default_factory=list)
    """Weight of each prediction among those of its row, e.g. its number of tokens; empty: 1 each."""
    confidence: list[float | None] = field(default_factory=list)
    """Probability of each prediction according to the model; empty if it gives none."""
    nats: list[float | None] = field(default_factory=list)
    """With errors of generated text, the loss of the reference in nats per token; otherwise empty."""

    def score(self, error: float) -> float:
        """Return the score of a mean error, on the usual scale of the metric."""
        return 1 - error if self.share else error


def errors_by_record(lines: Sequence[dict[str, Any]]) -> ExampleErrors:
    """Return 0 or 1 for each line of predictions.jsonl."""
    values, confidence = [], list[float | None]()
    for line in lines:
        prediction = line["prediction"]
        correct = line.get("correct")
        correct = prediction == line["reference"] if correct is None else correct
        values.append(None if prediction is None else float(not correct))
        probability = line.get("probability", line.get("confidence"))
        confidence.append(float(probability) if isinstance(probability, (int, float)) else None)
    return ExampleErrors(
        "accuracy", values, confidence=confidence if any(value is not None for value in confidence) else []
    )


def errors_by_loss(nll: Sequence[float], tokens: Sequence[float]) -> ExampleErrors:
    """Return the loss in nats per token; each window of a row is weighted by its tokens."""
    return ExampleErrors("loss", token_nats(nll, tokens), share=False, weights=[float(count) for count in tokens])


def errors_by_rank(ranks: Iterable[int | None]) -> ExampleErrors:
    """Return 1 - 1 / rank of the correct item; None without one, e.g. for a candidate that was not clicked."""
    return ExampleErrors("reciprocal_rank", [None if rank is None else 1 - 1 / rank for rank in ranks])


def token_nats(nll: Sequence[float], tokens: Sequence[float]) -> list[float | None]:
    """Return the loss of each row in nats per token; None without tokens."""
    return [max(0.0, float(row_nll)) / count if count else None for row_nll, count in zip(nll, tokens, strict=True)]


def errors_by_text(texts: Sequence[str | None], references: Sequence[Sequence[str]]) -> ExampleErrors:
    """Return 1 - SQuAD's F1 of the words (Chinese: characters) with the best matching reference."""
    pairs = zip(texts, references, strict=True)
    return ExampleErrors(
        "f1", [None if text is None else 1 - exact_and_f1(text, row_references)[1] for text, row_references in pairs]
    )


def errors_of_targets(targets: Iterable[tuple[Head, list[Any], list[Any]]]) -> ExampleErrors:
    """Return the errors of one target, or for several targets the mean error of each row, each target at most 1.

    `targets`: (head, predictions, references) of each target.
    """
    target_list = list(targets)
    if len(target_list) == 1:
        head, predictions, refs = target_list[0]
        values: list[float | None] = [head.error(*pair) for pair in zip(predictions, refs, strict=True)]
        confidence = [head.confidence(item) for item in predictions]
        return ExampleErrors(
            head.error_metric, values, head.error_is_bounded, confidence=confidence if None not in confidence else []
        )
    target_errors = [
        [min(1.0, head.error(*pair)) for pair in zip(predictions, refs, strict=True)]
        for head, predictions, refs in target_list
    ]
    return ExampleErrors("mean_accuracy", [sum(row) / len(row) for row in zip(*target_errors, strict=True)])
