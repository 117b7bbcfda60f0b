"""The `task` group. A task with knobs of its own has a dataclass here, named after it in CamelCase; any other task is a
plain `TaskConfig`. A task outside the package keeps its dataclass as `Config` in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.schema.marks import FILES, TRAINING
from llmstage.schema.typed import AT_LEAST_1, NOT_NEGATIVE, Range


@dataclass(slots=True)
class TaskConfig:
    """What every task says of itself; read before torch is imported."""

    name: str = ""
    """File in llmstage/tasks (or a dotted path typed on the command line)."""
    stages: list[str] = field(default_factory=list)
    """Training stages that this task can go through: pretrain, finetune."""
    kinds: list[str] = field(default_factory=list)
    """Model families that it takes: gpt, bert."""
    generates: bool = False
    """Whether scoring generates text, so that the `generation` group is read."""
    select: str = "loss"
    """Validation metric that picks the best checkpoint; the metric knows its own direction."""


@dataclass(slots=True)
class Dialogue(TaskConfig):
    """Knobs of task=dialogue."""

    system: str | None = None
    """A system message put in front of conversations that have none."""
    generate_rows: Annotated[int, AT_LEAST_1] = 100
    """Conversations of a split whose replies are generated; perplexity and token accuracy are on the whole split."""


@dataclass(slots=True)
class Classification(TaskConfig):
    """Knobs of task=classification."""

    class_weights: Annotated[Literal["none", "balanced"], TRAINING] = "none"
    """balanced: each class weighs n / (classes * its rows) in the loss, as scikit-learn's class_weight does."""


@dataclass(slots=True)
class MaskedLm(TaskConfig):
    """Knobs of task=masked_lm."""

    mask_share: Annotated[float, Range(0, 1, open_low=True)] = 0.15
    """Share of a window's tokens that is hidden, one token at least; of these 80 % are shown as the mask token, 10 % as a
    random one, 10 % as they are."""
    whole_word: bool = False
    """Hide whole words: what stands between white space, and each Chinese or Japanese character."""
    mask_seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the masks that scoring uses; apart from `seed`, so that a sweep over seeds is scored on the same masks."""


@dataclass(slots=True)
class TokenClassification(TaskConfig):
    """Knobs of task=token_classification."""

    scheme: Annotated[Literal["auto", "iob1", "iob2", "iobes", "bmes"], FILES] = "auto"
    """How the data's tags mark entities; auto: read off the training split, or taken from the model."""
    repair: Annotated[bool, FILES] = False
    """Read tag sequences that are illegal in their scheme kindly, and count them, instead of refusing their rows."""
    names: Annotated[list[str], FILES] = field(default_factory=list)
    """Where the data holds tags as numbers: what each number stands for, in order, e.g. [O,B-PER,I-PER]."""
    decode: Literal["viterbi", "argmax"] = "viterbi"
    """viterbi: the likeliest sequence of tags that is legal; argmax: the likeliest tag of each token by itself."""
