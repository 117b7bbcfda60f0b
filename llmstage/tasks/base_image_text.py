"""What the tasks share that look at a picture and write about it: captioning and visual reasoning.

A row of the model is `user turn: picture, prompt` and `assistant turn: text`, by the model's own chat template; the text and
the end after it are learned. The places of the picture's patches are never targets. Several rows share a packed one, and the
pictures of a batch follow each other in reading order, as LLaVA fills them in.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor

from llmstage.data.rows import Row
from llmstage.tasks.base import Batch, Example
from llmstage.tasks.base_generation import Written
from llmstage.tasks.base_image import Seeing
from llmstage.tokenization.chat_template import Turn, conversation
from llmstage.tokenization.tokenizer import Processor


class Looking(Seeing, Written):
    """Features hold `input_ids`, `target` (0 and 1), and `image` and `mirror` [1] unless the task is blind."""

    auto_model = "AutoModelForImageTextToText"
    pipeline_tag = "image-text-to-text"
    packs = True
    by_character = True
    # Questions of one length are often of one kind, and a batch of one kind pulls the weights its way.
    by_length = False
    # At the rate of a text model of its width, a model with a vision tower from scratch had spikes of the loss.
    lr_share = 1 / 3

    blind: bool = False
    """Read the prompt without the picture: what the words alone give away."""
    turns: list[Turn]

    def check_row(self, row: Row) -> str | None:
        if not isinstance(row["image"], str) or not row["image"].strip():
            return "image is no name of a picture"
        if row.get("prompt") is not None and not isinstance(row["prompt"], str):
            return "prompt is no text"
        return None

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        super().attach_tokenizer(processor, context)
        seen: list[dict[str, Any]] = [] if self.blind else [{"type": "image"}]
        messages = [
            {"role": "user", "content": [*seen, {"type": "text", "text": "a"}]},
            {"role": "assistant", "content": [{"type": "text", "text": "b"}]},
        ]
        self.turns = conversation(processor, messages)

    def cache_key(self) -> dict[str, Any]:
        eyes = self.processor.eyes
        return {**super().cache_key(), "blind": self.blind, "tokens": eyes.tokens if eyes else 0}

    def prompt_ids(self, prompt: list[int]) -> list[int]:
        """The user's turn and what opens the assistant's; the picture's one mark as many times as it has patches."""
        asked, answered = self.turns
        assert self.processor.eyes is not None
        marks = [self.processor.image_id] * self.processor.eyes.tokens
        before = [part for token in asked.before for part in (marks if token == self.processor.image_id else [token])]
        return [*before, *prompt, *asked.after, *answered.before]

    def written(self, row: Row, prompt: str, text: str, ref: Any, said: list[str]) -> Example:
        """One feature: a row's picture, a prompt, and the text to be written. A prompt that is too long loses its end, then
        the text does (counted). `said`: everything the row says of its picture. Raises RowError for a bad picture."""
        asked, answer = self.processor.plain_ids([prompt, text])
        end = self.turns[1].after
        frame = len(self.prompt_ids([]))
        room = self.context - frame
        kept = asked[: max(0, room - len(answer) - len(end))]
        target = [*answer, *end]
        lost = max(0, len(target) - (room - len(kept)))
        target = target[: len(target) - lost]
        source = self.prompt_ids(kept)
        arrays: dict[str, list[Any]] = {
            "input_ids": [*source, *target],
            "target": [0] * len(source) + [1] * len(target),
        }
        seen = self.sight(row, said)  # also where it is not shown: blind and not, the same rows are refused
        if not self.blind:
            arrays |= seen
        return Example(arrays, ref=ref, cut=len(asked) - len(kept) + lost, cut_targets=lost, lost_end=lost > 0)

    def collate(self, rows: list[list[Example]]) -> Batch:
        batch = super().collate(rows)
        if not self.blind:
            batch.inputs["pixel_values"] = self.pixel_values([item for row in rows for item in row])  # [B, 3, H, W]
        return batch

    def beside(self, batch: Batch, places: list[int]) -> dict[str, Tensor]:
        return {} if self.blind else {"pixel_values": batch.inputs["pixel_values"][places]}
