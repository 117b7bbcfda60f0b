"""Probe items: the dataclass, its JSON lines, and the split that template and parameters decide."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal

from llmstage.demo.scenes import GRID, PREFIX, SceneObject, read_scene
from llmstage.errors import DataError
from llmstage.naming import did_you_mean

Split = Literal["discover", "confirm", "train", "test"]
TEST_SHARE = 0.2
"""Share of all parameters in the split `test`, which only the final comparison reads. The other splits share the rest."""
SHARES = {"discover": 0.4, "confirm": 0.3, "train": 0.3}
MetaValue = str | int | float | bool


@dataclass(slots=True)
class Item:
    """One question with a known answer: free text (`answer`), or one of several texts (`choices` and `label`)."""

    id: str
    probe_family: str
    """The skill that is probed, e.g. addition, or a task of BIG-bench; `family` in files."""
    prompt: str
    """The text before the answer; may be empty where the choices are full sentences."""
    answer: str | None = None
    """The text that greedy decoding is compared with; None where there are choices."""
    answers: list[str] = field(default_factory=list)
    """Further accepted texts."""
    choices: list[str] = field(default_factory=list)
    label: int | None = None
    """Index of the right choice, from 0."""
    parts: list[str] = field(default_factory=list)
    """Ids of items that test the sub-skills of this one, on the same facts."""
    meta: dict[str, MetaValue] = field(default_factory=dict)
    """Axes of difficulty and other attributes, e.g. {"len": 7, "lang": "zh"}."""
    split: str = ""
    """discover, confirm, train or test; empty: no split assigned."""
    image: str | list[str] | None = None
    """The path of an image, a demo scene (`demo:…`), or the rows of a grid of tokens."""
    key: str = ""
    """Template and parameters: items with the same key are in the same split. Empty: the prompt is the key."""
    free: bool = False
    """Whether the answer is free text: the model generates it, and edit distance and chrF compare it."""

    @property
    def accepted(self) -> list[str]:
        """All accepted texts of an item without choices, `answer` first."""
        return list(dict.fromkeys(([] if self.answer is None else [self.answer]) + self.answers))

    @property
    def right(self) -> str:
        """The right text, from the choices or from the accepted answers."""
        return self.choices[self.label or 0] if self.choices else self.accepted[0]

    def digest(self) -> str:
        """sha256 of all fields that its score depends on."""
        fields_of_score = [self.prompt, self.accepted, self.choices, self.label, self.image, self.free]
        return hashlib.sha256(json.dumps(fields_of_score, ensure_ascii=False).encode()).hexdigest()


def fraction(key: str) -> float:
    """Map a key to a number in [0, 1) that is the same on every machine."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") / 2**64


def split_of(probe_family: str, key: str, shares: dict[str, float] | None = None) -> str:
    """Return the split of a template with its parameters. `test` takes TEST_SHARE, whatever the other shares are."""
    position = fraction(f"{probe_family}|{key}") / (1 - TEST_SHARE)
    if position >= 1:
        return "test"
    splits = shares or SHARES
    total, border = sum(splits.values()), 0.0
    for name, share in splits.items():
        border += share / total
        if position < border:
            return name
    return next(reversed(splits))


def read_items(path: Path) -> list[Item]:
    """Read the items of a JSON lines file. Raises DataError with all unusable lines, ten at most."""
    items: list[Item] = []
    wrong: list[str] = []
    known: dict[str, int] = {}
    for number, line in numbered_lines(path):
        try:
            item = item_of(json.loads(line), f"{path.stem}-{number}", path.stem)
            if item.id in known:
                raise ValueError(f"its id '{item.id}' is that of line {known[item.id]}")
            known[item.id] = number
            item.image = resolve_image(path, item.image)
            items.append(item)
        except json.JSONDecodeError as error:
            wrong.append(f"{path}:{number}: no JSON ({error.msg} at character {error.pos + 1})")
        except ValueError as error:
            wrong.append(f"{path}:{number}: {error}")
    missing = sorted({part for item in items for part in item.parts} - known.keys())
    if missing:
        wrong.append(f"{path}: `parts` names items that are not in the file: {', '.join(missing[:5])}")
    if wrong:
        raise DataError("These items cannot be used:\n" + "\n".join(f"  {line}" for line in first_lines(wrong)))
    if not items:
        raise DataError(f"{path} holds no items: one JSON object a line with prompt and answer (or choices and label).")
    return items


def resolve_image(path: Path, image: str | list[str] | None) -> str | list[str] | None:
    """Return an image path relative to the folder of the file that names it; scenes and grids stay as they are."""
    if not isinstance(image, str) or image.startswith(PREFIX):
        return image
    return str(path.parent / image)


def first_lines(wrong: Sequence[str], most: int = 10) -> list[str]:
    """Return `most` lines and the number of those left out."""
    return [*wrong[:most], *([f"… and {len(wrong) - most} more"] if len(wrong) > most else [])]


def numbered_lines(path: Path) -> list[tuple[int, str]]:
    """Return (number from 1, line) of the non-blank lines of a UTF-8 file."""
    try:
        text = path.read_bytes().decode("utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError as error:
        line = path.read_bytes()[: error.start].count(b"\n") + 1
        raise DataError(f"{path}:{line}: not UTF-8. Items are read as UTF-8: convert the file.") from None
    return [(number, line) for number, line in enumerate(text.split("\n"), 1) if line.strip()]


FIELDS = tuple("family" if entry.name == "probe_family" else entry.name for entry in fields(Item))
"""Keys of a line in a file of items."""
TEXTS = ("id", "family", "answer", "split", "key")
LISTS = ("answers", "choices", "parts")


def item_of(record: Any, id: str, probe_family: str) -> Item:
    """Build an item from one JSON object; `id` and `probe_family` are the defaults. Raises ValueError where it is invalid."""
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
    keys = {"probe_family" if key == "family" else key: value for key, value in record.items()}
    item = Item(**{"id": id, "probe_family": probe_family, **keys})
    check(item)
    return item


def check(item: Item) -> None:
    """Raise ValueError where an item cannot be scored."""
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
    """Whether a value can be an entry of `meta`."""
    return isinstance(value, (str, bool, int)) or (isinstance(value, float) and math.isfinite(value))


def grid_rows(item: Item) -> list[str] | None:
    """Return an image as rows of tokens, for models that read text only; None where it is an image file."""
    if isinstance(item.image, list):
        return item.image
    if item.image is None or not item.image.startswith(PREFIX):
        return None
    return scene_rows(read_scene(item.image)[1])


def scene_rows(shapes: Sequence[SceneObject]) -> list[str]:
    """Return the grid of a demo scene, one text for each row."""
    cells = [["."] * GRID for _ in range(GRID)]
    for shape in shapes:
        cells[shape.row][shape.column] = f"{shape.size} {shape.colour} {shape.shape}"
    return [" | ".join(row) for row in cells]


def as_text(item: Item) -> str:
    """Return the prompt for a model that reads text only: the rows of its image, then the prompt."""
    rows = grid_rows(item)
    return "\n".join([*rows, item.prompt]) if rows else item.prompt
