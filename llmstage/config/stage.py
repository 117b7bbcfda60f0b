"""The `stage` group. A stage with keys or facts of its own has a dataclass here, named after it in CamelCase; any
other stage is a plain `StageConfig`."""

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
    """The stage of a run. A stage with keys or facts of its own derives its dataclass from it."""

    name: str = ""
    """Name of the stage, a file in llmstage/stages."""

    inherits: ClassVar[bool] = False
    """Whether task, data, generation and seed come from the run folder in model.path where the command line does not
    set them."""
    keeps_pool: ClassVar[bool] = False
    """Whether the training rows of that run folder are kept where other rows to score are given: the rows that the
    model was trained on."""
    leaves: ClassVar[tuple[str, ...]] = ()
    """Keys of these groups that are not inherited."""
    reads_rows: ClassVar[bool] = False
    """Whether the rows of data.test are predicted; their target columns may be missing."""
    writes: ClassVar[bool] = False
    """Whether text is generated for every task, so that the `generation` group is used."""
    retrieves: ClassVar[bool] = False
    """Whether passages may be retrieved, so that the `retrieval` group is used."""
    reads_stream: ClassVar[bool] = False
    """Whether the rows come from a file that the stage names, instead of the `data` group."""
    needs_task: ClassVar[bool] = True
    """Whether the stage needs a task. Where it is False and no task is known, `run.task.name` is empty."""
    alone: ClassVar[str] = ""
    """A key that gives the stage something to do without a task and a model."""

    def check(self, run: RunFacts) -> list[str]:
        """Return complaints about what this stage needs from the other groups."""
        return []


@dataclass(slots=True)
class Evaluate(StageConfig):
    """Keys of stage=evaluate."""

    lm_eval: bool = False
    """Also write results_<time>.json in the format of lm-evaluation-harness, and print the command with which the
    harness scores this model."""

    inherits: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        return needs_model("evaluate", run)


OF_FILES = tuple(
    f"data.{key}"
    for key in ("format", "header", "delimiter", "encoding", "text_rows", "limit", "on_bad_row", "split", "images")
)
"""Keys that describe the files a model was trained on, not the model."""


OUTPUTS = (".jsonl", ".ndjson", ".csv", ".tsv", ".parquet")


@dataclass(slots=True)
class Predict(StageConfig):
    """Keys of stage=predict."""

    output: str | None = None
    """Where predictions are written, one row each: a file ending in .jsonl, .csv, .tsv or .parquet, or - for standard
    output; null: predictions.jsonl in the run folder."""
    chunk_rows: Annotated[int, AT_LEAST_1] = 1024
    """Rows that are read, predicted and written together. It limits memory, and the work that an interrupted run
    repeats."""

    inherits: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = OF_FILES
    reads_rows: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        complaints = needs_model("predict", run)
        if not run.data.test:
            complaints.append(
                "stage=predict needs rows: data.test=<files>, or data.test=- for JSON lines on standard input."
            )
        for key in ("path", "train", "validation"):
            if getattr(run.data, key) and not run.data.test:
                complaints.append(f"data.{key} is not read by stage=predict; name the rows in data.test.")
        if self.output and self.output != "-" and not self.output.lower().endswith(OUTPUTS):
            known = ", ".join(OUTPUTS)
            complaints.append(
                f"stage.output={self.output}: its ending says what is written: {known}; or - for standard output."
            )
        return complaints


@dataclass(slots=True)
class Export(StageConfig):
    """Keys of stage=export."""

    format: Literal["hf", "onnx", "int8", "gguf"] = "hf"
    """hf: a Hugging Face directory with adapters merged; onnx: one graph from tokens to logits, for encoders and
    decoders of text; int8: the same with 8-bit weights (dynamic quantisation of onnxruntime), for CPUs; gguf: one file
    for llama.cpp and what is built on it, for decoders."""
    outtype: Literal["auto", "f32", "f16", "bf16", "q8_0"] = "auto"
    """Type of the matrices in a GGUF file, by llama.cpp's names; q8_0: 8 bits with a scale for 32 weights. auto: f16."""
    output: str | None = None
    """The output folder, which must be new or empty, or a new file *.gguf; null: export/ in the run folder."""
    compat: Literal["none", "v4"] = "none"
    """v4: config and tokenizer also have the keys that transformers 4 reads; only with format=hf."""
    prompts: Annotated[int, AT_LEAST_1] = 8
    """Prompts on which the exported model, loaded by the other runtime, is compared with the original."""
    tolerance: Literal["auto"] | Annotated[float, NOT_NEGATIVE] = "auto"
    """Largest allowed difference (root mean square, as a share of the spread of the logits); above it nothing is
    written. auto: 1e-5 for hf, 1e-3 for onnx, 0.1 for int8, and 0.01 for gguf (0.1 with outtype=q8_0)."""

    inherits: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        complaints = needs_model("export", run)
        if self.compat != "none" and self.format != "hf":
            complaints.append(f"stage.compat={self.compat} is read with stage.format=hf only. Leave it out.")
        if self.outtype != "auto" and self.format != "gguf":
            complaints.append(f"stage.outtype={self.outtype} is read with stage.format=gguf only. Leave it out.")
        if self.output and self.output.endswith(".gguf") and self.format != "gguf":
            complaints.append(f"stage.output={self.output} names a GGUF file; add stage.format=gguf.")
        return complaints


