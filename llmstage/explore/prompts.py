"""Items as ids: how a prompt and its answers are written for each family of models, and which items cannot be asked."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from torch import Tensor

from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.explore.items import Item, as_text
from llmstage.explore.probed_model import Subject
from llmstage.explore.wording import say
from llmstage.tokenization.chat_template import conversation


@dataclass(slots=True)
class Encoded:
    """One item for one model."""

    prompt: list[int]
    answers: list[list[int]]
    """Its choices, or its accepted answers with the end behind them."""
    unscored: str | None = None
    """Why it cannot be asked."""
    beside: dict[str, Tensor] = field(default_factory=dict)
    ends: int = 0
    """Tokens of the end that each free answer has behind it."""


class Writer:
    """Writes items for one model. As lm-evaluation-harness does it, prompt and answer are cut into tokens together where
    the model reads them as one text, and an empty prompt is a start token."""

    def __init__(self, subject: Subject, end: str = "auto") -> None:
        self.subject, self.processor = subject, subject.processor
        self.before: list[int] = []
        self.after: list[int] = []
        turn_end: list[int] = []
        ids = self.processor
        first = [token for token in (ids.bos_id, ids.eos_id, ids.pad_id) if token is not None][:1]
        last = [] if ids.eos_id is None else [ids.eos_id]
        if subject.chat:
            asked, answered = self.turns(sees=False)
            self.before, self.after, turn_end = asked.before, [*asked.after, *answered.before], answered.after
        elif subject.kind == "t5":
            self.after = last
        elif subject.kind == "bert":
            self.before, self.after = ids.marks()
        else:
            self.before = [] if ids.bos_id is None else [ids.bos_id]
        self.empty = self.before + self.after or first
        """What stands for an empty prompt."""
        if subject.kind == "bert":
            self.end: list[int] = []
        else:
            written = {"auto": turn_end or last, "eos": last, "newline": ids.plain_ids(["\n"])[0], "none": []}
            self.end = written[end]
        self.unknown = ids.tokenizer.unk_token_id
        self.pictures: ImageStore | None = None

    def turns(self, *, sees: bool) -> Any:
        content: list[dict[str, Any]] = [{"type": "image"}] if sees else []
        text = "a" if self.subject.kind != "vlm" else [*content, {"type": "text", "text": "a"}]
        answer = "b" if self.subject.kind != "vlm" else [{"type": "text", "text": "b"}]
        return conversation(
            self.processor, [{"role": "user", "content": text}, {"role": "assistant", "content": answer}]
        )

    def write(self, items: Sequence[Item]) -> list[Encoded]:
        """All items, tokenised in one call."""
        seeing = self.subject.kind == "vlm"
        if seeing:
            self.pictures = ImageStore(self.processor.images)
            self.pictures.read(item.image for item in items if isinstance(item.image, str))
        joined = self.subject.kind != "t5" and not self.subject.chat
        prompts = [item.prompt if seeing and isinstance(item.image, str) else as_text(item) for item in items]
        texts = [item.choices or item.accepted for item in items]
        if not joined:  # a turn, a decoder's text: there is nothing before it that a space would part it from
            texts = [[text.removeprefix(" ") for text in own] for own in texts]
        wanted = dict.fromkeys(prompts)
        for prompt, own in zip(prompts, texts, strict=True):
            wanted.update(dict.fromkeys(prompt + text if joined else text for text in own))
        ids = dict(zip(wanted, self.processor.plain_ids(list(wanted)), strict=True))
        return [
            self.encoded(item, ids[prompt], [ids[prompt + text if joined else text] for text in own], joined)
            for item, prompt, own in zip(items, prompts, texts, strict=True)
        ]

    def encoded(self, item: Item, prompt: list[int], answers: list[list[int]], joined: bool) -> Encoded:
        if joined:
            answers = [answer[len(prompt) :] for answer in answers]
        end = [] if item.choices else self.end
        found = Encoded(
            prompt=[*self.before, *prompt, *(self.after if self.subject.kind != "bert" else [])] or list(self.empty),
            answers=[answer + end for answer in answers],
            ends=len(end),
        )
        if isinstance(item.image, str):
            self.show(item, found)
        found.unscored = found.unscored or self.complaint(item, answers, found)
        return found

    def show(self, item: Item, found: Encoded) -> None:
        """Put the picture before the prompt; a model that cannot see has read its grid, if it has one."""
        if self.subject.kind != "vlm":
            if not str(item.image).startswith("demo:"):
                found.unscored = say("asked_picture")
            return
        asked, answered = self.turns(sees=True)
        assert self.pictures is not None and self.processor.eyes is not None
        marks = [self.processor.image_id] * self.processor.eyes.tokens
        before = [part for token in asked.before for part in (marks if token == self.processor.image_id else [token])]
        plain = found.prompt[len(self.before) : len(found.prompt) - len(self.after)]
        found.prompt = [*before, *plain, *asked.after, *answered.before]
        try:
            number = self.pictures.index(str(item.image))
        except BadImage as error:
            found.unscored = say("asked_bad_picture", error=error)
            return
        found.beside = {"pixel_values": self.pictures.normalised(self.pictures.pixels([number]))[0]}

    def complaint(self, item: Item, answers: list[list[int]], found: Encoded) -> str | None:
        texts = item.choices or item.accepted
        for text, ids in zip(texts, answers, strict=True):
            if not ids:
                return say("asked_nothing", text=text)
            if self.unknown is not None and self.unknown in ids:
                return say("asked_unreachable", text=text)
        length = max(len(found.prompt), *(len(found.prompt) + len(answer) for answer in found.answers))
        if self.subject.kind != "t5" and length > self.subject.context:
            return say("asked_too_long", length=length, context=self.subject.context)
        return None
