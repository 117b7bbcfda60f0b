"""Read a folder of images.

The labels or captions are one subfolder a class, or a table `metadata.jsonl` (`.csv`, `.parquet`) whose column `file_name`
names each image, as in the datasets library, or a text file with the name of each image.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from llmstage.data.files import NOTICES, DataFile, walk
from llmstage.data.readers import csv, jsonl, parquet
from llmstage.data.rows import Bad, FileRecord, ReadOptions, Records
from llmstage.errors import DataError

ENDINGS = ()
IMAGE_ENDINGS = frozenset(
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
SPLIT_NAMES = frozenset(("train", "training", "validation", "valid", "val", "dev", "test", "testing"))


def find(folder: Path) -> list[Path]:
    """Return the table that names the images, or the folder itself."""
    tables = [folder / name for name in TABLES if (folder / name).is_file()]
    if len(tables) > 1:
        names = " and ".join(path.name for path in tables)
        raise DataError(f"{folder}: both {names} name the images of this folder. Name one of them as the data.")
    return tables or [folder]


def find_if_images(folder: Path, endings: set[str]) -> list[Path]:
    """Return the same for a folder that may be one of images: nothing where it contains other data.

    `endings`: endings of data files.
    """
    if not any(is_image(path) for path in walk(folder)):
        return []
    inside = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    if any(path.name in TABLES for path in inside):
        return find(folder)
    # A text file with the name of an image is its caption, not data.
    captions = {caption_path(path).name for path in inside if is_image(path)}
    rest = [path for path in inside if path.name not in captions and not NOTICES.fullmatch(path.name)]
    return [] if any(DataFile(path, path.name).ending() in endings for path in rest) else [folder]


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield the records of a table, or of a folder records `{image, label, caption}`.

    `label` is the first subfolder on the path of the image; `caption` is its text file.
    """
    if file.path.name in TABLES:
        yield from TABLES[file.path.name].read(file, options)
        return
    if not file.path.is_dir():
        raise DataError(f"{file.display_name}: data.format=image_folder reads a folder, or a metadata.jsonl in one.")
    count = 0
    for path in image_paths(file):
        count += 1
        name = path.relative_to(file.path)
        record: dict[str, Any] = {"image": name.as_posix(), "file_name": name.as_posix()}
        if len(name.parts) > 1:
            record["label"] = name.parts[0]
        image_name = f"{file.display_name.rstrip('/')}/{name.as_posix()}"
        caption_file = caption_path(path)
        if caption_file.is_file():
            try:
                record["caption"] = caption_file.read_text(options.encoding).removeprefix("\ufeff").strip()
            except ValueError as error:
                reason = f"{caption_file.name} beside it is not valid {options.encoding} ({error})"
                yield 0, Bad(reason, str(name), image_name)
                continue
        yield 0, FileRecord(image_name, record)
    if not count:
        raise DataError(
            f"{file.display_name}: no image in this folder. Known endings: {', '.join(sorted(IMAGE_ENDINGS))}."
        )


def image_paths(file: DataFile) -> Iterator[Path]:
    """Return the images of a folder. Raise DataError where its subfolders are splits."""
    classes = {path.name for path in file.path.iterdir() if path.is_dir()}
    splits = sorted(classes & SPLIT_NAMES)
    if splits and classes <= SPLIT_NAMES:
        raise DataError(
            f"{file.display_name}: its folders are splits ({', '.join(splits)}), not classes. Name each: "
            f"data.train={file.display_name.rstrip('/')}/{splits[0]}, and so on."
        )
    return (path for path in walk(file.path) if is_image(path))


def describe(file: DataFile, options: ReadOptions) -> str:
    """Return the number of classes, for the header line."""
    if not file.path.is_dir():
        return file.path.name
    classes = {path.relative_to(file.path).parts[0] for path in walk(file.path) if path.parent != file.path}
    return f"{len(classes)} classes" if classes else "no classes"


def beside(path: Path) -> list[Path]:
    """Return the caption files: their content is part of the digest, not only their size."""
    if not path.is_dir():
        return []
    return [text for image in walk(path) if is_image(image) and (text := caption_path(image)).is_file()]


def caption_path(image: Path) -> Path:
    return image.with_suffix(".txt")


def is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_ENDINGS
