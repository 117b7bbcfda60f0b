"""Keys of stage=explore for weak slices: the search, the diagnosis, and what is new in logs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config.key_conditions import ReadBy, RunFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range


def part_of(run: RunFacts, name: str) -> Any:
    """Return a key group of stage=explore; None for another stage."""
    return getattr(run.stage, name, None)


def searches_slices(run: RunFacts) -> bool:
    """Return whether weak slices are searched: the model has a task, and the search is enabled."""
    search = part_of(run, "slices")
    return bool(search is not None and search.enabled and run.model.path and run.task.name and not asks_questions(run))


def asks_questions(run: RunFacts) -> bool:
    """Return whether the model is probed with questions; the rows of its task are then not scored."""
    return bool(part_of(run, "probes") or part_of(run, "phenomena"))


ASKED = "stage.probes and stage.phenomena ask the model questions of their own; its task's rows are another run"


def _slices(run: RunFacts) -> str | None:
    if searches_slices(run):
        return None
    if asks_questions(run):
        return ASKED
    off = part_of(run, "slices") is not None and not part_of(run, "slices").enabled
    return "stage.slices.enabled=false" if off else "there is no trained model of a task (model.path=<run>)"


def _searches_novelty(run: RunFacts) -> str | None:
    novelty = part_of(run, "novelty")
    if asks_questions(run):
        return ASKED
    return (
        None if novelty is not None and novelty.logs else "nothing new is searched without stage.novelty.logs=<files>"
    )


SLICES = ReadBy(_slices)
NOVELTY = ReadBy(_searches_novelty)


@dataclass(slots=True)
class Slices:
    """The search for weak slices of the scored rows."""

    enabled: bool = True
    """Search weak slices where model.path is a model trained for a task."""
    max_order: Annotated[int, Range(1, 3), SLICES] = 3
    """Most conditions in the description of a slice."""
    min_support: Annotated[Literal["auto"] | int, AT_LEAST_1, SLICES] = "auto"
    """Fewest rows of a slice in the search half; auto: a 300th of all rows, at least 10."""
    alpha: Annotated[float, Range(0, 1, open_low=True), SLICES] = 0.95
    """Weight of the error against the size in SliceLine's score; smaller values find larger slices."""
    min_gap: Annotated[float, POSITIVE, SLICES] = 0.10
    """How much worse than the rest a slice must be: a difference of shares, or of nats per token for a loss."""
    top_k: Annotated[int, AT_LEAST_1, SLICES] = 10
    """Most slices to test on the confirmation half."""
    features: Annotated[Literal["auto"] | list[str], SLICES] = "auto"
    """Columns that may describe slices, e.g. [label,length]; auto: all columns, and features derived from a row."""
    fdr: Annotated[float, SHARE, SLICES] = 0.10
    """False discovery rate of the search (Benjamini and Hochberg)."""
    level: Annotated[float, SHARE, SLICES] = 0.05
    """Probability of any false claim among the confirmed slices (Holm)."""
    overlap: Annotated[Literal["refuse", "drop"], SLICES] = "refuse"
    """Scored rows that are also in the training pool. refuse: the run is refused from one in a hundred on; fewer are
    left out and reported. drop: they are always left out."""
    examples: Annotated[int, NOT_NEGATIVE, SLICES] = 5
    """Example rows to show for each weak slice."""


@dataclass(slots=True)
class Diagnosis:
    """Tests of why a confirmed slice is weak."""

    coverage: Annotated[bool, SLICES] = True
    """Compare the slice's share of the training pool with its share of the scored rows."""
    elicit: Annotated[list[Annotated[int, AT_LEAST_1]], SLICES] = field(default_factory=lambda: [64, 256])
    """Train a copy for a few steps on this many rows of the slice and score it. A slice that is learned quickly lacks
    data, not model structure. []: no such test."""
    elicit_steps: Annotated[int, AT_LEAST_1, SLICES] = 40
    """Optimizer steps of that training."""
    bigger: Annotated[list[str], SLICES] = field(default_factory=list)
    """Larger models of the same task and rows, by model.path, to test whether size alone removes the weakness."""


@dataclass(slots=True)
class Novelty:
    """What is new in logs or new files."""

    logs: str | list[str] | None = None
    """Files of texts or conversations, as in data.train: a path, a glob, or a list."""
    max_items: Annotated[int, AT_LEAST_1, NOVELTY] = 5000
    """Most texts to read after duplicates are removed."""
    dedupe: Annotated[float, Range(0, 1, open_low=True), NOVELTY] = 0.8
    """Jaccard similarity of word 5-grams from which on two texts are duplicates."""
    contamination_ngram: Annotated[int, AT_LEAST_1, NOVELTY] = 13
    """A text that shares this many consecutive words with the training pool is not new."""
    clusters: Annotated[int, AT_LEAST_1, NOVELTY] = 12
    """Most clusters of the new texts."""
