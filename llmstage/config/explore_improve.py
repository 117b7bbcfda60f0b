"""Keys `stage.improve` of stage=explore: training on the weak slices, and what must not become worse."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.config.key_conditions import RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Range


@dataclass(slots=True)
class GuardConfig:
    """What a new model must not lose; where it does, the old model is kept."""

    suite: list[Literal["rest", "lm_loss"]] = field(default_factory=lambda: ["rest", "lm_loss"])
    """rest: paired non-inferiority on all rows outside the weak slices; lm_loss: their loss, where the task generates
    text."""
    by: str | None = None
    """Column that divides the other rows into families, each tested separately (Holm); null: one family."""
    delta: Annotated[float, POSITIVE] = 0.01
    """Loss of score that must be excluded in each family; up to three times as much where the family has too few rows
    to resolve it."""
    lm_loss: Annotated[float, NOT_NEGATIVE] = 0.02
    """Nats per token by which the loss of the other rows may rise; for tasks that are scored by their loss, `delta`."""
    fallback: list[Literal["wise_ft", "more_replay"]] = field(default_factory=lambda: ["wise_ft", "more_replay"])
    """What to try, in this order, where the guard refuses. wise_ft: averages of old and new weights (WiSE-FT, .75, .5,
    .25 of the new); more_replay: a variant with twice the replay. Each is tested in the same way."""


@dataclass(slots=True)
class ImproveConfig:
    """Targeted training on confirmed weak slices."""

    enabled: bool = False
    """Train, compare, and keep the better model in <run>/improved where its guard accepts it."""
    weaknesses: str | None = None
    """A weaknesses.jsonl of an earlier run or of your own (`{"slice": {column: value}}`); null: the slices that this
    run confirms."""
    data: str | list[str] | None = None
    """New examples of the weak slices, in any format of data.train."""
    test: str | list[str] | None = None
    """Rows for the final comparison; null: half of the confirmation rows are set aside."""
    source: Literal["auto", "pool", "both"] = "auto"
    """Source of examples of the weak slices. auto: `data` where it is given, else the pool's matching rows, repeated;
    pool: the pool's rows; both: the two together."""
    target_share: list[Annotated[float, Range(0, 1, open_low=True)]] = field(default_factory=lambda: [0.25, 0.5, 0.75])
    """Shares of the weak slices in a batch; of several, pilot runs with a third of the steps choose one. The rest is
    replay."""
    steps: Annotated[int, AT_LEAST_1] = 300
    """Optimizer steps of a variant."""
    lr: Annotated[float, POSITIVE] | None = None
    """Peak learning rate; null: that of optim.lr=auto for a trained model."""
    kl: Annotated[float, NOT_NEGATIVE] = 0.0
    """Weight of KL(old || new) at the targets of replayed rows, added to their loss; 0: none."""
    control: bool = True
    """Also train the control more_of_same, twice: the same number of steps on the unchanged pool. Without it, a gain
    cannot be distinguished from the effect of more training."""
    structure: Literal["suggest", "apply", "off"] = "suggest"
    """Where a weakness asks for `structure`. suggest: report it; apply: add layers that are the identity at first
    (below the only layer of a decoder, else above the last), and train all variants with them; off: ignore it."""
    guard: GuardConfig = field(default_factory=GuardConfig)
    """What must not become worse."""

    def check(self, run: RunFacts) -> list[str]:
        """Return complaints about missing inputs and keys that exclude each other."""
        complaints = []
        if not run.model.path:
            complaints.append("stage.improve.enabled needs a trained model: model.path=<run folder>.")
        if not run.task.name:
            complaints.append("stage.improve.enabled needs to know the task: task=…, or a run folder as model.path.")
        if not run.data.is_demo and not (run.data.train or run.data.path):
            complaints.append("stage.improve.enabled needs the training pool for replay: data.train=<files>.")
        if not self.target_share:
            complaints.append(
                "stage.improve.target_share=[] names no share; give one or several, e.g. [0.25,0.5,0.75]."
            )
        if self.source == "both" and self.data is None:
            complaints.append("stage.improve.source=both needs new examples: stage.improve.data=<file>.")
        if self.source == "pool" and self.data is not None:
            complaints.append("stage.improve.data is not read: stage.improve.source=pool takes the pool's own rows.")
        if self.kl and 1.0 in self.target_share and len(self.target_share) == 1:
            complaints.append(
                "stage.improve.kl is not read: it holds on replayed rows, and target_share=[1.0] replays none."
            )
        return complaints
