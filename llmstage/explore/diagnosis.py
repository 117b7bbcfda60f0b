"""Diagnose why a slice is weak: collect evidence, each a number with a sentence, and derive one action."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.explore.slices import Slice, Table
from llmstage.explore.wording import sentence
from llmstage.report.files import read_lines

LOW_COVERAGE = 0.34
"""Coverage ratio below which the pool has too few rows of a slice. With generated rows a tenth would do; with real rows,
buckets of length also contain similar rows that training had (measured on banking77: 0.25)."""
MANY_TOKENS = 1.5
"""Tokens per character, relative to the rest, from which on the tokenizer is a likely cause."""
CONFIDENT = 0.8
"""Mean confidence in wrong answers from which on the report says that the model is confident and wrong."""
SMALL_NATS = 0.1
"""Nats per token above the rest below which the right text counts as equally likely."""


@dataclass(slots=True)
class Evidence:
    """The measurements on one slice; None where a number is not available."""

    coverage: float | None = None
    """Share of the training pool that is like the slice."""
    expected: float | None = None
    """Share of the scored rows that is like the slice."""
    elicited: dict[int, float] = field(default_factory=dict)
    """Number of slice rows on which a copy trained for a few steps, to its error on other rows of the slice."""
    error: float = 0.0
    """Error of the model on the slice without that training."""
    rest: float = 0.0
    elicit_note: str = ""
    """Why this training was not tried, or what it lost elsewhere."""
    bigger: dict[str, float] = field(default_factory=dict)
    """Larger model to its error on the slice."""
    slope: float | None = None
    """Change of the validation metric per 100 steps at the end of training, positive is better; None where it is not
    significant."""
    token_ratio: float | None = None
    """Tokens per character, relative to the rest."""
    wrong_confidence: float | None = None
    """Mean confidence in wrong predictions."""
    unseen: tuple[float, float] | None = None
    """Share of rows with a word that no training row has: in the slice, in the rest."""
    nats: float | None = None
    """Nats per token of the right text, minus that of the rest."""

    @property
    def ratio(self) -> float | None:
        """Coverage divided by the expected share; 1: as frequent in the pool as among the scored rows."""
        return None if self.coverage is None or not self.expected else self.coverage / self.expected

    @property
    def elicits(self) -> bool | None:
        """Whether a few steps closed half of the gap; None where this was not tried."""
        if not self.elicited:
            return None
        return min(self.elicited.values()) <= self.rest + 0.5 * (self.error - self.rest)

    @property
    def bigger_helps(self) -> bool | None:
        """Whether a larger model closes half of the gap."""
        if not self.bigger:
            return None
        return min(self.bigger.values()) <= self.rest + 0.5 * (self.error - self.rest)


def action_of(evidence: Evidence, conditions: Mapping[str, str]) -> str:
    """Return the action that the evidence supports: missing data first, then other explanations."""
    ratio, beyond = evidence.ratio, conditions.get("length", "").startswith(">=")
    if ratio is not None and ratio < LOW_COVERAGE:
        if beyond and evidence.coverage == 0 and evidence.elicits is False:
            # It fails beyond all training lengths, and rows of that length do not help in a few steps.
            return "structure"
        # That a few steps do not help is no proof: 64 rows do not teach long texts of many types.
        return "structure" if evidence.elicits is False and evidence.bigger_helps else "data"
    if evidence.nats is not None and evidence.nats < SMALL_NATS:
        return "decode"
    if evidence.elicits:
        return "data"
    if evidence.slope is not None and evidence.slope > 0:
        return "train"
    if evidence.token_ratio is not None and evidence.token_ratio >= MANY_TOKENS:
        return "tokenizer"
    if evidence.bigger_helps:
        return "structure"
    return "undecided"


def sentences_of(evidence: Evidence, score: Any) -> list[str]:
    """Return the evidence as sentences. `score`: converts an error into the metric of the reader."""
    lines = []
    if evidence.coverage is not None and evidence.expected is not None:
        lines.append(sentence("why_coverage", coverage=evidence.coverage, expected=evidence.expected))
    for number, error in evidence.elicited.items():
        key = "why_elicits" if error <= evidence.rest + 0.5 * (evidence.error - evidence.rest) else "why_elicits_not"
        lines.append(
            sentence(key, number=number, score=score(error), was=score(evidence.error), rest=score(evidence.rest))
        )
    if evidence.elicit_note:
        lines.append(evidence.elicit_note)
    for name, error in evidence.bigger.items():
        lines.append(sentence("why_size", name=name, score=score(error)))
    if evidence.slope is not None:
        lines.append(sentence("why_slope", slope=evidence.slope))
    if evidence.token_ratio is not None and evidence.token_ratio >= MANY_TOKENS:
        lines.append(sentence("why_tokens", pieces=evidence.token_ratio))
    if evidence.wrong_confidence is not None and evidence.wrong_confidence >= CONFIDENT:
        lines.append(sentence("why_sure", sure=evidence.wrong_confidence))
    if evidence.unseen is not None and evidence.unseen[0] >= 2 * max(evidence.unseen[1], 0.05):
        lines.append(sentence("why_unseen", mine=evidence.unseen[0], rest=evidence.unseen[1]))
    if evidence.nats is not None:
        lines.append(sentence("why_nats", nats=evidence.nats))
    return lines


def advice(evidence: Evidence, action: str) -> str:
    """Return what the action means for this slice, as a sentence."""
    if action == "data":
        few = evidence.ratio is not None and evidence.ratio < LOW_COVERAGE
        return sentence("advice_data_few" if few else "advice_data_learned")
    return sentence(f"advice_{action}")


def pool_mask(conditions: Mapping[str, str], pool: Table) -> np.ndarray | None:
    """Return the mask [N] of the pool rows that meet all conditions; None where the pool has no such column."""
    if any(column not in pool for column in conditions):
        return None
    mask: np.ndarray = np.logical_and.reduce([holds(pool[column], value) for column, value in conditions.items()])
    return mask


def holds(cells: Sequence[Any], value: str) -> np.ndarray:
    """Return the mask [N] of the cells that contain `value`."""
    return np.array([value in ((cell,) if isinstance(cell, str) else cell or ()) for cell in cells], dtype=bool)


def slope_of(run_dir: Path | None, metric: str, higher_is_better: bool) -> float | None:
    """Return the slope of the validation metric over the last third of the steps, per 100 steps; None where not significant."""
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


def token_ratio(weak_slice: Slice, texts: Sequence[str], tokens: Sequence[int]) -> float | None:
    """Return the tokens per character of the slice's texts divided by those of the others."""
    characters = np.array([max(1, len(text)) for text in texts], dtype=np.float64)
    counts = np.asarray(tokens, dtype=np.float64)
    if not weak_slice.rows.any() or weak_slice.rows.all():
        return None
    mine, others = (counts[rows].sum() / characters[rows].sum() for rows in (weak_slice.rows, ~weak_slice.rows))
    return float(mine / others) if others else None


def mean_where(values: Sequence[float | None], rows: np.ndarray) -> float | None:
    """Return the mean of the known values of a mask of rows."""
    known = [value for value, inside in zip(values, rows, strict=True) if inside and value is not None]
    return float(np.mean(known)) if known else None
