"""Weak slices: found on one half of the rows, confirmed on the other, described by as few conditions as say it.

The rows of a slice that was searched for are always worse than they are on new rows (the winner's curse), so nothing is
told of the half on which it was found.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.evaluation.metrics.composition import gap_score
from llmstage.evaluation.metrics.score import Score
from llmstage.explore.slice_search import Candidate, Mask, Numbers, search, single
from llmstage.explore.stats import benjamini_hochberg, fisher_worse, holm

Cell = str | tuple[str, ...] | None
"""A row's value of a column; several where it fulfils several (`>= 10 tokens` and `>= 20 tokens`)."""
Table = Mapping[str, Sequence[Cell]]

EXACT_BELOW = 30
"""Rows under which a slice is claimed by an exact test alone."""
SAME_LOSS = 0.9
"""Share of what a slice loses that another must hold to stand for it."""
STILL_WEAK = 0.75
"""Share of a slice's gap that a wider description must have."""
MOSTLY = 0.75
"""Share of a part's rows that must lie in the slice it is a part of."""
POOL = 400
"""Conjunctions kept by the search, from which the told ones are chosen."""


@dataclass(slots=True)
class Condition:
    """One column and one of its values."""

    column: str
    value: str
    rows: Mask
    """[N] rows that fulfil it."""


@dataclass(slots=True)
class Slice:
    """A slice with what it was on the half that confirms."""

    conditions: dict[str, str]
    """Column to value."""
    rows: Mask
    """[N] of all rows, both halves."""
    n: int
    """Rows of the confirming half; all numbers below are of it."""
    error: float
    rest: float
    """Mean error of all other rows."""
    gap: Score
    """error - rest, with its 95 % interval."""
    p: float
    p_holm: float
    test: str
    priority: float
    """gap x share of rows: mean error that would go if the slice were as good as the rest."""

    @property
    def words(self) -> str:
        return ", ".join(f"{column} {value}" for column, value in self.conditions.items())


@dataclass(slots=True)
class Search:
    """What find_slices did, beside what it confirmed."""

    confirmed: list[Slice]
    not_confirmed: list[Slice]
    looked_at: int
    """Conjunctions that were looked at."""
    discover: NDArray[np.int64]
    """Rows of the half on which slices were looked for."""
    confirm: NDArray[np.int64]
    min_support: int


def find_slices(
    table: Table,
    errors: Sequence[float] | Numbers,
    *,
    strata: Sequence[Hashable] | None = None,
    max_order: int = 3,
    min_support: int = 32,
    alpha: float = 0.95,
    min_gap: float = 0.10,
    top_k: int = 10,
    fdr: float = 0.10,
    level: float = 0.05,
    seed: int = 0,
    halves: tuple[Sequence[int], Sequence[int]] | None = None,
    last: Sequence[str] = (),
) -> Search:
    """Conjunctions of values of `table` (columns of N cells) under which `errors` [N] (0: right) are larger by `min_gap`.

    `strata`: the halves hold as many rows of each; `halves`: rows to discover on and to confirm on, where they are given.
    `last`: columns that describe only what no other column explains, e.g. groups that a person would have to look into.
    Discovery takes what passes Benjamini & Hochberg (1995) at `fdr` over all conjunctions that were looked at; confirmation
    Holm (1979) at `level` over those that are put to the test, of which there are `top_k` at most.
    """
    losses = np.asarray(errors, dtype=np.float64)
    if len(losses) and (not np.isfinite(losses).all() or losses.min() < 0):
        raise ValueError("errors must be finite and not negative")
    parts = halves or halve(len(losses), strata, seed)
    discover, confirm = (np.asarray(part, dtype=np.int64) for part in parts)
    conditions = [one for one in conditions_of(table) if one.rows[discover].sum() >= min_support]
    names = list(dict.fromkeys(one.column for one in conditions))
    own = losses[discover]
    masks = np.array([one.rows[discover] for one in conditions], dtype=bool).reshape(len(conditions), len(discover))
    found, looked_at = search(
        masks, [names.index(one.column) for one in conditions], own,
        max_order=max_order, min_support=min_support, alpha=alpha, keep=POOL,
    )  # fmt: skip
    known = {one.conditions for one in found}
    found += [one for one in single(masks, own, alpha) if one.conditions not in known]
    rank = {number: names.index(one.column) for number, one in enumerate(conditions)}
    passed = discovered(found, masks, own, looked_at, fdr, min_gap)
    late = {number for number, one in enumerate(conditions) if one.column in last}
    passed.sort(key=lambda one: not late.isdisjoint(one.conditions))  # stable: best first
    chosen = choose(passed, own, rank, late, min_support, min_gap, top_k)
    told = [confirmed_on(confirm, [conditions[at] for at in one.conditions], losses) for one in chosen]
    for one, p in zip(told, holm([one.p for one in told]), strict=True):
        one.p_holm = float(p)
    told.sort(key=lambda one: -one.priority)
    # What is claimed must still be as large as was asked for where nothing was searched.
    sure = [one.p_holm <= level and one.gap.value >= min_gap for one in told]
    return Search(
        outermost([one for one, holds in zip(told, sure, strict=True) if holds]),
        [one for one, holds in zip(told, sure, strict=True) if not holds],
        looked_at, discover, confirm, min_support,
    )  # fmt: skip


