"""Summarization: ROUGE-1, -2 and -L against one or several references; Chinese is compared by character."""

from __future__ import annotations

import re
from collections.abc import Sequence

from llmstage.config.task import Summarization as SummarizationConfig
from llmstage.data.rows import Columns, Row
from llmstage.demo.summarization import summarization_rows
from llmstage.evaluation.metrics.generation import CJK, WORD, chrf, rouge, rouge_rows, split_words
from llmstage.evaluation.metrics.score import Score
from llmstage.tasks.base_text_to_text import TextToText

SENTENCE_END = re.compile(rf"(?<=[.!?])\s+|(?<=[。！？])(?=[\s\w{CJK}“「《])\s*")
"""End of a sentence: a full stop, exclamation or question mark before white space, or a full-width one."""


class Summarization(TextToText):
    """A document may be a list of sentences, joined by a space; a summary may be a list of references."""

    columns = Columns(required=("document", "summary"), content=("document",))
    pipeline_tag = "summarization"
    route = "summarize"
    demo_size = 4000
    source, target = "document", "summary"
    row_metric = "rouge_l"

    cfg: SummarizationConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return summarization_rows(num_rows, seed)

    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        rouge_scores = rouge(hyps, refs)
        return {name: rouge_scores[name] for name in ("rouge_l", "rouge_1", "rouge_2")} | {"chrf": chrf(hyps, refs)}

    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        return rouge_rows(hyps, refs)["rouge_l"]

    def simple_methods(self, train: list[tuple[str, str]], sources: list[str]) -> dict[str, list[str]]:
        mean_length = round(sum(len(split_words(target)) for _, target in train) / max(1, len(train)))
        return {
            "first sentence": [first_sentence(source) for source in sources],
            f"first {mean_length} words": [first_words(source, mean_length) for source in sources],
        }


def first_sentence(text: str) -> str:
    """Return the first sentence of the text."""
    return SENTENCE_END.split(text.strip(), maxsplit=1)[0]


def first_words(text: str, count: int) -> str:
    """Return the first `count` words of the text; a Chinese character is a word."""
    for number, match in enumerate(WORD.finditer(text), start=1):
        if number == count:
            return text[: match.end()]
    return text


TASK = Summarization
