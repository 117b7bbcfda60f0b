"""Read tar shards in the WebDataset format.

Members whose names differ only in the ending are one row: `000001.jpg` with `000001.txt` (caption), `000001.cls` (label) or
`000001.json` (an object of columns).
"""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.image_containers import INSIDE, read_at, tar_index
from llmstage.data.readers.image_folder import IMAGE_ENDINGS
from llmstage.data.rows import Bad, FileRecord, ImageLocation, ReadOptions, Records
from llmstage.data.text_lines import too_large
from llmstage.errors import DataError

ENDINGS = (".tar", ".tgz")
TEXTS = {"txt": "caption", "text": "caption", "caption": "caption", "cls": "label", "label": "label"}
"""Ending to column."""


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield records `{image, caption, label, …}`; `image` is its location in the shard, which stays on disk."""
    with file.path.open("rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise DataError(
                f"{file.display_name}: a packed tar has no random access. Unpack it: gunzip {file.display_name} (the images in a .tar "
                f"are compressed already)."
            )
    samples: dict[str, dict[str, str]] = {}
    try:
        index = tar_index(str(file.path.absolute()), file.path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{file.display_name}: {error.strerror or error}. Fetch or pack it anew.") from None
    # Group the members by key.
    for name in index:
        key, ending = split_name(name)
        if ending:
            samples.setdefault(key, {})[ending] = name
    with file.path.open("rb") as stream:
        for key, members in samples.items():
            first = next(iter(members.values()))
            image_name = next((name for ending, name in members.items() if f".{ending}" in IMAGE_ENDINGS), None)
            if image_name is None:
                reason = f"no image of '{key}', which has .{', .'.join(members)} only"
                yield 0, Bad(reason, key, file.display_name + INSIDE + first)
                continue
            member = INSIDE + image_name
            location = ImageLocation.of(f"{file.path.absolute()}{member}", f"{file.path.name}{member}")
            values: dict[str, Any] = {"image": location, "key": key}
            bad: Bad | None = None
            for ending, name in members.items():
                if ending not in TEXTS and ending != "json":
                    continue
                if index[name][1] > options.max_bytes:
                    bad = too_large(index[name][1], options.max_bytes, name)
                    break
                reason = add_text(values, ending, name, read_at(stream, *index[name]), options.encoding)
                if reason:
                    bad = Bad(reason, key)
            record_name = file.display_name + member
            yield 0, Bad(bad.reason, bad.raw, record_name) if bad else FileRecord(record_name, values)


def add_text(values: dict[str, Any], ending: str, name: str, data: bytes, encoding: str) -> str:
    """Add the content of a text member to a record. Return the reason where it cannot be used, else an empty text."""
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding).strip()
    except UnicodeDecodeError as error:
        return f"{name} is not valid {encoding} ({error.reason} at byte {error.start + 1})"
    if ending != "json":
        values[TEXTS[ending]] = text
        return ""
    try:
        columns = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"{name} is not JSON ({error})"
    if not isinstance(columns, dict):
        return f"{name} is JSON, but no object {{...}}"
    for column, value in columns.items():
        values.setdefault(column, value)
    return ""


def split_name(name: str) -> tuple[str, str]:
    """Split `a/000001.seg.png` into (`a/000001`, `seg.png`), at the first dot of the file name, as WebDataset does.

    A hidden file has no ending.
    """
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return (str(path.parent / stem), ending.lower()) if stem else ("", "")
