"""What a metric's name says of it: right-or-wrong or continuous, which way is better, which task, what chance gives."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping

CONTINUOUS = (
    "ppl", "perplexity", "bits_per_byte", "bits_per_char", "bpb", "loss", "nll", "cross_entropy", "logp", "logprob", "log_prob",
    "logp_per_token", "logp_per_byte", "p_choices", "p_vocab", "brier", "bleu", "chrf", "rouge", "rouge_l", "ted",
    "token_accuracy", "损失", "困惑度",
)  # fmt: skip
SHARP = (
    "acc", "acc_norm", "accuracy", "exact_match", "em", "pass", "f1", "hit", "mc1", "grade", "multiple_choice_grade",
    "准确率", "正确率",
)  # fmt: skip
LOWER = ("ppl", "perplexity", "bits_per_byte", "bits_per_char", "bpb", "loss", "nll", "cross_entropy", "brier", "error",
         "损失", "困惑度")  # fmt: skip
PERPLEXITIES = ("ppl", "perplexity", "困惑度")
LOSSES = ("bits_per_byte", "bits_per_char", "bpb", *PERPLEXITIES, "loss", "nll")
"""What can stand for the held-out loss, the best first."""
CHANCE = {
    "piqa": 0.5, "winogrande": 0.5, "wsc": 0.5, "blimp": 0.5, "boolq": 0.5, "arc_easy": 0.25, "arc_challenge": 0.25,
    "sciq": 0.25, "logiqa": 0.25, "mmlu": 0.25, "hellaswag": 0.25, "openbookqa": 0.25, "lambada": 0.0, "gsm8k": 0.0,
}  # fmt: skip
"""Score of a uniform guess by the rules of published tasks. It is a first word only: a constant answer may do better, and
does on MMLU."""


def parts_of(name: str) -> tuple[str, str]:
    """Task and kind of a metric: `arc_easy.acc_norm` gives arc_easy and acc_norm; an unknown kind is empty."""
    word = name.casefold()
    for kind in sorted((*CONTINUOUS, *SHARP), key=len, reverse=True):
        found = re.fullmatch(rf"(.*?)[._/ ]?{re.escape(kind)}", word)
        if found and (word == kind or word[-len(kind) - 1] in "._/ " or ord(kind[0]) > 0x2E7F):
            return found[1], kind
    return word, ""


def is_sharp(name: str) -> bool:
    """Whether a score counts right and wrong; one of an unknown name is taken for such, so that nothing is claimed of it."""
    return parts_of(name)[1] not in CONTINUOUS


def is_lower_better(name: str) -> bool:
    return parts_of(name)[1] in LOWER


def is_perplexity(name: str) -> bool:
    return parts_of(name)[1] in PERPLEXITIES


def twin_of(name: str, metrics: Iterable[str]) -> str | None:
    """A continuous score of the same task."""
    task, _ = parts_of(name)
    same = [other for other in metrics if other != name and parts_of(other)[0] == task and not is_sharp(other)]
    return min(same, key=lambda other: CONTINUOUS.index(parts_of(other)[1]), default=None)


def group_of(name: str) -> str | None:
    """The suite a task belongs to where many share one: `mmlu`, `blimp`."""
    head = name.casefold().partition("_")[0]
    return head if head in ("mmlu", "blimp", "bbh") else None


def chance_of(name: str, given: Mapping[str, float]) -> float | None:
    """What knowing nothing scores: as `stage.chance` says for the metric, its task or its suite, else by the task's rules;
    None where unknown or where the score is no share of right answers."""
    word = name.casefold()
    for levels, sure in ((given, True), (CHANCE, False)):
        for key in sorted(levels, key=len, reverse=True):
            start = key.casefold()
            if (word == start or re.match(rf"{re.escape(start)}[._]", word)) and (sure or is_accuracy(name)):
                return levels[key]
    return None


def is_accuracy(name: str) -> bool:
    return parts_of(name)[1] in ("acc", "acc_norm", "accuracy", "准确率", "正确率")
