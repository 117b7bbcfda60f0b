"""The door: the command line, composed by Hydra, checked, typed, and handed to one stage. Only this file knows Hydra runs."""

from __future__ import annotations

import json
import os
import shlex
import sys
import time
import traceback
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import hydra
from hydra import compose, initialize_config_dir
from hydra._internal.hydra import Hydra
from hydra._internal.utils import get_args_parser
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from omegaconf import DictConfig, OmegaConf, open_dict
from omegaconf.errors import OmegaConfBaseException

from llmstage import __version__, allocator, console
from llmstage.cli.help import help_text, overview
from llmstage.cli.inherit import choose_task, inherit
from llmstage.cli.overrides import Words, read_words
from llmstage.cli.plans import with_plan
from llmstage.config import RunConfig, build_run
from llmstage.config.checks import check_run
from llmstage.errors import DiskError, Interrupted, UserError
from llmstage.naming import load_module
from llmstage.paths import conf_dir, options


@dataclass(slots=True)
class Outcome:
    """How one job ended."""

    words: str
    out_dir: Path
    status: int
    value: float | None = None
    message: str = ""
    error: BaseException | None = None


@dataclass(slots=True)
class Command:
    """One invocation: what was typed, and how its jobs ended."""

    arguments: list[str]
    words: Words
    sweep: bool
    outcomes: list[Outcome] = field(default_factory=list)


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status; never raises for a user's mistake."""
    arguments = sys.argv[1:] if arguments is None else arguments
    full_error = wants_trace()
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra shall raise instead of printing and exiting with 1: the status is ours
    try:
        return run_command(arguments, full_error=full_error)
    except (UserError, HydraException, OmegaConfBaseException) as error:
        if full_error:
            traceback.print_exc()
        else:
            console.note(f"error: {error}")
        return error.status if isinstance(error, UserError) else 2
    except SystemExit as stop:  # argparse inside Hydra
        return stop.code if isinstance(stop.code, int) else 2
    except KeyboardInterrupt:
        console.note("stopped")
        return 130
    except OSError as error:
        if full_error:
            traceback.print_exc()
        console.note(f"error: {error}. Check that the place exists, can be written, and has space left.")
        return DiskError.status
    except Exception as error:
        traceback.print_exc()
        console.note(f"error: this is a bug of llmstage, not of yours: {type(error).__name__}: {error}")
        return 1
    finally:
        os.environ["HYDRA_FULL_ERROR"] = "1" if full_error else "0"


def wants_trace() -> bool:
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", "", "false")


def run_command(arguments: list[str], *, full_error: bool) -> int:
    if not arguments:
        console.result(overview())
        return 0
    if "--version" in arguments:
        console.result(f"llmstage {__version__}")
        return 0
    parsed = get_args_parser().parse_intermixed_args([word for word in arguments if word not in ("--help", "-h")])
    config_dirs = (Path(parsed.config_dir),) if parsed.config_dir else ()
    words = read_words(with_plan(parsed.overrides), config_dirs)
    if "--help" in arguments or "-h" in arguments:
        stop_for(words.wrong)
        console.result(help_text(words.choice("stage"), words.choice("task")))
        return 0
    only_shows = parsed.cfg or parsed.info or parsed.hydra_help or parsed.shell_completion
    command = Command(arguments, words, sweep=parsed.multirun)
    choose_task(words)
    if not only_shows:
        check_all(command, config_dirs)
        stop_for(words.wrong)
        restart_with_allocator(command, full_error=full_error)
    else:
        stop_for(words.wrong)
    flags = [word for word in arguments if word not in parsed.overrides]
    return run_hydra(command, [*flags, *words.for_hydra], sweep=parsed.multirun)


def stop_for(wrong: list[str]) -> None:
    if wrong:
        raise UserError("This run cannot start:\n" + "\n".join(f"  - {line}" for line in dict.fromkeys(wrong)))


def check_all(command: Command, config_dirs: tuple[Path, ...]) -> None:
    """Everything that can be said before torch is imported, gathered in `words.wrong`."""
    words = command.words
    for group in ("stage", "task"):
        if group not in words.typed and not (group == "task" and words.without_task):
            words.wrong.append(f"{group}= is missing. Known: {', '.join(options(group, config_dirs))}.")
    readable = not any(line.startswith(("Unknown stage", "Unknown task", "Unknown model", "'")) for line in words.wrong)
    chosen = "stage" in words.typed and ("task" in words.typed or words.without_task)
    if command.sweep or not readable or not chosen:
        return  # the jobs of a sweep are checked one by one: a job that cannot start is a result, the others go on
    GlobalHydra.instance().clear()
    try:
        with initialize_config_dir(str(conf_dir()), version_base="1.3"):
            search = [f"hydra.searchpath=[{config_dirs[0].resolve()}]"] if config_dirs else []
            kept = [line for line in words.for_hydra if not broken(line, words.wrong)]
            typed = [line for line in kept if not line.startswith("hydra")]
            config = compose("config", overrides=typed + search, return_hydra_config=True)
            with open_dict(config):
                if config.pop("hydra").mode is not None:
                    words.wrong.append("A YAML file of yours sets hydra.mode: leave that to -m on the command line.")
            plain = OmegaConf.to_container(config, resolve=True)
    except (HydraException, OmegaConfBaseException) as error:
        words.wrong.append(str(error).splitlines()[0])
        return
    finally:
        GlobalHydra.instance().clear()
    _, wrong = typed_run(plain, words)
    words.wrong += [line for line in wrong if line not in words.wrong]


def broken(line: str, wrong: list[str]) -> bool:
    key = line.lstrip("+").partition("=")[0]
    return any(complaint.startswith((f"{key}=", f"Unknown key '{key}'", f"'{key}'")) for complaint in wrong)


