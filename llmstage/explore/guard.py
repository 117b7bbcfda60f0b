"""Judge whether a new model is better where the old one was weak, and no worse elsewhere: numbers in, verdicts out.

Errors are per row (0: right) and paired: the same rows before and after. A change is error before - error after, so that
above 0 is better, for shares of rows as for nats.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from llmstage.explore.stats import (
    FEWEST_ITEMS,
    Difference,
    holm,
    items_for_noninferiority,
    margin_of,
    noninferior,
    paired_difference,
    upper_bound,
)
from llmstage.explore.wording import named, sentence

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

WIDEST = 3.0
"""A row group that can exclude only losses above this multiple of the allowed one is undecided (EMERGENCE.md 2.6: .03)."""
LEVEL = 0.05


@dataclass(slots=True)
class Scores:
    """The errors of one model on the rows of the final comparison."""

    errors: Numbers
    """[N]"""
    nats: Numbers | None
    """[N] nats per token of the right answer, where the errors are of another type; None where there are none."""


@dataclass(slots=True)
class RowGroup:
    """The verdict on a group of rows on which nothing may be lost."""

    name: str
    n: int
    error_before: float
    error_after: float
    change: float
    """Of the mean error; above 0 is better."""
    low: float
    high: float
    margin: float
    """The loss that is excluded where the group passed."""
    p_holm: float
    passed: bool
    why: str
    undecided: bool = False
    """Whether its rows are too few to say if anything was lost."""


@dataclass(slots=True)
class Guard:
    """The verdict on one candidate."""

    families: list[RowGroup]
    lm_loss: dict[str, Any] | None
    """{"before", "after", "rise", "limit", "passed"} in nats per token; None where the task has no such loss, or no limit is set."""
    passed: bool
    why: str
    """Empty where it passed."""

    def as_dict(self) -> dict[str, Any]:
        """Return the JSON object of the verdict."""
        return asdict(self)


def judge(
    before: Scores, after: Scores, families: Mapping[str, Mask], margins: Mapping[str, float], *,
    delta: float, lm_loss: float | None, rest: Mask, needed: Mapping[str, int] | None = None, seed: int = 0,
) -> Guard:  # fmt: skip
    """Test each row group for non-inferiority, paired, with Holm over the groups, and limit the rise of the language-model loss.

    `families`: [N] rows of each group; none contains a row of a weak slice. `margins`: the loss that each group can exclude,
    at least `delta`. `lm_loss`: allowed rise of the mean loss of the rows `rest` in nats; None: not tested.
    `needed`: number of rows with which each group could be judged, for the message of an undecided group.
    """
    # 1. One test for each group.
    tests: list[tuple[str, int, Difference]] = []
    for name, rows in families.items():
        tests.append(
            (name, int(rows.sum()), noninferior(-before.errors[rows], -after.errors[rows], margins[name], seed=seed))
        )
    adjusted = holm([test.p_not_above for _, _, test in tests]) if tests else np.zeros(0)
    # 2. A verdict for each group, with the reason where it did not pass.
    groups = []
    for (name, n, test), p in zip(tests, adjusted.tolist(), strict=True):
        more = sentence("guard_rows_needed", needed=needed[name]) if needed else ""
        undecided, why = n < FEWEST_ITEMS or margins[name] > WIDEST * delta, ""
        if n < FEWEST_ITEMS:
            why = sentence("guard_few", n=n, least=FEWEST_ITEMS) + more
        elif undecided:
            why = sentence("guard_unresolved", n=n, margin=margins[name]) + more
        elif p > LEVEL:
            change = f"{test.value:+.4f} [{test.low:+.4f}, {test.high:+.4f}]"
            why = sentence("guard_not_excluded", margin=margins[name], change=change)
            why += rows_to_exclude(before, after, families[name], margins[name] + test.value)
        rows = families[name]
        groups.append(
            RowGroup(
                name, n, float(before.errors[rows].mean()) if n else 0.0, float(after.errors[rows].mean()) if n else 0.0,
                test.value, test.low, test.high, margins[name], p, not why, why, undecided,
            )
        )  # fmt: skip
    complaints = [named(group.name, group.why) for group in groups if group.why]
    # 3. The loss of all other rows.
    loss = None
    if lm_loss is not None and before.nats is not None and after.nats is not None:
        old, new = float(before.nats[rest].mean()), float(after.nats[rest].mean())
        loss = {"before": old, "after": new, "rise": new - old, "limit": lm_loss, "passed": new - old <= lm_loss}
        if not loss["passed"]:
            complaints.append(sentence("guard_loss_rose", rise=new - old, limit=lm_loss))
    return Guard(groups, loss, not complaints, sentence("semicolon").join(complaints))


def rows_to_exclude(before: Scores, after: Scores, rows: Mask, distance: float) -> str:
    """Return how many rows like these would exclude a loss if the change stays the same; empty where no number would.

    `distance`: from the excluded margin to the change.
    """
    discordance = discordance_of(before.errors, after.errors, rows)
    if distance <= 0 or discordance == 0:
        return ""
    return sentence("guard_rows_if_so", needed=items_for_noninferiority(distance, discordance))


def rows_for(discordance: float, delta: float, *, share: bool) -> int:
    """Return the number of rows with which a group can be judged: the inverse of `margin_for` at the widest margin."""
    widest = WIDEST * delta
    # 0 of n lost excludes 1 - .05 ** (1 / n) where rows are right or wrong.
    least = math.ceil(math.log(LEVEL) / math.log1p(-widest)) if share and widest < 1 else 0
    return max(FEWEST_ITEMS, items_for_noninferiority(widest, discordance), least)


def margin_for(n: int, discordance: float, delta: float, *, share: bool) -> float:
    """Return the loss that n rows can exclude with power .8, at least `delta`.

    `discordance`: mean squared difference between the errors of two seeds of the unchanged variant; for right and wrong it is
    the share of rows that change by chance. Where nothing changed, a bootstrap would exclude any loss; n rows of right and
    wrong exclude what 0 of n excludes.
    """
    floor = upper_bound(0, n) if share and n else 0.0
    return max(delta, margin_of(n, discordance), floor)


def discordance_of(first: Numbers, second: Numbers, rows: Mask) -> float:
    """Return the mean squared difference between two models' errors; for 0 and 1 the share of rows on which they differ."""
    return float(np.mean((first[rows] - second[rows]) ** 2)) if rows.any() else 0.0


def gain(before: Numbers, after: Numbers, rows: Mask, seed: int = 0) -> Difference:
    """Return the gain on `rows`, with its paired bootstrap interval; above 0 is better."""
    return paired_difference(-before[rows], -after[rows], seed=seed)
