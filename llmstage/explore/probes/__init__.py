"""Probe families: one file each, found by its name. Items are a pure function of (family, cell, seed, split)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

from llmstage.errors import UserError
from llmstage.explore.items import Item, MetaValue, check, split_of
from llmstage.explore.probes.base import Asked
from llmstage.naming import load_module

TRIES = 60
"""Draws for each item wanted, at most: easy cells hold few different items."""
IN_VAIN = 5000
"""Draws in a row without a new item after which a cell is taken to hold no more."""


def families() -> list[str]:
    """Names of the shipped families."""
    return sorted(path.stem for path in Path(__file__).parent.glob("*.py") if path.stem not in ("__init__", "base"))


def chosen(names: Sequence[str]) -> dict[str, list[Mapping[str, MetaValue]]]:
    """The cells of each family that `stage.probes` names: [core], [full], names, or a name with values of its axes behind it, of
    which a cell must have all: `copying:copy`, `addition:4:reversed`."""
    if "full" in names:
        return {family: list(load(family).FULL) for family in families()}
    found: dict[str, list[Mapping[str, MetaValue]]] = {}
    for name in names:
        asked, *values = name.split(":")
        for family in families() if asked == "core" else [asked]:
            own = found.setdefault(family, [])
            own += [cell for cell in cells_with(family, values) if cell not in own]
    return found


def cells_with(family: str, values: Sequence[str]) -> list[Mapping[str, MetaValue]]:
    """The usual cells that have all of these values; where none has, those of the full set."""
    module = load(family)
    for cells in (module.CORE, module.FULL):
        own = [cell for cell in cells if set(values) <= set(map(str, cell.values()))]
        if own:
            return own
    axes: dict[str, list[str]] = {}
    for axis, value in (pair for cell in (*module.CORE, *module.FULL) for pair in cell.items()):
        axes[axis] = list(dict.fromkeys([*axes.get(axis, []), str(value)]))
    known = "; ".join(f"{axis}: {', '.join(own)}" for axis, own in axes.items()) or "none, it has one level"
    raise UserError(
        f"stage.probes={':'.join([family, *values])}: no level of {family} is {' and '.join(values)}. Its axes are {known}."
    )


def load(family: str) -> ModuleType:
    return load_module("explore.probes", family, trusted=False)


def generate(
    family: str,
    per_cell: int,
    seed: int,
    *,
    splits: Collection[str] | None = None,
    cells: Sequence[Mapping[str, MetaValue]] | None = None,
    shares: dict[str, float] | None = None,
) -> list[Item]:
    """`per_cell` items of each of these `cells` (None: the usual ones of the family), or as many as there are, and the parts they are made of.

    With `splits`, only items whose parameters belong to one of them; a part has a split of its own, which may be another.
    """
    module = load(family)
    items: dict[str, Item] = {}
    known: dict[str, Item] = {}
    for cell in module.CORE if cells is None else cells:
        for number, (asked, lang) in enumerate(drawn(family, module, cell, per_cell, seed, splits, shares)):
            name = ",".join(f"{axis}={value}" for axis, value in cell.items())
            item = made(f"{family}/{name}/{seed}-{number}", family, asked, cell, lang, shares)
            for part_name, part in asked.parts:
                said = f"{part_name}|{part.told()}"
                if said not in known:
                    known[said] = made("", f"{family}.{part_name}", part, {}, lang, shares)
                    known[said].id = f"{family}.{part_name}/{known[said].digest()[:16]}"
                    items[known[said].id] = known[said]
                if known[said].id not in item.parts:
                    item.parts.append(known[said].id)
            items[item.id] = item
    return list(items.values())


def drawn(
    family: str,
    module: ModuleType,
    cell: Mapping[str, MetaValue],
    wanted: int,
    seed: int,
    splits: Collection[str] | None,
    shares: dict[str, float] | None,
) -> Iterator[tuple[Asked, str]]:
    """Different questions of one cell, the languages in turn."""
    rng = random.Random(f"{family} {seed} {sorted(cell.items())}")
    known: set[str] = set()
    last = 0
    for draw in range(wanted * TRIES):
        if draw - last > IN_VAIN:
            return
        lang = module.LANGUAGES[len(known) % len(module.LANGUAGES)]
        asked = module.ask(rng, cell, lang)
        told = asked.told()
        if told in known or (splits is not None and split_of(family, asked.key, shares) not in splits):
            continue
        known.add(told)
        last = draw
        yield asked, lang
        if len(known) == wanted:
            return


def made(
    id: str, family: str, asked: Asked, cell: Mapping[str, Any], lang: str, shares: dict[str, float] | None
) -> Item:
    """An Item. Answers begin with a space, as a text goes on after its prompt, but not after Chinese."""
    space = "" if asked.glued or not asked.prompt[-1].isascii() else " "
    key = asked.key or hashlib.sha256(asked.told().encode()).hexdigest()[:16]
    item = Item(
        id=id,
        family=family,
        prompt=asked.prompt,
        answer=None if asked.answer is None else space + asked.answer,
        choices=[space + choice for choice in asked.choices],
        label=asked.label,
        meta={**cell, **({"lang": lang} if lang else {}), **asked.meta},
        split=split_of(family, key, shares),
        image=asked.image,
        key=key,
        free=asked.free,
    )
    check(item)
    return item
