"""Encode probe items as token ids for each model family, and say which items a model cannot answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from torch import Tensor

from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.explore.items import Item, as_text
from llmstage.explore.probed_model import ProbedModel
from llmstage.explore.wording import sentence
from llmstage.tokenization.chat_template import TurnFrame, turn_frame


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
            frame = self.frame(with_image=False)
            self.before, self.after, turn_end = frame.before, frame.between, frame.after
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

    def frame(self, *, with_image: bool) -> TurnFrame:
        """Return the token ids around the question and the reply, from the chat template."""
        return turn_frame(self.processor, image=with_image if self.probed.model_family == "vlm" else None)

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
        end = [] if item.choices else self.end
        result = EncodedItem(
            prompt=[*self.before, *prompt, *(self.after if self.probed.model_family != "bert" else [])]
            or list(self.empty),
            answers=[answer + end for answer in answers],
            ends=len(end),
        )
        if isinstance(item.image, str):
            self.insert_image(item, result)
        result.unscored = result.unscored or self.complaint(item, answers, result)
        return result

    def insert_image(self, item: Item, result: EncodedItem) -> None:
        """Put the image tokens before the prompt. A text-only model has read the grid of a demo scene instead."""
        if self.probed.model_family != "vlm":
            if not str(item.image).startswith("demo:"):
                result.unscored = sentence("item_has_picture")
            return
        frame = self.frame(with_image=True)
        assert self.image_store is not None and self.processor.vision is not None
        marks = [self.processor.image_id] * self.processor.vision.tokens
        # The template writes one image token; the model needs one for each patch vector.
        before = [part for token in frame.before for part in (marks if token == self.processor.image_id else [token])]
        plain = result.prompt[len(self.before) : len(result.prompt) - len(self.after)]
        result.prompt = [*before, *plain, *frame.between]
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
