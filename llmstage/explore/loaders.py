"""Items of files: our own JSON lines, BIG-bench's task.json, BIG-Bench-Hard's JSON, BLiMP's JSON lines."""

from __future__ import annotations

import glob
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from llmstage.errors import DataError
from llmstage.explore.items import Item, check, numbered_lines, read_items, told

SUBSET = 1e-9
"""Scores of a BIG-bench target within this of the best are right as well."""


def load_phenomena(patterns: Sequence[str]) -> list[Item]:
    """Items of every file that `stage.phenomena` names; ids of two files do not collide."""
    items: list[Item] = []
    for path in found_files(patterns):
        own = load_file(path)
        known = {item.id for item in items}
        for item in own:
            if item.id in known:
                item.id, item.parts = f"{path.stem}:{item.id}", [f"{path.stem}:{part}" for part in item.parts]
        items += own
    return items


def found_files(patterns: Sequence[str]) -> list[Path]:
    """Files of paths and globs; of a folder, task.json or all of its JSON and JSON lines."""
    found: list[Path] = []
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
                found += inside
            else:
                found.append(path)
    return list(dict.fromkeys(found))


def programmatic(path: Path) -> DataError:
    return DataError(
        f"{path} is a programmatic task of BIG-bench: its questions are made by its own code, which is not run here. "
        f"Write its examples as JSON lines (prompt and answer, or choices and label) and give that file."
    )


def load_file(path: Path) -> list[Item]:
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
    """BIG-Bench-Hard keeps the examples and a canary, nothing of how they are scored."""
    return set(loaded) <= {"canary", "examples"} and all("target_scores" not in one for one in loaded["examples"])


def load_bbh(path: Path, loaded: dict[str, Any]) -> list[Item]:
    """Free answers behind `A:`, as in the suite's own prompts; options in brackets and closed sets become choices."""
    examples = checked(path, loaded["examples"])
    targets = {str(one["target"]).strip() for one in examples}
    closed = sorted(targets) if len(targets) <= 4 and len(examples) >= 20 else []
    items = []
    for number, one in enumerate(examples):
        target = str(one["target"]).strip()
        options = bracketed(str(one["input"])) or closed
        item = Item(f"{path.stem}-{number}", path.stem, f"Q: {one['input']}\nA:", key=str(one["input"]))
        if target in options:
            item.choices, item.label = [f" {option}" for option in options], options.index(target)
        else:
            item.answer, item.free = f" {target}", len(target.split()) > 3
        items.append(item)
    return items


def bracketed(text: str) -> list[str]:
    """(A), (B), … that begin lines behind `Options:`."""
    _, mark, options = text.partition("Options:")
    return [line.strip()[:3] for line in options.splitlines() if line.strip()[:1] == "("] if mark else []


def checked(path: Path, examples: list[Any]) -> list[dict[str, Any]]:
    wrong = []
    for number, one in enumerate(examples):
        if not isinstance(one, dict) or "input" not in one:
            wrong.append(f"{path}: examples[{number}] has no `input`")
        elif not ("target" in one or "target_scores" in one):
            wrong.append(f"{path}: examples[{number}] has neither `target` nor `target_scores`")
    if wrong or not examples:
        raise DataError("\n".join(told(wrong)) or f"{path}: `examples` is empty.")
    return examples


