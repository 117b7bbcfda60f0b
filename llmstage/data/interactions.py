"""Interactions of users with items: read once into arrays, sorted by time, and yielded as examples.

An example of a recommender is a history and a candidate, so a row needs other rows of the same user. All interactions are in
arrays (about 40 bytes each). The rows of a split are made from them while they are read: for each interaction to predict, the
user, the items before it, and its item as the last one.
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
class InteractionLog:
    """Interactions sorted by user, then given split, then time; equal times keep the order of the file."""

    users: list[str]
    items: list[str]
    texts: dict[str, str]
    """Item to text, where the interactions have a column text."""
    user: np.ndarray
    item: np.ndarray
    """[N] indices into users and items."""
    time: np.ndarray
    value: np.ndarray
    """[N] rating, or 1 and 0 where there is none."""
    click: np.ndarray
    """[N] whether it counts as a click."""
    given: np.ndarray
    """[N] index into SPLITS of the file of the interaction."""
    extras: list[Row]
    """Further columns of each interaction; empty where the task has none."""
    has_time: bool
    facts: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.user)

    @property
    def starts(self) -> np.ndarray:
        """Return [N] the position of the first interaction of the same user."""
        first = np.flatnonzero(np.r_[True, self.user[1:] != self.user[:-1]])
        return np.repeat(first, np.diff(np.r_[first, len(self)]))


def read_interactions(
    sources: Mapping[str, RowSource], *, positive_rating: float | None, extra: tuple[str, ...], unique_pairs: bool
) -> InteractionLog:
    """Read all interactions of all given splits. A row is one interaction, or several of one user where values are lists.

    `unique_pairs`: drop all but the first interaction of a user with an item; else drop exact copies only.
    """
    user_index: dict[str, int] = {}
    item_index: dict[str, int] = {}
    user, item, given = array("q"), array("q"), array("b")
    time, value, click = array("d"), array("d"), array("b")
    texts: dict[str, str] = {}
    extras: list[Row] = []
    num_timed = num_untimed = 0
    for split, source in sources.items():
        for row, _ in source:
            times, item_texts = as_list(row.get("time")), as_list(row.get("text"))
            ratings = as_list(row.get("rating"))
            for index, name in enumerate(as_list(row["item"])):
                user.append(user_index.setdefault(str(row["user"]), len(user_index)))
                item.append(item_index.setdefault(str(name), len(item_index)))
                given.append(SPLITS.index(split))
                seconds = parse_time(times[index]) if index < len(times) and times[index] is not None else None
                num_timed, num_untimed = num_timed + (seconds is not None), num_untimed + (seconds is None)
                time.append(seconds or 0.0)
                rating = parse_number(ratings[index]) if index < len(ratings) else None
                is_click = clicked_at(row, index, positive_rating)
                click.append(is_click)
                value.append(float(is_click) if rating is None else rating)
                if index < len(item_texts) and item_texts[index]:
                    texts.setdefault(str(name), str(item_texts[index]))
                if extra:
                    extras.append({column: row.get(column) for column in extra})
    if num_timed and num_untimed:
        raise DataError(
            f"{num_untimed} of {num_timed + num_untimed} interactions have no time. "
            f"Give each one, or leave the column out."
        )
    log = InteractionLog(
        list(user_index), list(item_index), texts, np.array(user), np.array(item), np.array(time),
        np.array(value), np.array(click, dtype=bool), np.array(given), extras, has_time=num_timed > 0,
    )  # fmt: skip
    return ordered(log, unique_pairs=unique_pairs)


def ordered(log: InteractionLog, *, unique_pairs: bool) -> InteractionLog:
    """Sort the log, drop duplicates, and count both in its facts."""
    order = np.lexsort((log.time, log.given, log.user))  # stable: equal times keep the order of the file
    identity = [log.user[order], log.item[order]] + ([] if unique_pairs else [log.time[order]])
    _, first = np.unique(np.stack(identity, axis=1), axis=0, return_index=True)
    distinct = order[np.sort(first)]
    log.facts["interactions"], log.facts["duplicates dropped"] = len(distinct), len(order) - len(distinct)
    for name in ("user", "item", "time", "value", "click", "given"):
        setattr(log, name, getattr(log, name)[distinct])
    log.extras = [log.extras[index] for index in distinct] if log.extras else []
    per_user = np.bincount(log.user, minlength=len(log.users))
    log.facts |= {
        "users": len(log.users),
        "users with one interaction (only in training)": int((per_user == 1).sum()),
        "items with interactions": len(log.items),
        "clicks": int(log.click.sum()),
    }
    return log


def assign(log: InteractionLog, split: str, shares: dict[str, float], max_rows: int, seed: int) -> np.ndarray:
    """Return [N] the index into SPLITS of each interaction, -1 for history only. Given splits stay as they are.

    leave_last_out: the last click of each user and what follows it is test; the click before it, and what is between the
    two, is validation. time: everything from one time on is test, from an earlier time on validation.
    `shares`: of the splits to cut; leave_last_out only checks whether they are above 0. A held-out split has at most about
    `max_rows` interactions.
    """
    part = log.given.astype(np.int64).copy()
    missing = [name for name in ("validation", "test") if shares.get(name)]
    given = set(np.unique(log.given).tolist())
    if 0 not in given:  # no training rows, only scoring: the last click of each user, after its history
        part[:] = -1
        last = last_clicks(log, np.ones(len(log), bool), 1)[0]
        part[last] = log.given[last]
    elif split == "time" and missing:
        cut_by_time(log, part, shares, missing)
    elif missing:
        cut_last(log, part, missing)
    # Large held-out splits are sampled; the other interactions remain history.
    for number in (1, 2):
        positions = np.flatnonzero(part == number)
        if len(positions) > max_rows:
            dropped = np.random.default_rng((seed, number)).permutation(len(positions))[max_rows:]
            part[positions[dropped]] = -1
    return part


def cut_by_time(log: InteractionLog, part: np.ndarray, shares: dict[str, float], missing: list[str]) -> None:
    """Assign the latest interactions of train to the missing splits, by quantiles of the time."""
    if not log.has_time:
        raise DataError(
            "task.split=time needs a time for each interaction. Name the column: data.columns.time=<column>."
        )
    in_train = log.given == 0
    later = 0.0
    for name in reversed(missing):
        later += shares[name]
        point = np.quantile(log.time[in_train], 1 - later)
        part[in_train & (log.time >= point) & (part == 0)] = SPLITS.index(name)
    if not (part == 0).any():
        raise DataError("task.split=time leaves no interaction to train on: nearly all have the same time.")


def cut_last(log: InteractionLog, part: np.ndarray, missing: list[str]) -> None:
    """Assign the last clicks of each user in train, and what follows them, to the missing splits."""
    in_train = log.given == 0
    last, before = last_clicks(log, in_train, 2)
    ends = np.r_[np.flatnonzero(log.user[1:] != log.user[:-1]) + 1, len(log)]
    for name, clicks in zip(reversed(missing), (last, before), strict=False):
        for position in clicks:
            stop = ends[np.searchsorted(ends, position, side="right")]
            span = np.arange(position, stop)
            part[span[in_train[span] & (part[span] == 0)]] = SPLITS.index(name)


def last_clicks(log: InteractionLog, selected: np.ndarray, num: int) -> list[np.ndarray]:
    """Return the positions of the last, the second to last, … click of each user with at least one more click before it.

    `selected`: [N] the interactions that count.
    """
    positions = np.flatnonzero(log.click & selected)
    users = log.user[positions]
    ends = np.flatnonzero(np.r_[users[1:] != users[:-1], np.ones(min(1, len(users)), bool)])
    starts = np.r_[0, ends[:-1] + 1] if len(ends) else ends
    return [positions[(ends - back)[ends - back > starts]] for back in range(num)]


class InteractionRows(RowSource):
    """The examples of one split: `item` is the history with the candidate as the last item; `seen` is what is before it."""

    def __init__(
        self, split: str, log: InteractionLog, part: np.ndarray, texts: Mapping[str, str], history: int, bases: list[RowSource],
        limit: int | None, rule: Any,
    ) -> None:  # fmt: skip
        self.split, self.log, self.texts, self.history, self.bases, self.rule = split, log, texts, history, bases, rule
        self.positions = np.flatnonzero(part == SPLITS.index(split))[:limit]
        self.starts = log.starts
        self.identity = ("user", "item")
        self.cut = split != "train"  # the rows of a user share their history by design, which is no overlap
        self.num_rows = len(self.positions)

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
        for number, position in enumerate(self.positions.tolist(), start=1):
            start = int(self.starts[position])
            first = max(start, position - self.history)
            names = [log.items[index] for index in log.item[first : position + 1].tolist()]
            row: Row = {
                "user": log.users[log.user[position]],
                "item": names,
                "value": log.value[first : position + 1].tolist(),
                "click": bool(log.click[position]),
                "text": [self.texts.get(names[-1], "")],
                # The ranking excludes these. Few training rows are ranked, so they have none.
                "seen": [log.items[index] for index in log.item[start:first].tolist()] if self.split != "train" else [],
            }
            if log.extras:
                row |= log.extras[position]
            yield row, f"{self.split}:{number}"

    def digest(self) -> str:
        return digest_of(["interactions", self.split, [base.digest() for base in self.bases], self.history, self.rule])


class UserHistories(RowSource):
    """One row a user, in the order in which users first occur: all items of the user, oldest first."""

    def __init__(self, log: InteractionLog, bases: list[RowSource]) -> None:
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
