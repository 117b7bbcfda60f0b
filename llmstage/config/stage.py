"""The `stage` group. A stage with knobs or facts of its own has a dataclass here, named after it in CamelCase; any other
stage is a plain `StageConfig`."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, ClassVar, Literal

from llmstage.config.key_conditions import SERVES, RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Range
from llmstage.naming import did_you_mean
from llmstage.paths import MONITOR_STORE, read_run_yaml


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
    leaves: ClassVar[tuple[str, ...]] = ()
    """Keys among these that are not taken over all the same."""
    reads_rows: ClassVar[bool] = False
    """Whether the rows of data.test are predicted; they need not hold what is asked for."""
    writes: ClassVar[bool] = False
    """Whether text is written whatever the task, so that the `generation` group is read."""
    retrieves: ClassVar[bool] = False
    """Whether questions may be looked up, so that the `retrieval` group is read."""
    reads_stream: ClassVar[bool] = False
    """Whether rows come from a file that the stage itself names, and not from the `data` group's."""
    needs_task: ClassVar[bool] = True
    """Whether nothing can be done without a task; where it is False and no task is known, `run.task.name` is empty."""
    alone: ClassVar[str] = ""
    """A key with which there is something to do even without a task and a model."""

    def check(self, run: RunFacts) -> list[str]:
        """Complaints about what this stage needs of the other groups."""
        return []


@dataclass(slots=True)
class Evaluate(StageConfig):
    """Knobs of stage=evaluate."""

    lm_eval: bool = False
    """Also write results_<time>.json in the form of lm-evaluation-harness, and say with what command it scores the model."""

    inherits: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        return needs_model("evaluate", run)


OF_FILES = tuple(
    f"data.{key}"
    for key in ("format", "header", "delimiter", "encoding", "text_rows", "limit", "on_bad_row", "split", "images")
)
"""Keys that describe the files a model was trained on, and not the model."""


OUTPUTS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


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

    def check(self, run: RunFacts) -> list[str]:
        wrong = needs_model("predict", run)
        if not run.data.test:
            wrong.append(
                "stage=predict needs rows: data.test=<files>, or data.test=- for JSON lines on standard input."
            )
        for key in ("path", "train", "validation"):
            if getattr(run.data, key) and not run.data.test:
                wrong.append(f"data.{key} is not read by stage=predict; name the rows in data.test.")
        if self.output and self.output != "-" and not self.output.lower().endswith(OUTPUTS):
            known = ", ".join(OUTPUTS)
            wrong.append(
                f"stage.output={self.output}: its ending says what is written: {known}; or - for standard output."
            )
        return wrong


@dataclass(slots=True)
class Export(StageConfig):
    """Knobs of stage=export."""

    format: Literal["hf", "onnx", "int8"] = "hf"
    """hf: a Hugging Face directory, adapters merged; onnx: one graph from tokens to logits, for encoders and decoders of text;
    int8: the same with weights in 8 bits (onnxruntime's dynamic quantisation), for CPUs."""
    output: str | None = None
    """The folder to be written, which must be new or empty; null: export/ in the run folder."""
    compat: Literal["none", "v4"] = "none"
    """v4: config and tokenizer also say what transformers 4 (and what is built on it) looks for; read with format=hf."""
    prompts: Annotated[int, AT_LEAST_1] = 8
    """Prompts on which the export, loaded by the other runtime, is compared with the model."""
    tolerance: Literal["auto"] | Annotated[float, NOT_NEGATIVE] = "auto"
    """Most that may differ (root mean square, as a share of the logits' spread), else nothing is written; auto: 1e-5 for hf,
    1e-3 for onnx, 0.1 for int8."""

    inherits: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        wrong = needs_model("export", run)
        if self.compat != "none" and self.format != "hf":
            wrong.append(f"stage.compat={self.compat} is read with stage.format=hf only. Leave it out.")
        return wrong


