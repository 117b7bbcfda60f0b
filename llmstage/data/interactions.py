"""Interactions of users with items: read once into arrays, ordered in time, and given out as examples.

A recommender's example is a history and a candidate, so a row needs other rows of the same user. All interactions are held
as arrays (about 40 bytes each), and the rows of a split are made from them while they are read: for each interaction that
is to be predicted, its user, the items before it and itself as the last one.
"""

from __future__ import annotations

import itertools
from array import array
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from llmstage.data.interaction_columns import as_list, clicked_at, parse_number, parse_time
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Row, digest_of
from llmstage.errors import DataError

SPLITS = ("train", "validation", "test")


@dataclass(slots=True)
class Log:
    """Interactions sorted by user, then given split, then time; equal times keep the order of the file."""

    users: list[str]
    items: list[str]
    texts: dict[str, str]
    """Item to text, where the interactions carry one."""
    user: np.ndarray
    item: np.ndarray
    """[N] indices into users and items."""
    time: np.ndarray
    value: np.ndarray
    """[N] rating, or 1 and 0 where there is none."""
    click: np.ndarray
    """[N] whether it counts as a click."""
    given: np.ndarray
    """[N] index into SPLITS of the file it came from."""
    extras: list[Row]
    """Further columns of each interaction; empty where the task asks for none."""
    has_time: bool
    facts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def starts(self) -> np.ndarray:
        """[N] position of the first interaction of the same user."""
        first = np.flatnonzero(np.r_[True, self.user[1:] != self.user[:-1]])
        return np.repeat(first, np.diff(np.r_[first, len(self)]))


def read_log(
    sources: Mapping[str, RowSource], *, positive_rating: float | None, extra: tuple[str, ...], unique_pairs: bool
) -> Log:
    """All interactions of all given splits. A row is one interaction, or several of one user where its values are lists.

    `unique_pairs`: of several interactions of a user with one item only the first counts; else only exact copies go.
    """
    names: tuple[dict[str, int], dict[str, int]] = ({}, {})
    columns: tuple[array[int], array[int], array[int]] = (array("q"), array("q"), array("b"))
    numbers: tuple[array[float], array[float]] = (array("d"), array("d"))
    clicks: array[int] = array("b")
    texts: dict[str, str] = {}
    extras: list[Row] = []
    timed = untimed = 0
    for split, source in sources.items():
        for row, _ in source:
            items = as_list(row["item"])
            times, text = as_list(row.get("time")), as_list(row.get("text"))
            ratings = as_list(row.get("rating"))
            for at, item in enumerate(items):
                columns[0].append(names[0].setdefault(str(row["user"]), len(names[0])))
                columns[1].append(names[1].setdefault(str(item), len(names[1])))
                columns[2].append(SPLITS.index(split))
                time = parse_time(times[at]) if at < len(times) and times[at] is not None else None
                timed, untimed = timed + (time is not None), untimed + (time is None)
                numbers[0].append(time or 0.0)
                rating = parse_number(ratings[at]) if at < len(ratings) else None
                told = clicked_at(row, at, positive_rating)
                clicks.append(told)
                numbers[1].append(float(told) if rating is None else rating)
                if at < len(text) and text[at]:
                    texts.setdefault(str(item), str(text[at]))
                if extra:
                    extras.append({word: row.get(word) for word in extra})
    if timed and untimed:
        raise DataError(
            f"{untimed} of {timed + untimed} interactions have no time. Give each one, or leave the column out."
        )
    log = Log(
        list(names[0]), list(names[1]), texts, np.array(columns[0]), np.array(columns[1]), np.array(numbers[0]),
        np.array(numbers[1]), np.array(clicks, dtype=bool), np.array(columns[2]), extras, has_time=timed > 0,
    )  # fmt: skip
    return ordered(log, unique_pairs=unique_pairs)


def ordered(log: Log, *, unique_pairs: bool) -> Log:
    """Sorted, and without duplicates, which are counted."""
    order = np.lexsort((log.time, log.given, log.user))  # stable: equal times keep the order of the file
    what = [log.user[order], log.item[order]] + ([] if unique_pairs else [log.time[order]])
    _, first = np.unique(np.stack(what, axis=1), axis=0, return_index=True)
    kept = order[np.sort(first)]
    log.facts["interactions"], log.facts["duplicates dropped"] = len(kept), len(order) - len(kept)
    for name in ("user", "item", "time", "value", "click", "given"):
        setattr(log, name, getattr(log, name)[kept])
    log.extras = [log.extras[index] for index in kept] if log.extras else []
    per_user = np.bincount(log.user, minlength=len(log.users))
    log.facts |= {
        "users": len(log.users),
        "users with one interaction (only in training)": int((per_user == 1).sum()),
        "items with interactions": len(log.items),
        "clicks": int(log.click.sum()),
    }
    return log


