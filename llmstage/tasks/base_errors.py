"""How wrong a task's predictions are, one number each: what stage=explore looks for weak slices in."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from llmstage.evaluation.metrics.answers import exact_and_f1
from llmstage.models.heads.base import Head


@dataclass(slots=True)
class Errors:
    """Of N predictions, in their order."""

    metric: str
    """What is measured: `accuracy`, `f1`, `reciprocal_rank`, `loss`, …"""
    values: list[float | None]
    """0 is right; never below. None where nothing was predicted."""
    share: bool = True
    """Errors are at most 1 and the score is 1 - error; False: the score is the error itself, e.g. nats a token."""
    weights: list[float] = field(default_factory=list)
    """What a prediction counts for among those of its row, e.g. its tokens; empty: 1 each."""
    confidence: list[float | None] = field(default_factory=list)
    """Probability that the model gave to what it said; empty where it tells none."""
    nats: list[float | None] = field(default_factory=list)
    """Beside errors of written text: what the right text costs, nats a token; empty where there is no text."""

    def score(self, error: float) -> float:
        """The score of a mean error, as a reader knows the metric."""
        return 1 - error if self.share else error


def errors_by_record(lines: Sequence[dict[str, Any]]) -> Errors:
    """Right or wrong by what predictions.jsonl says of each."""
    values, confidence = [], list[float | None]()
    for line in lines:
        said = line["prediction"]
        right = line.get("correct")
        right = said == line["reference"] if right is None else right
        values.append(None if said is None else float(not right))
        sure = line.get("probability", line.get("confidence"))
        confidence.append(float(sure) if isinstance(sure, (int, float)) else None)
    return Errors("accuracy", values, confidence=confidence if any(one is not None for one in confidence) else [])


def errors_by_loss(nll: Sequence[float], tokens: Sequence[float]) -> Errors:
    """Nats a token; a row's windows weigh as many as they have."""
    return Errors("loss", token_nats(nll, tokens), share=False, weights=[float(count) for count in tokens])


def errors_by_rank(ranks: Iterable[int | None]) -> Errors:
    """1 - 1 / rank of the right one; None where nothing was to be found, e.g. for a candidate that was not clicked."""
    return Errors("reciprocal_rank", [None if rank is None else 1 - 1 / rank for rank in ranks])


def token_nats(nll: Sequence[float], tokens: Sequence[float]) -> list[float | None]:
    return [max(0.0, float(own)) / count if count else None for own, count in zip(nll, tokens, strict=True)]


def errors_by_text(texts: Sequence[str | None], references: Sequence[Sequence[str]]) -> Errors:
    """1 - the F1 of the words (Chinese: characters) with the reference that fits best, as SQuAD counts it."""
    pairs = zip(texts, references, strict=True)
    return Errors("f1", [None if said is None else 1 - exact_and_f1(said, told)[1] for said, told in pairs])


def errors_of_targets(parts: Iterable[tuple[Head, list[Any], list[Any]]]) -> Errors:
    """Of one target, (head, predictions, references), its own errors; of several the mean of each row's, each at most 1."""
    known = list(parts)
    if len(known) == 1:
        head, said, told = known[0]
        values: list[float | None] = [head.error(*pair) for pair in zip(said, told, strict=True)]
        sure = [head.confidence(item) for item in said]
        return Errors(head.error_of, values, head.error_is_share, confidence=sure if None not in sure else [])
    each = [[min(1.0, head.error(*pair)) for pair in zip(said, told, strict=True)] for head, said, told in known]
    return Errors("mean_accuracy", [sum(row) / len(row) for row in zip(*each, strict=True)])
