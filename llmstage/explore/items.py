"""What a probe asks: one item, its JSON lines, and the split that its template and parameters put it in."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llmstage.demo.scenes import GRID, PREFIX, Thing, read_scene
from llmstage.errors import DataError
from llmstage.naming import did_you_mean

Split = Literal["discover", "confirm", "train", "test"]
TEST_SHARE = 0.2
"""Of all parameters, those that only the last before and after is measured on; the other splits share the rest."""
SHARES = {"discover": 0.4, "confirm": 0.3, "train": 0.3}
MetaValue = str | int | float | bool


@dataclass(slots=True)
class Item:
    """One question with a known answer: free (`answer`), or one of several (`choices` and `label`)."""

    id: str
    family: str
    """What is asked about, e.g. addition; a task of BIG-bench."""
    prompt: str
    """What stands before the answer; may be empty where the choices are whole sentences."""
    answer: str | None = None
    """The one that greedy text is compared with; None where there are choices."""
    answers: list[str] = field(default_factory=list)
    """Other texts that are right as well."""
    choices: list[str] = field(default_factory=list)
    label: int | None = None
    """Which of the choices is right, from 0."""
    parts: list[str] = field(default_factory=list)
    """Ids of items that ask for the skills this one is made of, on the same facts."""
    meta: dict[str, MetaValue] = field(default_factory=dict)
    """Difficulty axes and what else may tell items apart, e.g. {"len": 7, "lang": "zh"}."""
    split: str = ""
    """discover, confirm, train or test; empty: not split yet."""
    image: str | list[str] | None = None
    """A picture's path, a scene of the world of shapes (`demo:…`), or the rows of a grid of tokens."""
    key: str = ""
    """Template and parameters: items that share them stay in one split. Empty: the prompt."""
    free: bool = False
    """Whether the answer is free text, so that it is generated and compared by edit distance and chrF."""

    @property
    def accepted(self) -> list[str]:
        """All right texts of an item without choices, `answer` first."""
        return list(dict.fromkeys(([] if self.answer is None else [self.answer]) + self.answers))

    @property
    def right(self) -> str:
        """The text that is right, be it free or one of the choices."""
        return self.choices[self.label or 0] if self.choices else self.accepted[0]

    def digest(self) -> str:
        """sha256 of all that its score depends on."""
        told = [self.prompt, self.accepted, self.choices, self.label, self.image, self.free]
        return hashlib.sha256(json.dumps(told, ensure_ascii=False).encode()).hexdigest()


def fraction(key: str) -> float:
    """[0, 1) a place for the key that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_of(family: str, key: str, shares: dict[str, float] | None = None) -> str:
    """The split of a template with its parameters. `test` takes TEST_SHARE whatever the others' shares are."""
    place = fraction(f"{family}|{key}") / (1 - TEST_SHARE)
    if place >= 1:
        return "test"
    wanted = shares or SHARES
    total, at = sum(wanted.values()), 0.0
    for name, share in wanted.items():
        at += share / total
        if place < at:
            return name
    return next(reversed(wanted))


def read_items(path: Path) -> list[Item]:
    """Items of a JSON lines file; every line that cannot be used is named, ten at most."""
    items: list[Item] = []
    wrong: list[str] = []
    known: dict[str, int] = {}
    for number, line in numbered_lines(path):
        try:
            item = item_of(json.loads(line), f"{path.stem}-{number}", path.stem)
            if item.id in known:
                raise ValueError(f"its id '{item.id}' is that of line {known[item.id]}")
            known[item.id] = number
            item.image = beside(path, item.image)
            items.append(item)
        except json.JSONDecodeError as error:
            wrong.append(f"{path}:{number}: no JSON ({error.msg} at character {error.pos + 1})")
        except ValueError as error:
            wrong.append(f"{path}:{number}: {error}")
    missing = sorted({part for item in items for part in item.parts} - known.keys())
    if missing:
        wrong.append(f"{path}: `parts` names items that are not in the file: {', '.join(missing[:5])}")
    if wrong:
        raise DataError("These items cannot be used:\n" + "\n".join(f"  {line}" for line in told(wrong)))
    if not items:
        raise DataError(f"{path} holds no items: one JSON object a line with prompt and answer (or choices and label).")
    return items


