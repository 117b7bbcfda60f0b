"""Find weak slices on one half of the rows, confirm them on the other, and describe each with as few conditions as possible.

The error of a slice on the rows that found it is biased upwards (the winner's curse), so all reported numbers come from the
half that confirms.
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

CellValue = str | tuple[str, ...] | None
"""A row's value of a column; several where it meets several conditions (`>= 10 tokens` and `>= 20 tokens`)."""
Table = Mapping[str, Sequence[CellValue]]

EXACT_BELOW = 30
"""Number of rows below which only an exact test may claim a slice."""
SAME_LOSS = 0.9
"""Share of a slice's error sum that another description must contain to replace it."""
STILL_WEAK = 0.75
"""Share of a slice's gap that a wider description must have."""
MOSTLY = 0.75
"""Share of the rows of a candidate part that must be in the slice."""
CANDIDATES = 400
"""Number of conjunctions that the search retains; the reported slices are chosen from them."""


@dataclass(slots=True)
class Condition:
    """One column and one of its values."""

    column: str
    value: str
    rows: Mask
    """[N] rows that meet it."""


@dataclass(slots=True)
class Slice:
    """A slice with its numbers on the confirming half."""

    conditions: dict[str, str]
    """Column to value."""
    rows: Mask
    """[N] of all rows, both halves."""
    n: int
    """Rows of the confirming half; all numbers below are of this half."""
    error: float
    rest: float
    """Mean error of all other rows."""
    gap: Score
    """error - rest, with its 95 % interval."""
    p: float
    p_holm: float
    test: str
    priority: float
    """gap x share of rows: the fall of the mean error if the slice were as good as the rest."""

    @property
    def words(self) -> str:
        """The conditions as `column value, column value`."""
        return ", ".join(f"{column} {value}" for column, value in self.conditions.items())


@dataclass(slots=True)
class Search:
    """The result of find_slices."""

    confirmed: list[Slice]
    not_confirmed: list[Slice]
    num_evaluated: int
    """Number of conjunctions that were evaluated."""
    discover: NDArray[np.int64]
    """Rows of the half on which slices are searched."""
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
    """Find conjunctions of values of `table` (columns of N cells) with `errors` [N] (0: right) larger by `min_gap`.

    `strata`: both halves have the same number of rows of each; `halves`: rows to discover and to confirm on, where given.
    `last`: columns that describe a slice only where no other column does, e.g. clusters that a person must interpret.
    Discovery takes what passes Benjamini & Hochberg (1995) at `fdr` over all evaluated conjunctions. Confirmation takes what
    passes Holm (1979) at `level` over the tested ones, `top_k` at most.
    """
    losses = np.asarray(errors, dtype=np.float64)
    if len(losses) and (not np.isfinite(losses).all() or losses.min() < 0):
        raise ValueError("errors must be finite and not negative")
    # 1. Two halves, and the conditions with enough rows on the first.
    parts = halves or halve(len(losses), strata, seed)
    discover, confirm = (np.asarray(part, dtype=np.int64) for part in parts)
    conditions = [condition for condition in marks(table) if condition.rows[discover].sum() >= min_support]
    names = list(dict.fromkeys(condition.column for condition in conditions))
    discovery_errors = losses[discover]
    masks = np.array([condition.rows[discover] for condition in conditions], dtype=bool)
    masks = masks.reshape(len(conditions), len(discover))
    # 2. Search conjunctions; every single condition is a candidate too.
    candidates, num_evaluated = search(
        masks, [names.index(condition.column) for condition in conditions], discovery_errors,
        max_order=max_order, min_support=min_support, alpha=alpha, keep=CANDIDATES,
    )  # fmt: skip
    known = {candidate.conditions for candidate in candidates}
    candidates += [
        candidate for candidate in single(masks, discovery_errors, alpha) if candidate.conditions not in known
    ]
    # 3. Test them on the first half, and choose few that explain the errors.
    rank = {number: names.index(condition.column) for number, condition in enumerate(conditions)}
    passed = discovered(candidates, masks, discovery_errors, num_evaluated, fdr, min_gap)
    late = {number for number, condition in enumerate(conditions) if condition.column in last}
    passed.sort(key=lambda candidate: not late.isdisjoint(candidate.conditions))  # stable: best first
    chosen = choose(passed, discovery_errors, rank, late, min_support, min_gap, top_k)
    # 4. Test the chosen ones on the second half, where nothing was searched.
    tested = [confirmed_on(confirm, [conditions[at] for at in candidate.conditions], losses) for candidate in chosen]
    for weak_slice, p in zip(tested, holm([weak_slice.p for weak_slice in tested]), strict=True):
        weak_slice.p_holm = float(p)
    tested.sort(key=lambda weak_slice: -weak_slice.priority)
    # The gap must still be min_gap there, not only significant.
    sure = [weak_slice.p_holm <= level and weak_slice.gap.value >= min_gap for weak_slice in tested]
    return Search(
        outermost([weak_slice for weak_slice, is_sure in zip(tested, sure, strict=True) if is_sure]),
        [weak_slice for weak_slice, is_sure in zip(tested, sure, strict=True) if not is_sure],
        num_evaluated, discover, confirm, min_support,
    )  # fmt: skip


