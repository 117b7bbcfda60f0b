"""The overview and `--help`, read off the schema: a key's help is the doc string under its field."""

from __future__ import annotations

import ast
import inspect
import itertools
from dataclasses import fields, is_dataclass
from functools import cache

from llmstage import __version__
from llmstage.config import FACTS, RunConfig, stage_config, task_config
from llmstage.config.typed import describe, hints
from llmstage.paths import conf_dir, options

EXAMPLES = (
    ("llmstage stage=finetune task=dialogue", "finetune on the demo world, offline"),
    ("llmstage stage=pretrain task=causal_lm data.train=corpus.txt", "pretrain on your text"),
    ("llmstage stage=evaluate model.path=outputs/latest", "score the newest run again"),
)


@cache
def field_docs(cls: type) -> dict[str, str]:
    """Doc string under each field of a dataclass and of its bases."""
    docs: dict[str, str] = {}
    for base in reversed(cls.__mro__):
        if base is object or not is_dataclass(base):
            continue
        tree = ast.parse(inspect.getsource(base))
        body = tree.body[0].body  # type: ignore[attr-defined]
        for item, after in itertools.pairwise(body):
            if (
                isinstance(item, ast.AnnAssign)
                and isinstance(after, ast.Expr)
                and isinstance(after.value, ast.Constant)
            ):
                docs[item.target.id] = " ".join(str(after.value.value).split())  # type: ignore[union-attr]
    return docs


def about(group: str, option: str) -> str:
    """The comment at the top of an option's YAML."""
    for line in (conf_dir() / group / f"{option}.yaml").read_text(encoding="utf-8").splitlines():
        if line.startswith("# ") and not line.startswith("# @"):
            return line[2:].split(". (")[0]
    return ""


def overview() -> str:
    lines = [
        f"llmstage {__version__}: pretrain, finetune, evaluate, explore and use language models from one config surface.",
        "",
        f"stage   {'  '.join(options('stage'))}",
        f"task    {'  '.join(options('task'))}",
        f"model   {'  '.join(options('model'))}   (or model.path=<folder or hub id>)",
        "data    data.train=<files> data.validation=<files> data.test=<files>   (default: a demo world made in memory)",
        f"recipes experiment={'|'.join(options('experiment')[:6])}|…   (llmstage --help lists them)",
        "",
        *(f"  {command:<62} # {why}" for command, why in EXAMPLES),
        "",
        "Every key: llmstage --help   ·   of one run: llmstage stage=finetune task=dialogue --help   ·   the composed config: --cfg job",
    ]
    return "\n".join(lines)


def keys_of(cls: type, prefix: str) -> list[str]:
    known, docs, defaults = hints(cls), field_docs(cls), cls()
    lines = []
    for item in fields(cls):
        key, kind, value = f"{prefix}.{item.name}".lstrip("."), known[item.name], getattr(defaults, item.name)
        if is_dataclass(kind) and isinstance(kind, type):
            lines += keys_of(kind, key)
            continue
        shown = "null" if value is None else str(value).lower() if isinstance(value, bool) else value
        lines.append(f"  {key}={shown}   ({describe(kind)})")
        if key in FACTS:
            lines.pop()
        elif docs.get(item.name):
            lines.append(f"      {docs[item.name]}")
    return lines


def help_text(stage: str = "", task: str = "") -> str:
    """All keys; with a stage or task, its own keys in place of every stage's and task's."""
    lines = [
        overview(),
        "",
        "Grammar: Hydra's. key=value, several jobs: -m key=a,b. Own YAML: --config-dir my_conf.",
        "",
    ]
    for group in (
        "stage",
        "task",
        "model",
        "data",
        "optim",
        "adapter",
        "generation",
        "trainer",
        "tracker",
        "retrieval",
    ):
        names = options(group)
        lines.append(f"{group}={'|'.join(names)}")
        lines += [
            f"  {name:<20} {about(group, name)}".rstrip()
            for name in names
            if group in ("task", "model", "trainer", "adapter")
        ]
        if group in ("stage", "task"):
            chosen = stage if group == "stage" else task
            for name in [chosen] if chosen else names:
                config = stage_config(name) if group == "stage" else task_config(name)
                own = [item.name for item in fields(config) if f"{group}.{item.name}" not in FACTS]
                keep = [line for word in own for line in entry(config, group, word)]
                lines += [f"  of {group}={name}:", *keep] if keep else []
        else:
            lines += keys_of(hints(RunConfig)[group], group)
        lines.append("")
    lines += [
        "root",
        *entry(RunConfig, "", "seed"),
        *entry(RunConfig, "", "offline"),
        *entry(RunConfig, "", "data_root"),
        *entry(RunConfig, "", "plan"),
        "",
    ]
    lines += [
        "experiment (whole recipes)",
        *(f"  {name:<24} {about('experiment', name)}".rstrip() for name in options("experiment")),
        "",
    ]
    lines.append(
        "Exit status: 0 done, 1 bug or failed sweep, 2 config, 3 data, 4 model or resume, 5 diverged, 6 out of memory, 7 disk,"
    )
    lines.append(
        "8 refused for safety, 9 improvement refused by its guard, 75 interrupted and resumable, 130 Ctrl-C without saving."
    )
    return "\n".join(lines)


def entry(cls: type, prefix: str, word: str) -> list[str]:
    every = keys_of(cls, prefix)
    head = f"  {prefix}.{word}=".replace("  .", "  ")
    for index, line in enumerate(every):
        if line.startswith(head):
            doc = every[index + 1 : index + 2]
            return [line, *(doc if doc and doc[0].startswith("      ") else [])]
    return []
