"""Seen against unseen combinations: does a model compose, or does it know only the pairs that training showed?

Every function takes one number a row (1 right, 0 wrong, or a share) and the row's group. Rows without a group are left out.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.intervals import mean, proportion, resampled_sums, wilson
from llmstage.evaluation.metrics.score import Score
from llmstage.report.formatting import label

SEEN, UNSEEN = "seen", "unseen"
"""What a row's `composition` says of its pair of attributes."""


def newcombe(first: float, num_first: int, second: float, num_second: int) -> tuple[float, float]:
    """95 % interval of the difference `first - second` of two shares of `num_…` independent rows each.

    Newcombe (1998), Statistics in Medicine 17:873-890, method 10: the Wilson intervals of both shares, joined by
    `d - sqrt((p1-l1)² + (u2-p2)²)` and `d + sqrt((u1-p1)² + (p2-l2)²)`. It holds at 0 and 1 and for few rows.
    """
    low_first, high_first = wilson(first, num_first)
    low_second, high_second = wilson(second, num_second)
    gap = first - second
    return (
        gap - math.hypot(first - low_first, high_second - second),
        gap + math.hypot(high_first - first, second - low_second),
    )


def gap_score(first: Sequence[float], second: Sequence[float]) -> Score:
    """Mean of `first` minus mean of `second`: Newcombe's interval for rows that are right or wrong, the bootstrap over
    both for shares; without an interval where the rows cannot tell one."""
    count = len(first) + len(second)
    if not first or not second:
        return Score(math.nan)
    ours, others = np.asarray(first, dtype=np.float64), np.asarray(second, dtype=np.float64)
    gap = float(ours.mean() - others.mean())
    if binary(ours) and binary(others):
        low, high = newcombe(float(ours.mean()), len(ours), float(others.mean()), len(others))
        return Score(gap, low, high, count, "newcombe", higher_is_better=False)
    if len(ours) < 2 or len(others) < 2:
        return Score(gap, None, None, count, higher_is_better=False)
    # Seeds that differ: the two groups are drawn independently.
    drawn = [resampled_sums(rows[:, None], seed=seed)[:, 0] / len(rows) for seed, rows in enumerate((ours, others))]
    ends = np.percentile(drawn[0] - drawn[1], [2.5, 97.5])
    if math.isclose(ends[0], ends[1], abs_tol=1e-12):
        return Score(gap, None, None, count, higher_is_better=False)
    return Score(gap, float(ends[0]), float(ends[1]), count, "bootstrap", higher_is_better=False)


def group_scores(name: str, correct: Sequence[float], groups: Sequence[str | None]) -> dict[str, Score]:
    """`<name>_seen`, `<name>_unseen` and `<name>_gap` (seen minus unseen) for score(); nothing where a group is missing."""
    parts = split_rows(correct, groups)
    if SEEN not in parts or UNSEEN not in parts:
        return {}
    return {
        f"{name}_{SEEN}": share(parts[SEEN]),
        f"{name}_{UNSEEN}": share(parts[UNSEEN]),
        f"{name}_gap": gap_score(parts[SEEN], parts[UNSEEN]),
    }


def composition_exhibit(
    name: str, correct: Sequence[float], groups: Sequence[str | None], chance: float | None = None
) -> list[dict[str, Any]]:
    """Bars of `name` over seen and unseen pairs, and one sentence that says whether the model composes.

    `chance`: what guessing gets; with it the sentence also says whether there is anything to compose with. Empty where
    the rows know no seen or no unseen pairs.
    """
    parts = split_rows(correct, groups)
    if SEEN not in parts or UNSEEN not in parts:
        return []
    note = verdict(parts[SEEN], parts[UNSEEN], chance)
    shown = bars(f"{label(name)}: seen against unseen pairs", {group: parts[group] for group in (SEEN, UNSEEN)})
    if chance is not None:
        shown |= {"marks": [chance, chance], "mark_name": "guessing"}
    return [{**shown, "note": note}]


