"""Encode probe items as token ids for each model family, and say which items a model cannot answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.explore.items import Item, as_text
from llmstage.explore.probed_model import ProbedModel
from llmstage.explore.wording import sentence
from llmstage.tokenization.chat_template import encode_exchanges


@dataclass(slots=True)
class EncodedItem:
    """The token ids of one item for one model."""

    prompt: list[int]
    answers: list[list[int]]
    """Its choices, or its accepted answers, each followed by the end tokens."""
    unscored: str | None = None
    """The reason why the item cannot be scored; None where it can."""
    image_inputs: dict[str, Tensor] = field(default_factory=dict)
    """pixel_values [3, H, W] of the image of the item; empty without an image."""
    ends: int = 0
    """Number of end tokens that follow each free answer."""


class ItemEncoder:
    """Encode items for one model.

    As in lm-evaluation-harness, prompt and answer are tokenized together where the model reads them as one text,
    and a start token replaces an empty prompt.
    """

    def __init__(self, probed: ProbedModel, end: str = "auto") -> None:
        self.probed, self.processor = probed, probed.processor
        self.before: list[int] = []
        self.after: list[int] = []
        turn_end: list[int] = []
        ids = self.processor
        first = [token for token in (ids.bos_id, ids.eos_id, ids.pad_id) if token is not None][:1]
        last = [] if ids.eos_id is None else [ids.eos_id]
        # The tokens around a prompt: those of a user's turn, of an encoder's input, or a start token.
        if probed.chat:
            (exchange,) = encode_exchanges(ids, [self.contents("", "b", with_image=False)])
            self.before, turn_end = exchange.prompt, exchange.end
        elif probed.model_family == "t5":
            self.after = last
        elif probed.model_family == "bert":
            self.before, self.after = ids.special_ids()
        else:
            self.before = [] if ids.bos_id is None else [ids.bos_id]
        self.empty = self.before + self.after or first
        """Token ids that replace an empty prompt."""
        if probed.model_family == "bert":
            self.end: list[int] = []
        else:
            written = {"auto": turn_end or last, "eos": last, "newline": ids.plain_ids(["\n"])[0], "none": []}
            self.end = written[end]
        self.unknown = ids.tokenizer.unk_token_id
        self.image_store: ImageStore | None = None

    def contents(self, prompt: str, answer: str, *, with_image: bool) -> tuple[Any, Any]:
        """Return a question and a reply as the chat template takes them."""
        if self.probed.model_family != "vlm":
            return prompt, answer
        image = [{"type": "image"}] if with_image else []
        return [*image, {"type": "text", "text": prompt}], [{"type": "text", "text": answer}]

    def encode(self, items: Sequence[Item]) -> list[EncodedItem]:
        """Encode all items; the tokenizer runs once on all distinct texts."""
        sees = self.probed.model_family == "vlm"
        if sees:
            self.image_store = ImageStore(self.processor.images)
            self.image_store.read(item.image for item in items if isinstance(item.image, str))
        joined = self.probed.model_family != "t5" and not self.probed.chat
        prompts = [item.prompt if sees and isinstance(item.image, str) else as_text(item) for item in items]
        answers = [item.choices or item.accepted for item in items]
        if not joined:
            # An answer starts a turn or a decoder's text here: no text precedes it, so no space separates them.
            answers = [[text.removeprefix(" ") for text in texts] for texts in answers]
        if self.probed.chat:
            return self.encode_chat(items, prompts, answers, sees=sees)
        distinct = dict.fromkeys(prompts)
        for prompt, texts in zip(prompts, answers, strict=True):
            distinct.update(dict.fromkeys(prompt + text if joined else text for text in texts))
        ids = dict(zip(distinct, self.processor.plain_ids(list(distinct)), strict=True))
        return [
            self.encoded(item, ids[prompt], [ids[prompt + text if joined else text] for text in texts], joined)
            for item, prompt, texts in zip(items, prompts, answers, strict=True)
        ]

    def encoded(self, item: Item, prompt: list[int], answers: list[list[int]], joined: bool) -> EncodedItem:
        """Encode one item; with `joined`, the ids of each answer begin with those of the prompt."""
        if joined:
            answers = [answer[len(prompt) :] for answer in answers]
        prompt = [*self.before, *prompt, *(self.after if self.probed.model_family != "bert" else [])]
        return self.finished(item, prompt or list(self.empty), answers)

    def encode_chat(
        self, items: Sequence[Item], prompts: list[str], answers: list[list[str]], *, sees: bool
    ) -> list[EncodedItem]:
        """Encode the items as conversations of one question and one reply."""
        with_image = [sees and isinstance(item.image, str) for item in items]
        pairs = [
            self.contents(prompt, text, with_image=image)
            for prompt, texts, image in zip(prompts, answers, with_image, strict=True)
            for text in texts
        ]
        exchanges = iter(encode_exchanges(self.processor, pairs))
        result = []
        for item, texts in zip(items, answers, strict=True):
            encoded = [next(exchanges) for _ in texts]
            result.append(self.finished(item, encoded[0].prompt, [exchange.reply for exchange in encoded]))
        return result

    def finished(self, item: Item, prompt: list[int], answers: list[list[int]]) -> EncodedItem:
        """Return the encoded item with its image, or with the reason why it cannot be scored."""
        end = [] if item.choices else self.end
        result = EncodedItem(prompt=prompt, answers=[answer + end for answer in answers], ends=len(end))
        if isinstance(item.image, str):
            self.insert_image(item, result)
        result.unscored = result.unscored or self.complaint(item, answers, result)
        return result

    def insert_image(self, item: Item, result: EncodedItem) -> None:
        """Write the image tokens of the prompt. A text-only model has read the grid of a demo scene instead."""
        if self.probed.model_family != "vlm":
            if not str(item.image).startswith("demo:"):
                result.unscored = sentence("item_has_picture")
            return
        assert self.image_store is not None and self.processor.vision is not None
        # The template writes one image token; the model needs one for each patch vector.
        marks = [self.processor.image_id] * self.processor.vision.tokens
        result.prompt = [part for token in result.prompt for part in (marks if token == marks[0] else [token])]
        try:
            number = self.image_store.index(str(item.image))
        except BadImage as error:
            result.unscored = sentence("item_picture_unusable", error=error)
            return
        result.image_inputs = {"pixel_values": self.image_store.normalized(self.image_store.pixels([number]))[0]}

    def complaint(self, item: Item, answers: list[list[int]], result: EncodedItem) -> str | None:
        """Return why the model cannot give a text of the item, or None where it can."""
        texts = item.choices or item.accepted
        for text, ids in zip(texts, answers, strict=True):
            if not ids:
                return sentence("answer_without_tokens", text=text)
            if self.unknown is not None and self.unknown in ids:
                return sentence("answer_not_writable", text=text)
        length = max(len(result.prompt), *(len(result.prompt) + len(answer) for answer in result.answers))
        if self.probed.model_family != "t5" and length > self.probed.context:
            return sentence("item_too_long", length=length, context=self.probed.context)
        return None
