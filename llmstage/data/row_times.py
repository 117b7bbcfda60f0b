"""Parse the time of a row to one number, for splits by time: common date formats, Unix times, or `data.split.time_format`."""

from __future__ import annotations

import math
import re
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from typing import Any

from llmstage.errors import UserError

CLOCK = r"(?:[ T]+(\d{1,2}):(\d{2})(?::(\d{2})(?:\.\d+)?)?)?"
YEAR_FIRST = re.compile(r"(\d{4})[-/.年](\d{1,2})[-/.月](\d{1,2})日?" + CLOCK)
DAY_FIRST = re.compile(r"(\d{1,2})\.(\d{1,2})\.(\d{4})" + CLOCK)
"""With points, as in German or Polish, the day is always first."""
UNCLEAR = re.compile(r"\d{1,2}[-/]\d{1,2}[-/]\d{2,4}\b")
NUMBER = re.compile(r"[+-]?\d+(\.\d*)?")
TWITTER = "%a %b %d %H:%M:%S %z %Y"
UNITS = ((1e17, 1e9), (1e14, 1e6), (1e11, 1e3), (1e8, 1.0))
"""(minimum value, units a second): nanoseconds, microseconds, milliseconds, seconds since 1970."""
KEY = "data.split.time_format"


class TimeError(ValueError):
    """The reason why a value is no time; it becomes part of the complaint about a row."""


class Clock:
    """Parses the times of a run. A column may contain numbers or dates but not both: they have no common order."""

    def __init__(self, time_format: str | None = None) -> None:
        self.time_format = time_format
        self.numbers: bool | None = None
        """Whether the times so far are plain numbers. Numbers are sorted as they are, whatever their unit."""

    def read(self, value: Any) -> float:
        """Return microseconds since 1970 (UTC; a time without a zone counts as UTC), or the number itself.

        Raise TimeError with the reason.
        """
        time, is_number = self._read(value.strip() if isinstance(value, str) else value)
        if self.numbers is None:
            self.numbers = is_number
        if is_number != self.numbers:
            mismatch = (
                "a plain number, where rows before it have dates"
                if is_number
                else "a date, where rows before it have numbers"
            )
            raise TimeError(f"{value!r} is {mismatch}; write all times one way")
        return time

    def _read(self, value: Any) -> tuple[float, bool]:
        if self.time_format is not None:
            try:
                return microseconds(datetime.strptime(str(value), self.time_format)), False
            except ValueError:
                raise TimeError(f"{value!r} does not fit {KEY}={self.time_format}") from None
        if isinstance(value, datetime):
            return microseconds(value), False
        if isinstance(value, date):
            return microseconds(datetime(value.year, value.month, value.day)), False
        if isinstance(value, (int, float)) and not isinstance(value, bool):
            if not math.isfinite(value):
                raise TimeError(f"{value!r} is no time")
            return float(value), True
        if isinstance(value, str):
            return (float(value), True) if NUMBER.fullmatch(value) else (microseconds(parse_date_text(value)), False)
        raise TimeError(f"{value!r} is no time")

    def show(self, time: float) -> str:
        """Format a time for the report: the date, and the hour unless it is midnight."""
        if not self.numbers:
            return format_seconds(time / 1e6)
        if 1e7 <= time < 1e8 and time.is_integer():  # 20150731
            try:
                return datetime.strptime(str(int(time)), "%Y%m%d").date().isoformat()
            except ValueError:
                return str(int(time))
        unit = next((unit for size, unit in UNITS if time >= size), None)
        return format_seconds(time / unit) if unit else f"{time:.15g}"


def parse_date_text(text: str) -> datetime:
    """Parse a date with or without time: ISO 8601, year first, day first with points, Chinese, of e-mails, of tweets."""
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        pass
    for pattern, order in ((YEAR_FIRST, (1, 2, 3)), (DAY_FIRST, (3, 2, 1))):
        match = pattern.fullmatch(text)
        if match:
            parts = [int(match[index]) for index in order] + [int(match[index] or 0) for index in (4, 5, 6)]
            try:
                return datetime(*parts)  # type: ignore[arg-type]
            except ValueError as error:
                raise TimeError(f"{text!r} is no time ({error})") from None
    if UNCLEAR.match(text):
        raise TimeError(f"{text!r} may have the day or the month first; say which: {KEY}=%d/%m/%Y or {KEY}=%m/%d/%Y")
    for parse in (parse_tweet_date, parsedate_to_datetime):
        try:
            return parse(text)
        except (ValueError, TypeError):
            continue
    raise TimeError(f"{text!r} is no time that is known; say how it is written: {KEY}=%Y-%m-%d (Python's strptime)")


def parse_tweet_date(text: str) -> datetime:
    return datetime.strptime(text, TWITTER)


def microseconds(moment: datetime) -> float:
    aware = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return float(round(aware.timestamp() * 1e6))


def format_seconds(seconds: float) -> str:
    try:
        moment = datetime.fromtimestamp(seconds, UTC).replace(tzinfo=None)
    except (ValueError, OverflowError, OSError):
        return f"{seconds:.15g}"
    midnight = (moment.hour, moment.minute, moment.second, moment.microsecond) == (0, 0, 0, 0)
    return moment.date().isoformat() if midnight else moment.isoformat(sep=" ", timespec="seconds")


def check_time_format(time_format: str | None) -> None:
    """Raise UserError for a format that cannot parse the time that it writes."""
    if time_format is None:
        return
    try:
        datetime.strptime(datetime(2015, 7, 31, 14, 5, 6, tzinfo=UTC).strftime(time_format), time_format)
    except (ValueError, re.error) as error:
        raise UserError(f"{KEY}={time_format} is no time format ({error}). For example: {KEY}=%d/%m/%Y") from None
    if "%" not in time_format:
        raise UserError(f"{KEY}={time_format} has no directive. For example: {KEY}=%d/%m/%Y")
