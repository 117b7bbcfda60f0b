"""Probe families: one file each, found by its name. Items are a pure function of (family, cell, seed, split)."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any

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


def chosen(names: Sequence[str]) -> dict[str, bool]:
    """Families that `stage.probes` names, each with whether all of its cells are wanted: [core], [full], or names."""
    found: dict[str, bool] = {}
    for name in names:
        for family in families() if name in ("core", "full") else [name]:
            found[family] = found.get(family, False) or name == "full"
    return found


def load(family: str) -> ModuleType:
    return load_module("explore.probes", family, trusted=False)


def generate(
    family: str,
    per_cell: int,
    seed: int,
    *,
    splits: Collection[str] | None = None,
    full: bool = False,
    shares: dict[str, float] | None = None,
) -> list[Item]:
    """`per_cell` items of every cell of the family, or as many as there are, and the parts they are made of.

    With `splits`, only items whose parameters belong to one of them; a part has a split of its own, which may be another.
    """
    module = load(family)
    items: dict[str, Item] = {}
    known: dict[str, Item] = {}
    for cell in module.FULL if full else module.CORE:
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
