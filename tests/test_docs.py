"""The documentation names keys, options, files and modules that exist, and both READMEs show the same commands."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from pathlib import Path

from llmstage.cli.overrides import read_words

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
FENCE = re.compile(r"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
HISTORY = {"CHANGELOG.md"}
"""Pages that name keys and modules of earlier versions."""


def commands(page: Path) -> list[list[str]]:
    """The words behind `llmstage` of every command in the code blocks of a page."""
    found = []
    for block in FENCE.findall(page.read_text(encoding="utf-8")):
        text = re.sub(r"\\\n\s*", " ", block)
        for line in text.splitlines():
            line = re.sub(r"^\$ ", "", line.strip())
            match = re.search(r"(?:^|\| ?|&& )llmstage ([^|&]*)", line)
            if match and not line.startswith(("llmstage finetune", "llmstage predict")):
                words = re.sub(r"<[^<>]*>", "x", match[1])
                found.append([word for word in shlex.split(words, comments=True) if word != "…"])
    return found


def test_pages_hold_commands():
    assert sum(len(commands(page)) for page in PAGES) > 80


def test_every_command_has_known_keys_of_this_version():
    wrong = set()
    for page in PAGES:
        for words in commands(page):
            read = read_words([word for word in words if "=" in word and not word.startswith(("-", "plan="))])
            unknown = [] if "--config-dir" in words else [line for line in read.wrong if line.startswith("Unknown")]
            complaints = [*unknown, *(f"{old} is called {new} now" for old, new in read.renamed.items())]
            # The README shows one command that is wrong on purpose.
            wrong |= {
                f"{page.name}: {line}" for line in complaints if "fintune" not in line and "batch_sise" not in line
            }
    assert not wrong, "\n".join(sorted(wrong))


def test_every_file_that_a_page_names_exists():
    missing = []
    for page in PAGES:
        if page.name in HISTORY:
            continue
        for name in re.findall(
            r"`((?:llmstage|tests|benchmarks|conf|docs)/[\w/.-]+\.(?:py|yaml|md))`", page.read_text("utf-8")
        ):
            if not (ROOT / name).is_file():
                missing.append(f"{page.relative_to(ROOT)}: {name}")
    assert not missing, "\n".join(missing)


def test_both_readmes_show_the_same_commands():
    english, chinese = (commands(ROOT / name) for name in ("README.md", "README.zh-CN.md"))
    assert english == chinese


def test_the_example_of_a_task_and_a_reader_runs_as_written(tmp_path: Path, start_command):
    """The files of docs/extend.md, written out and run by its own commands, each in a process of its own; in few steps."""
    page = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")
    for name, text in re.findall(r'^```\w+ title="([^"]+)"\n(.*?)^```', page, re.MULTILINE | re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text, encoding="utf-8")
    reviews = "".join(f"lovely parcel {number} | good\nbroken parcel {number} | bad\n" for number in range(40))
    (tmp_path / "reviews.pipe").write_text(reviews, encoding="utf-8")
    lines = [line for block in FENCE.findall(page) for line in block.splitlines() if "PYTHONPATH=. llmstage" in line]
    assert len(lines) == 4
    pipes = dict.fromkeys(("stdin", "stdout", "stderr"), subprocess.PIPE)
    outputs = []
    for line in lines:
        before, command = re.sub(r"trainer\.max_steps=\d+", "", line).split("PYTHONPATH=. llmstage ")
        words = [*shlex.split(command), *(["trainer=smoke"] if "stage=finetune" in line else [])]
        typed = shlex.split(before.rstrip("| "))[1:]  # what `echo` prints
        running = start_command(words, env={**os.environ, "PYTHONPATH": "."}, cwd=tmp_path, **pipes)
        output, errors = running.communicate("".join(f"{text}\n" for text in typed))
        assert running.returncode == 0, errors[-3000:]
        outputs.append(output)
    assert '"prediction":' in outputs[2] and '"text": "STOP the cat STOP"' in outputs[2]
