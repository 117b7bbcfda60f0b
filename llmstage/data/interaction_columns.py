"""Parse and check the columns of an interaction: user, item, time, rating, click."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from llmstage.data.rows import Row

TRUE, FALSE = ("1", "true", "yes", "click", "clicked"), ("0", "false", "no")


def parse_time(value: Any) -> float | None:
    """Return seconds since 1970 from a number or an ISO 8601 date (UTC where it names no zone); None for other values."""
    number = parse_number(value)
    if number is not None:
        return number
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_number(value: Any) -> float | None:
    """Return a finite number, or None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def parse_click(value: Any) -> bool | None:
    """Return True or False for the usual texts of yes and no; None for other values."""
    text = str(value).strip().casefold().removesuffix(".0")
    return True if text in TRUE else False if text in FALSE else None


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_name(column: str, value: Any) -> str | None:
    """Return why a value is no name of a user or item, or None."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        return f"{column} {value!r} is not a name or a whole number"
    return None


def check_interaction(row: Row) -> str | None:
    """Return why an interaction (or several of one user, as lists) is unusable, or None."""
    for column in ("user", "item"):
        for value in as_list(row[column]):
            reason = check_name(column, value)
            if reason:
                return reason
    for column, parse, expected in (
        ("time", parse_time, "a time: seconds since 1970, or like 2026-11-23 or 2026-11-23T19:24:00"),
        ("rating", parse_number, "a number"),
        ("click", parse_click, "a click: 1 or 0, true or false"),
    ):
        for value in as_list(row.get(column)):
            if value is not None and parse(value) is None:
                return f"{column} {value!r} is not {expected}"
    return None


def clicked_at(row: Row, index: int, positive_rating: float | None) -> bool:
    """Return whether the user clicked an item of a row: by the column click, else by its rating, else yes."""
    clicks = as_list(row.get("click"))
    if -len(clicks) <= index < len(clicks) and clicks[index] is not None:
        return bool(parse_click(clicks[index]))
    ratings = as_list(row.get("rating"))
    rating = parse_number(ratings[index]) if -len(ratings) <= index < len(ratings) else None
    return positive_rating is None or rating is None or rating >= positive_rating


def clicked(row: Row, positive_rating: float | None) -> bool:
    """Return whether the user clicked the candidate, the last item of a row."""
    return clicked_at(row, -1, positive_rating)


def values_of(row: Row) -> list[float]:
    """Return the value of each item of a row: its rating, else 1."""
    if "value" in row:
        return list(row["value"])
    ratings = map(parse_number, as_list(row.get("rating")))
    return [1.0 if rating is None else rating for rating in ratings]


def with_target(row: Row, known: list[str]) -> Row:
    """Append to a history, as the candidate, the first of the `known` items that the user has not had."""
    names = [str(name) for name in as_list(row["item"])]
    had = {*names, *map(str, row.get("seen", ()))}
    candidate = next((name for name in known if name not in had), known[0])
    values = (values_of(row) + [1.0] * len(names))[: len(names)]
    return row | {"item": [*names, candidate], "value": [*values, 1.0], "text": "", "click": True}
