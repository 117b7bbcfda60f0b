"""stage.scoring: how probes and phenomena are asked and what counts as right."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, Range


@dataclass(slots=True)
class Scoring:
    """How items are asked."""

    form: Literal["auto", "plain", "chat"] = "auto"
    """plain: the prompt is the beginning of a text; chat: it is a user's turn; auto: chat for models of task=dialogue and
    models that see."""
    end: Literal["auto", "eos", "newline", "none"] = "auto"
    """What must follow a free answer: eos, the end of text; newline; none; auto: the end of the turn in a chat, else eos."""
    generate: Literal["free", "all", "none"] = "free"
    """Whose answers are written out for edit similarity and chrF: free, items that say so; all; none. The other scores need
    no generation."""
    max_new_tokens: Annotated[int, AT_LEAST_1] = 64
    """Longest text that is written out."""
    permutations: Annotated[int, NOT_NEGATIVE] = 200
    """Times that a model's answers are dealt out anew to see what its habits score; 0: chance without it."""
    fdr: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.10
    """Share of false cells among those called above chance (Benjamini and Hochberg)."""
