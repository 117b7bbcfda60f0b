"""A text from a text: what translation and summarization share. Encoder-decoders read the source and write the target;
decoders go on from a prompt, by the model's own chat template."""

from __future__ import annotations

import sys
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.task import TextToText as TextToTextConfig
from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import references_of
from llmstage.tasks.base import Example
from llmstage.tasks.base_scored_text import ScoredText
from llmstage.tokenization.chat_template import Turn, conversation
from llmstage.tokenization.tokenizer import Processor


class TextToText(ScoredText):
    """Rows hold a source and a target, or a list of targets: the first is learned, all are scored against."""

    by_character = True  # a decoder, too, must be able to put Chinese words together anew
    pipeline_tag = "text-generation"

    cfg: TextToTextConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.smoothing = self.cfg.label_smoothing
        self.turns: list[Turn] = []

    def check_row(self, row: Row) -> str | None:
        return self.target_complaint(row, self.source, self.target)

    def source_of(self, row: Row) -> str:
        return " ".join(references_of(row[self.source]))

    def texts(self, row: Row) -> list[str]:
        return [self.source_of(row), *references_of(row[self.target])]

    def cache_key(self) -> dict[str, Any]:
        return {"kind": self.kind, "prefix": self.cfg.prefix, "target_share": self.cfg.target_share}

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        if self.kind != "t5":
            messages = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
            self.turns = conversation(processor, messages)

    @property
    def target_room(self) -> int:
        """Tokens that a target may have, its end included."""
        return min(self.context - 1, max(2, int(self.context * self.cfg.target_share)))

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
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

    def _feature(self, row: Row, source: list[int], cut: int, target: list[int]) -> Example:
        lost = max(0, len(target) - self.target_room)
        target = target[: self.target_room]
        texts = references_of(row[self.target])
        return Example(
            {"input_ids": source + target, "target": [0] * len(source) + [1] * len(target)},
            ref={"source": self.source_of(row), "targets": texts, "bytes": len(texts[0].encode())},
            cut=cut + lost,
            cut_targets=lost,
            lost_end=lost > 0,
        )

    @abstractmethod
    def simple_methods(self, train: list[tuple[str, str]], sources: list[str]) -> dict[str, list[str]]:
        """Texts by methods that need no neural network; `train` holds (source, target)."""

    def simple_texts(self, train: Iterable[Row], refs: list[Any]) -> dict[str, list[str]]:
        pairs = [(self.source_of(row), references_of(row[self.target])[0]) for row in train]
        return self.simple_methods(pairs, [ref["source"] for ref in refs])
