"""One job of a command line: run its stage, and record how it ended."""

from __future__ import annotations

import json
import shlex
import sys
import sysconfig
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hydra.core.hydra_config import HydraConfig
from omegaconf import DictConfig, OmegaConf

from llmstage import console
from llmstage.cli.inherit import explain_inherited, inherit
from llmstage.cli.overrides import Words
from llmstage.config import RunConfig, build_run
from llmstage.config.checks import check_run
from llmstage.errors import Interrupted, UserError
from llmstage.naming import load_module
from llmstage.paths import PACKAGE


@dataclass(slots=True)
class JobResult:
    """How one job ended."""

    overrides: str
    """The overrides of this job, as one line."""
    out_dir: Path
    """The run folder."""
    status: int
    """The exit status; 0 where the job succeeded."""
    value: float | None = None
    """The objective that the stage returned."""
    message: str = ""
    """First line of the error; empty where the job succeeded."""
    error: BaseException | None = None
    """The error that ended the job."""


@dataclass(slots=True)
class CommandLine:
    """One command line and the results of its jobs."""

    arguments: list[str]
    words: Words
    sweep: bool
    results: list[JobResult] = field(default_factory=list)

    @property
    def text(self) -> str:
        """The command as a shell reads it; run folders record it."""
        return shlex.join(["llmstage", *self.arguments])


USER_MODULE = "The run uses your own module "


def stop_for(complaints: list[str]) -> None:
    """Raise a UserError that lists all complaints; do nothing where there are none."""
    if complaints:
        raise UserError("This run cannot start:\n" + "\n".join(f"  - {line}" for line in dict.fromkeys(complaints)))


def typed_run(data: dict[str, Any], words: Words) -> tuple[RunConfig, list[str]]:
    """Return a composed config as dataclasses, with what it inherits from a run folder, and all complaints about it."""
    complaints: list[str] = []
    data = inherit(dict(data), words)
    run = build_run(data, complaints)
    complaints += check_task_yaml(run, words)
    if "${" in str(data.get("data")) or not run.stage.name:
        return run, complaints
    if not complaints:
        # Beside a recipe data_root is never wrong: some recipes generate their rows, and a sweep may have both sorts.
        check_data_root = "data_root" in words.typed and not any(words.typed.get("experiment", []))
        typed = [key for key in words.typed if "." in key or (key == "data_root" and check_data_root)]
        complaints += check_run(run, typed)
    return run, complaints


def check_task_yaml(run: RunConfig, words: Words) -> list[str]:
    """Return a complaint about each key that the YAML of a task lacks; tasks of the user's own are found here."""
    if "task" not in words.typed or not all(words.typed["task"]):
        return []
    facts = {"name": run.task.name, "stages": run.task.stages, "model_families": run.task.model_families}
    return [
        f"task={words.choice('task')}: its YAML has no `{key}:`. It needs name, stages, model_families and select."
        for key, value in facts.items()
        if not value
    ]


def run_stage(config: DictConfig, command: CommandLine, run: RunConfig | None = None) -> float | None:
    """Run the stage of one job and add its result to the command line; Hydra calls this.

    `run` is the typed config of a single run, which was checked before. In a sweep each job is typed and checked here.
    """
    hydra_config = HydraConfig.get()
    result = JobResult(" ".join(hydra_config.overrides.task), Path(hydra_config.runtime.output_dir), status=1)
    command.results.append(result)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    try:
        if run is None:
            data: Any = OmegaConf.to_container(config, resolve=True)
            run, complaints = typed_run(data, command.words)
            stop_for(complaints)
        module = load_module("stages", run.stage.name, trusted=True)
        about = {"command": command.text, "started": started}
        recipe = hydra_config.runtime.choices.get("experiment")
        if recipe:
            about["experiment"] = str(recipe)
        if str(run.model.path).endswith(".gguf"):
            from llmstage.models.gguf_import import convert_gguf  # here, because it imports torch

            convert_gguf(run.model.path)
        result.value = module.run(run, result.out_dir, about)
        result.status = 0
        return result.value
    except BaseException as error:
        if run is not None and not isinstance(error, UserError):
            for name in (run.task.name, run.data.format):
                if "." in name:
                    error.add_note(f"{USER_MODULE}{name}")
        if isinstance(error, UserError) and (note := explain_inherited(str(error), command.words)):
            error.args = (f"{error}{note}",)
        result.error, result.status = error, status_of(error)
        result.message = str(error).splitlines()[0] if str(error) else type(error).__name__
        record_failure(result, run, command.text, started, time.perf_counter() - clock)
        if not command.sweep:
            return None  # the caller raises it, without Hydra's own sentences around it
        console.note(f"job failed ({result.overrides}): {error}")
        raise  # so that a sweeper counts the job as failed


def status_of(error: BaseException) -> int:
    """Return the exit status for an error."""
    if isinstance(error, UserError):
        return error.status
    return 130 if isinstance(error, KeyboardInterrupt) else 1


def record_failure(result: JobResult, run: RunConfig | None, command: str, started: str, seconds: float) -> None:
    """Write report.json of a run that failed or was interrupted, with what is known of it."""
    from llmstage.report.files import write_json  # light: json and os only

    stopped = isinstance(result.error, (Interrupted, KeyboardInterrupt))
    report = {
        "status": "interrupted" if stopped else "failed",
        "error": str(result.error) or type(result.error).__name__,
        "stage": run.stage.name if run else "",
        "task": run.task.name if run else "",
        "command": command,
        "started": started,
        "seconds": seconds,
        "run_dir": str(result.out_dir),
    }
    path = result.out_dir / "report.json"
    try:
        if path.is_file():  # the stage may have written a report of this same run before it failed
            earlier = json.loads(path.read_text(encoding="utf-8"))
            report = {**earlier, **report} if earlier.get("started") == started else report
        write_json(path, report)
    except OSError as error:
        console.warn(f"report.json could not be written: {error}")


def explain_bug(error: BaseException) -> str:
    """Return a sentence that says in whose code an unexpected error was raised: in llmstage, or in a module of the user.

    The innermost frame that is not in a library decides: an error that torch raises for wrong arguments is the error of
    the code that called torch. An error in llmstage itself may come from what a module of the user has returned.
    """
    if isinstance(error, SyntaxError) and error.filename and not Path(error.filename).is_relative_to(PACKAGE):
        return f"SyntaxError in {Path(error.filename).name}:{error.lineno}: {error.msg}; this is your own module"
    libraries = {Path(path).resolve() for path in sysconfig.get_paths().values()}
    for frame in reversed(traceback.extract_tb(error.__traceback__)):
        path = Path(frame.filename)
        if path.is_relative_to(PACKAGE):
            modules = [
                note.removeprefix(USER_MODULE)
                for note in getattr(error, "__notes__", ())
                if note.startswith(USER_MODULE)
            ]
            if modules:
                return (
                    f"{type(error).__name__} in llmstage ({path.name}:{frame.lineno}), which used your own module "
                    f"{' and '.join(modules)}: {error}. Compare what its methods return with docs/extend.md; if that is right, this "
                    f"is a bug of llmstage"
                )
            break
        if not path.is_file() or any(path.resolve().is_relative_to(folder) for folder in libraries):
            continue
        module = next(
            (name for name, item in sys.modules.items() if getattr(item, "__file__", "") == frame.filename), ""
        )
        named = f" (module {module})" if module else ""
        return f"{type(error).__name__} in {path.name}:{frame.lineno}{named}: {error}; this is your own module"
    return f"this is a bug of llmstage, not of yours: {type(error).__name__}: {error}"
