"""A folder of images: one folder a class, or a table `metadata.jsonl` (`.csv`, `.parquet`) beside them whose `file_name`
names each, as the datasets library has it, or a text file of the same name beside each image."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmstage.data.files import NOTICES, DataFile, walk
from llmstage.data.readers import csv, jsonl, parquet
from llmstage.data.records import Bad, Found, ReadOptions, Records
from llmstage.errors import DataError

ENDINGS = ()
PICTURES = frozenset(
    (
        ".png",
        ".jpg",
        ".jpeg",
        ".jpe",
        ".jfif",
        ".gif",
        ".bmp",
        ".webp",
        ".tif",
        ".tiff",
        ".ppm",
        ".pgm",
        ".pbm",
        ".avif",
    )
)
TABLES = {"metadata.jsonl": jsonl, "metadata.csv": csv, "metadata.parquet": parquet}
SPLIT_WORDS = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "testing"))


def find(folder: Path) -> list[Path]:
    """The table that names the images, or the folder itself."""
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        names = " and ".join(path.name for path in tables)
        raise DataError(f"{folder}: both {names} name the images of this folder. Name one of them as the data.")
    return tables or [folder]


def find_if(folder: Path, endings: set[str]) -> list[Path]:
    """The same, where the folder is one of images without being told so: nothing where other data lies in it. `endings`:
    what counts as data."""
    if not any(is_picture(path) for path in walk(folder)):
        return []
    inside = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if any(path.name in TABLES for path in inside):
        return find(folder)
    # A text named as an image is what is said of it.
    said = {caption_path(path).name for path in inside if is_picture(path)}
    rest = [path for path in inside if path.name not in said and not NOTICES.fullmatch(path.name)]
    return [] if any(DataFile(path, path.name).ending() in endings for path in rest) else [folder]


def read(file: DataFile, options: ReadOptions) -> Records:
    """Of a folder: records `{image, label}`, `label` being the first folder on the way to the image; with a text beside it
    `caption`. Of a table: its own records."""
    if file.path.name in TABLES:
        yield from TABLES[file.path.name].read(file, options)
        return
    if not file.path.is_dir():
        raise DataError(f"{file.shown}: data.format=image_folder reads a folder, or a metadata.jsonl in one.")
    count = 0
    for path in pictures(file):
        count += 1
        name = path.relative_to(file.path)
        record: dict[str, Any] = {"image": name.as_posix(), "file_name": name.as_posix()}
        if len(name.parts) > 1:
            record["label"] = name.parts[0]
        shown = f"{file.shown.rstrip('/')}/{name.as_posix()}"
        said = caption_path(path)
        if said.is_file():
            try:
                record["caption"] = said.read_text(options.encoding).removeprefix("\ufeff").strip()
            except ValueError as error:
                yield 0, Bad(f"{said.name} beside it is not valid {options.encoding} ({error})", str(name), shown)
                continue
        yield 0, Found(shown, record)
    if not count:
        raise DataError(f"{file.shown}: no image in this folder. Known endings: {', '.join(sorted(PICTURES))}.")


def pictures(file: DataFile) -> Iterator[Path]:
    classes = {path.name for path in file.path.iterdir() if path.is_dir()}
    splits = sorted(classes & SPLIT_WORDS)
    if splits and classes <= SPLIT_WORDS:
        raise DataError(
            f"{file.shown}: its folders are splits ({', '.join(splits)}), not classes. Name each: "
            f"data.train={file.shown.rstrip('/')}/{splits[0]}, and so on."
        )
    return (path for path in walk(file.path) if is_picture(path))


def describe(file: DataFile, options: ReadOptions) -> str:
    """For the header line."""
    if not file.path.is_dir():
        return file.path.name
    classes = {path.relative_to(file.path).parts[0] for path in walk(file.path) if path.parent != file.path}
    return f"{len(classes)} classes" if classes else "no classes"


def beside(path: Path) -> list[Path]:
    """The texts, whose content counts and not their size alone."""
    if not path.is_dir():
        return []
    return [said for image in walk(path) if is_picture(image) and (said := caption_path(image)).is_file()]


def caption_path(image: Path) -> Path:
    return image.with_suffix(".txt")


def is_picture(path: Path) -> bool:
    return path.suffix.lower() in PICTURES
