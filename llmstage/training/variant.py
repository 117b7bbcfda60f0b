"""A run that stage=explore trains from a trained model: other rows, another mix of them, another objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.data.row_source import RowSource
from llmstage.tasks.base import Task
from llmstage.training.machine import Machine
from llmstage.training.setup import RunComponents


@dataclass(slots=True)
class Arm:
    """What fit_one() takes from here; all else, checkpoints and resume too, is as in any run."""

    rows: dict[str, RowSource]
    """The splits; `train` at least. They must be the same rows each time the arm is begun or resumed."""
    order: Callable[[BatchOrder, ExampleStore], BatchOrder]
    """Which features form which batch, from the order that the run would have; a pure function of (seed, epoch) again."""
    objective: Callable[[RunComponents, Machine], Task]
    """The task as the training loop sees it, where more than its own loss is asked for."""
