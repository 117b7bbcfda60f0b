"""The command line: read, checked, composed once, typed, and handed to one stage, or shown."""

from __future__ import annotations

import argparse
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from hydra.errors import HydraException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from llmstage import allocator, console
from llmstage.cli.help import help_text, print_text, quick_answer
from llmstage.cli.hydra_runs import HydraRuns, parse_flags, plain_config, separate_hydra
from llmstage.cli.inherit import choose_task, with_plan
from llmstage.cli.jobs import CommandLine, JobResult, explain_bug, run_stage, stop_for, typed_run
from llmstage.cli.overrides import Words, read_words
from llmstage.config import RunConfig, stage_config
from llmstage.config.renamed_keys import hint
from llmstage.errors import DiskError, UserError
from llmstage.naming import did_you_mean
from llmstage.paths import options

ONLY_IN_A_SHELL = ("cfg", "info", "hydra_help", "shell_completion", "help", "resolve", "package", "experimental_rerun")
"""Flags that print something, or that llmstage does not support from Python."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command line and return its exit status; never raise for a mistake of the user."""
    arguments = sys.argv[1:] if arguments is None else arguments
    full_error = wants_traceback()
    try:
        return run_command(arguments)
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
        console.note(f"error: {error}. Check that the path exists, can be written, and has space left.")
        return DiskError.status
    except Exception as error:
        traceback.print_exc()
        console.note(f"error: {explain_bug(error)}")
        return 1


def wants_traceback() -> bool:
    """Return whether the user asked for tracebacks with HYDRA_FULL_ERROR=1."""
    return os.environ.get("HYDRA_FULL_ERROR", "0") not in ("0", "", "false")


def run_command(arguments: list[str]) -> int:
    """Run one command line, or print what its flags ask for; return the exit status."""
    answer = quick_answer(arguments)
    if answer is not None:
        return print_text(answer)
    flags = parse_flags([word for word in arguments if word not in ("--help", "-h")])
    if flags.experimental_rerun:
        raise UserError(
            "--experimental-rerun loads a pickle, and llmstage loads none. Repeat the command of the run instead."
        )
    if flags.shell_completion:
        return show(flags, flags.overrides)
    command, config_dirs = read_command(arguments, flags)
    if "--help" in arguments or "-h" in arguments:
        stop_for(command.words.wrong)
        return print_text(help_text(command.words.choice("stage"), command.words.choice("task")))
    choose_task(command.words)
    if flags.cfg or flags.info or flags.hydra_help:
        stop_for(command.words.wrong)
        return show(flags, command.words.for_hydra, command.words)
    results = run_jobs(command, config_dirs, before_job=partial(restart_with_allocator, command))
    if not command.sweep:
        for result in results:
            if result.error is not None:
                raise result.error
        return 0
    if results:
        print_sweep_table(results)
    return 1 if any(result.status for result in results) else 0


def run_words(words: Sequence[str]) -> list[JobResult]:
    """Run the words of one command line from Python and return the result of each job.

    Overrides, `-m` and `--config-dir` are allowed; flags that only print are not. Raise UserError where no job can
    start. The error of a job that has started is in its result. sys.argv, os.environ and a Hydra program around this
    call stay as they are, and the process does not start again with another allocator.
    """
    arguments = list(words)
    flags = parse_flags(arguments)
    shell_only = [f"--{name.replace('_', '-')}" for name in ONLY_IN_A_SHELL if getattr(flags, name, None)]
    if shell_only:
        raise UserError(f"{', '.join(shell_only)}: type this in a shell; from Python only runs can be started.")
    command, config_dirs = read_command(arguments, flags)
    choose_task(command.words)
    return run_jobs(command, config_dirs)


def compose_run(words: Sequence[str]) -> RunConfig:
    """Return the checked and typed config of the words of one command line, without running it; raise UserError."""
    arguments = list(words)
    command, config_dirs = read_command(arguments, parse_flags(arguments))
    choose_task(command.words)
    with separate_hydra():
        runs = HydraRuns(config_dirs)
        single = compose_single(runs, require_choices(command.words, config_dirs))
        note_renamed({**command.words.renamed, **runs.renamed})
        stop_for(command.words.wrong)
    assert single is not None  # a config that cannot be composed has a complaint
    return single[1]


def read_command(arguments: list[str], flags: argparse.Namespace) -> tuple[CommandLine, tuple[Path, ...]]:
    """Read and check the overrides of a command line, those of its plan included."""
    config_dirs = (Path(flags.config_dir),) if flags.config_dir else ()
    words = read_words(with_plan(flags.overrides), config_dirs)
    modes = [word.partition("=")[2].upper() for word in flags.overrides if word.lstrip("+").startswith("hydra.mode=")]
    return CommandLine(arguments, words, sweep=flags.multirun or modes[-1:] == ["MULTIRUN"]), config_dirs


def show(flags: argparse.Namespace, overrides: list[str], words: Words | None = None) -> int:
    """Print what --cfg, --info, --hydra-help or --shell-completion ask for."""
    if flags.resolve and not flags.cfg:
        raise UserError("--resolve goes with --cfg: llmstage … --cfg job --resolve")
    with separate_hydra():
        runs = HydraRuns((Path(flags.config_dir),) if flags.config_dir else ())
        runs.show(flags, overrides)
        if words is not None:
            note_renamed({**words.renamed, **runs.renamed})
    return 0