def beside(path: Path, image: str | list[str] | None) -> str | list[str] | None:
    """A picture's path is meant from the folder of the file that names it."""
    if not isinstance(image, str) or image.startswith(PREFIX):
        return image
    return str(path.parent / image)


def told(wrong: Sequence[str], most: int = 10) -> list[str]:
    return [*wrong[:most], *([f"… and {len(wrong) - most} more"] if len(wrong) > most else [])]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """(number from 1, line) of the lines of a UTF-8 file that are not blank."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8. Items are read as UTF-8: convert the file.") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


FIELDS = tuple(entry.name for entry in fields(Item))
TEXTS = ("id", "family", "answer", "split", "key")
LISTS = ("answers", "choices", "parts")


def item_of(record: Any, id: str, family: str) -> Item:
    """An item of one JSON object; `id` and `family` stand in where it has none. A ValueError says what is wrong."""
    if not isinstance(record, dict):
        raise ValueError(f"one JSON object a line is expected, not {type(record).__name__}")
    for name in record:
        if name not in FIELDS:
            raise ValueError(f"unknown key '{name}'.{did_you_mean(name, FIELDS)} Known: {', '.join(FIELDS)}")
    if not isinstance(record.get("prompt"), str):
        raise ValueError("`prompt` is missing or no text")
    for name in TEXTS:
        if name in record and not isinstance(record[name], str):
            raise ValueError(f"`{name}` must be a text, not {json.dumps(record[name], ensure_ascii=False)}")
    for name in LISTS:
        value = record.get(name, [])
        if not isinstance(value, list) or not all(isinstance(part, str) for part in value):
            raise ValueError(f"`{name}` must be a list of texts")
    item = Item(**{"id": id, "family": family, **record})
    check(item)
    return item


def check(item: Item) -> None:
    """A ValueError where an item cannot be asked."""
    if item.choices:
        if item.answer is not None or item.answers:
            raise ValueError("`answer` and `choices` exclude each other: give `label`, the number of the right choice")
        if len(item.choices) < 2 or len(set(item.choices)) < len(item.choices):
            raise ValueError("`choices` must be two different texts or more")
        if not isinstance(item.label, int) or isinstance(item.label, bool) or not 0 <= item.label < len(item.choices):
            raise ValueError(f"`label` must be a number from 0 to {len(item.choices) - 1}, not {item.label!r}")
    elif item.label is not None:
        raise ValueError("`label` is given without `choices`")
    elif not item.accepted:
        raise ValueError("there is no right answer: give `answer`, or `choices` and `label`")
    if not all(item.choices or item.accepted):
        raise ValueError("an empty text cannot be scored as an answer")
    if not isinstance(item.meta, dict) or not all(usable(value) for value in item.meta.values()):
        raise ValueError('`meta` must map names to texts, numbers, true or false, e.g. {"len": 7}')
    if item.split and item.split not in (*SHARES, "test"):
        raise ValueError(f"`split` must be one of {', '.join((*SHARES, 'test'))}, not '{item.split}'")
    if not isinstance(item.free, bool):
        raise ValueError("`free` must be true or false")
    if isinstance(item.image, list) and not all(isinstance(row, str) for row in item.image):
        raise ValueError("`image` as a grid must be a list of texts, one a row")
    if item.image is not None and not isinstance(item.image, (str, list)):
        raise ValueError("`image` must be a path, a scene (demo:…), or a list of rows")
    if isinstance(item.image, str) and item.image.startswith(PREFIX):
        read_scene(item.image)


def usable(value: Any) -> bool:
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


def grid_rows(item: Item) -> list[str] | None:
    """A picture as rows of tokens, for models that read text alone; None where it is a file."""
    if isinstance(item.image, list):
        return item.image
    if item.image is None or not item.image.startswith(PREFIX):
        return None
    return scene_rows(read_scene(item.image)[1])


def scene_rows(things: Sequence[Thing]) -> list[str]:
    """The grid of a scene of the world of shapes, a text a row."""
    cells = [["."] * GRID for _ in range(GRID)]
    for thing in things:
        cells[thing.row][thing.column] = f"{thing.size} {thing.colour} {thing.shape}"
    return [" | ".join(row) for row in cells]


def as_text(item: Item) -> str:
    """The prompt for a model that reads text alone: the picture's grid stands before it."""
    rows = grid_rows(item)
    return "\n".join([*rows, item.prompt]) if rows else item.prompt
