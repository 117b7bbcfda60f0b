"""Probe families: one module each, discovered by file name. Items are a pure function of (family, cell, seed, split)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llmstage.errors import UserError
from llmstage.explore.items import Item, MetaValue, check, split_of
from llmstage.explore.probes.base import Question
from llmstage.naming import load_module

DRAWS_PER_ITEM = 60
"""Largest number of draws for each requested item: easy cells have few different items."""
MOST_REPEATED_DRAWS = 5000
"""Number of draws in a row without a new item after which a cell counts as exhausted."""


def families() -> list[str]:
    """Return the names of the shipped families."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


def select_cells(names: Sequence[str]) -> dict[str, list[Mapping[str, MetaValue]]]:
    """Return the cells of each family that `stage.probes` names.

    A name is core, full, a family, or a family with values of its axes, of which a cell must have all: `copying:copy`,
    `addition:4:reversed`.
    """
    if "full" in names:
        return {name: list(load(name).FULL) for name in families()}
    selected: dict[str, list[Mapping[str, MetaValue]]] = {}
    for entry in names:
        first, *values = entry.split(":")
        for name in families() if first == "core" else [first]:
            cells = selected.setdefault(name, [])
            cells += [cell for cell in cells_with(name, values) if cell not in cells]
    return selected


def cells_with(probe_family: str, values: Sequence[str]) -> list[Mapping[str, MetaValue]]:
    """Return the core cells that have all of these values, or else those of the full set. Raises UserError without any."""
    module = load(probe_family)
    for cells in (module.CORE, module.FULL):
        matching = [cell for cell in cells if set(values) <= set(map(str, cell.values()))]
        if matching:
            return matching
    axes: dict[str, list[str]] = {}
    for axis, value in (pair for cell in (*module.CORE, *module.FULL) for pair in cell.items()):
        axes[axis] = list(dict.fromkeys([*axes.get(axis, []), str(value)]))
    known = "; ".join(f"{axis}: {', '.join(levels)}" for axis, levels in axes.items()) or "none, it has one level"
    raise UserError(
        f"stage.probes={':'.join([probe_family, *values])}: no level of {probe_family} is {' and '.join(values)}. "
        f"Its axes are {known}."
    )


def load(probe_family: str) -> ModuleType:
    """Import the module of a family."""
    return load_module("explore.probes", probe_family, trusted=False)


def generate(
    probe_family: str,
    per_cell: int,
    seed: int,
    *,
    splits: Collection[str] | None = None,
    cells: Sequence[Mapping[str, MetaValue]] | None = None,
    shares: dict[str, float] | None = None,
) -> list[Item]:
    """Generate `per_cell` items for each cell (None: the core cells), or as many as there are, and the items of their parts.

    With `splits`, only items whose parameters are in one of these splits. A part has its own split, which may be another.
    """
    module = load(probe_family)
    items: dict[str, Item] = {}
    part_items: dict[str, Item] = {}
    for cell in module.CORE if cells is None else cells:
        questions = sample_cell(probe_family, module, cell, per_cell, seed, splits, shares)
        for number, (question, lang) in enumerate(questions):
            name = ",".join(f"{axis}={value}" for axis, value in cell.items())
            item = build_item(f"{probe_family}/{name}/{seed}-{number}", probe_family, question, cell, lang, shares)
            # Several items may have the same part: it becomes one item.
            for part_name, part in question.parts:
                identity = f"{part_name}|{part.identity()}"
                if identity not in part_items:
                    part_item = build_item("", f"{probe_family}.{part_name}", part, {}, lang, shares)
                    part_item.id = f"{probe_family}.{part_name}/{part_item.digest()[:16]}"
                    part_items[identity] = items[part_item.id] = part_item
                if part_items[identity].id not in item.parts:
                    item.parts.append(part_items[identity].id)
            items[item.id] = item
    return list(items.values())


def sample_cell(
    probe_family: str,
    module: ModuleType,
    cell: Mapping[str, MetaValue],
    count: int,
    seed: int,
    splits: Collection[str] | None,
    shares: dict[str, float] | None,
) -> Iterator[tuple[Question, str]]:
    """Draw `count` different questions of one cell, with the languages in turn."""
    rng = random.Random(f"{probe_family} {seed} {sorted(cell.items())}")
    known: set[str] = set()
    last = 0
    for draw in range(count * DRAWS_PER_ITEM):
        if draw - last > MOST_REPEATED_DRAWS:
            return
        lang = module.LANGUAGES[len(known) % len(module.LANGUAGES)]
        question = module.sample_question(rng, cell, lang)
        identity = question.identity()
        if identity in known or (splits is not None and split_of(probe_family, question.key, shares) not in splits):
            continue
        known.add(identity)
        last = draw
        yield question, lang
        if len(known) == count:
            return


def build_item(
    id: str,
    probe_family: str,
    question: Question,
    cell: Mapping[str, Any],
    lang: str,
    shares: dict[str, float] | None,
) -> Item:
    """Build the Item of a question. Answers begin with a space, as text continues after its prompt, but not after Chinese."""
    space = "" if question.glued or not question.prompt[-1].isascii() else " "
    key = question.key or hashlib.sha256(question.identity().encode()).hexdigest()[:16]
    item = Item(
        id=id,
        probe_family=probe_family,
        prompt=question.prompt,
        answer=None if question.answer is None else space + question.answer,
        choices=[space + choice for choice in question.choices],
        label=question.label,
        meta={**cell, **({"lang": lang} if lang else {}), **question.meta},
        split=split_of(probe_family, key, shares),
        image=question.image,
        key=key,
        free=question.free,
    )
    check(item)
    return item