def note_renamed(renamed: dict[str, str]) -> None:
    """Tell the user the present names of old keys, one line a key."""
    console.note(*(f"note: {hint(old, new)}" for old, new in renamed.items()))


def run_jobs(
    command: CommandLine, config_dirs: tuple[Path, ...], before_job: Callable[[], None] | None = None
) -> list[JobResult]:
    """Run the jobs of a command line that was read: one, or those of a sweep.

    Raise UserError with all complaints where nothing can start. `before_job` is called when everything is checked.
    """
    words = require_choices(command.words, config_dirs)
    with separate_hydra():
        runs = HydraRuns(config_dirs)
        try:
            # The jobs of a sweep are checked one by one: a job that cannot start is a result, and the others go on.
            single = None if command.sweep else compose_single(runs, words)
        finally:
            note_renamed({**words.renamed, **runs.renamed})
        stop_for(words.wrong)
        if before_job is not None:
            before_job()
        if single is not None:
            config, run = single
            runs.run(config, partial(run_stage, command=command, run=run))
            return command.results
        try:
            runs.sweep(words.for_hydra, partial(run_stage, command=command))
        except Exception:
            if not command.results:
                raise  # the sweep itself could not start; an error of a job is in its result
    return command.results


def require_choices(words: Words, config_dirs: tuple[Path, ...]) -> Words:
    """Add a complaint for a missing stage or task; return the words."""
    for group in ("stage", "task"):
        if group not in words.typed and not (group == "task" and words.without_task):
            known = f"Known: {', '.join(options(group, config_dirs))}."
            words.wrong.append(explain_missing_task(words) or f"{group}= is missing. {known}")
    return words


def explain_missing_task(words: Words) -> str | None:
    """Return why a stage that uses a trained model does not know its task; None where the user must name one."""
    stage = words.choice("stage")
    if "stage" not in words.typed or "task" in words.typed or not stage_config(stage).inherits:
        return None
    typed = str((words.typed.get("model.path") or [""])[0] or "")
    if not typed:
        return f"stage={stage} needs a model: model.path=<run folder, Hugging Face directory or hub id>."
    path = Path(typed).expanduser()
    if path.exists() or (typed.count("/") == 1 and not path.parent.exists()):
        return None  # a model that is not in a run folder, or a hub id: its task must be typed
    siblings = [item.name for item in path.parent.iterdir()] if path.parent.is_dir() else []
    return (
        f"model.path={typed}: there is no such folder.{did_you_mean(path.name, siblings)} "
        f"(For a hub id give the task too: task=…)"
    )


def compose_single(runs: HydraRuns, words: Words) -> tuple[DictConfig, RunConfig] | None:
    """Compose and type the config of a single run; complaints go to `words.wrong`. None where it cannot be composed."""
    unreadable = ("Unknown stage", "Unknown task", "Unknown model", "stage= is", "task= is", "'")
    is_missing = "stage" not in words.typed or ("task" not in words.typed and not words.without_task)
    if is_missing or any(line.startswith(unreadable) for line in words.wrong):
        return None
    try:
        config = runs.compose([line for line in words.for_hydra if not is_refused(line, words.wrong)])
        if config.hydra.mode is not None and not any("hydra.mode=" in line for line in words.for_hydra):
            words.wrong.append("A YAML file of yours sets hydra.mode: leave that to -m on the command line.")
        data = plain_config(config)
    except (HydraException, OmegaConfBaseException) as error:
        words.wrong.append(str(error).splitlines()[0])
        return None
    run, complaints = typed_run(data, words)
    words.wrong += [line for line in complaints if line not in words.wrong]
    return config, run


def is_refused(override: str, complaints: list[str]) -> bool:
    """Return whether a complaint is about this override, so that the others can be composed without it."""
    key = override.lstrip("+").partition("=")[0]
    return any(line.startswith((f"{key}=", f"Unknown key '{key}'", f"'{key}'")) for line in complaints)


def restart_with_allocator(command: CommandLine) -> None:
    """Start the process again with a better allocator, where only a recipe or a plan says that this run trains.

    A command line that says so itself has started again before, in entry().
    """
    if os.environ.get("LLMSTAGE_ENTRY") != "console" or command.words.choice("stage") not in allocator.STAGES:
        return
    if "off" not in command.words.typed.get("trainer.allocator", []):
        allocator.restart(command.arguments)


def print_sweep_table(results: list[JobResult]) -> None:
    """Print one row a job, the failed ones too."""
    from rich import box
    from rich.table import Table

    table = Table(box=box.SIMPLE, title=f"{len(results)} jobs", title_justify="left")
    for name in ("job", "overrides", "status", "objective", "folder"):
        table.add_column(name, overflow="fold")
    for index, result in enumerate(results):
        state = "completed" if result.status == 0 else f"failed ({result.status}): {result.message}"
        table.add_row(str(index), result.overrides, state, console.number(result.value), str(result.out_dir))
    console.result(table)
