"""The `stage` group of stage=monitor."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass, field, fields
from datetime import UTC, tzinfo
from typing import Annotated, ClassVar, Literal
from urllib.parse import urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError, available_timezones

from llmstage.config.data import DataConfig
from llmstage.config.key_conditions import RunFacts
from llmstage.config.stage import StageConfig
from llmstage.config.typed import AT_LEAST_1, POSITIVE, Range
from llmstage.naming import did_you_mean

UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400}
SPAN = r"(\d{1,6})([smhd])"
DAY = 86400
FORMATS = ("auto", "jsonl", "csv", "tsv")
ROWS = ("path", "train", "validation", "test")
READ = ("name", "format", "columns", "header", "delimiter", "encoding", "on_bad_row", "max_row_mb")
"""Keys of the `data` group that describe the format of the input."""
LEAST_PAST = 20
"""Windows that the history of a topic must have, in addition to one for each hour of the day."""
WEBHOOK = "LLMSTAGE_WEBHOOK"
COMMANDS = "LLMSTAGE_COMMANDS"


@dataclass(slots=True)
class Monitor(StageConfig):
    """Keys of stage=monitor."""

    input: str | None = None
    """JSON Lines or CSV with a text and a time for each item, oldest first; - is standard input."""
    models: dict[str, str] = field(default_factory=dict)
    """Name to classifier, each a run of task=classification: stage.models.sentiment=<run> stage.models.topic=<run>.
    One finds negative items (`sentiment`, or the only one with a negative label); the others give the topics."""
    negative: list[str] | str = "auto"
    """Labels that count as negative: stage.negative=[1,2]; auto: negative, bearish, 负面 and similar names."""
    follow: bool = False
    """Wait for more when the input ends, as `tail -f` does; a file that is replaced under its name is read from its
    beginning."""
    poll: Annotated[float, POSITIVE] = 1.0
    """Seconds between two reads of an input without new items; with follow=true only."""
    window: str = "1h"
    """Width of the windows in which items are counted: 5m, 1h, 1d. A day must be a multiple of it, or it must be whole
    days."""
    timezone: str = "UTC"
    """Time zone of times without one, of the hours of a day, and of output: Asia/Shanghai."""
    time_format: str | None = None
    """Format of times for strptime; null: ISO 8601, 2015/7/31, 2015年7月31日 14:05, e-mails, tweets, Unix times."""
    late: str = "10m"
    """How much later than the end of a window an item must be for the window to be judged. Items that arrive for it
    after that are not counted."""
    history: str = "28d"
    """Length of the history that a window is compared with."""
    alpha: Annotated[float, Range(0, 1, open_low=True, open_high=True)] = 0.01
    """Probability of a false alert in a month without surges, over all topics and windows together."""
    min_items: Annotated[int, AT_LEAST_1] = 10
    """Fewest items of a topic in a window that is judged."""
    quiet: str = "6h"
    """A surge ends, and the next one is a new alert, when no window was above the threshold for this long."""
    webhook: str | None = None
    """An address to which each alert is sent as JSON by POST; null: LLMSTAGE_WEBHOOK of the environment, where it is
    set."""
    command: list[str] | None = None
    """A program with its arguments, [/usr/bin/logger,-t,llmstage], that gets each alert as JSON on standard input. No
    shell is used, and the program must be one of LLMSTAGE_COMMANDS in the environment (paths, separated by colons)."""
    retries: Annotated[int, Range(0, 20)] = 3
    """Retries of a webhook or command that failed; after them the alert is recorded as undelivered, and monitoring
    continues."""
    timeout: Annotated[float, POSITIVE] = 10.0
    """Seconds that one attempt may take."""
    batch: Annotated[int, AT_LEAST_1] = 256
    """Items that are read, classified and counted together: one transaction, and the work that a killed run repeats."""
    report_every: Annotated[float, POSITIVE] = 60.0
    """Seconds between two updates of report.html during the run."""
    language: Literal["auto", "en", "zh"] = "auto"
    """Language of the report; auto: Chinese where the topics are."""

    needs_task: ClassVar[bool] = False
    reads_stream: ClassVar[bool] = True

    def check(self, run: RunFacts) -> list[str]:
        """Return complaints about missing input and models, and about keys that this stage does not read."""
        complaints = []
        if not self.input:
            complaints.append("stage=monitor needs items: stage.input=<file>, or stage.input=- for standard input.")
        if not self.models:
            complaints.append("stage=monitor needs a classifier: stage.models.sentiment=<run of task=classification>.")
        if run.task.name:
            complaints.append(f"task={run.task.name} is not read by stage=monitor; each model brings its own.")
        if run.model.path:
            complaints.append(
                f"model.path is not read by stage=monitor; name it: stage.models.sentiment={run.model.path}."
            )
        usual = DataConfig()
        for key in (item.name for item in fields(DataConfig) if item.name not in READ):
            if getattr(run.data, key) != getattr(usual, key):
                instead = "; name the items in stage.input" if key in ROWS else ""
                complaints.append(f"data.{key} is not read by stage=monitor{instead}.")
        if run.data.format not in FORMATS:
            complaints.append(f"data.format={run.data.format}: stage=monitor reads {', '.join(FORMATS[1:])}.")
        complaints += self.check_times()
        complaints += self.check_delivery(run)
        return complaints

    def check_times(self) -> list[str]:
        """Return complaints about spans of time and the time zone."""
        complaints = []
        for key in ("window", "late", "history", "quiet"):
            if not is_span(getattr(self, key)):
                complaints.append(
                    f"stage.{key}={getattr(self, key)} is no span of time. For example: 30s, 15m, 1h, 28d."
                )
        window, history = seconds(self.window), seconds(self.history)
        if is_span(self.window) and (window == 0 or (DAY % window and window % DAY)):
            complaints.append(
                f"stage.window={self.window} must part a day evenly (5m, 1h, 6h) or be whole days (1d, 7d)."
            )
        elif window and is_span(self.history):
            least = (LEAST_PAST + max(1, DAY // window)) * window
            if history < least:
                complaints.append(
                    f"stage.history={self.history} is too short for stage.window={self.window}: nothing would ever be judged. "
                    f"It must be at least {-(-least // DAY)}d."
                )
        if zone(self.timezone) is None:
            near = did_you_mean(self.timezone, sorted(available_timezones()))
            complaints.append(
                f"stage.timezone={self.timezone} is no time zone.{near} Names are like UTC, Asia/Shanghai, Europe/Berlin."
            )
        return complaints

    def check_delivery(self, run: RunFacts) -> list[str]:
        """Return complaints about webhook and command."""
        complaints = []
        if self.webhook and (
            urlsplit(self.webhook).scheme not in ("http", "https") or not urlsplit(self.webhook).netloc
        ):
            complaints.append(f"stage.webhook={self.webhook} is no address; it begins with http:// or https://.")
        if run.offline and (self.webhook or os.environ.get(WEBHOOK)):
            complaints.append("offline=true opens no socket, and a webhook needs one. Leave one of them out.")
        if self.command == []:
            complaints.append(
                "stage.command=[] names no program. For example: stage.command=[/usr/bin/logger,-t,llmstage]"
            )
        return complaints


def is_span(span: str) -> bool:
    """Return whether a text is a span of time such as 15m."""
    return re.fullmatch(SPAN, span) is not None


def seconds(span: str) -> int:
    """Return a span of time such as 15m in seconds; 0 where it is none."""
    match = re.fullmatch(SPAN, span)
    return int(match[1]) * UNITS[match[2]] if match else 0


def zone(name: str) -> tzinfo | None:
    """Return a time zone by name; None where there is none."""
    if name == "UTC":
        return UTC  # there on machines without a database of zones, too
    try:
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return None
