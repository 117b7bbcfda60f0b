"""Tar shards as WebDataset has them: members whose names differ in the ending only are one row, `000001.jpg` beside
`000001.txt` (caption), `000001.cls` (label) or `000001.json` (an object of columns)."""

from __future__ import annotations

import json
from pathlib import PurePosixPath
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.image_containers import INSIDE, read_at, tar_index
from llmstage.data.readers.image_folder import PICTURES
from llmstage.data.records import Bad, Found, ReadOptions, Records
from llmstage.data.rows import Place
from llmstage.data.text_lines import too_large
from llmstage.errors import DataError

ENDINGS = (".tar", ".tgz")
TEXTS = {"txt": "caption", "text": "caption", "caption": "caption", "cls": "label", "label": "label"}
"""Ending to column."""


def read(file: DataFile, options: ReadOptions) -> Records:
    """Records `{image, caption, label, …}`; `image` is its place in the shard, which stays on disk."""
    with file.path.open("rb") as stream:
        if stream.read(2) == b"\x1f\x8b":
            raise DataError(
                f"{file.shown}: a packed tar cannot be read at random. Unpack it: gunzip {file.shown} (a .tar is as good "
                f"as its images are packed already)."
            )
    samples: dict[str, dict[str, str]] = {}
    try:
        index = tar_index(str(file.path.absolute()), file.path.stat().st_mtime_ns)
    except OSError as error:
        raise DataError(f"{file.shown}: {error.strerror or error}. Fetch or pack it anew.") from None
    for name in index:
        key, ending = split_name(name)
        if ending:
            samples.setdefault(key, {})[ending] = name
    with file.path.open("rb") as stream:
        for key, members in samples.items():
            first = next(iter(members.values()))
            picture = next((name for ending, name in members.items() if f".{ending}" in PICTURES), None)
            if picture is None:
                told = f"no image of '{key}', which has .{', .'.join(members)} only"
                yield 0, Bad(told, key, file.shown + INSIDE + first)
                continue
            shown = file.shown + INSIDE + picture
            place = Place.of(f"{file.path.absolute()}{INSIDE}{picture}", f"{file.path.name}{INSIDE}{picture}")
            values: dict[str, Any] = {"image": place, "key": key}
            wrong: Bad | None = None
            for ending, name in members.items():
                if ending not in TEXTS and ending != "json":
                    continue
                if index[name][1] > options.max_bytes:
                    wrong = too_large(index[name][1], options.max_bytes, name)
                    break
                told = add_text(values, ending, name, read_at(stream, *index[name]), options.encoding)
                if told:
                    wrong = Bad(told, key)
            yield 0, Bad(wrong.reason, wrong.raw, shown) if wrong else Found(shown, values)


def add_text(values: dict[str, Any], ending: str, name: str, data: bytes, encoding: str) -> str:
    """Put what a text member says into a record; or the reason why it cannot be used."""
    try:
        text = data.decode("utf-8-sig" if encoding == "utf-8" else encoding).strip()
    except UnicodeDecodeError as error:
        return f"{name} is not valid {encoding} ({error.reason} at byte {error.start + 1})"
    if ending != "json":
        values[TEXTS[ending]] = text
        return ""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        return f"{name} is not JSON ({error})"
    if not isinstance(found, dict):
        return f"{name} is JSON, but no object {{...}}"
    for column, value in found.items():
        values.setdefault(column, value)
    return ""


def split_name(name: str) -> tuple[str, str]:
    """`a/000001.seg.png` to (`a/000001`, `seg.png`): up to the first dot of the file's own name, as WebDataset has it.
    No ending for hidden files."""
    path = PurePosixPath(name)
    stem, _, ending = path.name.partition(".")
    return (str(path.parent / stem), ending.lower()) if stem else ("", "")
