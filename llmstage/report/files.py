"""Writes and reads the JSON files of a run folder. A crash never leaves a partly written file."""

from __future__ import annotations

import json
import math
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from llmstage.errors import DiskError

REMEDY = "Free space there, or choose another folder with hydra.run.dir=<folder>."


def write_text(path: Path, text: str) -> None:
    """Write a draft and rename it: a reader sees the old file or the new one, also after a crash. Raises DiskError."""
    # Not tempfile: its files have mode 0600 whatever the umask is, and other users could not read the report.
    draft = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with draft.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise DiskError(f"Cannot write {path}: {error.strerror}. {REMEDY}") from error


def write_json(path: Path, obj: Any) -> None:
    """Write `obj` as indented JSON by rename; NaN and infinity become null. Raises DiskError."""
    write_text(path, json.dumps(plain(obj), ensure_ascii=False, indent=2, allow_nan=False) + "\n")


def append_line(path: Path, obj: Any) -> None:
    """Append `obj` as one line of JSON; NaN and infinity become null. Raises DiskError."""
    line = json.dumps(plain(obj), ensure_ascii=False, allow_nan=False).encode("utf-8", "backslashreplace") + b"\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            if file.tell() > 0:
                file.seek(-1, os.SEEK_END)
                if (
                    file.read(1) != b"\n"
                ):  # a killed process left a part of a line, to which this line must not be added
                    line = b"\n" + line
            file.write(line)
    except OSError as error:
        raise DiskError(f"Cannot append to {path}: {error.strerror}. {REMEDY}") from error


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the JSON objects of a JSON-lines file. A line that a kill cut off is left out with a warning."""
    objects: list[dict[str, Any]] = []
    with path.open(encoding="utf-8", errors="replace") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                value = json.loads(line)
            except json.JSONDecodeError as error:
                warnings.warn(f"{path}:{number}: left out, not JSON: {error.msg}", stacklevel=2)
                continue
            if isinstance(value, dict):
                objects.append(value)
            else:
                warnings.warn(f"{path}:{number}: left out, not a JSON object", stacklevel=2)
    return objects


def plain(obj: Any) -> Any:
    """Convert `obj` to JSON types: numpy numbers and arrays, paths and tuples are converted, NaN and infinity become null.

    Raises TypeError for anything else.
    """
    if obj is None or isinstance(obj, (bool, str)):
        return obj
    if isinstance(obj, int):
        return int(obj)
    if isinstance(obj, float):
        return float(obj) if math.isfinite(obj) else None
    if isinstance(obj, Mapping):
        return {str(key): plain(value) for key, value in obj.items()}
    if isinstance(obj, (list, tuple)):
        return [plain(value) for value in obj]
    if isinstance(obj, Path):
        return str(obj)
    if hasattr(obj, "as_dict"):  # Score
        return plain(obj.as_dict())
    if hasattr(obj, "tolist"):  # numpy scalars and arrays
        return plain(obj.tolist())
    raise TypeError(f"{type(obj).__name__} cannot be written as JSON: {obj!r:.80}")
