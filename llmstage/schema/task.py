"""The `task` group. A task with knobs of its own has a dataclass here, named after it in CamelCase; any other task is a
plain `TaskConfig`. A task outside the package keeps its dataclass as `Config` in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.schema.marks import TRAINING
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

    reads_items = False  # whether the task joins its rows with data.items; said by the class, no key


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
class Recommendation(TaskConfig):
    """Knobs of task=recommendation."""

    split: Literal["leave_last_out", "time"] = "leave_last_out"
    """What is held out where no file is given: of each user the last click (test) and the one before (validation), or
    everything from a point in time on, with the shares of data.split."""
    positive_rating: float | None = None
    """A rating counts as a click from here on; null: any rating does."""
    history: Annotated[int, AT_LEAST_1] = 20
    """Items of a user's past that the model sees, the newest first."""
    aggregate: Literal["attention", "mean"] = "attention"
    """How the past becomes the user: weighted by content and age, or equally."""
    exclude_seen: bool = True
    """Leave out of the ranking what the user already had; a repeated interaction then counts once."""
    negatives: Annotated[int, Range(2, 100_000), TRAINING] = 256
    """Items drawn anew in each micro-batch to stand against the clicked ones; half evenly, half by popularity."""
    click_negatives: Annotated[int, AT_LEAST_1] = 4
    """Other items per click against which the chance of a click is learned and scored, where the training rows hold no
    candidate that was not clicked."""
    click_weight: Annotated[float, NOT_NEGATIVE, TRAINING] = 0.2
    """Weight of the log-loss of clicks beside the ranking loss."""
    id_dropout: Annotated[float, Range(0, 1), TRAINING] = 0.1
    """Share of items that stand for their text alone in a training step, as cold items do; 1 learns from text only."""
    item_numbers: list[str] = field(default_factory=list)
    """Number columns of data.items, e.g. [price]."""
    item_categories: list[str] = field(default_factory=list)
    """Category columns of data.items, several values with | between them, e.g. [brand]."""
    user_numbers: list[str] = field(default_factory=list)
    """Number columns of the interactions that are known when an item is shown, e.g. [age]."""
    user_categories: list[str] = field(default_factory=list)
    """Category columns of the interactions, e.g. [country,device]."""

    reads_items = True