def load_big_bench(path: Path, loaded: dict[str, Any]) -> list[Item]:
    """As BIG-bench's own json_task.py writes prompts (docs/doc.md of the repository): prefix, then `Q: input`, choices by
    their prefix, `A:`; the answer follows. `preferred_score: multiple_choice_grade` asks for choices, all else for text."""
    family = str(loaded.get("name") or (path.parent.name if path.stem == "task" else path.stem))
    before, after = loaded.get("example_input_prefix", "\nQ: "), loaded.get("example_output_prefix", "\nA: ")
    mark = loaded.get("choice_prefix", "\n  choice: ")
    graded = "multiple_choice_grade" in (loaded.get("preferred_score"), *loaded.get("metrics", []))
    listed = loaded.get("append_choices_to_input", True)
    items = []
    for number, one in enumerate(checked(path, loaded["examples"])):
        prefix = str(loaded.get("task_prefix", "")) if not one.get("task_prefix") else str(one["task_prefix"])
        scores: dict[str, float] = {str(text): float(value) for text, value in (one.get("target_scores") or {}).items()}
        shown = "".join(f"{mark}{text}" for text in scores) if listed and mark and scores else ""
        prompt = f"{prefix}{before}{one['input']}{shown}{after}".lstrip("\n")
        space = " " if prompt.endswith(" ") else ""  # a space between them belongs to the answer's first token
        prompt = prompt.removesuffix(space)
        item = Item(f"{family}-{number}", family, prompt, key=str(one["input"]))
        if scores and (graded or "target" not in one):
            best = max(scores.values())
            right = [place for place, value in enumerate(scores.values()) if value >= best - SUBSET]
            item.choices, item.label = [space + text for text in scores], right[0]
            if len(right) > 1:  # several are as right: they cannot be told apart by one label
                item.choices, item.label, item.answers = [], None, [space + list(scores)[place] for place in right]
        else:
            targets = one["target"] if isinstance(one["target"], list) else [one["target"]]
            item.answer, *item.answers = [space + str(target) for target in targets]
            item.free = True
        items.append(item)
    return verified(path, items)


def verified(path: Path, items: list[Item]) -> list[Item]:
    wrong = []
    for number, item in enumerate(items):
        try:
            check(item)
        except ValueError as error:
            wrong.append(f"{path}: examples[{number}]: {error}")
    if wrong:
        raise DataError("These items cannot be used:\n" + "\n".join(f"  {line}" for line in told(wrong)))
    return items


def load_blimp(path: Path) -> list[Item]:
    """Pairs of sentences of which one is grammatical (Warstadt 2020, arXiv 1912.00582). Each whole sentence is scored behind
    a start token (`variant: sentence`; acc_bytes is its length-normalised form); where both differ in one word behind the
    same words, that word alone too (`variant: critical`)."""
    items, wrong = [], []
    for number, line in numbered_lines(path):
        try:
            one = json.loads(line)
            good, bad = one["sentence_good"], one["sentence_bad"]
        except json.JSONDecodeError as error:
            wrong.append(f"{path}:{number}: no JSON ({error.msg})")
            continue
        except KeyError as error:
            wrong.append(f"{path}:{number}: {error} is missing: a pair has sentence_good and sentence_bad")
            continue
        family = str(one.get("UID", path.stem))
        meta = {name: str(one[name]) for name in ("field", "linguistics_term") if name in one}
        key = f"{one.get('pair_id', one.get('pairID', number))} {good}"
        first = Item(f"{family}-{number}", family, "", choices=[good, bad], label=0, key=key)
        first.meta = {**meta, "variant": "sentence"}
        pair = [first]
        region = critical(good, bad)
        if region is not None:
            prompt, words = region
            second = Item(f"{family}-{number}-critical", f"{family}.critical", prompt, choices=words, label=0, key=key)
            second.meta = {**meta, "variant": "critical"}
            pair.append(second)
        for item in pair:
            try:
                check(item)
                items.append(item)
            except ValueError as error:
                wrong.append(f"{path}:{number}: {error}")
    if wrong:
        raise DataError("These pairs cannot be used:\n" + "\n".join(f"  {line}" for line in told(wrong)))
    return items


def critical(good: str, bad: str) -> tuple[str, list[str]] | None:
    """(words before, the two words) where the sentences differ in one word that is not their first."""
    first, second = good.split(" "), bad.split(" ")
    differ = [place for place, (one, two) in enumerate(zip(first, second, strict=False)) if one != two]
    if len(first) != len(second) or len(differ) != 1 or differ[0] == 0:
        return None
    at = differ[0]
    return " ".join(first[:at]), [f" {first[at].rstrip('.')}", f" {second[at].rstrip('.')}"]
