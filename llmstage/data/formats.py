"""Find the reader of a file: the one that the user names, or one detected by content and ending.

A reader is a module of data/readers (general formats) or data/readers/datasets (one published data set each) with
`ENDINGS` and `read(file, options)`. Its file name is its name. A reader that is detected by content also has
`matches(head)`. A dotted path names a module outside the package.
"""

from __future__ import annotations

import pkgutil
from pathlib import Path
from types import ModuleType

from llmstage.data import readers
from llmstage.data.files import HEAD_SIZE, DataFile
from llmstage.data.readers import conll, datasets, image_folder, json, squad, webdataset
from llmstage.data.readers.datasets import crosswoz, github_topics, medquad, nlvr, phrasebank, sgd
from llmstage.data.rows import FileHead
from llmstage.errors import DataError, UserError
from llmstage.naming import load_module, unknown

DETECTED_BY_CONTENT = (github_topics, medquad, sgd, squad, crosswoz, nlvr, phrasebank)
"""Readers with `matches(head)`, in the order in which they are tried. The first match wins."""
BY_ENDING = ("text", "jsonl", "json", "csv", "tsv", "parquet", "conll")
"""Readers of general formats whose ending is a hint."""


def reader_names() -> list[str]:
    """Return the names of all readers in the package."""
    return sorted([*general_reader_names(), *dataset_reader_names()])


def general_reader_names() -> list[str]:
    """Return the names of the readers of general formats."""
    return [item.name for item in pkgutil.iter_modules(readers.__path__) if not item.ispkg]


def dataset_reader_names() -> list[str]:
    """Return the names of the readers of published data sets."""
    return [item.name for item in pkgutil.iter_modules(datasets.__path__)]


def load_reader(name: str, *, trusted: bool = True) -> ModuleType:
    """Import a reader by name or dotted path. Raise UserError with the known names for an unknown one.

    `trusted=False`: the name came from a file, so a dotted path is refused.
    """
    if "." not in name and name not in reader_names():
        raise UserError(unknown("data.format", name, ["auto", *reader_names()]))
    package = "data.readers.datasets" if name in dataset_reader_names() else "data.readers"
    reader = load_module(package, name, trusted=trusted)
    if "." in name:
        check_reader(reader)
    return reader


def check_reader(reader: ModuleType) -> None:
    """Raise UserError where a reader of the user's own lacks ENDINGS or read()."""
    endings = getattr(reader, "ENDINGS", None)
    if not isinstance(endings, (tuple, list, set, frozenset)) or not all(isinstance(ending, str) for ending in endings):
        value = "has no ENDINGS" if endings is None else f"has ENDINGS = {endings!r}"
        raise UserError(
            f"The reader {reader.__name__} {value}: name the endings of its files as a tuple, ENDINGS = ('.pipe',)."
        )
    if not callable(getattr(reader, "read", None)):
        raise UserError(f"The reader {reader.__name__} has no read(file, options), which yields (line number, record).")


def known_endings(name: str = "auto", *, with_images: bool = False) -> set[str]:
    """Return the endings of data files inside a folder: those of one reader, or of all.

    `with_images`: whether the task reads images; only then tar files count.
    """
    names = [item for item in reader_names() if with_images or item != "webdataset"] if name == "auto" else [name]
    return {ending for item in names for ending in load_reader(item).ENDINGS}


def find_images(folder: Path) -> list[Path]:
    """Return what is read of an image folder: the folder, or the table that names its images; nothing for other folders."""
    if github_topics.matches(FileHead(folder)):
        return [folder]
    return image_folder.find_if_images(folder, known_endings(with_images=True))


def detect(file: DataFile, *, with_images: bool = False) -> str:
    """Return the name of the reader of a file. Raise DataError for an empty file or one that is no data.

    `with_images`: whether the task reads images.
    """
    # Folders, images and archives are known without their content.
    if file.path.is_dir():
        return detect_by_content(FileHead(file.path)) or "image_folder"
    if file.ending() in image_folder.IMAGE_ENDINGS:
        raise DataError(
            f"{file.display_name}: one image is no data set. Name its folder, or a file that names images: data.train=<folder>."
        )
    if file.ending() in webdataset.ENDINGS:
        return "webdataset"
    start = file.head()
    if not start:
        raise DataError(f"{file.display_name}: the file is empty (0 bytes). Name a file with rows.")
    if start.startswith(b"PAR1"):
        return "parquet"
    head = read_head(file, start, with_images=with_images)
    ending = head.ending_format
    if ending == "parquet":
        raise DataError(f"{file.display_name}: named .parquet, but the content is not (it does not begin with PAR1).")

    # Tables and columns of tokens are known by their ending; CoNLL has many endings, so its content counts too.
    if ending in ("text", "tsv", None) and conll.matches(head):
        return "conll"
    if ending in ("csv", "tsv", "conll"):
        return ending

    # A published data set is recognized before the general format in which it is written.
    name = detect_by_content(head) or json.detect(head)
    if name or ending in ("json", "jsonl"):
        return name or str(ending)
    if ending is None and "\0" in head.text:
        names = "|".join(reader_names())
        raise DataError(f"{file.display_name}: this looks like a binary file. Name its reader: data.format=<{names}>.")
    if ending == "text":
        # Prose may have a tab in a few lines, so a .txt file needs more lines that agree.
        return "tsv" if file.ending() == ".txt" and looks_tabular(head.text, most=10_000, least=5) else "text"
    return "tsv" if looks_tabular(head.text) else "text"


def read_head(file: DataFile, start: bytes, *, with_images: bool) -> FileHead:
    """Return the beginning of a file as text, with the format that its ending suggests."""
    text = start.decode("utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    by_ending = {ending: name for name in BY_ENDING for ending in load_reader(name).ENDINGS}
    return FileHead(file.path, text, len(start) < HEAD_SIZE, by_ending.get(file.ending()), with_images)


def detect_by_content(head: FileHead) -> str | None:
    """Return the name of the first reader that recognizes the beginning of a file."""
    matching = next((reader for reader in DETECTED_BY_CONTENT if reader.matches(head)), None)
    return matching.__name__.rpartition(".")[2] if matching else None


def looks_tabular(text: str, most: int = 20, least: int = 2) -> bool:
    """Return whether the first `most` lines (`least` or more) have the same number of tabs, one or more."""
    rows = text.splitlines()[:most]
    return len(rows) >= least and rows[0].count("\t") > 0 and len({row.count("\t") for row in rows[:-1]}) == 1