@dataclass(slots=True)
class Serve(StageConfig):
    """Keys of stage=serve."""

    host: str = "127.0.0.1"
    """The address to listen on. Any address other than localhost needs a token."""
    port: Annotated[int, Range(0, 65535)] = 8000
    """The port to listen on; 0: any free port, which is printed."""
    token_path: str | None = None
    """A file with the token that requests must send, readable only by its owner; null: LLMSTAGE_API_KEY of the
    environment, where it is set."""
    monitor: str | None = None
    """The run folder of a stage=monitor, whose counts and alerts are shown live on /monitor. model.path is then
    optional."""
    name_of_model: Annotated[str, SERVES] | None = None
    """Name of the model in the API; null: the name of its run folder."""
    slots: Annotated[int, Range(1, 1024), SERVES] = 16
    """Texts that are generated at the same time."""
    queue: Annotated[int, AT_LEAST_1, SERVES] = 128
    """Requests that may wait; further requests are answered with status 429."""
    max_tokens: Annotated[int, AT_LEAST_1, SERVES] | None = None
    """Most tokens that one request may generate, and the default of a request that sets no limit; null: as many as the
    model's context leaves behind the prompt."""
    max_body_mb: Annotated[float, POSITIVE] = 1.0
    """Largest request body in megabytes."""
    read_timeout: Annotated[float, POSITIVE] = 10.0
    """Seconds within which a request must arrive completely."""
    timeout: Annotated[float, POSITIVE, SERVES] = 60.0
    """Seconds after which a text is ended as it is (finish_reason length)."""

    inherits: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = OF_FILES
    writes: ClassVar[bool] = True
    retrieves: ClassVar[bool] = True
    alone: ClassVar[str] = "stage.monitor"

    def check(self, run: RunFacts) -> list[str]:
        complaints = []
        if not self.monitor or run.task.name:
            complaints += needs_model("serve", run)
        elif run.retrieval.path and not run.model.path:
            complaints.append("retrieval.path is not read here: a monitor's page answers no questions. Leave it out.")
        return [*complaints, *run.retrieval.check(), *(check_monitor_folder(self.monitor) if self.monitor else [])]


@dataclass(slots=True)
class Chat(StageConfig):
    """Keys of stage=chat."""

    script: str | None = None
    """A file of user messages, one a line, instead of the keyboard; lines that begin with / are commands."""
    system: str | None = None
    """The system message of every conversation; null: the task's, where it has one."""
    save: str | None = None
    """A JSON Lines file to which the conversation is appended at the end; /save <file> does it at any time."""
    tools: str | None = None
    """A JSON file with a list of function schemas that the model may call. Calls are shown, and the next turn is the
    result: what is typed, or in a script a line that begins with `tool:`."""

    inherits: ClassVar[bool] = True
    leaves: ClassVar[tuple[str, ...]] = OF_FILES
    writes: ClassVar[bool] = True
    retrieves: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        return [*needs_model("chat", run), *run.retrieval.check()]


@dataclass(slots=True)
class Inspect(StageConfig):
    """Keys of stage=inspect; all other keys are those of the training run to inspect."""

    show: Annotated[int, NOT_NEGATIVE] = 3
    """Training rows to show token by token, with the tokens that have a loss; 0: none."""
    rows: Annotated[int, AT_LEAST_1] = 20_000
    """Rows of each split that lint reads, from the first row on; the ledger counts all rows."""
    likeness: Annotated[float, Range(0, 1, open_low=True)] = 0.8
    """Jaccard similarity of character 5-grams (Chinese: 2-grams) from which on two texts are near-duplicates."""
    measure: bool = True
    """Run one step on the longest batch and measure it, beside the estimates."""
    language: Literal["auto", "en", "zh"] = "auto"
    """Language of sentences and report; auto: that of the locale."""

    def check(self, run: RunFacts) -> list[str]:
        if not run.data.is_demo and not (run.data.train or run.data.path) and not run.model.path:
            return ["stage=inspect looks at rows through a tokenizer: give data.train, or model.path beside data.test."]
        return []


@dataclass(slots=True)
class ProveResume(StageConfig):
    """Keys of stage=prove_resume."""

    train_stage: Literal["auto", "pretrain", "finetune"] = "auto"
    """The training stage whose resume is tested; auto: the first stage that the task supports."""
    kill_at: list[Annotated[int, AT_LEAST_1]] | None = None
    """Optimizer steps after which the run is killed, one after another; null: after a third and after two thirds of
    the steps."""


def needs_model(stage: str, run: RunFacts) -> list[str]:
    """Return a complaint where a stage that needs a trained model has none."""
    if run.model.path:
        return []
    return [f"stage={stage} needs a model: model.path=outputs/latest, a Hugging Face directory or a hub id."]


def check_monitor_folder(path: str) -> list[str]:
    """Return a complaint where a folder is not a run of stage=monitor. A run that has started but not counted yet is
    accepted."""
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


def resolve_language(language: str) -> str:
    """Return the language of a report: the requested one, or for auto that of the locale (Chinese or English)."""
    if language != "auto":
        return language
    locale = os.environ.get("LC_ALL") or os.environ.get("LC_MESSAGES") or os.environ.get("LANG") or ""
    return "zh" if locale.lower().startswith("zh") else "en"
