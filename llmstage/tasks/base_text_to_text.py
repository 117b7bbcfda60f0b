"""The base class of translation and summarization: a target text from a source text.

Encoder-decoders read the source and generate the target. Decoders continue a prompt in the chat template of the model.
"""

from __future__ import annotations

import math
import sys
from abc import abstractmethod
from collections.abc import Iterable
from typing import Any

from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.task import TextToText as TextToTextConfig
from llmstage.data.rows import Row
from llmstage.evaluation.metrics.generation import references_of
from llmstage.tasks.base import Example, RowError
from llmstage.tasks.base_scored_text import ScoredTextTask
from llmstage.tokenization.chat_template import TemplateRefused, encode_exchanges


class TextToText(ScoredTextTask):
    """Rows have a source and a target or a list of targets. Training uses the first target; all are references of the scores."""

    by_character = True  # a decoder must be able to combine Chinese characters to new words
    pipeline_tag = "text-generation"

    cfg: TextToTextConfig

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        super().__init__(cfg, generation)
        self.smoothing = self.cfg.label_smoothing

    def check_row(self, row: Row) -> str | None:
        return self.check_texts(row, self.source, self.target)

    def source_of(self, row: Row) -> str:
        """Return the source as one text."""
        return " ".join(references_of(row[self.source]))

    def texts(self, row: Row) -> list[str]:
        return [self.source_of(row), *references_of(row[self.target])]

    def cache_key(self) -> dict[str, Any]:
        return {"kind": self.model_family, "prefix": self.cfg.prefix, "target_share": self.cfg.target_share}

    @property
    def max_target_tokens(self) -> int:
        """Maximum number of tokens of a target, its end included."""
        return int(min(self.context - 1, max(2, self.context * self.cfg.target_share)))

    def needed_context(self, example: Example) -> int:
        """Return the context whose shares hold source and target."""
        num_target = sum(example.arrays["target"])
        num_source = len(example.arrays["target"]) - num_target
        share = self.cfg.target_share
        return int(max(math.ceil(num_target / share), math.ceil(num_source / (1 - share))))

    def encode(self, row: Row) -> list[Example]:
        return self.encode_many([row])[0]

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        sources = [self.cfg.prefix + self.source_of(row) for row in rows]
        targets = [references_of(row[self.target])[0] for row in rows]
        max_source_tokens = self.context - self.max_target_tokens
        pairs = (
            self._encode_for_encoder_decoder(sources, targets, max_source_tokens)
            if self.model_family == "t5"
            else self._encode_for_decoder(sources, targets, max_source_tokens)
        )
        return [
            [self._build_example(row, source, cut, target)]
            for row, (source, cut), target in zip(rows, pairs[0], pairs[1], strict=True)
        ]

    def _encode_for_encoder_decoder(
        self, sources: list[str], targets: list[str], max_source_tokens: int
    ) -> tuple[list[tuple[list[int], int]], list[list[int]]]:
        """Return ([(source ids, tokens cut)], [target ids]) for an encoder-decoder; a target ends with the end token."""
        encoded_sources = [self.processor.marked_ids(source, None, max_source_tokens) for source in sources]
        encoded_targets = [self.processor.marked_ids(target, None, sys.maxsize)[0] for target in targets]
        eos_id = self.processor.eos_id
        return [(ids, cut) for ids, _, cut in encoded_sources], [
            ids if eos_id is None or ids[-1:] == [eos_id] else [*ids, eos_id] for ids in encoded_targets
        ]

    def _encode_for_decoder(
        self, sources: list[str], targets: list[str], max_source_tokens: int
    ) -> tuple[list[tuple[list[int], int]], list[list[int]]]:
        """Return the same for a decoder, with the source as the user turn and the target as the assistant turn."""
        num_cut = [0] * len(sources)
        try:
            exchanges = encode_exchanges(self.processor, list(zip(sources, targets, strict=True)))
            for index, source in enumerate(sources):
                excess = len(exchanges[index].prompt) - max_source_tokens
                offsets = self.processor.plain_offsets([source])[0][1] if excess > 0 else []
                # A source that is too long loses its end; the ids at the new end may differ, so it may take several rounds.
                while excess > 0 and num_cut[index] < len(offsets):
                    num_cut[index] = min(len(offsets), num_cut[index] + excess)
                    last = len(offsets) - num_cut[index]
                    shorter = source[: offsets[last - 1][1]] if last else ""
                    exchanges[index] = encode_exchanges(self.processor, [(shorter, targets[index])])[0]
                    excess = len(exchanges[index].prompt) - max_source_tokens
        except TemplateRefused as error:
            raise RowError(str(error)) from None
        prompts = [(part.prompt[-max_source_tokens:], cut) for part, cut in zip(exchanges, num_cut, strict=True)]
        return prompts, [part.reply + part.end for part in exchanges]

    def _build_example(self, row: Row, source: list[int], cut: int, target: list[int]) -> Example:
        num_lost = max(0, len(target) - self.max_target_tokens)
        target = target[: self.max_target_tokens]
        texts = references_of(row[self.target])
        return Example(
            {"input_ids": source + target, "target": [0] * len(source) + [1] * len(target)},
            ref={"source": self.source_of(row), "targets": texts, "bytes": len(texts[0].encode())},
            cut=cut + num_lost,
            cut_targets=num_lost,
            lost_end=num_lost > 0,
        )

    @abstractmethod
    def simple_methods(self, train: list[tuple[str, str]], sources: list[str]) -> dict[str, list[str]]:
        """Return {method: texts} by methods without a neural network. `train`: (source, target) pairs."""

    def simple_texts(self, train: Iterable[Row], refs: list[Any]) -> dict[str, list[str]]:
        pairs = [(self.source_of(row), references_of(row[self.target])[0]) for row in train]
        return self.simple_methods(pairs, [ref["source"] for ref in refs])
