"""What becomes of rows that cannot be used: stop at the first, or note each of them once and go on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from llmstage.errors import DataError, DiskError

MEND = "Fix the row, or set data.on_bad_row=quarantine."


def place_of(shown: str, line: int) -> str:
    """`file:line`; the file alone where all of it is one row, as an image is."""
    return f"{shown}:{line}" if line else shown


def split_place(place: str) -> tuple[str, int]:
    """The file and the line of a place; line 0 where it names none."""
    shown, _, line = place.rpartition(":")
    return (shown, int(line)) if shown and line.isdecimal() else (place, 0)


class BadRows:
    """Shared by the splits of a run; `quarantine.jsonl` holds each bad row once, however often sources are read."""

    def __init__(self, policy: str, out_dir: Path | None, *, goes_on: bool = False) -> None:
        """`goes_on`: the bad rows of an earlier part of the run are not met again, so the file is kept."""
        self.policy, self.goes_on = policy, goes_on
        self.path = out_dir / "quarantine.jsonl" if out_dir is not None else None
        self.seen: set[tuple[str, Any]] = set()

    def report(self, shown: str, ordinal: Any, line: int, reason: str, raw: str, fine: int) -> None:
        """One bad row: the `ordinal`-th record of the file. DataError under `error`; `fine` rows came before it."""
        if self.policy == "error":
            raise DataError(f"{place_of(shown, line)}: {reason}. {MEND} Rows checked and fine before it: {fine}.")
        if (shown, ordinal) in self.seen:
            return
        if self.path is not None:
            entry = {"file": shown, "line": line, "reason": reason, "row": raw[:500]}
            # A run that is resumed meets its bad rows again: the first one of a process begins the file anew.
            mode = "a" if self.seen or self.goes_on else "w"
            try:
                self.path.parent.mkdir(parents=True, exist_ok=True)
                with self.path.open(mode, encoding="utf-8", errors="backslashreplace") as target:
                    target.write(json.dumps(entry, ensure_ascii=False) + "\n")
            except OSError as error:
                raise DiskError(f"{self.path} cannot be written ({error}). Free space, or run elsewhere.") from None
        self.seen.add((shown, ordinal))
