"""What knowing nothing scores on these very items. It is never taken to be 1/k: answer keys are skewed, and models have
favourite letters (57 subjects of MMLU against a fixed 0.25 give "discoveries" in a model that knows nothing)."""

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
    """The highest of several ways of knowing nothing."""

    value: float
    how: str
    """constant answer, permuted answers, or untrained model."""
    low: float
    high: float
    """95 % of the permutations; around `value` where it comes from elsewhere, both are it."""
    ways: dict[str, float] = field(default_factory=dict)
    """What each way scores, the highest and the others."""

    def as_dict(self) -> dict[str, Any]:
        return {"value": self.value, "how": self.how, "ci": [self.low, self.high], "ways": self.ways}


def chance_of(
    items: Sequence[Item],
    scores: Sequence[Scores],
    untrained: Sequence[Scores] | None,
    *,
    permutations: int,
    seed: int,
) -> Chance:
    """Chance of the headline score (acc, or em) on these items.

    Constant answer: always the same place, or the same text, whichever is right most often. Permuted answers: the model's
    own answers, dealt out anew, so that they fit their questions only by its habits. Untrained model: the same architecture
    with random weights. Free answers are permuted where text was generated.
    """
    found = [Chance(constant(items), "constant answer", 0.0, 0.0)]
    permuted = permuted_hits(items, scores, permutations, seed)
    if permuted is not None:
        low, high = np.percentile(permuted, [2.5, 97.5])
        found.append(Chance(float(permuted.mean()), "permuted answers", float(low), float(high)))
    if untrained is not None:
        values = [one["acc"] if item.choices else one["em"] for item, one in zip(items, untrained, strict=True)]
        known = [value for value in values if value is not None]
        if known:
            found.append(Chance(float(np.mean(known)), "untrained model", 0.0, 0.0))
    best = max(found, key=lambda one: one.value)
    best.ways = {one.how: one.value for one in found}
    if best.how != "permuted answers":
        best.low = best.high = best.value
    return best


def constant(items: Sequence[Item]) -> float:
    """Share of items that the best fixed answer gets right."""
    texts = Counter(text for item in items for text in ([item.right] if item.choices else item.accepted))
    labels = Counter(item.label for item in items if item.choices)
    most = max([*texts.values(), *labels.values()], default=0)
    return most / len(items) if items else 0.0


def permuted_hits(items: Sequence[Item], scores: Sequence[Scores], permutations: int, seed: int) -> Any:
    """[R] share right when answers are dealt out anew; of places and of texts, the one that is right more often."""
    if not permutations:
        return None
    rng = np.random.default_rng(seed)
    orders = [rng.permutation(len(items)) for _ in range(permutations)]
    ways = []
    if all(item.choices for item in items) and all(one.get("chosen") is not None for one in scores):
        chosen = np.array([one["chosen"] for one in scores])
        labels = np.array([item.label for item in items])
        ways.append([float((chosen[order] == labels).mean()) for order in orders])
        said = np.array([item.choices[one["chosen"]] for item, one in zip(items, scores, strict=True)], dtype=object)
        right = np.array([item.right for item in items], dtype=object)
        ways.append([float((said[order] == right).mean()) for order in orders])
    elif all(one.get("text") is not None for one in scores):
        said = np.array([one["text"] for one in scores], dtype=object)
        accepted = [{text.strip() for text in item.accepted} for item in items]
        ways.append(
            [float(np.mean([said[at] in own for at, own in zip(order, accepted, strict=True)])) for order in orders]
        )
    return max((np.array(way) for way in ways), key=lambda way: float(way.mean()), default=None)


def unigram_log_probs(answers: Sequence[Sequence[int]]) -> list[float]:
    """log p per token of each answer (ids) under the frequencies of tokens in all the other answers, plus one: what can be
    known of an answer without its question."""
    counts = Counter(token for answer in answers for token in answer)
    whole, kinds = sum(counts.values()), len(counts) + 1
    found = []
    for answer in answers:
        own = Counter(answer)
        rest = whole - len(answer)
        logs = [np.log((counts[token] - own[token] + 1) / (rest + kinds)) for token in answer]
        found.append(float(np.mean(logs)))
    return found
