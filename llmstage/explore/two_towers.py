"""Items for a model of two towers: it gives no text a probability, and says which of the choices lies nearest to the picture."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.special import logsumexp

from llmstage.data.collate import pad
from llmstage.data.images import BadImage
from llmstage.data.pictures import Pictures
from llmstage.explore.items import Item
from llmstage.explore.subject import Subject
from llmstage.explore.wording import say
from llmstage.models.contrastive import image_vectors, text_vectors
from llmstage.models.told import in_batches

PICTURES_AT_ONCE = 64
QUESTIONS = ("?", "？")


def compared(item: Item) -> list[str]:
    """What is held against the picture: a choice behind its prompt ("It is a" + " dog"), or by itself behind a question, which is
    no part of a caption."""
    lead = item.prompt.strip()
    if not lead or lead.endswith(QUESTIONS):
        return [choice.strip() for choice in item.choices]
    return [item.prompt + choice for choice in item.choices]


class Towers:
    """Reads pictures and texts once each; `nearness()` then says how the choices of an item lie to its picture."""

    def __init__(self, subject: Subject, items: Sequence[Item], batch_tokens: int) -> None:
        self.subject = subject
        self.why = [self.complaint(item) for item in items]
        known = [item for item, why in zip(items, self.why, strict=True) if why is None]
        self.pictures = Pictures(subject.processor.images)
        self.pictures.read(str(item.image) for item in known)
        for place, item in enumerate(items):
            if self.why[place] is None:
                self.why[place] = self.cannot_be_read(item)
        known = [item for item, why in zip(items, self.why, strict=True) if why is None]
        self.scale = float(subject.model.logit_scale.exp())
        self.text_of = {
            text: place for place, text in enumerate(dict.fromkeys(t for one in known for t in compared(one)))
        }
        self.texts = self.read_texts(list(self.text_of), batch_tokens)
        self.picture_of = {place: row for row, place in enumerate(dict.fromkeys(map(self.picture, known)))}
        self.images = self.read_pictures(list(self.picture_of))

    def complaint(self, item: Item) -> str | None:
        if not isinstance(item.image, str):
            return say("towers_no_picture")
        return None if item.choices else say("towers_no_choices")

    def cannot_be_read(self, item: Item) -> str | None:
        try:
            self.picture(item)
        except BadImage as error:
            return say("asked_bad_picture", error=error)
        length = max(len(self.ids(text)) for text in compared(item))
        too_long = length > self.subject.context
        return say("asked_too_long", length=length, context=self.subject.context) if too_long else None

    def ids(self, text: str) -> list[int]:
        """Uncut."""
        before, after = self.subject.processor.marks()
        return [*before, *self.subject.processor.plain_ids([text])[0], *after]

    def picture(self, item: Item) -> int:
        return self.pictures.index(str(item.image))

    def read_texts(self, texts: Sequence[str], batch_tokens: int) -> np.ndarray:
        """[N, D] of length 1."""
        ids = [self.ids(text) for text in texts]
        found: dict[int, np.ndarray] = {}
        for part in in_batches([len(one) for one in ids], batch_tokens):
            batch = pad([ids[place] for place in part], self.subject.processor.pad_id).to(self.subject.model.device)
            found |= dict(zip(part, text_vectors(self.subject.model, batch).double().cpu().numpy(), strict=True))
        return np.array([found[place] for place in range(len(ids))])

    def read_pictures(self, numbers: Sequence[int]) -> np.ndarray:
        """[N, D] of length 1."""
        found = []
        for start in range(0, len(numbers), PICTURES_AT_ONCE):
            pixels = self.pictures.normalised(self.pictures.pixels(numbers[start : start + PICTURES_AT_ONCE]))
            found.append(image_vectors(self.subject.model, pixels.to(self.subject.model.device)).double().cpu().numpy())
        return np.concatenate(found) if found else np.zeros((0, 0))

    def log_shares(self, item: Item) -> np.ndarray:
        """Log of the choices' probabilities [K] in zero-shot classification: softmax of scaled cosines (Radford 2021, arXiv
        2103.00020, section 3.1)."""
        rows = [self.text_of[text] for text in compared(item)]
        logits = self.scale * self.texts[rows] @ self.images[self.picture_of[self.picture(item)]]
        shares: np.ndarray = logits - logsumexp(logits)
        return shares


@torch.no_grad()
def nearness(subject: Subject, items: Sequence[Item], batch_tokens: int) -> list[np.ndarray | str]:
    """Of each item the log-probabilities of its choices [K], or why it cannot be asked."""
    towers: Any = Towers(subject, items, batch_tokens)
    return [towers.log_shares(item) if why is None else why for item, why in zip(items, towers.why, strict=True)]