def kind_exhibit(
    name: str, correct: Sequence[float], kinds: Sequence[str | None], baseline: Mapping[str, float] | None = None
) -> list[dict[str, Any]]:
    """Bars and a table of `name` by kind of row, hardest last; `baseline`: the value by kind of a simpler method, such as
    the same model without the image, shown as a mark on the bar and as a gain in the table."""
    parts = split_rows(correct, kinds)
    if not parts:
        return []
    scores = {kind: share(rows) for kind, rows in parts.items()}
    order = sorted(parts, key=lambda kind: (-scores[kind].value, kind))
    told = {kind: baseline[kind] for kind in order if kind in baseline} if baseline else {}
    chart = bars(f"{label(name)} by kind", {kind: parts[kind] for kind in order})
    columns, rows = ["kind", name, "95 % interval", "rows"], []
    for kind in order:
        score = scores[kind]
        cells: list[Any] = [kind, f"{score.value:.3f}", within(score), f"{len(parts[kind]):,}"]
        if told:
            known = kind in told
            cells += [f"{told[kind]:.3f}", f"{score.value - told[kind]:+.3f}"] if known else ["–", "–"]
        rows.append(cells)
    if told:
        columns += ["blind", "gain"]
        chart |= {"marks": [told.get(kind) for kind in order], "mark_name": "blind (without the image)"}
    table = {"kind": "table", "title": f"{label(name)} by kind, in numbers", "columns": columns, "rows": rows}
    return [chart, table]


def verdict(seen: Sequence[float], unseen: Sequence[float], chance: float | None = None) -> str:
    """`Unseen pairs 0.610 [0.523, 0.690] against seen 0.930 [0.880, 0.960]: the gap of 0.320 is larger than chance explains.`"""
    old, new, gap = share(seen), share(unseen), gap_score(seen, unseen)
    said = f"Unseen pairs {spoken(new)} against seen {spoken(old)}: "
    if old.value == new.value == 0:  # no gap, but no sign of composing either
        return f"{said}never right on either, so there is nothing to compare."
    if gap.low is None or gap.high is None:
        return f"{said}too few rows, or rows too much alike, to tell a gap."
    spread = f"95 % interval {gap.low:.3f} to {gap.high:.3f}"
    if gap.low > 0:
        said += f"the gap of {gap.value:.3f} ({spread}) is larger than chance explains."
        end = "It composes in part only: what it was shown together it knows better."
    elif gap.high < 0:
        said += (
            f"unseen pairs are better by {-gap.value:.3f} (seen minus unseen: {spread}), more than chance explains: "
        )
        said += "the two groups differ in something else than having been seen."
        end = ""
    else:
        said += f"no gap that this many rows can show (seen minus unseen {gap.value:.3f}, {spread})."
        end = "Nothing here speaks against its composing."
    if chance is None:
        return said
    if new.low is None or new.low <= chance:
        end = f"Unseen pairs are not above guessing ({chance:.3f}): that it composes is not shown."
    return f"{said} {end}".strip()


def split_rows(correct: Sequence[float], groups: Sequence[str | None]) -> dict[str, list[float]]:
    """The numbers of each group, in the order in which the groups come; rows without a group are left out."""
    parts: dict[str, list[float]] = {}
    for value, group in zip(correct, groups, strict=True):
        if group:
            parts.setdefault(group, []).append(float(value))
    return parts


def share(values: Sequence[float]) -> Score:
    """Wilson's interval where every row is right or wrong, the bootstrap over rows where it is a share."""
    rows = np.asarray(values, dtype=np.float64)
    return proportion(rows == 1) if binary(rows) else mean(rows)


def binary(rows: NDArray[np.float64]) -> bool:
    return bool(np.all((rows == 0) | (rows == 1)))


def bars(title: str, parts: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """A bar a group, with its interval as whiskers and its number of rows in the label."""
    scores = [share(rows) for rows in parts.values()]
    return {
        "kind": "bars",
        "title": title,
        "labels": [f"{group} ({len(rows):,} row{'s' if len(rows) > 1 else ''})" for group, rows in parts.items()],
        "values": [score.value for score in scores],
        "lows": [score.low for score in scores],
        "highs": [score.high for score in scores],
        "top": 1.0,
    }


def spoken(score: Score) -> str:
    """`0.610 [0.523, 0.690]`"""
    ends = "" if score.low is None else f" [{score.low:.3f}, {score.high:.3f}]"
    return f"{score.value:.3f}{ends}"


def within(score: Score) -> str:
    return "–" if score.low is None else f"{score.low:.3f} to {score.high:.3f}"
