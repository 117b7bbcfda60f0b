"""`data.path`: a folder written by `datasets.save_to_disk`, or a hub id; both through the datasets library."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from itertools import repeat
from pathlib import Path
from typing import Any

from llmstage.config.data import DataConfig
from llmstage.data.file_source import CheckedSource, options_of
from llmstage.data.files import DataFile
from llmstage.data.image_containers import INSIDE, arrow_table, holds_pictures
from llmstage.data.quarantine import BadRows
from llmstage.data.readers.parquet import named
from llmstage.data.records import Records
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, Place, Row, digest_of
from llmstage.errors import DataError

SPLITS = {"train": ("train",), "validation": ("validation", "valid", "val", "dev"), "test": ("test",)}


class TableSource(CheckedSource):
    """Rows of one `datasets.Dataset`; a place is `path/split:row`."""

    def __init__(
        self, split: str, table: Any, shown: str, cfg: DataConfig, columns: Columns,
        check_row: Callable[[Row], str | None], bad_rows: BadRows,
    ) -> None:  # fmt: skip
        super().__init__(split, cfg, columns, check_row, bad_rows)
        self.table, self.shown = table, shown
        self._digest: str | None = None
        self.held = [name for name, kind in table.features.items() if columns.images and is_image(kind)]
        """Columns of pictures, which stay in their files: a row holds their place."""
        self.names = {
            name: kind.names for name, kind in table.features.items() if columns.images and hasattr(kind, "names")
        }

    @property
    def described(self) -> str:
        return f"{self.shown} (datasets, {len(self.table)} rows)"

    def opened(self) -> Iterator[tuple[str, Records]]:
        plain = self.table.remove_columns(self.held) if self.held else self.table
        places = self.picture_places() if self.held else repeat({})
        # A table whose only columns are pictures has rows all the same.
        records = plain if plain.column_names or not self.held else repeat({})
        pairs = zip(places, records, strict=False)
        yield self.shown, ((at, {**where, **named(row, self.names)}) for at, (where, row) in enumerate(pairs, start=1))

    def picture_places(self) -> Iterator[dict[str, Any]]:
        """Of each row: the Arrow file that holds it, its row there, the column."""
        files = [str(Path(item["filename"]).absolute()) for item in self.table.cache_files]
        sizes = [len(arrow_table(file, os.stat(file).st_mtime_ns)) for file in files]
        if sum(sizes) != len(self.table):
            raise DataError(
                f"data.path={self.shown}: its images are in memory, or it shows some rows of its files only. Save it "
                f"anew with datasets.save_to_disk and name that folder."
            )
        for file, size in zip(files, sizes, strict=True):
            for row in range(size):
                inside = {column: f"{INSIDE}{row}{INSIDE}{column}" for column in self.held}
                yield {column: Place.of(file + told, Path(file).name + told) for column, told in inside.items()}

    def digest(self) -> str:
        """The Arrow files hold the content; the library's own fingerprint may follow names and times."""
        if self._digest is None:
            files = [DataFile(Path(item["filename"]), item["filename"]).digest() for item in self.table.cache_files]
            content = files or [digest_of(list(self.table))]
            options = options_of(self.cfg, self.columns)
            self._digest = digest_of(["table", self.split, content, len(self.table), options])
        return self._digest


def is_image(kind: Any) -> bool:
    return type(kind).__name__ == "Image" or (hasattr(kind, "pa_type") and holds_pictures(kind.pa_type))


def open_tables(
    cfg: DataConfig, columns: Columns, check_row: Callable[[Row], str | None], bad_rows: BadRows
) -> dict[str, RowSource]:
    """The splits found under `data.path`. Raises DataError where there are none."""
    path = str(cfg.path)
    tables = load_tables(path)
    named = {split: next((word for word in words if word in tables), None) for split, words in SPLITS.items()}
    sources: dict[str, RowSource] = {
        split: TableSource(split, tables[word], f"{path}/{word}", cfg, columns, check_row, bad_rows)
        for split, word in named.items()
        if word is not None
    }
    if not sources:
        raise DataError(f"data.path={path} has the splits {', '.join(tables)}; none is train, validation or test.")
    return sources


def load_tables(path: str) -> dict[str, Any]:
    """Split name to Dataset."""
    folder = Path(path).expanduser()
    if folder.is_dir():
        if not any((folder / name).is_file() for name in ("dataset_dict.json", "state.json")):
            raise DataError(
                f"data.path={path} was not written by datasets.save_to_disk (no dataset_dict.json, no state.json). "
                f"For a folder of files: data.train={path}"
            )
        import datasets

        try:
            loaded = datasets.load_from_disk(str(folder))
        except Exception as error:
            told = f"{type(error).__name__}: {error}"
            raise DataError(f"data.path={path} cannot be loaded ({told}). Save it anew.") from None
        return dict(loaded) if isinstance(loaded, dict) else {"train": loaded}
    if folder.exists():
        raise DataError(f"data.path={path} is a file; it takes a saved folder or a hub id. Files: data.train={path}")
    if path.startswith((".", "/", "~")) or path.count("/") > 1:
        raise DataError(f"data.path={path}: there is no such folder (seen from {Path.cwd()}). Check the path.")
    import datasets

    try:
        loaded = datasets.load_dataset(path)
    except Exception as error:  # the library has dozens of ways to say that it could not reach the hub
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise DataError(
            f"data.path={path}: no such local folder, and the hub gave nothing ({type(error).__name__}: {first}). "
            f"Without a network: save it with datasets.save_to_disk and name the folder, or data.train=<file>."
        ) from None
    return {str(split): table for split, table in loaded.items()}
