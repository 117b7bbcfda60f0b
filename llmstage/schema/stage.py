"""The `stage` group. A stage with knobs or facts of its own has a dataclass here, named after it in CamelCase; any other
stage is a plain `StageConfig`."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from llmstage.schema.typed import AT_LEAST_1

if TYPE_CHECKING:
    from llmstage.schema.run import RunConfig


@dataclass(slots=True)
class StageConfig:
    """What happens in this run."""

    name: str = ""
    """The stage, a file in llmstage/stages."""

    inherits: ClassVar[bool] = False
    """Whether task, data, generation and seed are taken over from the run folder that model.path names."""
    keeps_pool: ClassVar[bool] = False
    """Whether the run folder's training rows are taken over also where other rows to score were typed: what the model has
    seen."""
    needs_task: ClassVar[bool] = True
    """Whether nothing can be done without a task; where it is False and no task is known, `run.task.name` is empty."""

    def check(self, run: RunConfig) -> list[str]:
        """Complaints about what this stage needs of the other groups."""
        return []


@dataclass(slots=True)
class Evaluate(StageConfig):
    """stage=evaluate has no knobs of its own."""

    inherits: ClassVar[bool] = True

    def check(self, run: RunConfig) -> list[str]:
        return needs_model("evaluate", run)


@dataclass(slots=True)
class ProveResume(StageConfig):
    """Knobs of stage=prove_resume."""

    train_stage: Literal["auto", "pretrain", "finetune"] = "auto"
    """The training stage whose resume is proved; auto: the first that the task goes through."""
    kill_at: list[Annotated[int, AT_LEAST_1]] | None = None
    """Optimizer steps after which the run is killed, one after another; null: at a third and at two thirds."""


def needs_model(stage: str, run: RunConfig) -> list[str]:
    """A complaint where a stage that uses a trained model was given none."""
    if run.model.path:
        return []
    return [f"stage={stage} needs a model: model.path=outputs/latest, a Hugging Face directory or a hub id."]
