"""Load probe items from files: JSON lines of llmstage, task.json of BIG-bench, JSON of BIG-Bench-Hard, JSON lines of BLiMP."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmstage.errors import DataError
from llmstage.explore.items import Item, check, first_lines, numbered_lines, read_items

SUBSET = 1e-9
"""Targets of BIG-bench whose score is within this of the best count as right too."""


def load_phenomena(patterns: Sequence[str]) -> list[Item]:
    """Load the items of every file that `stage.phenomena` names, and make ids unique over all files."""
    items: list[Item] = []
    for path in matching_files(patterns):
        loaded = load_file(path)
        known = {item.id for item in items}
        for item in loaded:
            if item.id in known:
                item.id, item.parts = f"{path.stem}:{item.id}", [f"{path.stem}:{part}" for part in item.parts]
        items += loaded
    return items


def matching_files(patterns: Sequence[str]) -> list[Path]:
    """Return the files of paths and globs; of a folder, its task.json or all of its JSON and JSON lines."""
    files: list[Path] = []
    for pattern in patterns:
        paths = [Path(name) for name in sorted(glob.glob(str(Path(pattern).expanduser()), recursive=True))]
        if not paths:
            raise DataError(f"stage.phenomena={pattern}: there is no such file.")
        for path in paths:
            if path.is_dir():
                inside = [path / "task.json"] if (path / "task.json").is_file() else sorted(path.glob("*.json*"))
                inside = inside or sorted(path.glob("*/task.json"))
                if not inside and (path / "task.py").is_file():
                    raise programmatic(path)
                if not inside:
                    raise DataError(f"stage.phenomena={pattern}: {path} holds no JSON and no JSON lines.")
                files += inside
            else:
                files.append(path)
    return list(dict.fromkeys(files))


def programmatic(path: Path) -> DataError:
    """Return the error for a task of BIG-bench that generates its questions with Python code."""
    return DataError(
        f"{path} is a programmatic task of BIG-bench: its questions are made by its own code, which is not run here. "
        f"Write its examples as JSON lines (prompt and answer, or choices and label) and give that file."
    )


def load_file(path: Path) -> list[Item]:
    """Load the items of one file; its content decides the format."""
    if path.suffix == ".py":
        raise programmatic(path.parent)
    if path.suffix == ".json":
        try:
            loaded = json.loads(path.read_text(encoding="utf-8-sig"))
        except json.JSONDecodeError as error:
            raise DataError(f"{path}:{error.lineno}: no JSON ({error.msg}).") from None
        except (OSError, UnicodeDecodeError) as error:
            raise DataError(f"{path} cannot be read as UTF-8: {error}") from None
        if isinstance(loaded, dict) and isinstance(loaded.get("examples"), list):
            return load_bbh(path, loaded) if is_bbh(loaded) else load_big_bench(path, loaded)
        if isinstance(loaded, dict) and "name" in loaded and ("subtasks" in loaded or "metrics" in loaded):
            raise programmatic(path.parent)
        raise DataError(
            f"{path}: no task of BIG-bench and none of BIG-Bench-Hard: there is no list `examples`. "
            f"Own items are JSON lines (.jsonl) with prompt and answer."
        )
    first = numbered_lines(path)[:1]
    if first and '"sentence_good"' in first[0][1]:
        return load_blimp(path)
    return read_items(path)


def is_bbh(loaded: dict[str, Any]) -> bool:
    """Whether a file has the format of BIG-Bench-Hard: examples and a canary, without scoring options."""
    return set(loaded) <= {"canary", "examples"} and all(
        "target_scores" not in example for example in loaded["examples"]
    )


def load_bbh(path: Path, loaded: dict[str, Any]) -> list[Item]:
    """Load a file of BIG-Bench-Hard.

    A prompt ends with `A:`, as in the prompts of the suite. Options in brackets and small sets of targets become choices;
    all other answers are free.
    """
    examples = checked(path, loaded["examples"])
    targets = {str(example["target"]).strip() for example in examples}
    closed = sorted(targets) if len(targets) <= 4 and len(examples) >= 20 else []
    free = any(len(target.split()) > 3 for target in targets)
    items = []
    for number, example in enumerate(examples):
        target = str(example["target"]).strip()
        options = bracketed(str(example["input"])) or closed
        item = Item(f"{path.stem}-{number}", path.stem, f"Q: {example['input']}\nA:", key=str(example["input"]))
        if target in options:
            item.choices, item.label = [f" {option}" for option in options], options.index(target)
        else:
            item.answer, item.free = f" {target}", free
        items.append(item)
    return items


def bracketed(text: str) -> list[str]:
    """Return the options (A), (B), … that begin lines after `Options:`."""
    _, mark, options = text.partition("Options:")
    return [line.strip()[:3] for line in options.splitlines() if line.strip()[:1] == "("] if mark else []


def checked(path: Path, examples: list[Any]) -> list[dict[str, Any]]:
    """Return the examples; raise DataError with all that have no input or no target."""
    wrong = []
    for number, example in enumerate(examples):
        if not isinstance(example, dict) or "input" not in example:
            wrong.append(f"{path}: examples[{number}] has no `input`")
        elif not ("target" in example or "target_scores" in example):
            wrong.append(f"{path}: examples[{number}] has neither `target` nor `target_scores`")
    if wrong or not examples:
        raise DataError("\n".join(first_lines(wrong)) or f"{path}: `examples` is empty.")
    return examples


def load_big_bench(path: Path, loaded: dict[str, Any]) -> list[Item]:
    """Load a task.json of BIG-bench, with prompts as its json_task.py writes them (docs/doc.md of its repository).

    A prompt is the prefix, `Q: input`, the choices with their prefix, `A:`. `preferred_score: multiple_choice_grade` gives
    items with choices, any other score items with text.
    """
    probe_family = str(loaded.get("name") or (path.parent.name if path.stem == "task" else path.stem))
    before, after = loaded.get("example_input_prefix", "\nQ: "), loaded.get("example_output_prefix", "\nA: ")
    mark = loaded.get("choice_prefix", "\n  choice: ")
    graded = "multiple_choice_grade" in (loaded.get("preferred_score"), *loaded.get("metrics", []))
    listed = loaded.get("append_choices_to_input", True)
    items = []
    for number, example in enumerate(checked(path, loaded["examples"])):
        prefix = str(loaded.get("task_prefix", "")) if not example.get("task_prefix") else str(example["task_prefix"])
        scores: dict[str, float] = {
            str(text): float(value) for text, value in (example.get("target_scores") or {}).items()
        }
        choices = "".join(f"{mark}{text}" for text in scores) if listed and mark and scores else ""
        prompt = f"{prefix}{before}{example['input']}{choices}{after}".lstrip("\n")
        # A space between prompt and answer belongs to the first token of the answer.
        space = " " if prompt.endswith(" ") else ""
        prompt = prompt.removesuffix(space)
        item = Item(f"{probe_family}-{number}", probe_family, prompt, key=str(example["input"]))
        if scores and (graded or "target" not in example):
            best = max(scores.values())
            right = [index for index, value in enumerate(scores.values()) if value >= best - SUBSET]
            item.choices, item.label = [space + text for text in scores], right[0]
            if (
                len(right) > 1
            ):  # Several choices are right, and an item has one label: their texts become accepted answers.
                item.choices, item.label, item.answers = [], None, [space + list(scores)[index] for index in right]
        else:
            targets = example["target"] if isinstance(example["target"], list) else [example["target"]]
            item.answer, *item.answers = [space + str(target) for target in targets]
            item.free = True
        items.append(item)
    return verified(path, items)


def verified(path: Path, items: list[Item]) -> list[Item]:
    """Return the items; raise DataError with all that cannot be scored."""
    wrong = []
    for number, item in enumerate(items):
        try:
            check(item)
        except ValueError as error:
            wrong.append(f"{path}: examples[{number}]: {error}")
    if wrong:
        raise DataError("These items cannot be used:\n" + "\n".join(f"  {line}" for line in first_lines(wrong)))
    return items


def load_blimp(path: Path) -> list[Item]:
    """Load pairs of sentences of which one is grammatical (BLiMP: Warstadt 2020, arXiv 1912.00582).

    Each full sentence is scored after a start token (`variant: sentence`; acc_bytes is its length-normalised form). Where
    both sentences differ in one word after the same words, that word alone is scored too (`variant: critical`).
    """
    items, wrong = [], []
    for number, line in numbered_lines(path):
        try:
            record = json.loads(line)
            good, bad = record["sentence_good"], record["sentence_bad"]
        except json.JSONDecodeError as error:
            wrong.append(f"{path}:{number}: no JSON ({error.msg})")
            continue
        except KeyError as error:
            wrong.append(f"{path}:{number}: {error} is missing: a pair has sentence_good and sentence_bad")
            continue
        probe_family = str(record.get("UID", path.stem))
        meta = {name: str(record[name]) for name in ("field", "linguistics_term") if name in record}
        key = f"{record.get('pair_id', record.get('pairID', number))} {good}"
        first = Item(f"{probe_family}-{number}", probe_family, "", choices=[good, bad], label=0, key=key)
        first.meta = {**meta, "variant": "sentence"}
        # The word that differs gives a second item, on the words before it.
        pair = [first]
        region = critical(good, bad)
        if region is not None:
            prompt, words = region
            critical_id, critical_family = f"{probe_family}-{number}-critical", f"{probe_family}.critical"
            second = Item(critical_id, critical_family, prompt, choices=words, label=0, key=key)
            second.meta = {**meta, "variant": "critical"}
            pair.append(second)
        for item in pair:
            try:
                check(item)
                items.append(item)
            except ValueError as error:
                wrong.append(f"{path}:{number}: {error}")
    if wrong:
        raise DataError("These pairs cannot be used:\n" + "\n".join(f"  {line}" for line in first_lines(wrong)))
    return items


def critical(good: str, bad: str) -> tuple[str, list[str]] | None:
    """Return (words before, the two words) where the sentences differ in one word that is not the first; else None."""
    first, second = good.split(" "), bad.split(" ")
    differ = [index for index, pair in enumerate(zip(first, second, strict=False)) if pair[0] != pair[1]]
    if len(first) != len(second) or len(differ) != 1 or differ[0] == 0:
        return None
    at = differ[0]
    return " ".join(first[:at]), [f" {first[at].rstrip('.')}", f" {second[at].rstrip('.')}"]
