"""Keys of stage=explore: weak slices, why they are weak, and what is new in logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config.key_conditions import ReadBy, RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range


def part_of(run: RunFacts, name: str) -> Any:
    """A group of keys of stage=explore; None for another stage."""
    return getattr(run.stage, name, None)


def slices_wanted(run: RunFacts) -> bool:
    """Whether weak slices are looked for: there is a trained model of a task, and nobody switched it off."""
    own = part_of(run, "slices")
    return bool(own is not None and own.enabled and run.model.path and run.task.name and not asks(run))


def asks(run: RunFacts) -> bool:
    """Whether the model is asked questions; the rows of its task are then left alone."""
    return bool(part_of(run, "probes") or part_of(run, "phenomena"))


ASKED = "stage.probes and stage.phenomena ask the model questions of their own; its task's rows are another run"


def _slices(run: RunFacts) -> str | None:
    if slices_wanted(run):
        return None
    if asks(run):
        return ASKED
    off = part_of(run, "slices") is not None and not part_of(run, "slices").enabled
    return "stage.slices.enabled=false" if off else "no model of a task is looked at (model.path=<run>)"


def _collects(run: RunFacts) -> str | None:
    own = part_of(run, "collect")
    if asks(run):
        return ASKED
    return None if own is not None and own.logs else "nothing is collected without stage.novelty.logs=<files>"


SLICES = ReadBy(_slices)
COLLECTS = ReadBy(_collects)


@dataclass(slots=True)
class Slices:
    """How weak slices of the scored rows are looked for."""

    enabled: bool = True
    """Look for weak slices where model.path names a model trained for a task."""
    max_order: Annotated[int, Range(1, 3), SLICES] = 3
    """Conditions that may be put together to describe a slice."""
    min_support: Annotated[Literal["auto"] | int, AT_LEAST_1, SLICES] = "auto"
    """Rows that a slice needs on the half on which it is found; auto: a 300th of all rows, at least 10."""
    alpha: Annotated[float, Range(0, 1, open_low=True), SLICES] = 0.95
    """Weight of the error against the size in SliceLine's score; smaller values find larger slices."""
    min_gap: Annotated[float, POSITIVE, SLICES] = 0.10
    """How much worse than the rest a slice must be: of a share so much of it, of a loss so many nats a token."""
    top_k: Annotated[int, AT_LEAST_1, SLICES] = 10
    """Slices that are put to the test on the other half, at most."""
    features: Annotated[Literal["auto"] | list[str], SLICES] = "auto"
    """Columns that slices may be described by, e.g. [label,length]; auto: all that can be said of a row."""
    fdr: Annotated[float, SHARE, SLICES] = 0.10
    """False discovery rate of the search (Benjamini and Hochberg)."""
    level: Annotated[float, SHARE, SLICES] = 0.05
    """Chance of any false claim among the confirmed slices (Holm)."""
    overlap: Annotated[Literal["refuse", "drop"], SLICES] = "refuse"
    """Scored rows that stand in the training pool too: from one in a hundred on the run is refused (fewer are left out and
    told); drop: they are left out however many there are."""
    examples: Annotated[int, NOT_NEGATIVE, SLICES] = 5
    """Rows shown of each weak slice."""


@dataclass(slots=True)
class Diagnosis:
    """What is asked of each confirmed slice."""

    coverage: Annotated[bool, SLICES] = True
    """Compare the slice's share of the training pool with its share of the scored rows."""
    elicit: Annotated[list[Annotated[int, AT_LEAST_1]], SLICES] = field(default_factory=lambda: [64, 256])
    """Train a copy for a few steps on so many rows of the slice and score it: what can be learned quickly lacks data, not
    structure. []: not asked."""
    elicit_steps: Annotated[int, AT_LEAST_1, SLICES] = 40
    """Optimizer steps of that."""
    bigger: Annotated[list[str], SLICES] = field(default_factory=list)
    """Larger models of the same task and rows, by model.path: does size alone mend it?"""


@dataclass(slots=True)
class Novelty:
    """What is new in logs or new files."""

    logs: str | list[str] | None = None
    """Files of texts or conversations, as data.train takes them: a path, a glob, or a list."""
    max_items: Annotated[int, AT_LEAST_1, COLLECTS] = 5000
    """Texts looked at after the double ones are gone, at most."""
    dedupe: Annotated[float, Range(0, 1, open_low=True), COLLECTS] = 0.8
    """Jaccard likeness of word 5-grams from which on two texts count as one."""
    contamination_ngram: Annotated[int, AT_LEAST_1, COLLECTS] = 13
    """A text that shares so many words in a row with the training pool is not new."""
    clusters: Annotated[int, AT_LEAST_1, COLLECTS] = 12
    """Groups that the new texts are put into, at most."""
