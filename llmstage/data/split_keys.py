"""What a cut needs to know of a row beside its words: its time and its group, read from the record before the task's
words are taken out of it, so that no task ever sees them."""

from __future__ import annotations

from typing import Any, NamedTuple

from llmstage.config.data import SplitConfig
from llmstage.data.columns import list_columns
from llmstage.data.row_times import Clock, TimeError
from llmstage.errors import DataError
from llmstage.naming import did_you_mean


class Mark(NamedTuple):
    """Beside a row; None where the config names no such column, or a given split lacks it."""

    time: float | None = None
    """As `Clock.read` gives it."""
    group: Any = None


NO_MARK = Mark()


class Span:
    """The first and the last time of the rows that were added."""

    def __init__(self) -> None:
        self.ends: tuple[float, float] | None = None

    def add(self, mark: Mark) -> None:
        if mark.time is not None:
            first, last = self.ends or (mark.time, mark.time)
            self.ends = min(first, mark.time), max(last, mark.time)


class Marker:
    """Reads the marks of one split's records. All splits of a run share the clock."""

    def __init__(self, split: str, cfg: SplitConfig, clock: Clock) -> None:
        self.split, self.clock = split, clock
        self.named = {"time": cfg.time, "group": cfg.group}

    def columns(self, found: dict[str, Any], mapping: dict[str, str], place: str) -> dict[str, str]:
        """`time` and `group` to the file's columns. A given validation or test may lack them; train may not: DataError."""
        used = {}
        for word, name in self.named.items():
            if name is None:
                continue
            column = name if name in found or not found else mapping.get(name, name)
            if column in found or not found:
                used[word] = column
            elif self.split == "train":
                raise DataError(
                    f"{place}: there is no column '{name}' (data.split.{word}={name}).{did_you_mean(name, found)}\n"
                    f"{list_columns(found)}"
                )
        return used

    def read(self, record: dict[str, Any], columns: dict[str, str]) -> Mark | str:
        """The marks of a record, or what is wrong with it."""
        if not columns:
            return NO_MARK
        time, group = None, None
        if "time" in columns:
            try:
                time = self.clock.read(record.get(columns["time"]))
            except TimeError as error:
                return f"'{columns['time']}' (data.split.time): {error}"
        if "group" in columns:
            group = record.get(columns["group"])
            if group is None or group == "":
                # Rows of an unknown machine may be of any machine: to guess would let it stand on two sides.
                return f"'{columns['group']}' (data.split.group) is empty"
        return Mark(time, group)
