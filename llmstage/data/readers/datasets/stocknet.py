"""Read StockNet (Xu and Cohen 2018, aclanthology.org/P18-1183): tweets and daily prices of stocks, as published.

One row is a stock and a trading day with tweets since the trading day before. All columns except `label` and `movement` were
known before that day.
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from llmstage.data.files import DataFile
from llmstage.data.row_times import TimeError, parse_date_text
from llmstage.data.rows import Bad, ReadOptions, Records
from llmstage.data.text_lines import lines
from llmstage.errors import DataError

ENDINGS = (".csv",)
DOWN, UP = -0.005, 0.0055
"""A close-to-close movement of at most DOWN is `down`, one above UP is `up`; days between are omitted, as in the paper."""
LAGS = 5
"""Trading days whose returns are columns: the window of the paper."""
PRICE_COLUMNS = ("Date", "High", "Low", "Close", "Adj Close", "Volume")


@dataclass(slots=True)
class Day:
    """One trading day of one stock."""

    line: int
    day: date
    close: float
    """Adjusted for splits and dividends."""
    spread: float
    """(high - low) / close"""
    volume: float


def find(folder: Path) -> list[Path]:
    """Return the price file of each stock that has tweets."""
    prices = folder / "price" / "raw"
    return sorted(path for path in prices.glob("*.csv") if tweet_folder(path).is_dir())


def beside(path: Path) -> list[Path]:
    """Return the tweet files of a price file: their content is part of the digest."""
    folder = tweet_folder(path)
    return sorted(item for item in folder.iterdir() if is_day(item.name)) if folder.is_dir() else []


def tweet_folder(path: Path) -> Path:
    return path.resolve().parent.parent.parent / "tweet" / "preprocessed" / path.stem


def is_day(name: str) -> bool:
    return bool(re.fullmatch(r"\d{4}-\d{2}-\d{2}", name))


def read(file: DataFile, options: ReadOptions) -> Records:
    """Yield the records of `price/raw/<SYMBOL>.csv`. The line of a record is that of the trading day of its label.

    `{text, label, date, symbol, movement, num_tweets, return_1 … return_5, spread, volume_change}`: `text` contains the
    distinct tweets of the trading day before and of the days since, newest first, one a line. `movement` is the adjusted
    close of the day over that of the day before, minus 1. The other numbers are of earlier trading days; `return_1` is
    the latest.
    """
    folder = tweet_folder(file.path)
    if not folder.is_dir():
        raise DataError(
            f"{file.display_name}: there is no folder {folder} with this stock's tweets. Name the folder of the data set: data.train=<stocknet>."
        )
    tweet_days = sorted(date.fromisoformat(item.name) for item in beside(file.path))
    days: list[Day] = []
    for line, day in prices(file, options):
        if isinstance(day, Bad):
            yield line, day
            continue
        days.append(day)
        if len(days) > LAGS + 2:
            days.pop(0)
        if len(days) == LAGS + 2:
            row = record(days, tweet_days, folder, file.path.stem, options)
            if row is not None:
                yield line, row


def record(
    days: list[Day], tweet_days: list[date], folder: Path, symbol: str, options: ReadOptions
) -> dict[str, Any] | Bad | None:
    """Return the row of the last of `days` (LAGS + 2 of them); None where it has no tweets or a small movement."""
    today, before = days[-1], days[-2]
    since = [day for day in tweet_days if before.day <= day < today.day]
    movement = today.close / before.close - 1
    if not since or DOWN < movement <= UP:
        return None
    tweets: list[tuple[str, str]] = []
    for day in since:
        day_tweets = tweets_of(folder / day.isoformat(), options)
        if isinstance(day_tweets, Bad):
            return day_tweets
        tweets += day_tweets
    if not tweets:
        return None
    texts = dict.fromkeys(text for _, text in sorted(tweets, key=lambda tweet: tweet[0], reverse=True))
    returns = [later.close / earlier.close - 1 for earlier, later in pairwise(days[:-1])]
    return {
        "text": "\n".join(texts),
        "label": "up" if movement > UP else "down",
        "date": today.day.isoformat(),
        "symbol": symbol,
        "movement": movement,
        "num_tweets": len(tweets),
        **{f"return_{lag}": value for lag, value in enumerate(reversed(returns), start=1)},
        "spread": before.spread,
        "volume_change": before.volume / days[-3].volume - 1 if days[-3].volume else 0.0,
    }


def tweets_of(path: Path, options: ReadOptions) -> list[tuple[str, str]] | Bad:
    """Return (time as sortable text, text) of each tweet of one day."""
    tweets = []
    for number, line in lines(DataFile(path, path.name), options.encoding, options.max_bytes):
        if isinstance(line, Bad):
            return Bad(f"tweets of {path.name}, line {number}: {line.reason}", line.raw)
        if not line.strip():
            continue
        try:
            tweet = json.loads(line)
            text = tweet["text"] if isinstance(tweet["text"], str) else " ".join(tweet["text"])
            tweets.append((parse_date_text(tweet["created_at"]).isoformat(), text))
        except (ValueError, KeyError, TypeError, TimeError) as error:
            reason = f"tweets of {path.name}, line {number}: no tweet with text and created_at ({error})"
            return Bad(reason, line.strip()[:500])
    return tweets


def prices(file: DataFile, options: ReadOptions) -> Iterator[tuple[int, Day | Bad]]:
    """Yield the trading days of a Yahoo price file, in order. A day whose prices are `null` had no trade."""
    columns: list[str] = []
    last: date | None = None
    for number, line in lines(file, options.encoding, options.max_bytes):
        if isinstance(line, Bad):
            yield number, line
            continue
        fields = next(csv.reader([line]), [])
        if not columns:
            columns = [field.strip() for field in fields]
            missing = [name for name in PRICE_COLUMNS if name not in columns]
            if missing:
                raise DataError(
                    f"{file.display_name}:1: no column {', '.join(missing)}; a price file of Yahoo has {', '.join(PRICE_COLUMNS)}."
                )
            continue
        values = dict(zip(columns, fields, strict=False))
        if not fields or "null" in values.values():
            continue
        try:
            day = date.fromisoformat(values["Date"])
            high, low, close, adjusted, volume = (float(values[name]) for name in PRICE_COLUMNS[1:])
        except (KeyError, ValueError) as error:
            yield number, Bad(f"no date and prices ({error})", line.strip())
            continue
        if close <= 0 or adjusted <= 0 or (last is not None and day <= last):
            reason = (
                "a price that is not above 0" if last is None or day > last else f"not after the day before it, {last}"
            )
            yield number, Bad(reason, line.strip())
            continue
        last = day
        yield number, Day(number, day, adjusted, (high - low) / close, volume)
