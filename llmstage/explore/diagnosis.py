"""Why a slice is weak, and what follows from it: evidence, each a number with a sentence, and one action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.explore.slices import Slice, Table
from llmstage.explore.wording import say
from llmstage.report.files import read_lines

THIN = 0.34
"""Share of the rows one would expect in the pool below which the pool hardly holds a slice. A tenth, where rows are made to
measure; of real rows, buckets of length also take in neighbours that training had (measured on banking77: 0.25)."""
PIECES = 1.5
"""Tokens per character, against the rest, from which on the tokenizer is suspected."""
SURE = 0.8
"""Mean confidence in wrong answers from which on a model is called confident and wrong."""
SMALL_NATS = 0.1
"""Nats a token, against the rest, under which the right text is as likely as elsewhere."""


@dataclass(slots=True)
class Reason:
    """What was asked of one slice; a number that could not be had is None."""

    coverage: float | None = None
    """Share of the training pool that is like the slice."""
    expected: float | None = None
    """Share of the scored rows that is."""
    elicited: dict[int, float] = field(default_factory=dict)
    """Rows of the slice that a copy was trained on for a few steps, to its error on others of them."""
    error: float = 0.0
    """Its error on those without the training."""
    rest: float = 0.0
    elicit_note: str = ""
    """Why it was not tried, or what it cost elsewhere."""
    bigger: dict[str, float] = field(default_factory=dict)
    """Larger model to its error on the slice."""
    slope: float | None = None
    """Change of the validation metric in 100 steps at the end of training, in the direction that is better; None where it
    does not stand out from the noise."""
    pieces: float | None = None
    """Tokens per character, as a multiple of that of the rest."""
    sure: float | None = None
    """Mean confidence in what it got wrong."""
    unseen: tuple[float, float] | None = None
    """Share of its rows with a word that no training row has, and that of the rest."""
    nats: float | None = None
    """Nats a token of the right text, less that of the rest."""

    @property
    def ratio(self) -> float | None:
        """Coverage over what one would expect; 1: as frequent in the pool as among the scored rows."""
        return None if self.coverage is None or not self.expected else self.coverage / self.expected

    @property
    def elicits(self) -> bool | None:
        """Whether a few steps closed half of the gap; None where it was not tried."""
        if not self.elicited:
            return None
        return min(self.elicited.values()) <= self.rest + 0.5 * (self.error - self.rest)

    @property
    def outgrown(self) -> bool | None:
        """Whether a larger model closes half of the gap."""
        if not self.bigger:
            return None
        return min(self.bigger.values()) <= self.rest + 0.5 * (self.error - self.rest)


def action_of(reason: Reason, conditions: Mapping[str, str]) -> str:
    """The table of diagnoses: first what is missing in the data, then what else would explain it."""
    ratio, beyond = reason.ratio, conditions.get("length", "").startswith(">=")
    if ratio is not None and ratio < THIN:
        if beyond and reason.coverage == 0 and reason.elicits is False:
            return (
                "structure"  # fails beyond all lengths it was trained on, and rows of that length do not help at once
            )
        # That a few steps do not help is no proof: long texts of many kinds are not learned from 64 rows.
        return "structure" if reason.elicits is False and reason.outgrown else "data"
    if reason.nats is not None and reason.nats < SMALL_NATS:
        return "decode"
    if reason.elicits:
        return "data"
    if reason.slope is not None and reason.slope > 0:
        return "train"
    if reason.pieces is not None and reason.pieces >= PIECES:
        return "tokenizer"
    if reason.outgrown:
        return "structure"
    return "undecided"


def sentences_of(reason: Reason, score: Any) -> list[str]:
    """The evidence in words. `score`: an error as the reader knows the metric."""
    told = []
    if reason.coverage is not None and reason.expected is not None:
        told.append(say("why_coverage", coverage=reason.coverage, expected=reason.expected))
    for number, error in reason.elicited.items():
        key = "why_elicits" if error <= reason.rest + 0.5 * (reason.error - reason.rest) else "why_elicits_not"
        told.append(say(key, number=number, score=score(error), was=score(reason.error), rest=score(reason.rest)))
    if reason.elicit_note:
        told.append(reason.elicit_note)
    for name, error in reason.bigger.items():
        told.append(say("why_size", name=name, score=score(error)))
    if reason.slope is not None:
        told.append(say("why_slope", slope=reason.slope))
    if reason.pieces is not None and reason.pieces >= PIECES:
        told.append(say("why_pieces", pieces=reason.pieces))
    if reason.sure is not None and reason.sure >= SURE:
        told.append(say("why_sure", sure=reason.sure))
    if reason.unseen is not None and reason.unseen[0] >= 2 * max(reason.unseen[1], 0.05):
        told.append(say("why_unseen", mine=reason.unseen[0], rest=reason.unseen[1]))
    if reason.nats is not None:
        told.append(say("why_nats", nats=reason.nats))
    return told


def advice(reason: Reason, action: str) -> str:
    """What the action means here, in a sentence."""
    if action == "data":
        few = reason.ratio is not None and reason.ratio < THIN
        return say("advice_data_few" if few else "advice_data_learned")
    return say(f"advice_{action}")


def matching(conditions: Mapping[str, str], pool: Table) -> np.ndarray | None:
    """[N] rows of the pool that fulfil all conditions; None where the pool has no such column."""
    if any(column not in pool for column in conditions):
        return None
    found: np.ndarray = np.logical_and.reduce([holds(pool[column], value) for column, value in conditions.items()])
    return found


def holds(cells: Sequence[Any], value: str) -> np.ndarray:
    return np.array([value in ((cell,) if isinstance(cell, str) else cell or ()) for cell in cells], dtype=bool)


def slope_of(run_dir: Path | None, metric: str, higher_is_better: bool) -> float | None:
    """Slope of the validation metric over the last third of a run's steps, in 100 steps; None where it does not differ from 0."""
    from scipy.stats import linregress

    path = run_dir / "metrics.jsonl" if run_dir is not None else None
    if path is None or not path.is_file():
        return None
    points = [(line["step"], line[metric]) for line in read_lines(path) if line.get("kind") == "eval" and isinstance(line.get(metric), (int, float))]  # fmt: skip
    points = [point for point in points if point[0] >= points[-1][0] * 2 / 3]
    if len(points) < 4:
        return None
    fitted = linregress(*zip(*points, strict=True))
    if not fitted.pvalue < 0.05:
        return None
    return float(fitted.slope) * 100 * (1 if higher_is_better else -1)


def pieces_ratio(one: Slice, texts: Sequence[str], tokens: Sequence[int]) -> float | None:
    """Tokens per character of the slice's texts over those of the others."""
    characters = np.array([max(1, len(text)) for text in texts], dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    if not one.rows.any() or one.rows.all():
        return None
    mine, others = (counts[rows].sum() / characters[rows].sum() for rows in (one.rows, ~one.rows))
    return float(mine / others) if others else None


def mean_where(values: Sequence[float | None], rows: np.ndarray) -> float | None:
    known = [value for value, inside in zip(values, rows, strict=True) if inside and value is not None]
    return float(np.mean(known)) if known else None
