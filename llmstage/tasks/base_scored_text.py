"""The base class of generation tasks with reference texts: translation, summarization, captioning."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from llmstage.data.encoding.order import evenly_spaced
from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import exact_match, length_ratio, references_of, split_words
from llmstage.evaluation.metrics.language_model import language_model_scores
from llmstage.evaluation.metrics.score import Score, mean
from llmstage.tasks.base import ReportItem
from llmstage.tasks.base_errors import ExampleErrors, errors_by_loss, errors_by_text, token_nats
from llmstage.tasks.base_generation import GenerationTask

NUM_WORST_ROWS = 12
"""Number of rows in the table of the worst rows."""
NUM_LENGTH_GROUPS = 5
"""Number of groups in the chart of scores by length."""


class ScoredTextTask(GenerationTask):
    """The `ref` of an example has `source`, `targets` (the references; training uses the first) and `bytes` (of the first)."""

    source: ClassVar[str]
    target: ClassVar[str]
    """Columns of the source and of the target."""
    row_metric: ClassVar[str]
    """The score of single rows in the report."""
    reference_columns = ("reference", "log_probability", "tokens")
    length_of: ClassVar[str] = "source"
    """`source` or `target`: the text whose length is the x axis of the score chart."""

    @property
    def target_columns(self) -> tuple[str, ...]:  # type: ignore[override]
        return (self.target,)

    def dummy_target(self, row: Row) -> Row:
        return row | {self.target: "?"}

    def check_texts(self, row: Row, *columns: str) -> str | None:
        """Return the reason why one of these columns is neither a text nor a list of texts, or why the target is unusable."""
        for column in columns:
            value = row[column]
            if not isinstance(value, str) and not (
                isinstance(value, list) and value and all(isinstance(part, str) for part in value)
            ):
                return f"{column} is neither a text nor a list of texts"
            if not any(part.strip() for part in references_of(value)):
                return f"{column} is empty"
        if not references_of(row[self.target])[0].strip():
            return f"the first {self.target}, which is the training target, is empty"
        return None

    @abstractmethod
    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        """Return the scores of generated texts, the main score first."""

    @abstractmethod
    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        """Return `row_metric` of each row."""

    @abstractmethod
    def simple_texts(self, train: Iterable[Row], refs: list[Any]) -> dict[str, list[str]]:
        """Return {method: a text for each of `refs`} by methods without a neural network, fitted to `train` only."""

    def all_text_scores(self, hyps: Sequence[str], refs: list[Any]) -> dict[str, Score]:
        """Return all scores of the texts against the references of `refs`."""
        targets = [ref["targets"] for ref in refs]
        return {
            **self.text_scores(hyps, targets),
            "exact_match": exact_match(hyps, targets),
            "length_ratio": length_ratio(hyps, targets),
        }

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        hyps, scored_refs = generated(predictions, refs)
        return (self.all_text_scores(hyps, scored_refs) if hyps else {}) | language_model_scores(
            [item["nll"] for item in predictions],
            [item["tokens"] for item in predictions],
            [item["correct"] for item in predictions],
            [ref["bytes"] for ref in refs],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        scored_refs = [
            refs[int(index)] for index in evenly_spaced(np.arange(len(refs)), self.generate_rows)
        ]  # the rows with a generated text
        return {
            name: self.all_text_scores(texts, scored_refs)
            for name, texts in self.simple_texts(train, scored_refs).items()
        }

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        hyps, scored_refs = generated(predictions, refs)
        if not hyps:
            return []
        sources, targets = [ref["source"] for ref in scored_refs], [ref["targets"] for ref in scored_refs]
        values = self.row_scores(hyps, targets)
        scores = self.all_text_scores(hyps, scored_refs)
        worst = sorted(range(len(hyps)), key=lambda row: values[row])[:NUM_WORST_ROWS]
        texts = sources if self.length_of == "source" else [texts[0] for texts in targets]
        return [
            by_length(self.row_metric, self.length_of, texts, values),
            {
                "kind": "table",
                "title": "Scores and their methods",
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
                "title": f"Rows with the lowest {self.row_metric}",
                "columns": [self.row_metric, self.source, "generated", self.target],
                "rows": [
                    [f"{values[row]:.3g}", *(shorten(text) for text in (sources[row], hyps[row], targets[row][0]))]
                    for row in worst
                ],
            },
        ]

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        """Return the errors of the texts if every row has one, else the loss of the references."""
        losses = [item["nll"] for item in predictions], [item["tokens"] for item in predictions]
        if not all("text" in item for item in predictions):
            return errors_by_loss(*losses)
        errors = errors_by_text([item["text"] for item in predictions], [ref["targets"] for ref in refs])
        errors.nats = token_nats(*losses)
        return errors

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        targets = ref["targets"]
        return [
            {
                "prediction": prediction.get("text"),
                "reference": targets[0] if len(targets) == 1 else targets,
                "source": ref["source"],
                "ended": prediction.get("ended"),
                "log_probability": -prediction["nll"],
                "tokens": prediction["tokens"],
            }
        ]

    @property
    def generate_rows(self) -> int:
        num_rows: int | None = self.cfg.generate_rows  # type: ignore[attr-defined]
        return sys.maxsize if num_rows is None else num_rows


def generated(predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[Any]]:
    """Return (texts, refs) of the rows with a generated text."""
    pairs = [(item["text"], ref) for item, ref in zip(predictions, refs, strict=True) if "text" in item]
    return [text for text, _ in pairs], [ref for _, ref in pairs]


def by_length(name: str, of: str, texts: list[str], values: list[float]) -> ReportItem:
    """Return a chart of the row score by length of the source or target, in groups of equal size."""
    lengths = np.array([len(split_words(text)) for text in texts])
    order = np.argsort(lengths, kind="stable")
    groups = [group for group in np.array_split(order, min(NUM_LENGTH_GROUPS, len(order))) if len(group)]
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


def shorten(text: str, max_length: int = 160) -> str:
    return text if len(text) <= max_length else f"{text[: max_length - 1]}…"