def assign(log: Log, split: str, shares: dict[str, float], max_rows: int, seed: int) -> np.ndarray:
    """[N] index into SPLITS of each interaction, -1 for history only. Splits that were given stay as they are.

    leave_last_out: of each user the last click and what follows it is test, the click before it (and what stands between
    the two) validation. time: everything from a point in time on is test, from an earlier one on validation.
    `shares`: of the splits to cut; under leave_last_out only whether they are above 0. A held-out split has at most about
    `max_rows` interactions.
    """
    part = log.given.astype(np.int64).copy()
    wanted = [name for name in ("validation", "test") if shares.get(name)]
    given = set(np.unique(log.given).tolist())
    if 0 not in given:  # nothing to learn from, only to score: of each user the last click, after what came before
        part[:] = -1
        last = last_clicks(log, np.ones(len(log), bool), 1)[0]
        part[last] = log.given[last]
    elif split == "time" and wanted:
        cut_by_time(log, part, shares, wanted)
    elif wanted:
        cut_last(log, part, wanted)
    for number in (1, 2):
        held = np.flatnonzero(part == number)
        if len(held) > max_rows:
            chosen = np.random.default_rng((seed, number)).permutation(len(held))[max_rows:]
            part[held[chosen]] = -1
    return part


def cut_by_time(log: Log, part: np.ndarray, shares: dict[str, float], wanted: list[str]) -> None:
    if not log.has_time:
        raise DataError(
            "task.split=time needs a time for each interaction. Name the column: data.columns.time=<column>."
        )
    own = log.given == 0
    later = 0.0
    for name in reversed(wanted):
        later += shares[name]
        point = np.quantile(log.time[own], 1 - later)
        part[own & (log.time >= point) & (part == 0)] = SPLITS.index(name)
    if not (part == 0).any():
        raise DataError("task.split=time leaves no interaction to train on: nearly all have the same time.")


def cut_last(log: Log, part: np.ndarray, wanted: list[str]) -> None:
    own = log.given == 0
    last, before = last_clicks(log, own, 2)
    ends = np.r_[np.flatnonzero(log.user[1:] != log.user[:-1]) + 1, len(log)]
    for name, clicks in zip(reversed(wanted), (last, before), strict=False):
        for at in clicks:
            stop = ends[np.searchsorted(ends, at, side="right")]
            span = np.arange(at, stop)
            part[span[own[span] & (part[span] == 0)]] = SPLITS.index(name)


def last_clicks(log: Log, own: np.ndarray, num: int) -> list[np.ndarray]:
    """The last, the last but one, … click of each user that has one more before it, as positions."""
    positions = np.flatnonzero(log.click & own)
    users = log.user[positions]
    ends = np.flatnonzero(np.r_[users[1:] != users[:-1], np.ones(min(1, len(users)), bool)])
    starts = np.r_[0, ends[:-1] + 1] if len(ends) else ends
    return [positions[(ends - back)[ends - back > starts]] for back in range(num)]


class InteractionRows(RowSource):
    """The examples of one split: `item` holds the history and, last, the candidate; `seen` what lies before the history."""

    def __init__(
        self, split: str, log: Log, part: np.ndarray, texts: Mapping[str, str], history: int, bases: list[RowSource],
        limit: int | None, rule: Any,
    ) -> None:  # fmt: skip
        self.split, self.log, self.texts, self.history, self.bases, self.rule = split, log, texts, history, bases, rule
        self.chosen = np.flatnonzero(part == SPLITS.index(split))[:limit]
        self.starts = log.starts
        self.identity = ("user", "item")
        self.cut = split != "train"  # a user's rows share their history by design: that is no overlap
        self.num_rows = len(self.chosen)

    @property
    def mapping(self) -> dict[str, str]:  # type: ignore[override]
        return self.bases[0].mapping

    @property
    def quarantined(self) -> int:  # type: ignore[override]
        return sum(base.quarantined for base in self.bases) if self.split == "train" else 0

    @property
    def description(self) -> str:
        return "; ".join(dict.fromkeys(base.description for base in self.bases))

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        log = self.log
        for number, at in enumerate(self.chosen.tolist(), start=1):
            start = int(self.starts[at])
            first = max(start, at - self.history)
            names = [log.items[index] for index in log.item[first : at + 1].tolist()]
            row: Row = {
                "user": log.users[log.user[at]],
                "item": names,
                "value": log.value[first : at + 1].tolist(),
                "click": bool(log.click[at]),
                "text": [self.texts.get(names[-1], "")],
                # What the ranking leaves out; of training rows only a few are ever ranked.
                "seen": [log.items[index] for index in log.item[start:first].tolist()] if self.split != "train" else [],
            }
            if log.extras:
                row |= log.extras[at]
            yield row, f"{self.split}:{number}"

    def digest(self) -> str:
        return digest_of(["interactions", self.split, [base.digest() for base in self.bases], self.history, self.rule])


class Histories(RowSource):
    """One row a user, in the order in which they first occur: everything the user had, oldest first."""

    def __init__(self, log: Log, bases: list[RowSource]) -> None:
        self.split, self.log, self.bases = "test", log, bases
        self.identity = ("user", "item")
        self.num_rows = len(log.users)

    @property
    def mapping(self) -> dict[str, str]:  # type: ignore[override]
        return self.bases[0].mapping

    @property
    def description(self) -> str:
        return self.bases[0].description

    def __iter__(self) -> Iterator[tuple[Row, str]]:
        log = self.log
        starts = [*np.unique(log.starts).tolist(), len(log)]
        for first, stop in itertools.pairwise(starts):
            row: Row = {
                "user": log.users[log.user[first]],
                "item": [log.items[index] for index in log.item[first:stop].tolist()],
                "value": log.value[first:stop].tolist(),
            }
            yield (row | log.extras[stop - 1] if log.extras else row), row["user"]

    def digest(self) -> str:
        return digest_of(["histories", [base.digest() for base in self.bases]])
