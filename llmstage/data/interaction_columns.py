"""What stands in one interaction: who, what, when, and what was thought of it."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from typing import Any

from llmstage.data.rows import Row

TRUE, FALSE = ("1", "true", "yes", "click", "clicked"), ("0", "false", "no")


def parse_time(value: Any) -> float | None:
    """Seconds since 1970 of a number or an ISO 8601 date (UTC where it names no zone); None where it is neither."""
    number = parse_number(value)
    if number is not None:
        return number
    try:
        moment = datetime.fromisoformat(str(value).strip())
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def parse_number(value: Any) -> float | None:
    """A finite number, or None."""
    if isinstance(value, bool):
        return None
    try:
        number = float(value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def parse_click(value: Any) -> bool | None:
    """Yes or no in the ways that files write it; None for anything else."""
    word = str(value).strip().casefold().removesuffix(".0")
    return True if word in TRUE else False if word in FALSE else None


def as_list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def check_name(word: str, value: Any) -> str | None:
    """The reason why a value names no user or item, or None."""
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        return f"{word} {value!r} is not a name or a whole number"
    return None


def check_interaction(row: Row) -> str | None:
    """The reason why an interaction (or several of one user, as lists) cannot be used, or None."""
    for word in ("user", "item"):
        for value in as_list(row[word]):
            reason = check_name(word, value)
            if reason:
                return reason
    for word, parse, wanted in (
        ("time", parse_time, "a time: seconds since 1970, or like 2026-11-23 or 2026-11-23T19:24:00"),
        ("rating", parse_number, "a number"),
        ("click", parse_click, "a click: 1 or 0, true or false"),
    ):
        for value in as_list(row.get(word)):
            if value is not None and parse(value) is None:
                return f"{word} {value!r} is not {wanted}"
    return None


def clicked_at(row: Row, at: int, positive_rating: float | None) -> bool:
    """Whether the `at`-th item of a row was clicked: as the row says, else by its rating, else yes."""
    told = as_list(row.get("click"))
    if -len(told) <= at < len(told) and told[at] is not None:
        return bool(parse_click(told[at]))
    ratings = as_list(row.get("rating"))
    rating = parse_number(ratings[at]) if -len(ratings) <= at < len(ratings) else None
    return positive_rating is None or rating is None or rating >= positive_rating


def clicked(row: Row, positive_rating: float | None) -> bool:
    """The same for the candidate, the last item of a row."""
    return clicked_at(row, -1, positive_rating)


def values_of(row: Row) -> list[float]:
    """What was thought of each item of a row: the rating, else 1."""
    if "value" in row:
        return list(row["value"])
    ratings = map(parse_number, as_list(row.get("rating")))
    return [1.0 if rating is None else rating for rating in ratings]


def with_target(row: Row, known: list[str]) -> Row:
    """A history with one of the `known` items behind it that the user has not had, as if it were the candidate."""
    names = [str(name) for name in as_list(row["item"])]
    had = {*names, *map(str, row.get("seen", ()))}
    candidate = next((name for name in known if name not in had), known[0])
    values = (values_of(row) + [1.0] * len(names))[: len(names)]
    return row | {"item": [*names, candidate], "value": [*values, 1.0], "text": "", "click": True}
