"""Write reference/keys.md from the dataclasses that check the command line: every key with its type, default and meaning."""

from __future__ import annotations

from dataclasses import fields, is_dataclass
from typing import Any

from mkdocs.structure.files import File, Files

from llmstage.cli.help import about, field_docs
from llmstage.config import FACTS, GROUPS, RunConfig, stage_config, task_config
from llmstage.config.typed import describe, hints
from llmstage.paths import options

HEAD = """# Every key

Type a key as `group.key=value` ([Configuration](../concepts/config.md)). `llmstage --help` prints the same list, and
`llmstage stage=<stage> task=<task> --help` prints the keys of one run. This page is generated from the code.
"""


def on_files(files: Files, config: Any) -> Files:
    """Called by mkdocs before it reads the pages."""
    files.append(File.generated(config, "reference/keys.md", content=keys_page()))
    return files


def keys_page() -> str:
    """The whole page as Markdown."""
    groups = hints(RunConfig)
    parts = [HEAD]
    parts += option_sections("stage", stage_config)
    parts += option_sections("task", task_config)
    for group in GROUPS:
        if group not in ("stage", "task"):
            names = ", ".join(f"`{name}`" for name in options(group))
            parts += [f"## {group}\n", f"Options: {names}.\n", table(key_rows(groups[group], group))]
    parts += ["## Root\n", table([row for row in key_rows(RunConfig, "") if "." not in row[0]])]
    return "\n".join(parts)


def option_sections(group: str, config_of: Any) -> list[str]:
    """A section for each stage or task: its sentence and the keys of its own."""
    parts = [f"## {group}\n"]
    for name in options(group):
        rows = key_rows(config_of(name), group)
        parts += [
            f"### {group}={name}\n",
            f"{about(group, name)}\n" if about(group, name) else "",
            table(rows) if rows else "",
        ]
    return parts


def key_rows(cls: type, prefix: str) -> list[tuple[str, str, str, str]]:
    """(key, type, default, meaning) of every key of a dataclass, nested groups included."""
    known, docs, defaults = hints(cls), field_docs(cls), cls()
    rows: list[tuple[str, str, str, str]] = []
    for item in fields(cls):
        key, annotation, value = f"{prefix}.{item.name}".lstrip("."), known[item.name], getattr(defaults, item.name)
        if is_dataclass(annotation) and isinstance(annotation, type):
            if prefix:
                rows += key_rows(annotation, key)
        elif key not in FACTS:
            rows.append((key, describe(annotation), default_text(value), docs.get(item.name, "")))
    return rows


def default_text(value: Any) -> str:
    """A default as one types it."""
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)


def table(rows: list[tuple[str, str, str, str]]) -> str:
    """Rows as a Markdown table; a bar or a bracket in a cell is text."""
    lines = ["| key | type | default | meaning |", "|---|---|---|---|"]
    for key, kind, default, meaning in rows:
        lines.append(f"| `{key}` | {escape(kind)} | `{default}` | {escape(meaning)} |".replace("``", "` `"))
    return "\n".join([*lines, ""])


def escape(text: str) -> str:
    """Text in which Markdown and HTML see nothing to render."""
    return text.replace("|", "\\|").replace("<", "&lt;").replace("[", "\\[").replace("*", "\\*")
