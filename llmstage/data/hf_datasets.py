"""Rows of `data.path`: a folder written by `datasets.save_to_disk`, or a hub id. The datasets library opens both."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from llmstage.config.data import DataConfig, Paths
from llmstage.data.chat_messages import without_nulls
from llmstage.data.file_source import CheckedSource, options_of
from llmstage.data.files import DataFile
from llmstage.data.image_containers import INSIDE, arrow_table, holds_images
from llmstage.data.readers.parquet import with_class_names
from llmstage.data.row_source import RowSource
from llmstage.data.rows import BadRows, Columns, ImageLocation, Records, Row, digest_of
from llmstage.errors import DataError

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


class TableSource(CheckedSource):
    """Rows of one `datasets.Dataset`; a location is `path/split:row`."""

    def __init__(
        self, split: str, table: Any, name: str, cfg: DataConfig, columns: Columns,
        check_row: Callable[[Row], str | None], bad_rows: BadRows,
    ) -> None:  # fmt: skip
        super().__init__(split, cfg, columns, check_row, bad_rows)
        self.table, self.name = table, name
        self._digest: str | None = None
        self.image_columns = [
            column for column, feature in table.features.items() if columns.images and is_image(feature)
        ]
        """Columns of images. The images stay in their files; a row gets their location."""
        self.class_names = {
            column: feature.names
            for column, feature in table.features.items()
            if columns.images and hasattr(feature, "names")
        }

    @property
    def description(self) -> str:
        return f"{self.name} (datasets, {len(self.table)} rows)"

    def opened(self) -> Iterator[tuple[str, Records]]:
        table = self.table.remove_columns(self.image_columns) if self.image_columns else self.table
        locations = self.image_locations() if self.image_columns else repeat({})
        # A table whose only columns are images yields no records without them, but it has rows.
        records = table if table.column_names or not self.image_columns else repeat({})
        records = map(without_nulls, records) if "messages" in self.columns.required else records
        pairs = enumerate(zip(locations, records, strict=False), start=1)
        yield (
            self.name,
            ((number, {**images, **with_class_names(row, self.class_names)}) for number, (images, row) in pairs),
        )

    def image_locations(self) -> Iterator[dict[str, Any]]:
        """Yield the locations of the images of each row: its Arrow file, its row in that file, the column."""
        files = [str(Path(item["filename"]).absolute()) for item in self.table.cache_files]
        sizes = [len(arrow_table(file, os.stat(file).st_mtime_ns)) for file in files]
        if sum(sizes) != len(self.table):
            raise DataError(
                f"data.path={self.name}: its images are in memory, or it shows some rows of its files only. Save it "
                f"anew with datasets.save_to_disk and name that folder."
            )
        for file, size in zip(files, sizes, strict=True):
            for row in range(size):
                members = {column: f"{INSIDE}{row}{INSIDE}{column}" for column in self.image_columns}
                yield {
                    column: ImageLocation.of(file + member, Path(file).name + member)
                    for column, member in members.items()
                }

    def digest(self) -> str:
        """Hash the Arrow files: the fingerprint of the library may depend on names and times."""
        if self._digest is None:
            files = [DataFile(Path(item["filename"]), item["filename"]).digest() for item in self.table.cache_files]
            content = files or [digest_of(list(self.table))]
            options = options_of(self.cfg, self.columns)
            self._digest = digest_of(["table", self.split, content, len(self.table), options])
        return self._digest


def is_image(feature: Any) -> bool:
    return type(feature).__name__ == "Image" or (hasattr(feature, "pa_type") and holds_images(feature.pa_type))


def open_tables(
    cfg: DataConfig, columns: Columns, check_row: Callable[[Row], str | None], bad_rows: BadRows
) -> dict[str, RowSource]:
    """Return the splits of `data.path`. Raise DataError where there are none."""
    path = str(cfg.path)
    tables = load_tables(path)
    names = {split: next((name for name in known if name in tables), None) for split, known in SPLITS.items()}
    sources: dict[str, RowSource] = {
        split: TableSource(split, tables[name], f"{path}/{name}", cfg, columns, check_row, bad_rows)
        for split, name in names.items()
        if name is not None
    }
    if not sources:
        raise DataError(f"data.path={path} has the splits {', '.join(tables)}; none is train, validation or test.")
    return sources


DISK_FILES = ("dataset_dict.json", "state.json")
"""One of these is in every folder that datasets.save_to_disk writes: of several splits, or of one table."""


def open_saved_table(
    split: str,
    paths: Paths,
    cfg: DataConfig,
    columns: Columns,
    check_row: Callable[[Row], str | None],
    bad_rows: BadRows,
) -> RowSource | None:
    """Return the rows of a table that datasets.save_to_disk wrote and data.train, validation or test names; else None.

    Raise DataError for a folder of several splits, and for one among other files.
    """
    named = [paths] if isinstance(paths, str) else list(paths or ())
    saved = [path for path in named if any((Path(path).expanduser() / name).is_file() for name in DISK_FILES)]
    if not saved:
        return None
    if len(named) > 1:
        raise DataError(
            f"data.{split} names {saved[0]}, which datasets.save_to_disk wrote, together with other files. Name it alone, or "
            f"write its rows to a file: datasets.load_from_disk(…).to_json(…)"
        )
    tables = load_tables(saved[0])
    if (Path(saved[0]).expanduser() / "dataset_dict.json").is_file():
        raise DataError(
            f"data.{split}={saved[0]} was written by datasets.save_to_disk and has the splits {', '.join(tables)}. Name the "
            f"folder once, for all of them: data.path={saved[0]}"
        )
    (table,) = tables.values()
    return TableSource(split, table, saved[0], cfg, columns, check_row, bad_rows)


def load_tables(path: str) -> dict[str, Any]:
    """Return the `Dataset` of each split, by its name."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in DISK_FILES):
            raise DataError(
                f"data.path={path} was not written by datasets.save_to_disk (no dataset_dict.json, no state.json). "
                f"For a folder of files: data.train={path}"
            )
        import datasets

        try:
            loaded = datasets.load_from_disk(str(folder))
        except Exception as error:
            reason = f"{type(error).__name__}: {error}"
            raise DataError(f"data.path={path} cannot be loaded ({reason}). Save it anew.") from None
        return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if folder.exists():
        raise DataError(f"data.path={path} is a file; it takes a saved folder or a hub id. Files: data.train={path}")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise DataError(f"data.path={path}: there is no such folder (seen from {Path.cwd()}). Check the path.")
    import datasets

    try:
        loaded = datasets.load_dataset(path)
    except Exception as error:  # the library has dozens of exceptions for a hub that it cannot reach
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data.path={path}: no such local folder, and the hub gave nothing ({type(error).__name__}: {first}). "
            f"Without a network: save it with datasets.save_to_disk and name the folder, or data.train=<file>."
        ) from None
    return {str(split): table for split, table in loaded.items()}
