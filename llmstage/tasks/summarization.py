"""Long texts into short ones: ROUGE-1, -2 and -L against one or several references, by character for Chinese."""

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
"""A sentence ends at a full stop before white space, or at a full-width one."""


class Summarization(TextToText):
    """A document may be a list of sentences, which are joined by a space; a summary may be a list of references."""

    columns = Columns(required=("document", "summary"), content=("document",))
    pipeline_tag = "summarization"
    route = "summarize"
    demo_size = 4000
    source, target = "document", "summary"
    headline = "rouge_l"

    cfg: SummarizationConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return summarization_rows(num_rows, seed)

    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        found = rouge(hyps, refs)
        return {name: found[name] for name in ("rouge_l", "rouge_1", "rouge_2")} | {"chrf": chrf(hyps, refs)}

    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        return rouge_rows(hyps, refs)["rouge_l"]

    def simple_methods(self, train: list[tuple[str, str]], sources: list[str]) -> dict[str, list[str]]:
        usual = round(sum(len(split_words(target)) for _, target in train) / max(1, len(train)))
        return {
            "first sentence": [first_sentence(source) for source in sources],
            f"first {usual} words": [first_words(source, usual) for source in sources],
        }


def first_sentence(text: str) -> str:
    return SENTENCE_END.split(text.strip(), maxsplit=1)[0]


def first_words(text: str, count: int) -> str:
    """The text up to the end of its word number `count`; a Chinese character is a word."""
    for number, found in enumerate(WORD.finditer(text), start=1):
        if number == count:
            return text[: found.end()]
    return text


TASK = Summarization
