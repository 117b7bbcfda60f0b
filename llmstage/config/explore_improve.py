"""The keys `stage.improve` of stage=explore: how the weak slices are worked on, and what must not be lost."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.config.key_conditions import RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Range


@dataclass(slots=True)
class GuardConfig:
    """What a new model must not lose; where it does, the old one stays."""

    suite: list[Literal["rest", "lm_loss"]] = field(default_factory=lambda: ["rest", "lm_loss"])
    """`rest`: all rows outside the weak slices, paired non-inferiority; `lm_loss`: their loss, where the task writes text."""
    by: str | None = None
    """Column whose values part the other rows into families, each tested by itself (Holm); null: one family."""
    delta: Annotated[float, POSITIVE] = 0.01
    """Loss that must be excluded in each family; wider, up to three times, where so few rows resolve no less."""
    lm_loss: Annotated[float, NOT_NEGATIVE] = 0.02
    """Nats a token by which the loss of the other rows may rise; of tasks that are scored by their loss, `delta`."""
    fallback: list[Literal["wise_ft", "more_replay"]] = field(default_factory=lambda: ["wise_ft", "more_replay"])
    """What is tried, in this order, where the guard refuses: a mean of old and new weights (WiSE-FT; .75, .5, .25 of the
    new), an arm with twice the replay. Each is put to the same test."""


@dataclass(slots=True)
class ImproveConfig:
    """Targeted training on confirmed weak slices."""

    enabled: bool = False
    """Train, compare, and keep the better model in <run>/improved where its guard lets it pass."""
    weaknesses: str | None = None
    """A weaknesses.jsonl, of an earlier run or one's own (`{"slice": {column: value}}`); null: what this run confirms."""
    data: str | list[str] | None = None
    """New examples of the weak slices, a file in any form that data.train takes."""
    test: str | list[str] | None = None
    """Rows for the final before and after; null: half of the rows that confirm are set aside for it."""
    source: Literal["auto", "pool", "both"] = "auto"
    """Where examples of the weak slices come from: auto is `data` where it is given, else the pool's own matching rows,
    repeated; `both` takes the two together."""
    target_share: list[Annotated[float, Range(0, 1, open_low=True)]] = field(default_factory=lambda: [0.25, 0.5, 0.75])
    """Shares of the weak slices in a batch; of several, pilots of a third of the steps choose. The rest is replay."""
    steps: Annotated[int, AT_LEAST_1] = 300
    """Optimizer steps of an arm."""
    lr: Annotated[float, POSITIVE] | None = None
    """Peak learning rate; null: what optim.lr=auto takes for a trained model."""
    kl: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of KL(old || new) at the targets of replayed rows, beside their loss; 0: none."""
    control: bool = True
    """Train more_of_same, twice: as many steps on the pool as it is. Without it, a gain is not told from more training."""
    structure: Literal["suggest", "apply", "off"] = "suggest"
    """Where a weakness asks for `structure`: say so; or add blocks that change nothing at first (below the only one of a decoder, else
    behind the last), and train all arms with them; or pass over it."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What must not be lost."""

    def check(self, run: RunFacts) -> list[str]:
        wrong = []
        if not run.model.path:
            wrong.append("stage.improve.enabled needs a trained model: model.path=<run folder>.")
        if not run.task.name:
            wrong.append("stage.improve.enabled needs to know the task: task=…, or a run folder as model.path.")
        if not run.data.is_demo and not (run.data.train or run.data.path):
            wrong.append("stage.improve.enabled needs the training pool for replay: data.train=<files>.")
        if not self.target_share:
            wrong.append("stage.improve.target_share=[] names no share; give one or several, e.g. [0.25,0.5,0.75].")
        if self.source == "both" and self.data is None:
            wrong.append("stage.improve.source=both needs new examples: stage.improve.data=<file>.")
        if self.source == "pool" and self.data is not None:
            wrong.append("stage.improve.data is not read: stage.improve.source=pool takes the pool's own rows.")
        if self.kl and 1.0 in self.target_share and len(self.target_share) == 1:
            wrong.append(
                "stage.improve.kl is not read: it holds on replayed rows, and target_share=[1.0] replays none."
            )
        return wrong
