"""A run that stage=explore trains from a trained model: other rows, another mix of them, another objective."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from llmstage.data.order import BatchOrder
from llmstage.data.rowsource import RowSource
from llmstage.data.store import FeatureStore
from llmstage.engine.assemble import Pieces
from llmstage.engine.machine import Machine
from llmstage.tasks.base import Task


@dataclass(slots=True)
class Arm:
    """What fit_one() takes from here; all else, checkpoints and resume too, is as in any run."""

    rows: dict[str, RowSource]
    """The splits; `train` at least. They must be the same rows each time the arm is begun or resumed."""
    order: Callable[[BatchOrder, FeatureStore], BatchOrder]
    """Which features form which batch, from the order that the run would have; a pure function of (seed, epoch) again."""
    objective: Callable[[Pieces, Machine], Task]
    """The task as the training loop sees it, where more than its own loss is asked for."""
