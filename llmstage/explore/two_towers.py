"""Items for a model of two towers: it gives no text a probability, and says which of the choices lies nearest to the picture."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.special import logsumexp

from llmstage.data.encoding.collate import pad
from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.explore.items import Item
from llmstage.explore.probed_model import Subject
from llmstage.explore.wording import say
from llmstage.models.contrastive_loss import image_vectors, text_vectors
from llmstage.models.loglikelihood import in_batches

PICTURES_AT_ONCE = 64
QUESTIONS = ("?", "？")


def compared(item: Item) -> list[str]:
    """What is held against the picture: a choice behind its prompt ("It is a" + " dog"), or by itself behind a question, which is
    no part of a caption."""
    lead = item.prompt.strip()
    if not lead or lead.endswith(QUESTIONS):
        return [choice.strip() for choice in item.choices]
    return [item.prompt + choice for choice in item.choices]


def ids_of(subject: Subject, texts: Iterable[str]) -> dict[str, list[int]]:
    """Ids of each text with the marks around it, uncut."""
    before, after = subject.processor.marks()
    distinct = list(dict.fromkeys(texts))
    return {
        text: [*before, *own, *after] for text, own in zip(distinct, subject.processor.plain_ids(distinct), strict=True)
    }


def complaint(item: Item, pictures: ImageStore, longest: int, context: int) -> str | None:
    """Why an item cannot be asked; `longest`: tokens of its longest text."""
    if not isinstance(item.image, str):
        return say("towers_no_picture")
    if not item.choices:
        return say("towers_no_choices")
    try:
        pictures.index(item.image)
    except BadImage as error:
        return say("asked_bad_picture", error=error)
    return say("asked_too_long", length=longest, context=context) if longest > context else None


def read_texts(subject: Subject, ids: dict[str, list[int]], batch_tokens: int) -> dict[str, np.ndarray]:
    """The vector [D], of length 1, of each text."""
    texts = list(ids)
    found: dict[str, np.ndarray] = {}
    for part in in_batches([len(ids[text]) for text in texts], batch_tokens):
        batch = pad([ids[texts[place]] for place in part], subject.processor.pad_id).to(subject.model.device)
        vectors = text_vectors(subject.model, batch).double().cpu().numpy()
        found |= {texts[place]: vector for place, vector in zip(part, vectors, strict=True)}
    return found


def read_pictures(subject: Subject, pictures: ImageStore, numbers: Iterable[int]) -> dict[int, np.ndarray]:
    """The vector [D], of length 1, of each picture."""
    distinct = list(dict.fromkeys(numbers))
    found: dict[int, np.ndarray] = {}
    for start in range(0, len(distinct), PICTURES_AT_ONCE):
        part = distinct[start : start + PICTURES_AT_ONCE]
        pixels = pictures.normalised(pictures.pixels(part)).to(subject.model.device)
        found |= dict(zip(part, image_vectors(subject.model, pixels).double().cpu().numpy(), strict=True))
    return found


@torch.no_grad()
def nearness(subject: Subject, items: Sequence[Item], batch_tokens: int) -> list[np.ndarray | str]:
    """Of each item the log-probabilities of its choices [K], or why it cannot be asked.

    They are those of zero-shot classification: softmax of scaled cosines (Radford 2021, arXiv 2103.00020, section 3.1).
    """
    pictures = ImageStore(subject.processor.images)
    pictures.read(item.image for item in items if isinstance(item.image, str))
    told = [compared(item) for item in items]
    ids = ids_of(subject, (text for own in told for text in own))
    longest = [max((len(ids[text]) for text in own), default=0) for own in told]
    why = [complaint(item, pictures, size, subject.context) for item, size in zip(items, longest, strict=True)]
    asked = [place for place, reason in enumerate(why) if reason is None]
    number = {place: pictures.index(str(items[place].image)) for place in asked}
    wanted = {text: ids[text] for place in asked for text in told[place]}
    texts, images = read_texts(subject, wanted, batch_tokens), read_pictures(subject, pictures, number.values())
    scale = float(subject.model.logit_scale.exp())
    found: list[np.ndarray | str] = [reason or "" for reason in why]
    for place in asked:
        logits = scale * np.stack([texts[text] for text in told[place]]) @ images[number[place]]
        found[place] = logits - logsumexp(logits)
    return found
