"""What happens to rows that cannot be used: the run stops at the first one, or writes each to a file and goes on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmstage.errors import DataError, DiskError

REMEDY = "Fix the row, or set data.on_bad_row=quarantine."


def format_location(file: str, line: int) -> str:
    """Return `file:line`, or only the file where it is one row, as an image is."""
    return f"{file}:{line}" if line else file


def parse_location(location: str) -> tuple[str, int]:
    """Return file and line of a location; line 0 where it names none."""
    file, _, line = location.rpartition(":")
    return (file, int(line)) if file and line.isdecimal() else (location, 0)


class BadRows:
    """The bad rows of a run, shared by its splits. `quarantine.jsonl` gets each row once, however often it is read."""

    def __init__(self, policy: str, out_dir: Path | None, *, append: bool = False) -> None:
        """`append`: add to the file of an earlier part of the run, whose bad rows are not read again."""
        self.policy, self.append = policy, append
        self.path = out_dir / "quarantine.jsonl" if out_dir is not None else None
        self.seen: set[tuple[str, Any]] = set()

    def report(self, file: str, ordinal: Any, line: int, reason: str, raw: str, num_good: int) -> None:
        """Report the `ordinal`-th record of a file as bad. Raise DataError under `error`.

        `num_good`: good rows before it.
        """
        if self.policy == "error":
            raise DataError(
                f"{format_location(file, line)}: {reason}. {REMEDY} Rows checked and fine before it: {num_good}."
            )
        if (file, ordinal) in self.seen:
            return
        if self.path is not None:
            entry = {"file": file, "line": line, "reason": reason, "row": raw[:500]}
            # A resumed run meets its bad rows again, so the first one of a process starts the file anew.
            mode = "a" if self.seen or self.append else "w"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open(mode, encoding="utf-8", errors="backslashreplace") as target:
                    target.write(json.dumps(entry, ensure_ascii=False) + "\n")
            except OSError as error:
                raise DiskError(f"{self.path} cannot be written ({error}). Free space, or run elsewhere.") from None
        self.seen.add((file, ordinal))
