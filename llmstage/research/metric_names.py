"""Read from a metric's name whether it is right-or-wrong or continuous, which direction is better, its task and its
chance level."""

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
LOWER_IS_BETTER = ("ppl", "perplexity", "bits_per_byte", "bits_per_char", "bpb", "loss", "nll", "cross_entropy", "brier", "error",
         "损失", "困惑度")  # fmt: skip
PERPLEXITIES = ("ppl", "perplexity", "困惑度")
LOSSES = ("bits_per_byte", "bits_per_char", "bpb", *PERPLEXITIES, "loss", "nll")
"""Metrics that can serve as held-out loss, in order of preference."""
CHANCE = {
    "piqa": 0.5, "winogrande": 0.5, "wsc": 0.5, "blimp": 0.5, "boolq": 0.5, "arc_easy": 0.25, "arc_challenge": 0.25,
    "sciq": 0.25, "logiqa": 0.25, "mmlu": 0.25, "hellaswag": 0.25, "openbookqa": 0.25, "lambada": 0.0, "gsm8k": 0.0,
}  # fmt: skip
"""Score of a uniform guess by the rules of published tasks. It is a first approximation: a constant answer may do
better, and does on MMLU."""


def split_metric_name(name: str) -> tuple[str, str]:
    """Split a metric's name into task and metric type: `arc_easy.acc_norm` gives arc_easy and acc_norm. An unknown type
    is empty."""
    folded_name = name.casefold()
    for metric_type in sorted((*CONTINUOUS, *SHARP), key=len, reverse=True):
        match = re.fullmatch(rf"(.*?)[._/ ]?{re.escape(metric_type)}", folded_name)
        if match and (
            folded_name == metric_type or folded_name[-len(metric_type) - 1] in "._/ " or ord(metric_type[0]) > 0x2E7F
        ):
            return match[1], metric_type
    return folded_name, ""


def is_sharp(name: str) -> bool:
    """Whether a score counts right and wrong answers. An unknown metric counts as sharp, so that nothing is claimed
    about it."""
    return split_metric_name(name)[1] not in CONTINUOUS


def is_lower_better(name: str) -> bool:
    return split_metric_name(name)[1] in LOWER_IS_BETTER


def is_perplexity(name: str) -> bool:
    return split_metric_name(name)[1] in PERPLEXITIES


def twin_of(name: str, metrics: Iterable[str]) -> str | None:
    """Return a continuous score of the same task, if there is one."""
    task, _ = split_metric_name(name)
    candidates = [
        candidate
        for candidate in metrics
        if candidate != name and split_metric_name(candidate)[0] == task and not is_sharp(candidate)
    ]
    return min(candidates, key=lambda candidate: CONTINUOUS.index(split_metric_name(candidate)[1]), default=None)


def group_of(name: str) -> str | None:
    """Return the suite that a task belongs to, where many tasks share one: `mmlu`, `blimp`."""
    head = name.casefold().partition("_")[0]
    return head if head in ("mmlu", "blimp", "bbh") else None


def chance_of(name: str, user_levels: Mapping[str, float]) -> float | None:
    """Return the score of a uniform guess: from `stage.chance` for the metric, its task or its suite, else by the rules
    of the task. None where it is unknown, or where the score is not a share of right answers."""
    folded_name = name.casefold()
    for table, is_user_level in ((user_levels, True), (CHANCE, False)):
        for key in sorted(table, key=len, reverse=True):
            prefix = key.casefold()
            if (folded_name == prefix or re.match(rf"{re.escape(prefix)}[._]", folded_name)) and (
                is_user_level or is_accuracy(name)
            ):
                return table[key]
    return None


def is_accuracy(name: str) -> bool:
    return split_metric_name(name)[1] in ("acc", "acc_norm", "accuracy", "准确率", "正确率")
