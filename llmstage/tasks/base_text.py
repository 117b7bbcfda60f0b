"""A text from a text: what translation and summarization share. Encoder-decoders read the source and write the target;
decoders go on from a prompt, by the model's own chat template."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import Any, ClassVar

import numpy as np

from llmstage.data.order import spread
from llmstage.data.rows import Row
from llmstage.metrics.generation import exact_match, length_ratio, references_of, split_words
from llmstage.metrics.intervals import mean
from llmstage.metrics.language import language_model_scores
from llmstage.metrics.score import Score
from llmstage.models.chat import Turn, conversation
from llmstage.models.tokenizer import Processor
from llmstage.schema import GenerationConfig, TaskConfig
from llmstage.schema.task import TextToText as TextToTextConfig
from llmstage.tasks.base import Exhibit, Features
from llmstage.tasks.base_writing import Written

WORST = 12
"""Rows of the table of examples."""
BANDS = 5
"""Groups of rows, by length of the source, of the chart."""


class TextToText(Written):
    """Rows hold a source and a target, or a list of targets: the first is learned, all are scored against."""

    by_character = True  # a decoder, too, must be able to put Chinese words together anew
    pipeline_tag = "text-generation"
    source: ClassVar[str]
    target: ClassVar[str]
    """The task's words for the two."""
    headline: ClassVar[str]
    """The score that the exhibits show by row."""

    cfg: TextToTextConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.smoothing = self.cfg.label_smoothing
        self.turns: list[Turn] = []

    def check_row(self, row: Row) -> str | None:
        for word in (self.source, self.target):
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

    def source_of(self, row: Row) -> str:
        return " ".join(references_of(row[self.source]))

    def texts(self, row: Row) -> list[str]:
        return [self.source_of(row), *references_of(row[self.target])]

    def cache_key(self) -> dict[str, Any]:
        return {"kind": self.kind, "prefix": self.cfg.prefix, "target_share": self.cfg.target_share}

    def bind(self, processor: Processor, context: int) -> None:
        super().bind(processor, context)
        if self.kind != "t5":
            messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            self.turns = conversation(processor, messages)

    @property
    def target_room(self) -> int:
        """Tokens that a target may have, its end included."""
        return min(self.context - 1, max(2, int(self.context * self.cfg.target_share)))

    def encode(self, row: Row) -> list[Features]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Features]]:
        sources = [self.cfg.prefix + self.source_of(row) for row in rows]
        targets = [references_of(row[self.target])[0] for row in rows]
        room = self.context - self.target_room
        halves = self._marked(sources, targets, room) if self.kind == "t5" else self._prompted(sources, targets, room)
        return [
            [self._feature(row, source, cut, target)]
            for row, (source, cut), target in zip(rows, halves[0], halves[1], strict=True)
        ]

    def _marked(
        self, sources: list[str], targets: list[str], room: int
    ) -> tuple[list[tuple[list[int], int]], list[list[int]]]:
        """Both texts as the tokenizer marks them for an encoder-decoder; a target ends with an end token."""
        marked = [self.processor.marked_ids(source, None, room) for source in sources]
        whole = [self.processor.marked_ids(target, None, sys.maxsize)[0] for target in targets]
        end = self.processor.eos_id
        return [(ids, cut) for ids, _, cut in marked], [
            ids if end is None or ids[-1:] == [end] else [*ids, end] for ids in whole
        ]

    def _prompted(
        self, sources: list[str], targets: list[str], room: int
    ) -> tuple[list[tuple[list[int], int]], list[list[int]]]:
        """The source as the user's turn, the target as the assistant's."""
        asked, answered = self.turns
        front, back = asked.before, asked.after + answered.before
        left = max(0, room - len(front) - len(back))
        prompts = [
            ((front + ids[:left] + back)[-room:], max(0, len(ids) - left)) for ids in self.processor.plain_ids(sources)
        ]
        return prompts, [ids + answered.after for ids in self.processor.plain_ids(targets)]

    def _feature(self, row: Row, source: list[int], cut: int, target: list[int]) -> Features:
        lost = max(0, len(target) - self.target_room)
        target = target[: self.target_room]
        texts = references_of(row[self.target])
        return Features(
            {"input_ids": source + target, "target": [0] * len(source) + [1] * len(target)},
            ref={"source": self.source_of(row), "targets": texts, "bytes": len(texts[0].encode())},
            cut=cut + lost,
            cut_targets=lost,
            lost_end=lost > 0,
        )

    @abstractmethod
    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        """The task's own scores of texts, the most telling first."""

    @abstractmethod
    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        """The headline score of each row by itself."""

    @abstractmethod
    def simple_methods(self, train: list[tuple[str, str]], sources: list[str]) -> dict[str, list[str]]:
        """Texts by methods that need no neural network; `train` holds (source, target)."""

    def all_text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        return {
            **self.text_scores(hyps, refs),
            "exact_match": exact_match(hyps, refs),
            "length_ratio": length_ratio(hyps, refs),
        }

    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        hyps, _, targets = generated(predictions, refs)
        return (self.all_text_scores(hyps, targets) if hyps else {}) | language_model_scores(
            [item["nll"] for item in predictions],
            [item["tokens"] for item in predictions],
            [item["correct"] for item in predictions],
            [ref["bytes"] for ref in refs],
        )

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        shown = [refs[int(place)] for place in spread(np.arange(len(refs)), self.generate_rows)]  # those that have text
        pairs = [(self.source_of(row), references_of(row[self.target])[0]) for row in train]
        methods = self.simple_methods(pairs, [ref["source"] for ref in shown])
        targets = [ref["targets"] for ref in shown]
        return {name: self.all_text_scores(texts, targets) for name, texts in methods.items()}

    def exhibits(self, predictions: list[Any], refs: list[Any]) -> list[Exhibit]:
        hyps, sources, targets = generated(predictions, refs)
        if not hyps:
            return []
        values = self.row_scores(hyps, targets)
        told = self.all_text_scores(hyps, targets)
        worst = sorted(range(len(hyps)), key=lambda row: values[row])[:WORST]
        return [
            by_length(self.headline, sources, values),
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
                    for name, score in told.items()
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
        return sys.maxsize if self.cfg.generate_rows is None else self.cfg.generate_rows


def generated(predictions: list[Any], refs: list[Any]) -> tuple[list[str], list[str], list[list[str]]]:
    """(texts, sources, references) of the rows for which text was generated."""
    pairs = [(item["text"], ref) for item, ref in zip(predictions, refs, strict=True) if "text" in item]
    return [text for text, _ in pairs], [ref["source"] for _, ref in pairs], [ref["targets"] for _, ref in pairs]


def by_length(name: str, sources: list[str], values: list[float]) -> Exhibit:
    """A row's score against the length of its source, in groups of equal size."""
    lengths = np.array([len(split_words(source)) for source in sources])
    order = np.argsort(lengths, kind="stable")
    groups = [group for group in np.array_split(order, min(BANDS, len(order))) if len(group)]
    scores = [mean([values[row] for row in group]) for group in groups]
    return {
        "kind": "lines",
        "title": f"{name} by length of the source",
        "x_label": "words of the source (Chinese: characters), median of the group",
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
