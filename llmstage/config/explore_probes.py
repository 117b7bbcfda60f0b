"""Keys `stage.scoring` of stage=explore: how probes and phenomena are prompted, and which answers are correct."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, Range


@dataclass(slots=True)
class Scoring:
    """How items are prompted and scored."""

    form: Literal["auto", "plain", "chat"] = "auto"
    """plain: the prompt is the start of a text; chat: the prompt is a user message; auto: chat for models of
    task=dialogue and models with a vision tower."""
    end: Literal["auto", "eos", "newline", "none"] = "auto"
    """What must follow a free answer. eos: the end of the text; newline; none; auto: the end of the turn in a chat,
    else eos."""
    generate: Literal["free", "all", "none"] = "free"
    """Items whose answers are generated for edit similarity and chrF. free: items that ask for it; all; none. The
    other scores need no generation."""
    max_new_tokens: Annotated[int, AT_LEAST_1] = 64
    """Most tokens of a generated answer."""
    permutations: Annotated[int, NOT_NEGATIVE] = 200
    """Permutations of a model's answers over the items, to measure the score of its biases alone; 0: plain chance."""
    fdr: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.10
    """False discovery rate of the cells called above chance (Benjamini and Hochberg)."""
