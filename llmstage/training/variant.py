"""How a training run may differ from the run that its config describes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.data.row_source import RowSource
from llmstage.tasks.base import Task
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine


@dataclass(slots=True, frozen=True)
class Variant:
    """What control runs, the models that stage=explore trains and ladders of models change about a run.

    Everything else, such as checkpoints and resume, is as in any run. The defaults change nothing.
    """

    rows: dict[str, RowSource] | None = None
    """Splits that replace those of the config; `train` at least. A resumed run must get the same rows again."""
    order: Callable[[BatchOrder, ExampleStore], BatchOrder] | None = None
    """Returns the batches to train on, given the run's default order; a pure function of (seed, epoch), as that one is."""
    objective: Callable[[RunComponents, Machine], Task] | None = None
    """Returns the task as the training loop sees it, where the loss has further terms."""
    save_at: frozenset[int] = frozenset()
    """Steps after which a checkpoint is written, besides those of trainer.save_every."""
    by_character: bool = False
    """Whether a tokenizer that is trained here joins no Chinese characters, whatever the task."""
    updates_latest: bool = True
    """Whether outputs/latest names this run when it is completed."""
