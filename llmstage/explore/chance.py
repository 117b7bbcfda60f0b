"""Estimate what a model without knowledge scores on given items.

Chance is not assumed to be 1/k: answer keys are skewed, and models prefer some letters. (57 subjects of MMLU against a fixed
0.25 give "discoveries" in a model that knows nothing.)
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmstage.explore.items import Item

Scores = dict[str, Any]


@dataclass(slots=True)
class Chance:
    """The highest of several estimates of chance."""

    value: float
    how: str
    """constant answer, permuted answers, or untrained model."""
    low: float
    high: float
    """95 % of the permutations; both are `value` where another estimate is the highest."""
    ways: dict[str, float] = field(default_factory=dict)
    """The score of each estimate, the highest and the others."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of report.json."""
        return {"value": self.value, "how": self.how, "ci": [self.low, self.high], "ways": self.ways}


def chance_of(
    items: Sequence[Item],
    scores: Sequence[Scores],
    untrained: Sequence[Scores] | None,
    *,
    permutations: int,
    seed: int,
) -> Chance:
    """Estimate the chance level of the headline score (acc, or em) on these items.

    Constant answer: always the same index, or the same text, whichever is right most often. Permuted answers: the model's
    own answers in random order over the items, so that only its habits can make them right. Untrained model: the same
    architecture with random weights. Free answers are permuted where text was generated.
    """
    estimates = [Chance(constant(items), "constant answer", 0.0, 0.0)]
    # The second and the third estimate need scores of the model, and of an untrained one.
    permuted = permuted_hits(items, scores, permutations, seed)
    if permuted is not None:
        low, high = np.percentile(permuted, [2.5, 97.5])
        estimates.append(Chance(float(permuted.mean()), "permuted answers", float(low), float(high)))
    if untrained is not None:
        values = [
            result["acc"] if item.choices else result["em"] for item, result in zip(items, untrained, strict=True)
        ]
        known = [value for value in values if value is not None]
        if known:
            estimates.append(Chance(float(np.mean(known)), "untrained model", 0.0, 0.0))
    best = max(estimates, key=lambda estimate: estimate.value)
    best.ways = {estimate.how: estimate.value for estimate in estimates}
    if best.how != "permuted answers":
        best.low = best.high = best.value
    return best


def constant(items: Sequence[Item]) -> float:
    """Return the share of items that the best fixed answer gets right."""
    texts = Counter(text for item in items for text in ([item.right] if item.choices else item.accepted))
    labels = Counter(item.label for item in items if item.choices)
    most = max([*texts.values(), *labels.values()], default=0)
    return most / len(items) if items else 0.0


def permuted_hits(items: Sequence[Item], scores: Sequence[Scores], permutations: int, seed: int) -> Any:
    """Return the share right [R] of randomly permuted answers; of indices or of texts, whichever is right more often."""
    if not permutations:
        return None
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(items)) for _ in range(permutations)]
    rates = []
    if all(item.choices for item in items) and all(result.get("chosen") is not None for result in scores):
        chosen = np.array([result["chosen"] for result in scores])
        labels = np.array([item.label for item in items])
        rates.append([float((chosen[order] == labels).mean()) for order in orders])
        predictions = np.array(
            [item.choices[result["chosen"]] for item, result in zip(items, scores, strict=True)], dtype=object
        )
        right = np.array([item.right for item in items], dtype=object)
        rates.append([float((predictions[order] == right).mean()) for order in orders])
    elif all(result.get("text") is not None for result in scores):
        predictions = np.array([result["text"] for result in scores], dtype=object)
        accepted = [{text.strip() for text in item.accepted} for item in items]
        rates.append(
            [
                float(np.mean([predictions[at] in texts for at, texts in zip(order, accepted, strict=True)]))
                for order in orders
            ]
        )
    return max((np.array(rate) for rate in rates), key=lambda rate: float(rate.mean()), default=None)


def unigram_log_probs(answers: Sequence[Sequence[int]]) -> list[float]:
    """Return log p per token of each answer (ids) from the token frequencies of all other answers, with add-one smoothing.

    This is what can be known of an answer without its question.
    """
    counts = Counter(token for answer in answers for token in answer)
    num_tokens, num_types = sum(counts.values()), len(counts) + 1
    means = []
    for answer in answers:
        in_answer = Counter(answer)
        rest = num_tokens - len(answer)
        logs = [np.log((counts[token] - in_answer[token] + 1) / (rest + num_types)) for token in answer]
        means.append(float(np.mean(logs)))
    return means
