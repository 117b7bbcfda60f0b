"""Score items with a model of two towers (CLIP): the choice whose text vector is nearest to the image vector.

Such a model gives no probability to a text, so items need an image and choices.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from scipy.special import logsumexp

from llmstage.data.encoding.collate import pad
from llmstage.data.image_store import ImageStore
from llmstage.data.images import BadImage
from llmstage.explore.items import Item
from llmstage.explore.probed_model import ProbedModel
from llmstage.explore.wording import sentence
from llmstage.models.contrastive_loss import image_vectors, text_vectors
from llmstage.models.loglikelihood import length_batches

IMAGES_PER_BATCH = 64
QUESTIONS = ("?", "？")


def candidate_texts(item: Item) -> list[str]:
    """Return the text of each choice that is compared with the image: prompt and choice joined ("It is a" + " dog").

    A question is no part of a caption, so the choice stands alone after one.
    """
    lead = item.prompt.strip()
    if not lead or lead.endswith(QUESTIONS):
        return [choice.strip() for choice in item.choices]
    return [item.prompt + choice for choice in item.choices]


def ids_of(probed: ProbedModel, texts: Iterable[str]) -> dict[str, list[int]]:
    """Token ids of each distinct text with its special tokens, not truncated."""
    before, after = probed.processor.special_ids()
    distinct = list(dict.fromkeys(texts))
    return {
        text: [*before, *ids, *after] for text, ids in zip(distinct, probed.processor.plain_ids(distinct), strict=True)
    }


def complaint(item: Item, image_store: ImageStore, longest: int, context: int) -> str | None:
    """Return why an item cannot be scored, or None; `longest`: tokens of its longest text."""
    if not isinstance(item.image, str):
        return sentence("towers_no_picture")
    if not item.choices:
        return sentence("towers_no_choices")
    try:
        image_store.index(item.image)
    except BadImage as error:
        return sentence("item_picture_unusable", error=error)
    return sentence("item_too_long", length=longest, context=context) if longest > context else None


def encode_texts(probed: ProbedModel, ids: dict[str, list[int]], batch_tokens: int) -> dict[str, np.ndarray]:
    """Return the unit vector [D] of each text."""
    texts = list(ids)
    encoded: dict[str, np.ndarray] = {}
    for part in length_batches([len(ids[text]) for text in texts], batch_tokens):
        batch = pad([ids[texts[index]] for index in part], probed.processor.pad_id).to(probed.model.device)
        vectors = text_vectors(probed.model, batch).double().cpu().numpy()
        encoded |= {texts[index]: vector for index, vector in zip(part, vectors, strict=True)}
    return encoded


def encode_images(probed: ProbedModel, image_store: ImageStore, numbers: Iterable[int]) -> dict[int, np.ndarray]:
    """Return the unit vector [D] of each image."""
    distinct = list(dict.fromkeys(numbers))
    encoded: dict[int, np.ndarray] = {}
    for start in range(0, len(distinct), IMAGES_PER_BATCH):
        part = distinct[start : start + IMAGES_PER_BATCH]
        pixels = image_store.normalized(image_store.pixels(part)).to(probed.model.device)
        encoded |= dict(zip(part, image_vectors(probed.model, pixels).double().cpu().numpy(), strict=True))
    return encoded


@torch.no_grad()
def choice_log_probs(probed: ProbedModel, items: Sequence[Item], batch_tokens: int) -> list[np.ndarray | str]:
    """Return for each item the log-probabilities of its choices [K], or the reason why it cannot be scored.

    They are those of zero-shot classification: softmax of scaled cosines (Radford 2021, arXiv 2103.00020, section 3.1).
    """
    image_store = ImageStore(probed.processor.images)
    image_store.read(item.image for item in items if isinstance(item.image, str))
    texts = [candidate_texts(item) for item in items]
    ids = ids_of(probed, (text for candidates in texts for text in candidates))
    longest = [max((len(ids[text]) for text in candidates), default=0) for candidates in texts]
    reasons = [complaint(item, image_store, size, probed.context) for item, size in zip(items, longest, strict=True)]
    scorable = [index for index, reason in enumerate(reasons) if reason is None]
    # Several items may share a text or an image: each is encoded once.
    image_numbers = {index: image_store.index(str(items[index].image)) for index in scorable}
    text_ids = {text: ids[text] for index in scorable for text in texts[index]}
    text_table = encode_texts(probed, text_ids, batch_tokens)
    image_table = encode_images(probed, image_store, image_numbers.values())
    scale = float(probed.model.logit_scale.exp())
    results: list[np.ndarray | str] = [reason or "" for reason in reasons]
    for index in scorable:
        logits = scale * np.stack([text_table[text] for text in texts[index]]) @ image_table[image_numbers[index]]
        results[index] = logits - logsumexp(logits)
    return results