def outermost(slices: list[Slice]) -> list[Slice]:
    """Return the slices that are not inside a wider one: `choose` adds a wider one where it is weak outside of them too."""

    def inside(inner: Slice, outer: Slice) -> bool:
        return bool((outer.rows & ~inner.rows).any() and not (inner.rows & ~outer.rows).any())

    return [inner for inner in slices if not any(inside(inner, outer) for outer in slices)]


def auto_support(num_rows: int) -> int:
    """Return the number of rows that a slice must have on the discovery half."""
    return max(10, num_rows // 300)


def halve(num: int, strata: Sequence[Hashable] | None, seed: int) -> tuple[list[int], list[int]]:
    """Split rows into two halves, alternating within each stratum in a seeded order."""
    groups: dict[Hashable, list[int]] = {}
    for row in np.random.default_rng(seed).permutation(num).tolist():
        groups.setdefault(None if strata is None else strata[row], []).append(row)
    # One list over all strata, so that strata of a single row alternate too.
    dealt = [row for rows in groups.values() for row in rows]
    return sorted(dealt[::2]), sorted(dealt[1::2])


def marks(table: Table) -> list[Condition]:
    """Return each value of each column with its rows; a value with exactly the rows of an earlier one is left out."""
    conditions: list[Condition] = []
    seen: set[bytes] = set()
    for column, cells in table.items():
        rows_of: dict[str, list[int]] = {}
        for row, cell in enumerate(cells):
            for value in (cell,) if isinstance(cell, str) else cell or ():
                rows_of.setdefault(value, []).append(row)
        for value, rows in rows_of.items():
            mask = np.zeros(len(cells), dtype=bool)
            mask[rows] = True
            if mask.all() or mask.tobytes() in seen:
                continue
            seen.add(mask.tobytes())
            conditions.append(Condition(column, value, mask))
    return conditions


@dataclass(slots=True)
class DiscoveredSlice:
    """A candidate that passed the test on the discovery half."""

    conditions: tuple[int, ...]
    rows: Mask
    """[n] rows of the discovery half."""
    score: float
    gap: float


def discovered(
    candidates: list[Candidate], masks: Mask, errors: Numbers, num_evaluated: int, fdr: float, min_gap: float
) -> list[DiscoveredSlice]:
    """Return the candidates that are worse than the rest by `min_gap` and pass at the false discovery rate `fdr`."""
    if not candidates:
        return []
    rows = [np.logical_and.reduce(masks[list(candidate.conditions)]) for candidate in candidates]
    tests = [one_sided(errors[mask], errors[~mask])[0] for mask in rows]
    # Conjunctions that were evaluated and not retained count as failed tests.
    adjusted = benjamini_hochberg([*tests, *[1.0] * max(0, num_evaluated - len(tests))])
    all_rows = np.ones(len(errors), dtype=bool)
    slices = [
        DiscoveredSlice(candidate.conditions, mask, candidate.score, gap_of(errors, mask, all_rows))
        for candidate, mask in zip(candidates, rows, strict=True)
    ]
    return [candidate for candidate, p in zip(slices, adjusted, strict=False) if p <= fdr and candidate.gap >= min_gap]


def gap_of(errors: Numbers, rows: Mask, among: Mask) -> float:
    """Return the mean error of `rows` minus that of the others `among`; 0 where one side is empty."""
    mine, others = errors[rows], errors[among & ~rows]
    return float(mine.mean() - others.mean()) if len(mine) and len(others) else 0.0


def choose(
    candidates: list[DiscoveredSlice],
    errors: Numbers,
    rank: Mapping[int, int],
    late: set[int],
    min_support: int,
    min_gap: float,
    top_k: int,
) -> list[DiscoveredSlice]:
    """Choose few slices that explain the errors, best first; `late`: conditions of the columns in `last` of find_slices.

    A candidate is chosen only if it is weak without the rows of those before it. A wider or shorter description replaces it
    where the rows that this description adds are weak as well.
    """
    chosen: list[DiscoveredSlice] = []
    left = np.ones(len(errors), dtype=bool)
    for candidate in candidates:
        if len(chosen) == top_k:
            break
        new = candidate.rows & left
        if new.sum() < min_support or gap_of(errors, new, left) < min_gap:
            continue
        plain = late.isdisjoint(candidate.conditions)
        alternatives = [each for each in candidates if late.isdisjoint(each.conditions)] if plain else candidates
        core = weak_throughout(candidate, alternatives, errors, left, min_support, min_gap)
        best = plainest(core, alternatives, errors, left, rank, min_gap)
        chosen.append(best)
        left &= ~best.rows
    return chosen


def weak_throughout(
    candidate: DiscoveredSlice,
    alternatives: list[DiscoveredSlice],
    errors: Numbers,
    left: Mask,
    min_support: int,
    min_gap: float,
) -> DiscoveredSlice:
    """Return the slice, or its widest part (in as few conditions) outside of which the slice is not weak.

    A large slice with a very weak core has a high score, and reporting all of it would blame rows that are fine.
    """
    parts = []
    for part in alternatives:
        core, shared = part.rows & left, (part.rows & candidate.rows & left).sum()
        if len(part.conditions) > len(candidate.conditions) or shared < max(min_support, MOSTLY * core.sum()):
            continue
        outside = candidate.rows & ~part.rows & left
        gap = gap_of(errors, core, left)
        if outside.any() and gap >= min_gap and gap_of(errors, outside, left & ~core) < max(min_gap, 0.5 * gap):
            parts.append(part)
    return max(parts, key=lambda part: float(errors[part.rows & left].sum()), default=candidate)


def plainest(
    candidate: DiscoveredSlice,
    alternatives: list[DiscoveredSlice],
    errors: Numbers,
    left: Mask,
    rank: Mapping[int, int],
    min_gap: float,
) -> DiscoveredSlice:
    """Return the shortest description of the same weakness; of equally short ones the widest, then that of the first columns."""
    rows = candidate.rows
    lost, gap = errors[rows & left].sum(), gap_of(errors, rows & left, left)
    fitting = [candidate]
    for other_slice in alternatives:
        is_longer = len(other_slice.conditions) > len(candidate.conditions)
        if is_longer or errors[rows & other_slice.rows & left].sum() < SAME_LOSS * lost:
            continue
        more = other_slice.rows & ~rows & left
        few = more.sum() < max(3, 0.1 * rows.sum())
        as_weak = gap_of(errors, more, left & ~rows) >= max(min_gap, 0.5 * gap)
        if gap_of(errors, other_slice.rows & left, left) >= STILL_WEAK * gap and (few or as_weak):
            fitting.append(other_slice)

    def order(description: DiscoveredSlice) -> Any:
        wide = -round(float(errors[description.rows & left].sum() / max(lost, 1e-12)), 1)
        return len(description.conditions), wide, [rank[at] for at in description.conditions], -description.gap

    return min(fitting, key=order)


def confirmed_on(rows: NDArray[np.int64], conditions: Sequence[Condition], losses: Numbers) -> Slice:
    """Return the slice with its numbers on the confirming rows, and the p-value that it is no worse than the others."""
    mask = np.logical_and.reduce([condition.rows for condition in conditions])
    mine, others = losses[rows][mask[rows]], losses[rows][~mask[rows]]
    p, test = one_sided(mine, others)
    gap = gap_score(mine.tolist(), others.tolist())
    error, rest = (float(part.mean()) if len(part) else 0.0 for part in (mine, others))
    share = len(mine) / max(1, len(rows))
    return Slice(
        {condition.column: condition.value for condition in conditions}, mask, len(mine), error, rest,
        gap, p, p, test, (error - rest) * share,
    )  # fmt: skip


def one_sided(mine: Numbers, others: Numbers) -> tuple[float, str]:
    """Return (p-value that `mine` is no larger than `others`, name of the test).

    Errors of 0 and 1: Fisher's exact test. Other errors: Welch's t-test; below 30 rows Fisher's test on exceeding the median
    of the others.
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
