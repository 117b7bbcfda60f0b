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
    leaves: ClassVar[tuple[str, ...]] = ()
    """Keys among these that are not taken over all the same."""
    reads_rows: ClassVar[bool] = False
    """Whether the rows of data.test are predicted; they need not hold what is asked for."""
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


OF_FILES = tuple(
    f"data.{key}"
    for key in ("format", "header", "delimiter", "encoding", "text_rows", "limit", "on_bad_row", "split", "images")
)
"""Keys that describe the files a model was trained on, and not the model."""


@dataclass(slots=True)
class Predict(StageConfig):
    """Knobs of stage=predict."""

    output: str | None = None
    """Where predictions go, one line a row: a file ending in .jsonl, .csv, .tsv or .parquet, or - for standard output; null:
    predictions.jsonl in the run folder."""
    chunk_rows: Annotated[int, AT_LEAST_1] = 1024
    """Rows that are read, predicted and written at once; bounds memory, and what a killed run does anew."""

    inherits: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = OF_FILES
    reads_rows: ClassVar[bool] = True

    def check(self, run: RunConfig) -> list[str]:
        from llmstage.data.growing import check_output

        wrong = needs_model("predict", run)
        if not run.data.test:
            wrong.append(
                "stage=predict needs rows: data.test=<files>, or data.test=- for JSON lines on standard input."
            )
        for key in ("path", "train", "validation"):
            if getattr(run.data, key) and not run.data.test:
                wrong.append(f"data.{key} is not read by stage=predict; name the rows in data.test.")
        complaint = check_output(self.output) if self.output else None
        return [*wrong, complaint] if complaint else wrong


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
