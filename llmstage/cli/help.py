"""The overview and `--help`, generated from the dataclasses: the help of a key is the docstring under its field.

No Hydra here, so that the overview and `--help` answer quickly.
"""

from __future__ import annotations

import ast
import itertools
import os
import sys
from dataclasses import fields, is_dataclass
from functools import cache
from pathlib import Path

from llmstage import __version__
from llmstage.config import FACTS, RunConfig, stage_config, task_config
from llmstage.config.typed import describe, hints
from llmstage.paths import conf_dir, options

EXAMPLES = (
    ("llmstage stage=finetune task=dialogue", "finetune on demo data, offline"),
    ("llmstage stage=pretrain task=causal_lm data.train=corpus.txt", "pretrain on your text"),
    ("llmstage stage=evaluate model.path=outputs/latest", "score the newest run again"),
)


DESCRIBED_OPTIONS = ("stage", "task", "model", "trainer", "optim", "adapter", "tracker")
"""Groups whose options `--help` lists with a description."""
GROUP_ORDER = ("stage", "task", "model", "data", "optim", "adapter", "generation", "trainer", "tracker", "retrieval")
EXIT_STATUS = (
    "Exit status: 0 done, 1 bug or failed sweep, 2 config, 3 data, 4 model or resume, 5 diverged, 6 out of memory, 7 disk,",
    "8 refused for safety, 9 improvement refused by its guard, 75 interrupted and resumable, 130 Ctrl-C without saving.",
)


@cache
def docs_in(path: str) -> dict[str, dict[str, str]]:
    """Return the docstring under each field of each class of a source file, by class and field."""
    docs: dict[str, dict[str, str]] = {}
    for node in ast.parse(Path(path).read_text(encoding="utf-8")).body:
        if not isinstance(node, ast.ClassDef):
            continue
        docs[node.name] = {
            item.target.id: " ".join(after.value.value.split())
            for item, after in itertools.pairwise(node.body)
            if isinstance(item, ast.AnnAssign)
            and isinstance(item.target, ast.Name)
            and isinstance(after, ast.Expr)
            and isinstance(after.value, ast.Constant)
            and isinstance(after.value.value, str)
        }
    return docs


def field_docs(cls: type) -> dict[str, str]:
    """Return the docstring under each field of a dataclass and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        path = getattr(sys.modules.get(base.__module__), "__file__", None)
        if is_dataclass(base) and path:
            docs |= docs_in(path).get(base.__name__, {})
    return docs


def about(group: str, option: str) -> str:
    """Return the description of an option: the comment at the top of its YAML file."""
    for line in (conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:].split(". (")[0]
    return ""


def overview() -> str:
    """Return what the bare command prints: stages, tasks, models, and three examples."""
    lines = [
        f"llmstage {__version__}: pretrain, finetune, evaluate, explore and use language models from one config surface.",
        "",
        f"stage   {'  '.join(options('stage'))}",
        f"task    {'  '.join(options('task'))}",
        f"model   {'  '.join(options('model'))}   (or model.path=<folder or hub id>)",
        "data    data.train=<files> data.validation=<files> data.test=<files>   (default: demo data, generated in memory)",
        f"recipes experiment={'|'.join(options('experiment')[:6])}|…   (llmstage --help lists them)",
        "",
        *(f"  {command:<62} # {why}" for command, why in EXAMPLES),
        "",
        "Every key: llmstage --help   ·   of one run: llmstage stage=finetune task=dialogue --help   ·   the composed config: --cfg job",
    ]
    return "\n".join(lines)


def key_help(cls: type, prefix: str) -> dict[str, list[str]]:
    """Return the help lines of each field of a dataclass; a field that is a group has the lines of all its keys."""
    types, docs, defaults = hints(cls), field_docs(cls), cls()
    lines: dict[str, list[str]] = {}
    for item in fields(cls):
        key, annotation, value = f"{prefix}.{item.name}".lstrip("."), types[item.name], getattr(defaults, item.name)
        if is_dataclass(annotation) and isinstance(annotation, type):
            lines[item.name] = [line for group in key_help(annotation, key).values() for line in group]
        elif key not in FACTS:
            text = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
            lines[item.name] = [f"  {key}={text}   ({describe(annotation)})"]
            if item.name in docs:
                lines[item.name].append(f"      {docs[item.name]}")
    return lines


def joined(lines: dict[str, list[str]]) -> list[str]:
    """Return the help lines of all fields in one list."""
    return list(itertools.chain.from_iterable(lines.values()))


def help_text(stage: str = "", task: str = "") -> str:
    """Return the help of all keys; with a stage or task, its keys in place of those of every stage or task."""
    lines = [
        overview(),
        "",
        "Grammar: Hydra's. key=value, several jobs: -m key=a,b. Own YAML: --config-dir my_conf.",
        "",
    ]
    groups = hints(RunConfig)
    for group in GROUP_ORDER:
        names = options(group)
        lines.append(f"{group}={'|'.join(names)}")
        if group in DESCRIBED_OPTIONS:
            lines += [f"  {name:<20} {about(group, name)}".rstrip() for name in names]
        if group in ("stage", "task"):
            chosen = stage if group == "stage" else task
            for name in [chosen] if chosen else names:
                keys = joined(key_help(stage_config(name) if group == "stage" else task_config(name), group))
                lines += [f"  of {group}={name}:", *keys] if keys else []
        else:
            lines += joined(key_help(groups[group], group))
        lines.append("")
    root = [item.name for item in fields(RunConfig) if item.name not in GROUP_ORDER]
    root_help = key_help(RunConfig, "")
    lines += ["root", *(line for name in root for line in root_help[name]), ""]
    recipes = (f"  {name:<24} {about('experiment', name)}".rstrip() for name in options("experiment"))
    lines += ["experiment (whole recipes)", *recipes, "", *EXIT_STATUS]
    return "\n".join(lines)


def quick_answer(arguments: list[str]) -> str | None:
    """Return what a command line without any override prints, or None where it has to be read."""
    if not arguments:
        return overview()
    if arguments in (["--help"], ["-h"]):
        return help_text()
    return f"llmstage {__version__}" if "--version" in arguments else None


def print_text(text: str) -> int:
    """Print a text on standard output and return the exit status; a reader such as `head` may close the pipe early."""
    try:
        print(text, flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # Python flushes once more when it exits
    return 0