def typed_run(plain: Any, words: Words) -> tuple[RunConfig, list[str]]:
    """The composed config as dataclasses, with what a run folder hands down, and every complaint about it."""
    wrong: list[str] = []
    plain = inherit(dict(plain), words)
    run = build_run(plain, wrong)
    if "${" in str(plain.get("data")) or not run.stage.name:
        return run, wrong
    if not wrong:
        # Beside a recipe data_root is never wrong: some recipes generate their rows, and a sweep may hold both kinds.
        rooted = "data_root" in words.typed and not any(words.typed.get("experiment", []))
        wrong += check_run(run, [key for key in words.typed if "." in key or (key == "data_root" and rooted)])
    return run, wrong


def restart_with_allocator(command: Command, *, full_error: bool) -> None:
    """Where only the words of a recipe or a plan tell that this run trains; the others have started again in entry()."""
    stage = command.words.choice("stage")
    if os.environ.get("LLMSTAGE_ENTRY") != "console" or stage not in allocator.STAGES:
        return
    if "off" not in command.words.typed.get("trainer.allocator", []):
        # main() has set HYDRA_FULL_ERROR for Hydra's sake; the new process must see what the user wanted.
        allocator.restart(command.arguments, HYDRA_FULL_ERROR="1" if full_error else "0")


ASK_MODE = Hydra.get_mode


def typed_mode(self: Hydra, config_name: str | None, overrides: list[str]) -> Any:
    """Hydra would compose the whole config once more to see whether it sets hydra.mode. Only a typed word may: check_all."""
    return ASK_MODE(self, config_name, overrides) if any("hydra.mode=" in word for word in overrides) else None


Hydra.get_mode = typed_mode  # type: ignore[method-assign]


def run_hydra(command: Command, hydra_arguments: list[str], *, sweep: bool) -> int:
    """Let Hydra compose and launch; the outcomes say what became of the jobs."""
    before = sys.argv

    def job(config: DictConfig) -> float | None:
        return run_job(config, command)

    sys.argv = ["llmstage", *hydra_arguments]
    try:
        hydra.main(config_path=str(conf_dir()), config_name="config", version_base="1.3")(job)()
    except Exception:
        if not (sweep and command.outcomes):
            raise
    finally:
        sys.argv = before
    if not sweep or not command.outcomes:
        if command.outcomes and command.outcomes[-1].error is not None:
            raise command.outcomes[-1].error
        return 0
    sweep_table(command.outcomes)
    return 1 if any(outcome.status for outcome in command.outcomes) else 0


def run_job(config: DictConfig, command: Command) -> float | None:
    """One job: typed, checked, run, and recorded whatever happens."""
    from llmstage.report.files import write_json  # light: json and os only

    hydra_config = HydraConfig.get()
    out_dir = Path(hydra_config.runtime.output_dir)
    words = " ".join(hydra_config.overrides.task)
    outcome = Outcome(words, out_dir, status=1)
    command.outcomes.append(outcome)
    started, clock = datetime.now(UTC).isoformat(timespec="seconds"), time.perf_counter()
    run: RunConfig | None = None
    try:
        plain = OmegaConf.to_container(config, resolve=True)
        run, wrong = typed_run(plain, command.words)
        stop_for(wrong)
        module = load_module("stages", run.stage.name, trusted=True)
        about = {"command": shlex.join(["llmstage", *command.arguments]), "started": started}
        recipe = hydra_config.runtime.choices.get("experiment")
        about |= {"experiment": str(recipe)} if recipe else {}
        outcome.value = module.run(run, out_dir, about)
        outcome.status = 0
        return outcome.value
    except BaseException as error:
        outcome.status = (
            error.status if isinstance(error, UserError) else 130 if isinstance(error, KeyboardInterrupt) else 1
        )
        outcome.message = str(error).splitlines()[0] if str(error) else type(error).__name__
        state = "interrupted" if isinstance(error, (Interrupted, KeyboardInterrupt)) else "failed"
        record_failure(
            out_dir,
            run,
            state,
            f"{error}" or type(error).__name__,
            command,
            started,
            time.perf_counter() - clock,
            write_json,
        )
        outcome.error = error
        if not command.sweep:
            return None  # told by main(), without Hydra's own words around it
        console.note(f"job failed ({words}): {error}")
        raise  # so that a sweeper counts the job as failed


def record_failure(
    out_dir: Path,
    run: RunConfig | None,
    state: str,
    message: str,
    command: Command,
    started: str,
    seconds: float,
    write: Any,
) -> None:
    """report.json of a run that did not end well, with what is known of it."""
    names = {"stage": run.stage.name, "task": run.task.name} if run is not None else {"stage": "", "task": ""}
    report = {
        "status": state,
        "error": message,
        **names,
        "command": shlex.join(["llmstage", *command.arguments]),
        "started": started,
        "seconds": seconds,
        "run_dir": str(out_dir),
    }
    try:
        path = out_dir / "report.json"
        if path.is_file():  # what the stage itself wrote of this run before it failed
            told = json.loads(path.read_text(encoding="utf-8"))
            report = {**told, **report} if told.get("started") == started else report
        write(path, report)
    except OSError as error:
        console.warn(f"report.json could not be written: {error}")


def sweep_table(outcomes: list[Outcome]) -> None:
    """One row a job, the failed ones too."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=f"{len(outcomes)} jobs", title_justify="left")
    for name in ("job", "overrides", "status", "objective", "folder"):
        table.add_column(name, overflow="fold")
    for index, outcome in enumerate(outcomes):
        state = "completed" if outcome.status == 0 else f"failed ({outcome.status}): {outcome.message}"
        table.add_row(str(index), outcome.words, state, console.number(outcome.value), str(outcome.out_dir))
    console.result(table)
