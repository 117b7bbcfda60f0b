"""What a target is: its values as numbers, its slice of the logits, its loss, decoding and scores; one file a kind."""

from __future__ import annotations

from typing import Any

from llmstage.models.heads.base import Head, Knobs
from llmstage.models.heads.baselines import linear_methods
from llmstage.models.heads.multilabel import MultilabelHead
from llmstage.models.heads.ordinal import OrdinalHead
from llmstage.models.heads.regression import NumberHead
from llmstage.models.heads.single_label import LabelHead

HEADS: dict[str, type[Head]] = {
    "label": LabelHead, "multilabel": MultilabelHead, "ordinal": OrdinalHead, "number": NumberHead,
}  # fmt: skip

__all__ = ["HEADS", "Head", "Knobs", "adopt_head", "linear_methods", "make_head", "plain_labels"]


def make_head(kind: str, word: str, knobs: Knobs) -> Head:
    return HEADS[kind](word, knobs)


def adopt_head(saved: dict[str, Any], knobs: Knobs) -> Head:
    """A head as a model's config remembers it."""
    head = HEADS[saved["kind"]](saved["word"], knobs)
    head.load_config(saved)
    return head


def plain_labels(config: Any) -> list[str]:
    names = [str(config.id2label[index]) for index in range(len(config.id2label))]
    # transformers' own names say nothing: classes are 0, 1, …
    return (
        [str(index) for index in range(len(names))]
        if all(name == f"LABEL_{index}" for index, name in enumerate(names))
        else names
    )
