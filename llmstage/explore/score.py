"""Score items once, many ways: exact match, log-probability, pass probability, ranks and choice probabilities of one
teacher-forced pass; text is generated only where the answer is free.

Exact match of greedy decoding needs no generation: a text is what greedy decoding writes if and only if each of its tokens
is the likeliest one behind the truth so far (by induction over tokens; one reference, no sampling).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch

from llmstage.config import GenerationConfig
from llmstage.explore.items import Item
from llmstage.explore.probed_model import Subject, digest_of
from llmstage.explore.prompts import Encoded, Writer
from llmstage.explore.score_cache import Kept
from llmstage.explore.two_towers import nearness
from llmstage.models.choice_scoring import SHARED, common_beginning, tell_choices
from llmstage.models.choice_scoring import Item as Asked
from llmstage.models.generation import generate_replies
from llmstage.models.loglikelihood import AT_ONCE, Told, tell_decoder, tell_encoder_decoder, tell_masked

NUMBERS = (
    "em", "logp", "logp_per_token", "logp_per_byte", "pass", "tok", "rank",
    "acc", "acc_bytes", "acc_pmi", "brier", "p_choices", "p_vocab", "ted", "chrf",
)  # fmt: skip
"""What an item may get, None where it is not defined. See `numbers` for what each is."""
ENDLESS = 8
"""Tokens that generated text may be longer than the right answer."""
Scores = dict[str, Any]


def score_items(
    subject: Subject,
    items: Sequence[Item],
    *,
    end: str = "auto",
    generate: str = "free",
    max_new_tokens: int = 64,
    batch_tokens: int = AT_ONCE,
    pmi: bool = True,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    kept: Kept | None = None,
) -> list[Scores]:
    """One dict an item, in order: `id`, `family`, `split`, NUMBERS, `num_tokens`, `right` (of each token, whether it was likeliest), `chosen`,
    `p` and `log_probs` (choices), `text` where it
    was generated, `right_but_end`, and `unscored`, the reason why there are no numbers.

    `end`: what a free answer must be followed by (auto: the turn's end in a conversation, else the end of text; newline;
    none). `generate`: none, free (items that say so) or all. `kept`: results of earlier calls with the same model.
    """
    found: list[Scores | None] = [None] * len(items)
    keys = [item_key(item) for item in items]
    if kept is not None:
        kept.open(
            digest_of(subject.model), subject.processor.digest(), subject.chat, end, generate, max_new_tokens, pmi
        )
        found = [kept.get(key) for key in keys]
    missing = [index for index, one in enumerate(found) if one is None]
    if missing:
        with precision(), torch.no_grad():
            made = fresh_scores(
                subject, [items[index] for index in missing], end, generate, max_new_tokens, batch_tokens, pmi=pmi
            )
        for index, one in zip(missing, made, strict=True):
            found[index] = one
            if (
                kept is not None and one["unscored"] is None
            ):  # why an item is not asked is told anew, in this report's language
                kept.add(keys[index], one)
        if kept is not None:
            kept.save()
    return [
        {"id": item.id, "family": item.family, "split": item.split, **(one or {})}
        for item, one in zip(items, found, strict=True)
    ]


def item_key(item: Item) -> str:
    return item.digest()


def fresh_scores(
    subject: Subject,
    items: Sequence[Item],
    end: str,
    generate: str,
    max_new_tokens: int,
    batch_tokens: int,
    *,
    pmi: bool,
) -> list[Scores]:
    if subject.kind == "clip":
        return [
            {"unscored": one} if isinstance(one, str) else {"unscored": None, **compared_numbers(item, one)}
            for item, one in zip(items, nearness(subject, items, batch_tokens), strict=True)
        ]
    writer = Writer(subject, end)
    encoded = writer.write(items)
    scored = [index for index, one in enumerate(encoded) if one.unscored is None]
    out: list[Scores] = [{"unscored": one.unscored} for one in encoded]
    if not scored:
        return out
    told = tell(subject, [encoded[index] for index in scored], [items[index].family for index in scored], batch_tokens)
    alone = unconditional(subject, writer, items, encoded, scored, batch_tokens) if pmi else {}
    for index, answers in zip(scored, told, strict=True):
        item, one = items[index], encoded[index]
        base = [alone[tuple(answer)] for answer in one.answers] if item.choices and alone else None
        out[index] = {"unscored": None, **numbers(item, one, answers, base, chain=subject.kind != "bert")}
    wanted = [index for index in scored if generate == "all" or (generate == "free" and items[index].free)]
    wanted = [index for index in wanted if not items[index].choices and subject.kind != "bert"]
    if wanted:
        write_texts(subject, items, encoded, wanted, out, max_new_tokens, end)
    return out


def tell(subject: Subject, encoded: Sequence[Encoded], families: Sequence[str], batch_tokens: int) -> list[list[Told]]:
    """Every answer of every item, token by token."""
    model, pad = subject.model, subject.processor.pad_id
    if subject.kind == "t5":
        return tell_encoder_decoder(
            model, pad, [one.prompt for one in encoded], [one.answers for one in encoded], batch_tokens
        )
    if subject.kind == "bert":
        mask = subject.processor.tokenizer.mask_token_id
        after = subject.processor.marks()[1]
        flat = tell_masked(
            model, pad, mask, [(one.prompt, answer, after) for one in encoded for answer in one.answers], batch_tokens
        )
        told = iter(flat)
        return [[next(told) for _ in one.answers] for one in encoded]
    out: list[list[Told]] = [[] for _ in encoded]
    for chosen in groups(encoded, families):
        own = [Asked(encoded[index].prompt, encoded[index].answers, encoded[index].beside) for index in chosen]
        for index, found in zip(chosen, tell_choices(model, pad, own, batch_tokens), strict=True):
            out[index] = found
    return out


def groups(encoded: Sequence[Encoded], families: Sequence[str]) -> list[list[int]]:
    """Families whose prompts begin alike by themselves, so that the beginning is read once; all others together, those with
    and those without a picture apart."""
    by_family: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(families):
        by_family[f"seeing {name}" if encoded[index].beside else name].append(index)
    found, plain, seeing = [], [], []
    for own in by_family.values():
        if encoded[own[0]].beside:
            seeing += own
        elif len(own) > 1 and len(common_beginning([encoded[index].prompt[:-1] for index in own])) >= SHARED:
            found.append(own)
        else:
            plain += own
    return [group for group in (*found, plain, seeing) if group]


def unconditional(
    subject: Subject, writer: Writer, items: Sequence[Item], encoded: Sequence[Encoded], scored: Sequence[int],
    batch_tokens: int,
) -> dict[tuple[int, ...], float]:  # fmt: skip
    """log p of each choice behind an empty prompt, for pointwise mutual information (Holtzman 2021, arXiv 2104.08315)."""
    wanted = list(
        dict.fromkeys(tuple(answer) for index in scored if items[index].choices for answer in encoded[index].answers)
    )
    if not wanted or subject.kind == "bert":
        return {}
    model, pad = subject.model, subject.processor.pad_id
    if subject.kind == "t5":
        empty = subject.processor.plain_ids([""])[0] + writer.after or [pad]
        told = tell_encoder_decoder(model, pad, [empty], [[list(answer) for answer in wanted]], batch_tokens)[0]
    else:
        told = tell_decoder(model, pad, [(list(writer.empty), list(answer)) for answer in wanted], None, batch_tokens)
    return {answer: one.total for answer, one in zip(wanted, told, strict=True)}


def numbers(item: Item, one: Encoded, told: list[Told], alone: list[float] | None, *, chain: bool) -> Scores:
    """The numbers of one item.

    em: greedy decoding writes the answer (one of the accepted ones). logp: log of the probability that a sample is right,
    nats; pass: that probability. logp_per_token, logp_per_byte, tok (share of tokens that are likeliest), rank (the worst of
    the answer's tokens; 1 = em): of the likeliest accepted answer. Choices: p, softmax over their log-probabilities; acc, the
    likeliest is right (acc_bytes: by log-probability a byte; acc_pmi: by what the prompt adds to it); rank, of the right one
    among them; brier, sum of (p_k - [k right])^2 (Brier 1950); p_choices and p_vocab, probability of the right one among the
    choices and among all texts (Schaeffer 2024, arXiv 2406.04391). Without a `chain` (masked models) log-probabilities are
    pseudo ones, and em, pass and p_vocab are not defined.
    """
    texts = item.choices or item.accepted
    totals = np.array([answer.total for answer in told])
    shown = item.label if item.choices else int(totals.argmax())
    best = told[shown or 0]
    logp = best.total if item.choices else float(np.logaddexp.reduce(totals))
    size = len(texts[shown or 0].encode())
    found: Scores = dict.fromkeys(NUMBERS)
    found |= {
        "logp": logp,
        "logp_per_token": best.total / len(best.log_probs),
        "logp_per_byte": best.total / size,
        "tok": sum(best.best) / len(best.best),
        "rank": max(best.ranks),
        "num_tokens": len(best.log_probs),
        "right": [int(one) for one in best.best],
    }
    if chain:
        right = told if not item.choices else [best]
        found |= {"em": float(any(all(answer.best) for answer in right)), "pass": math.exp(min(logp, 0.0))}
        ends = one.ends
        found["right_but_end"] = bool(ends) and not found["em"] and any(all(answer.best[:-ends]) for answer in right)
    if item.choices:
        found |= choice_numbers(item, totals, alone)
        found["p_vocab"] = found["pass"]
    return found


def compared_numbers(item: Item, log_shares: np.ndarray) -> Scores:
    """Of a model of two towers, from the log-probabilities [K] of the choices: those of `numbers` that need no probability of a
    text. logp is of the right one among the choices, an answer is one token, and tok whether it is the nearest."""
    found: Scores = dict.fromkeys(NUMBERS) | choice_numbers(item, log_shares, None)
    logp = float(log_shares[item.label or 0])
    found |= {"acc_bytes": None, "logp": logp, "logp_per_token": logp, "tok": found["acc"]}
    return found | {"num_tokens": 1, "right": [int(found["acc"])], "right_but_end": False}


def choice_numbers(item: Item, totals: Any, alone: list[float] | None) -> Scores:
    label = item.label or 0
    shares = np.exp(totals - np.logaddexp.reduce(totals))
    truth = np.eye(len(totals))[label]
    sizes = np.array([len(choice.encode()) for choice in item.choices])
    return {
        "p": shares.tolist(),
        "log_probs": totals.tolist(),
        "chosen": int(totals.argmax()),
        "acc": float(totals.argmax() == label),
        "acc_bytes": float((totals / sizes).argmax() == label),
        "acc_pmi": None if alone is None else float((totals - np.array(alone)).argmax() == label),
        "brier": float(((shares - truth) ** 2).sum()),
        "p_choices": float(shares[label]),
        "rank": int(1 + (totals > totals[label]).sum()),
    }


def write_texts(
    subject: Subject, items: Sequence[Item], encoded: Sequence[Encoded], wanted: Sequence[int], out: list[Scores],
    max_new_tokens: int, end: str,
) -> None:  # fmt: skip
    """Greedy text, its edit similarity to the nearest accepted answer (tokens), and chrF (characters; 0 to 100)."""
    from sacrebleu import sentence_chrf

    longest = max(len(answer) for index in wanted for answer in encoded[index].answers)
    cfg = GenerationConfig(max_new_tokens=min(max_new_tokens, longest + ENDLESS))
    for beside in ({}, {"pixel_values": None}):
        own = [index for index in wanted if bool(encoded[index].beside) == bool(beside)]
        if not own:
            continue
        pixels = {name: torch.stack([encoded[index].beside[name] for index in own]) for name in beside}
        replies = generate_replies(
            subject.model, subject.processor, [encoded[index].prompt for index in own], cfg, beside=pixels
        )
        for index, (text, _) in zip(own, replies, strict=True):
            text = (text.lstrip("\n").split("\n")[0] if end == "newline" else text).strip()
            accepted = [answer.strip() for answer in items[index].accepted]
            ids = subject.processor.plain_ids([text, *accepted])
            out[index]["text"] = text
            out[index]["ted"] = max(edit_similarity(ids[0], right) for right in ids[1:])
            out[index]["chrf"] = sentence_chrf(text, accepted).score


def edit_similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """1 - Levenshtein distance / the longer one's length; 1 for two empty ones."""
    from nltk.metrics.distance import edit_distance  # type: ignore[import-untyped]

    longer = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longer if longer else 1.0
