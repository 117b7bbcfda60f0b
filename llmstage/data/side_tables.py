"""Side tables: rows that belong to the examples without being examples, e.g. the items of a recommender."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from llmstage.config.data import DataConfig, Paths
from llmstage.data.columns import check_named
from llmstage.data.file_source import FileSource
from llmstage.data.files import expand
from llmstage.data.formats import known_endings, load_reader
from llmstage.data.quarantine import BadRows
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, Row

CheckTableRow = Callable[[str, Row], str | None]


def open_side_tables(
    cfg: DataConfig, columns: Columns, tables: Mapping[str, Columns], check: CheckTableRow, bad_rows: BadRows
) -> tuple[DataConfig, dict[str, RowSource]]:
    """(the config with the columns of the examples alone, each table that is given by the `data` key that names it).

    `data.columns` names words of both; a word that both have (the key of the join) is looked for in both.
    """
    if not tables:
        return cfg, {}
    words = [word for table in tables.values() for word in (*table.required, *table.optional)]
    check_named(cfg.columns, Columns(columns.required, (*columns.optional, *words)))
    found: dict[str, RowSource] = {}
    for name, table in tables.items():
        paths = getattr(cfg, name) or beside(cfg, name)
        if not paths:
            continue
        own = replace(cfg, format="auto", columns=only(cfg.columns, table))
        files = expand(paths, f"data.{name}", known_endings())
        found[name] = FileSource(name, files, own, table, partial(check, name), bad_rows)
        next(iter(found[name]))  # the first row, or the DataError that says why there is none
    return replace(cfg, columns=only(cfg.columns, columns)), found


def only(named: dict[str, str], columns: Columns) -> dict[str, str]:
    return {word: column for word, column in named.items() if word in (*columns.required, *columns.optional)}


def beside(cfg: DataConfig, name: str) -> Paths:
    """The table's usual file in the folder of the training rows, where the named reader knows one."""
    if cfg.format == "auto" or "." in cfg.format or not isinstance(cfg.train, str):
        return None
    usual = getattr(load_reader(cfg.format), "TABLES", {}).get(name)
    path = Path(cfg.train).expanduser()
    path = (path if path.is_dir() else path.parent) / str(usual)
    return str(path) if usual and path.is_file() else None