@dataclass(slots=True)
class Serve(StageConfig):
    """Knobs of stage=serve."""

    host: str = "127.0.0.1"
    """The address to listen on. Any but this machine's own needs a token."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """The port to listen on; 0: any free one, which is told."""
    token_path: str | None = None
    """A file, readable by nobody else, with the token that requests must bring; null: LLMSTAGE_API_KEY of the environment,
    where it is set."""
    monitor: str | None = None
    """The run folder of a stage=monitor, whose counts and alerts are shown on /monitor as they come; with it model.path may be
    left out."""
    name_of_model: Annotated[str, SERVES] | None = None
    """What clients call the model; null: the name of its run folder."""
    slots: Annotated[int, Range(1, 1024), SERVES] = 16
    """Texts that are written at once."""
    queue: Annotated[int, AT_LEAST_1, SERVES] = 128
    """Requests that may wait; more are answered 429."""
    max_tokens: Annotated[int, AT_LEAST_1, SERVES] = 1024
    """Tokens that one request may have written at most, and has where it does not say."""
    max_body_mb: Annotated[float, POSITIVE] = 1.0
    """Largest request, in megabytes."""
    read_timeout: Annotated[float, POSITIVE] = 10.0
    """Seconds in which a request must have arrived."""
    timeout: Annotated[float, POSITIVE, SERVES] = 60.0
    """Seconds after which a text is ended as it stands (finish_reason length)."""

    inherits: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = OF_FILES
    writes: ClassVar[bool] = True
    retrieves: ClassVar[bool] = True
    alone: ClassVar[str] = "stage.monitor"

    def check(self, run: RunFacts) -> list[str]:
        wrong = []
        if not self.monitor or run.task.name:
            wrong += needs_model("serve", run)
        elif run.retrieval.path and not run.model.path:
            wrong.append("retrieval.path is not read here: a monitor's page answers no questions. Leave it out.")
        return [*wrong, *run.retrieval.check(), *(no_monitor(self.monitor) if self.monitor else [])]


@dataclass(slots=True)
class Chat(StageConfig):
    """Knobs of stage=chat."""

    script: str | None = None
    """A file with what is said, a line a turn, instead of the keyboard; lines that begin with / are commands."""
    system: str | None = None
    """The system message of every conversation; null: that of the task, where it has one."""
    save: str | None = None
    """A file of JSON lines to which the conversation is added at the end; /save <file> does it at any time."""

    inherits: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = OF_FILES
    writes: ClassVar[bool] = True
    retrieves: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        return [*needs_model("chat", run), *run.retrieval.check()]


@dataclass(slots=True)
class Inspect(StageConfig):
    """Knobs of stage=inspect; all other keys are those of the training run that is looked at."""

    show: Annotated[int, NOT_NEGATIVE] = 3
    """Rows of the training split that are shown token by token, with what is learned of them; 0: none."""
    rows: Annotated[int, AT_LEAST_1] = 20_000
    """Rows of each split that lint reads, from the first on; the ledger counts all."""
    likeness: Annotated[float, Range(0, 1, open_low=True)] = 0.8
    """Jaccard likeness of the runs of 5 characters (Chinese: 2) of two texts from which on they are near-duplicates."""
    measure: bool = True
    """Do one step on the longest batch and time it, beside what is foreseen without it."""
    language: Literal["auto", "en", "zh"] = "auto"
    """Of sentences and report; auto: the locale's."""

    def check(self, run: RunFacts) -> list[str]:
        if not run.data.is_demo and not (run.data.train or run.data.path) and not run.model.path:
            return ["stage=inspect looks at rows through a tokenizer: give data.train, or model.path beside data.test."]
        return []


@dataclass(slots=True)
class ProveResume(StageConfig):
    """Knobs of stage=prove_resume."""

    train_stage: Literal["auto", "pretrain", "finetune"] = "auto"
    """The training stage whose resume is proved; auto: the first that the task goes through."""
    kill_at: list[Annotated[int, AT_LEAST_1]] | None = None
    """Optimizer steps after which the run is killed, one after another; null: at a third and at two thirds."""


def needs_model(stage: str, run: RunFacts) -> list[str]:
    """A complaint where a stage that uses a trained model was given none."""
    if run.model.path:
        return []
    return [f"stage={stage} needs a model: model.path=outputs/latest, a Hugging Face directory or a hub id."]


def no_monitor(path: str) -> list[str]:
    """A complaint where a folder cannot hold what a monitor counts. One that has begun and not counted yet will."""
    folder = Path(path).expanduser()
    if not folder.is_dir():
        near = did_you_mean(folder.name, [item.name for item in folder.parent.glob("*") if item.is_dir()])
        return [f"stage.monitor={path}: there is no such folder (seen from {Path.cwd()}).{near}"]
    begun = "The folder is what hydra.run.dir= names, or what stage=monitor prints when it begins."
    stage = (read_run_yaml(folder).get("stage") or {}).get("name") if (folder / "run.yaml").is_file() else None
    if stage not in (None, "monitor"):
        return [f"stage.monitor={path} is a run of stage={stage}, and no monitor. {begun}"]
    if stage is None and not (folder / MONITOR_STORE).is_file() and not (folder / ".hydra").is_dir():
        return [f"stage.monitor={path} is no run folder of stage=monitor: there is no {MONITOR_STORE} in it. {begun}"]
    return []


def spoken(wanted: str) -> str:
    """The language of a report: what was asked for, or that of the locale where it is Chinese."""
    if wanted != "auto":
        return wanted
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return "zh" if locale.lower().startswith("zh") else "en"
