"""The items of a recommender with ids, texts and columns: first the items of the training rows, then cold items."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from llmstage.data.column_vectors import ColumnFeatures, parts
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.errors import DataError


class Catalog:
    """All items that can be recommended. Item `i` is `ids[i]`; below `num_known`, it is in the training rows."""

    def __init__(self, known: list[str], counts: list[int], texts: Mapping[str, str], rows: Mapping[str, Row]) -> None:
        """`known`, `counts`: items and their clicks in training; `texts` and `rows` (of the item table) may have more items."""
        self.ids = known + sorted((texts.keys() | rows.keys()) - set(known))
        self.num_known = len(known)
        self.index = {name: number for number, name in enumerate(self.ids)}
        self.texts = [texts.get(name, "") for name in self.ids]
        self.rows = [rows.get(name, {}) for name in self.ids]
        self.counts = np.zeros(len(self.ids), dtype=np.int64)
        self.counts[: len(known)] = counts
        self.tokens: list[list[int]] = []
        self.features = np.zeros((len(self.ids), 0), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, ids_of: Callable[[str], list[int]], columns: ColumnFeatures) -> None:
        """Compute token ids and column features of every item."""
        self.tokens = [ids_of(text) for text in self.texts]
        if columns.width:
            self.features = np.array([columns.vector(row) for row in self.rows], dtype=np.float32)


def count_items(rows: Iterable[Row]) -> tuple[list[str], list[int]]:
    """Return the items of the training rows with their clicks, the most frequent first; the candidate of a row is its last item."""
    counts: dict[str, int] = {}
    for row in rows:
        for name in row["item"]:
            counts.setdefault(str(name), 0)
        counts[str(row["item"][-1])] += bool(row.get("click", True))
    if not any(counts.values()):
        raise DataError(
            "No training row is a click, so there is nothing to rank. Lower task.positive_rating (null: every rating is one), "
            "or check data.columns.click."
        )
    known = sorted(counts, key=lambda name: (-counts[name], name))
    return known, [counts[name] for name in known]


def item_text(row: Row) -> str:
    """Return title and categories as one text: `Toy Story (1995) | Adventure, Animation`."""
    categories = [name for name in parts(row.get("categories")) if not name.startswith("(no ")]
    title = " ".join(str(row.get("title") or "").split())
    return " | ".join(part for part in (title, ", ".join(categories)) if part)


def read_items(
    source: RowSource | None, items: list[str], texts: Mapping[str, str]
) -> tuple[dict[str, Row], dict[str, int]]:
    """Return (row of the item table by item, counts for the report).

    `items`, `texts`: the items of the interactions, and their texts there.
    """
    if source is None:
        return {}, {"items without text": sum(name not in texts for name in items)}
    rows: dict[str, Row] = {}
    repeated = 0
    for row, _ in source:
        name = str(row["item"])
        repeated += name in rows
        rows.setdefault(name, row)
    missing = sum(name not in rows for name in items)
    if missing * 2 > len(items):
        examples = ", ".join(repr(name) for name in [name for name in items if name not in rows][:3])
        raise DataError(
            f"{missing} of {len(items)} items of the interactions are missing from data.items (e.g. {examples}): the two do not "
            f"belong together, or other columns hold the item. Name it: data.columns.item=<column>."
        )
    empty = sum(not item_text(row) and name not in texts for name, row in rows.items())
    return rows, {
        "items in data.items": len(rows),
        "items repeated in data.items (first kept)": repeated,
        "items missing from data.items (known by id only)": missing,
        "items without text": empty + sum(name not in rows and name not in texts for name in items),
    }


def catalog_state(catalog: Catalog) -> dict[str, Any]:
    """Return JSON data of the items, which is saved with the model."""
    known = catalog.num_known
    return {"items": catalog.ids[:known], "counts": catalog.counts[:known].tolist()}


def known_texts(
    table: RowSource | None, items: list[str], texts: dict[str, str]
) -> tuple[dict[str, Row], dict[str, str], dict[str, int]]:
    """Return (row of the item table, text) of each item, and counts for the report. `texts`: texts of the interactions."""
    rows, counts = read_items(table, items, texts)
    item_texts = dict.fromkeys(items, "") | texts
    return rows, item_texts | {name: text for name, row in rows.items() if (text := item_text(row))}, counts