def outermost(told: list[Slice]) -> list[Slice]:
    """Without those that lie wholly in a wider one: a wider one was chosen after them because it is weak outside of them too."""

    def inside(one: Slice, other: Slice) -> bool:
        return bool((other.rows & ~one.rows).any() and not (one.rows & ~other.rows).any())

    return [one for one in told if not any(inside(one, other) for other in told)]


def auto_support(num_rows: int) -> int:
    """Rows that a slice of given rows must have on the half on which it is found."""
    return max(10, num_rows // 300)


def halve(num: int, strata: Sequence[Hashable] | None, seed: int) -> tuple[list[int], list[int]]:
    """Two halves of the rows; of each stratum every other row, in a seeded order."""
    groups: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng(seed).permutation(num).tolist():
        groups.setdefault(None if strata is None else strata[row], []).append(row)
    dealt = [row for own in groups.values() for row in own]  # dealt on over the borders: single rows alternate too
    return sorted(dealt[::2]), sorted(dealt[1::2])


def conditions_of(table: Table) -> list[Condition]:
    """Each value of each column, with its rows; values that hold for the very same rows as an earlier one are left out."""
    made: list[Condition] = []
    seen: set[bytes] = set()
    for column, cells in table.items():
        places: dict[str, list[int]] = {}
        for row, cell in enumerate(cells):
            for value in (cell,) if isinstance(cell, str) else cell or ():
                places.setdefault(value, []).append(row)
        for value, rows in places.items():
            mask = np.zeros(len(cells), dtype=bool)
            mask[rows] = True
            if mask.all() or mask.tobytes() in seen:
                continue
            seen.add(mask.tobytes())
            made.append(Condition(column, value, mask))
    return made


@dataclass(slots=True)
class Found:
    """A candidate that passed discovery."""

    conditions: tuple[int, ...]
    rows: Mask
    """[n] of the half on which it was found."""
    score: float
    gap: float


def discovered(
    candidates: list[Candidate], masks: Mask, errors: Numbers, looked_at: int, fdr: float, min_gap: float
) -> list[Found]:
    """Those that are worse than the rest by `min_gap` and pass at the false discovery rate `fdr`."""
    if not candidates:
        return []
    rows = [np.logical_and.reduce(masks[list(one.conditions)]) for one in candidates]
    tests = [one_sided(errors[mask], errors[~mask])[0] for mask in rows]
    # Conjunctions that were looked at and not kept count as tests that failed.
    adjusted = benjamini_hochberg([*tests, *[1.0] * max(0, looked_at - len(tests))])
    made = [
        Found(one.conditions, mask, one.score, gap_of(errors, mask, np.ones(len(errors), dtype=bool)))
        for one, mask in zip(candidates, rows, strict=True)
    ]
    return [one for one, p in zip(made, adjusted, strict=False) if p <= fdr and one.gap >= min_gap]


def gap_of(errors: Numbers, rows: Mask, among: Mask) -> float:
    """Mean error of `rows` less that of the others `among`; 0 where one side is empty."""
    mine, others = errors[rows], errors[among & ~rows]
    return float(mine.mean() - others.mean()) if len(mine) and len(others) else 0.0


def choose(
    found: list[Found],
    errors: Numbers,
    rank: Mapping[int, int],
    late: set[int],
    min_support: int,
    min_gap: float,
    top_k: int,
) -> list[Found]:
    """The few that say it all, best first: what an earlier one explains is not told again. `late`: conditions of the columns
    that describe only what no other column does.

    A slice stays only if it is weak without the rows of those before it; and it gives way to a wider or plainer
    description where what that one adds is weak as well.
    """
    kept: list[Found] = []
    left = np.ones(len(errors), dtype=bool)
    for one in found:
        if len(kept) == top_k:
            break
        new = one.rows & left
        if new.sum() < min_support or gap_of(errors, new, left) < min_gap:
            continue
        plain = late.isdisjoint(one.conditions)
        others = [other for other in found if late.isdisjoint(other.conditions)] if plain else found
        core = weak_throughout(one, others, errors, left, min_support, min_gap)
        best = plainest(core, others, errors, left, rank, min_gap)
        kept.append(best)
        left &= ~best.rows
    return kept


def weak_throughout(
    one: Found, found: list[Found], errors: Numbers, left: Mask, min_support: int, min_gap: float
) -> Found:
    """The slice, or the widest part of it (in as few conditions) outside of which it is not weak: a large slice with a very
    weak core has a high score, and telling it would blame rows that are well."""
    parts = []
    for other in found:
        core, shared = other.rows & left, (other.rows & one.rows & left).sum()
        if len(other.conditions) > len(one.conditions) or shared < max(min_support, MOSTLY * core.sum()):
            continue
        outside = one.rows & ~other.rows & left
        own = gap_of(errors, core, left)
        if outside.any() and own >= min_gap and gap_of(errors, outside, left & ~core) < max(min_gap, 0.5 * own):
            parts.append(other)
    return max(parts, key=lambda other: float(errors[other.rows & left].sum()), default=one)


def plainest(
    one: Found, found: list[Found], errors: Numbers, left: Mask, rank: Mapping[int, int], min_gap: float
) -> Found:
    """The shortest description of the same weakness; of equally short ones the widest, then that of the first columns."""
    lost, own = errors[one.rows & left].sum(), gap_of(errors, one.rows & left, left)
    fitting = [one]
    for other in found:
        if len(other.conditions) > len(one.conditions) or errors[one.rows & other.rows & left].sum() < SAME_LOSS * lost:
            continue
        more = other.rows & ~one.rows & left
        few = more.sum() < max(3, 0.1 * one.rows.sum())
        as_weak = gap_of(errors, more, left & ~one.rows) >= max(min_gap, 0.5 * own)
        if gap_of(errors, other.rows & left, left) >= STILL_WEAK * own and (few or as_weak):
            fitting.append(other)

    def order(other: Found) -> Any:
        wide = -round(float(errors[other.rows & left].sum() / max(lost, 1e-12)), 1)
        return len(other.conditions), wide, [rank[at] for at in other.conditions], -other.gap

    return min(fitting, key=order)


def confirmed_on(rows: NDArray[np.int64], conditions: Sequence[Condition], losses: Numbers) -> Slice:
    """The slice on the rows that confirm, with the p-value of being no worse than the others."""
    whole = np.logical_and.reduce([one.rows for one in conditions])
    mine, others = losses[rows][whole[rows]], losses[rows][~whole[rows]]
    p, test = one_sided(mine, others)
    gap = gap_score(mine.tolist(), others.tolist())
    error, rest = (float(part.mean()) if len(part) else 0.0 for part in (mine, others))
    share = len(mine) / max(1, len(rows))
    return Slice(
        {one.column: one.value for one in conditions}, whole, len(mine), error, rest,
        gap, p, p, test, (error - rest) * share,
    )  # fmt: skip


def one_sided(mine: Numbers, others: Numbers) -> tuple[float, str]:
    """(p-value of `mine` being no larger than `others`, name of the test).

    Rows that are right or wrong: Fisher's exact test. Other errors: Welch's t-test; below 30 rows Fisher's test on losing
    more than the median of the others.
    """
    from scipy.stats import ttest_ind

    if not len(mine) or not len(others):
        return 1.0, "none: one side has no rows"
    binary = bool(np.isin(mine, (0, 1)).all() and np.isin(others, (0, 1)).all())
    if not binary and min(len(mine), len(others)) >= EXACT_BELOW:
        if mine.std() == 0 and others.std() == 0:
            return (0.0 if mine[0] > others[0] else 1.0), "Welch"
        return float(ttest_ind(mine, others, equal_var=False, alternative="greater").pvalue), "Welch"
    border = 0.5 if binary else float(np.median(others))
    a, b = int((mine > border).sum()), int((others > border).sum())
    return fisher_worse(len(mine) - a, len(mine), len(others) - b, len(others)), "Fisher"
