"""The items of a recommender: ids, texts and columns; those of the training rows first, cold ones after them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np

from llmstage.data.column_vectors import ColumnFeatures, parts
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row
from llmstage.errors import DataError


class Catalog:
    """Everything that can be recommended. Item `i` is `ids[i]`; below `num_known` it was met in training."""

    def __init__(self, known: list[str], counts: list[int], texts: Mapping[str, str], rows: Mapping[str, Row]) -> None:
        """`known` with the clicks of each in training; `texts` and `rows` (of the item table) may hold further items."""
        met = set(known)
        self.ids = known + sorted((texts.keys() | rows.keys()) - met)
        self.num_known = len(known)
        self.index = {name: at for at, name in enumerate(self.ids)}
        self.texts = [texts.get(name, "") for name in self.ids]
        self.rows = [rows.get(name, {}) for name in self.ids]
        self.counts = np.zeros(len(self.ids), dtype=np.int64)
        self.counts[: len(known)] = counts
        self.tokens: list[list[int]] = []
        self.features = np.zeros((len(self.ids), 0), dtype=np.float32)

    def __len__(self) -> int:
        return len(self.ids)

    def encode(self, ids_of: Callable[[str], list[int]], columns: ColumnFeatures) -> None:
        """Token ids and column features of every item, once."""
        self.tokens = [ids_of(text) for text in self.texts]
        if columns.width:
            self.features = np.array([columns.vector(row) for row in self.rows], dtype=np.float32)


def count_items(rows: Iterable[Row]) -> tuple[list[str], list[int]]:
    """The items of the training rows with their clicks, the most frequent first; a row's candidate is its last item."""
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
    """Title and categories as one text: `Toy Story (1995) | Adventure, Animation`."""
    categories = [name for name in parts(row.get("categories")) if not name.startswith("(no ")]
    return " | ".join(
        piece for piece in (" ".join(str(row.get("title") or "").split()), ", ".join(categories)) if piece
    )


def read_items(
    source: RowSource | None, met: list[str], texts: Mapping[str, str]
) -> tuple[dict[str, Row], dict[str, int]]:
    """(rows of the item table by item, what was counted). `met`: items of the interactions; `texts`: those they bring."""
    if source is None:
        return {}, {"items without text": sum(name not in texts for name in met)}
    rows: dict[str, Row] = {}
    repeated = 0
    for row, _ in source:
        name = str(row["item"])
        repeated += name in rows
        rows.setdefault(name, row)
    missing = sum(name not in rows for name in met)
    if missing * 2 > len(met):
        some = ", ".join(repr(name) for name in [name for name in met if name not in rows][:3])
        raise DataError(
            f"{missing} of {len(met)} items of the interactions are missing from data.items (e.g. {some}): the two do not "
            f"belong together, or other columns hold the item. Name it: data.columns.item=<column>."
        )
    empty = sum(not item_text(row) and name not in texts for name, row in rows.items())
    return rows, {
        "items in data.items": len(rows),
        "items repeated in data.items (first kept)": repeated,
        "items missing from data.items (known by id only)": missing,
        "items without text": empty + sum(name not in rows and name not in texts for name in met),
    }


def catalog_state(catalog: Catalog) -> dict[str, Any]:
    """JSON data: what a trained model must know of its items."""
    known = catalog.num_known
    return {"items": catalog.ids[:known], "counts": catalog.counts[:known].tolist()}


def known_texts(
    table: RowSource | None, items: list[str], said: dict[str, str]
) -> tuple[dict[str, Row], dict[str, str], dict[str, int]]:
    """(row of the item table, text) of each item, and counts to tell. `said`: texts that stand beside interactions."""
    rows, counted = read_items(table, items, said)
    texts = dict.fromkeys(items, "") | said
    return rows, texts | {name: text for name, row in rows.items() if (text := item_text(row))}, counted
