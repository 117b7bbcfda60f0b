"""What the tasks share whose written texts are scored against references: translation, summarization, captioning."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from llmstage.data.encoding.order import spread
from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import exact_match, length_ratio, references_of, split_words
from llmstage.evaluation.metrics.intervals import mean
from llmstage.evaluation.metrics.language_model import language_model_scores
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base import ReportItem
from llmstage.tasks.base_errors import Errors, errors_by_loss, errors_by_text, token_nats
from llmstage.tasks.base_generation import Written

WORST = 12
"""Rows of the table of examples."""
BANDS = 5
"""Groups of rows, by length of a text, of the chart."""


class ScoredText(Written):
    """A feature's `ref` holds `source` (what was read), `targets` (the references; the first is learned) and `bytes` (of
    that one)."""

    source: ClassVar[str]
    target: ClassVar[str]
    """The task's words for the two."""
    headline: ClassVar[str]
    """The score that the exhibits show by row."""
    reference_columns = ("reference", "log_probability", "tokens")
    banded: ClassVar[str] = "source"
    """Whose length the chart of scores goes by: that of the source, or of the target."""

    @property
    def target_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.target,)

    def dummy_target(self, row: Row) -> Row:
        return row | {self.target: "?"}

    def target_complaint(self, row: Row, *words: str) -> str | None:
        """The reason why one of these words of a row is no text and no list of texts, or why its target cannot be learned."""
        for word in words:
            value = row[word]
            if not isinstance(value, str) and not (
                isinstance(value, list) and value and all(isinstance(part, str) for part in value)
            ):
                return f"{word} is neither a text nor a list of texts"
            if not any(part.strip() for part in references_of(value)):
                return f"{word} is empty"
        if not references_of(row[self.target])[0].strip():
            return f"the first {self.target}, which is the one that is learned, is empty"
        return None

    @abstractmethod
    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        """The task's own scores of texts, the most telling first."""

    @abstractmethod
    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        """The headline score of each row by itself."""

    @abstractmethod
    def simple_texts(self, train: Iterable[Row], refs: list[Any]) -> dict[str, list[str]]:
        """A text for each of the references, by methods that need no neural network and learn from `train` alone."""

    def all_text_scores(self, hyps: Sequence[str], refs: list[Any]) -> dict[str, Score]:
        """Scores of the texts for the rows of these refs."""
        targets = [ref["targets"] for ref in refs]
        return {
            **self.text_scores(hyps, targets),
            "exact_match": exact_match(hyps, targets),
            "length_ratio": length_ratio(hyps, targets),
        }

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        hyps, told = generated(predictions, refs)
        return (self.all_text_scores(hyps, told) if hyps else {}) | language_model_scores(
            [item["nll"] for item in predictions],
            [item["tokens"] for item in predictions],
            [item["correct"] for item in predictions],
            [ref["bytes"] for ref in refs],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        shown = [refs[int(place)] for place in spread(np.arange(len(refs)), self.generate_rows)]  # those that have text
        return {name: self.all_text_scores(texts, shown) for name, texts in self.simple_texts(train, shown).items()}

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        hyps, told = generated(predictions, refs)
        if not hyps:
            return []
        sources, targets = [ref["source"] for ref in told], [ref["targets"] for ref in told]
        values = self.row_scores(hyps, targets)
        scores = self.all_text_scores(hyps, told)
        worst = sorted(range(len(hyps)), key=lambda row: values[row])[:WORST]
        banded = sources if self.banded == "source" else [texts[0] for texts in targets]
        return [
            by_length(self.headline, self.banded, banded, values),
            {
                "kind": "table",
                "title": "Scores and how they were made",
                "columns": ["score", "value", "95 %", "method and signature"],
                "rows": [
                    [
                        name,
                        f"{score.value:.4g}",
                        "" if score.low is None or score.high is None else f"{score.low:.4g} to {score.high:.4g}",
                        score.method,
                    ]
                    for name, score in scores.items()
                ],
            },
            {
                "kind": "table",
                "title": f"Rows with the lowest {self.headline}",
                "columns": [self.headline, self.source, "written", self.target],
                "rows": [
                    [f"{values[row]:.3g}", *(shorten(text) for text in (sources[row], hyps[row], targets[row][0]))]
                    for row in worst
                ],
            },
        ]

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        """Of the texts where every row has one, else what the references cost."""
        costs = [item["nll"] for item in predictions], [item["tokens"] for item in predictions]
        if not all("text" in item for item in predictions):
            return errors_by_loss(*costs)
        found = errors_by_text([item["text"] for item in predictions], [ref["targets"] for ref in refs])
        found.nats = token_nats(*costs)
        return found

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        told = ref["targets"]
        return [
            {
                "prediction": prediction.get("text"),
                "reference": told[0] if len(told) == 1 else told,
                "source": ref["source"],
                "ended": prediction.get("ended"),
                "log_probability": -prediction["nll"],
                "tokens": prediction["tokens"],
            }
        ]

    @property
    def generate_rows(self) -> int:
        wanted: int | None = self.cfg.generate_rows  # type: ignore[attr-defined]
        return sys.maxsize if wanted is None else wanted


def generated(predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[Any]]:
    """(texts, refs) of the rows for which text was generated."""
    pairs = [(item["text"], ref) for item, ref in zip(predictions, refs, strict=True) if "text" in item]
    return [text for text, _ in pairs], [ref for _, ref in pairs]


def by_length(name: str, of: str, texts: list[str], values: list[float]) -> ReportItem:
    """A row's score against the length of one of its texts (its source, or its target), in groups of equal size."""
    lengths = np.array([len(split_words(text)) for text in texts])
    order = np.argsort(lengths, kind="stable")
    groups = [group for group in np.array_split(order, min(BANDS, len(order))) if len(group)]
    scores = [mean([values[row] for row in group]) for group in groups]
    return {
        "kind": "lines",
        "title": f"{name} by length of the {of}",
        "x_label": f"words of the {of} (Chinese: characters), median of the group",
        "y_label": f"mean {name} of a row",
        "series": [
            {
                "name": name,
                "x": [float(np.median(lengths[group])) for group in groups],
                "y": [score.value for score in scores],
                "low": [score.value if score.low is None else score.low for score in scores],
                "high": [score.value if score.high is None else score.high for score in scores],
            }
        ],
    }


def shorten(text: str, most: int = 160) -> str:
    return text if len(text) <= most else f"{text[: most - 1]}…"
