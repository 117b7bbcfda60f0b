"""Heads of classification targets: labels, several labels, ordered levels, numbers. One file for each target type."""

from __future__ import annotations

from typing import Any

from llmstage.models.heads.base import BaselineRows, Head, HeadOptions, linear_baselines
from llmstage.models.heads.multilabel import MultilabelHead
from llmstage.models.heads.ordinal import OrdinalHead
from llmstage.models.heads.regression import NumberHead
from llmstage.models.heads.single_label import LabelHead

HEADS: dict[str, type[Head]] = {
    "label": LabelHead, "multilabel": MultilabelHead, "ordinal": OrdinalHead, "number": NumberHead,
}  # fmt: skip
"""Head class by the value of `task.target`."""

__all__ = ["HEADS", "BaselineRows", "Head", "HeadOptions", "build_head", "label_names", "linear_baselines", "load_head"]


def build_head(target_type: str, column: str, options: HeadOptions) -> Head:
    """Create the head of a target. `column`: the column of the rows that contains the target."""
    return HEADS[target_type](column, options)


def load_head(saved: dict[str, Any], options: HeadOptions) -> Head:
    """Create a head from its entry in a model's config.json."""
    head = HEADS[saved["kind"]](saved["word"], options)
    head.load_config(saved)
    return head


def label_names(config: Any) -> list[str]:
    """Return the class names of a transformers config; `0`, `1`, … where it has only the default names LABEL_0, LABEL_1, …."""
    names = [str(config.id2label[index]) for index in range(len(config.id2label))]
    if all(name == f"LABEL_{index}" for index, name in enumerate(names)):
        return [str(index) for index in range(len(names))]
    return names
