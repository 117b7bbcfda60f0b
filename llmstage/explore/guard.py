"""Whether a new model is better where the old one was weak, and no worse elsewhere. Numbers in, verdicts out.

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
from llmstage.explore.wording import named, say

Numbers = NDArray[np.float64]
Mask = NDArray[np.bool_]

WIDEST = 3.0
"""A family whose rows resolve no margin below so many times the one asked for cannot be decided (EMERGENCE.md 2.6: .03)."""
LEVEL = 0.05


@dataclass(slots=True)
class Scores:
    """One model on the rows of the final comparison."""

    errors: Numbers
    """[N]"""
    nats: Numbers | None
    """[N] nats a token of the right answer beside errors of another kind; None where there are none."""


@dataclass(slots=True)
class Family:
    """A group of rows on which nothing may be lost."""

    name: str
    n: int
    error_before: float
    error_after: float
    change: float
    """Of the mean error; above 0 is better."""
    low: float
    high: float
    margin: float
    """The loss that is excluded where it passed."""
    p_holm: float
    passed: bool
    why: str
    undecided: bool = False
    """Its rows are too few to say whether anything was lost."""


@dataclass(slots=True)
class Guard:
    """The verdict on one candidate."""

    families: list[Family]
    lm_loss: dict[str, Any] | None
    """{"before", "after", "rise", "limit", "passed"} in nats a token; None where the task has no such loss, or was not asked."""
    passed: bool
    why: str
    """Empty where it passed."""

    def as_dict(self) -> dict[str, Any]:
        return asdict(self)


def judge(
    before: Scores, after: Scores, families: Mapping[str, Mask], margins: Mapping[str, float], *,
    delta: float, lm_loss: float | None, rest: Mask, needed: Mapping[str, int] | None = None, seed: int = 0,
) -> Guard:  # fmt: skip
    """Paired non-inferiority in each family, Holm over the families, and the rise of the language-model loss.

    `families`: [N] rows of each; none holds a row of a weak slice. `margins`: what each resolves, `delta` at least.
    `lm_loss`: nats that the mean loss of the rows `rest` may rise; None: not judged.
    `needed`: rows with which each family could be judged, for the sentence that refuses to.
    """
    tests: list[tuple[str, int, Difference]] = []
    for name, rows in families.items():
        tests.append(
            (name, int(rows.sum()), noninferior(-before.errors[rows], -after.errors[rows], margins[name], seed=seed))
        )
    adjusted = holm([test.p_not_above for _, _, test in tests]) if tests else np.zeros(0)
    told = []
    for (name, n, test), p in zip(tests, adjusted.tolist(), strict=True):
        more = say("guard_rows_needed", needed=needed[name]) if needed else ""
        undecided, why = n < FEWEST_ITEMS or margins[name] > WIDEST * delta, ""
        if n < FEWEST_ITEMS:
            why = say("guard_few", n=n, least=FEWEST_ITEMS) + more
        elif undecided:
            why = say("guard_unresolved", n=n, margin=margins[name]) + more
        elif p > LEVEL:
            change = f"{test.value:+.4f} [{test.low:+.4f}, {test.high:+.4f}]"
            why = say("guard_not_excluded", margin=margins[name], change=change)
            why += rows_to_exclude(before, after, families[name], margins[name] + test.value)
        rows = families[name]
        told.append(
            Family(
                name, n, float(before.errors[rows].mean()) if n else 0.0, float(after.errors[rows].mean()) if n else 0.0,
                test.value, test.low, test.high, margins[name], p, not why, why, undecided,
            )
        )  # fmt: skip
    complaints = [named(one.name, one.why) for one in told if one.why]
    loss = None
    if lm_loss is not None and before.nats is not None and after.nats is not None:
        old, new = float(before.nats[rest].mean()), float(after.nats[rest].mean())
        loss = {"before": old, "after": new, "rise": new - old, "limit": lm_loss, "passed": new - old <= lm_loss}
        if not loss["passed"]:
            complaints.append(say("guard_loss_rose", rise=new - old, limit=lm_loss))
    return Guard(told, loss, not complaints, say("semicolon").join(complaints))


def rows_to_exclude(before: Scores, after: Scores, rows: Mask, room: float) -> str:
    """With how many rows like these a loss would be excluded if the change stays what it is; nothing where it would not be
    however many there were. `room`: from the lost margin to the change."""
    discordance = discordance_of(before.errors, after.errors, rows)
    if room <= 0 or discordance == 0:
        return ""
    return say("guard_rows_if_so", needed=items_for_noninferiority(room, discordance))


def rows_for(discordance: float, delta: float, *, share: bool) -> int:
    """Rows with which a family can be judged: those that resolve the widest margin, `margin_for` the other way round."""
    widest = WIDEST * delta
    # 0 of n lost excludes 1 - .05 ** (1 / n) where rows are right or wrong.
    least = math.ceil(math.log(LEVEL) / math.log1p(-widest)) if share and widest < 1 else 0
    return max(FEWEST_ITEMS, items_for_noninferiority(widest, discordance), least)


def margin_for(n: int, discordance: float, delta: float, *, share: bool) -> float:
    """The loss that n given rows can exclude with power .8, `delta` at least. `discordance`: mean squared difference of the
    errors of two seeds of the unchanged arm (for right and wrong: the share of rows that change by luck).

    Where nothing changed at all, a bootstrap would exclude any loss; n rows of right and wrong exclude what 0 of n does.
    """
    floor = upper_bound(0, n) if share and n else 0.0
    return max(delta, margin_of(n, discordance), floor)


def discordance_of(one: Numbers, other: Numbers, rows: Mask) -> float:
    """Mean squared difference between two models' errors; for 0 and 1 the share of rows on which they differ."""
    return float(np.mean((one[rows] - other[rows]) ** 2)) if rows.any() else 0.0


def gain(before: Numbers, after: Numbers, rows: Mask, seed: int = 0) -> Difference:
    """What `rows` have gained, with its paired bootstrap interval; above 0 is better."""
    return paired_difference(-before[rows], -after[rows], seed=seed)
