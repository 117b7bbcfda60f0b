"""Score probe items with one teacher-forced forward pass: exact match, log-probability, ranks and choice probabilities.

Text is generated only for items with a free answer. Exact match of greedy decoding needs no generation: greedy decoding
writes a text if and only if each of its tokens is the most likely one after the tokens before it (by induction over tokens;
one reference, no sampling).
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
from llmstage.explore.probed_model import ProbedModel, digest_of
from llmstage.explore.prompts import EncodedItem, ItemEncoder
from llmstage.explore.score_cache import ScoreCache
from llmstage.explore.two_towers import choice_log_probs
from llmstage.models.generation import generate_replies
from llmstage.models.loglikelihood import (
    MAX_BATCH_TOKENS,
    TokenScores,
    score_decoder,
    score_encoder_decoder,
    score_masked,
)
from llmstage.models.multiple_choice import MIN_SHARED_PREFIX, ChoicePrompt, common_prefix, score_choices

NUMBERS = (
    "em", "logp", "logp_per_token", "logp_per_byte", "pass", "tok", "rank",
    "acc", "acc_bytes", "acc_pmi", "brier", "p_choices", "p_vocab", "ted", "chrf",
)  # fmt: skip
"""Metrics of an item; None where a metric is not defined. `numbers` defines each."""
EXTRA_TOKENS = 8
"""Number of tokens that generated text may have beyond the right answer."""
Scores = dict[str, Any]


def score_items(
    probed: ProbedModel,
    items: Sequence[Item],
    *,
    end: str = "auto",
    generate: str = "free",
    max_new_tokens: int = 64,
    batch_tokens: int = MAX_BATCH_TOKENS,
    pmi: bool = True,
    precision: Callable[[], AbstractContextManager[None]] = nullcontext,
    cache: ScoreCache | None = None,
) -> list[Scores]:
    """Return one dict for each item, in order.

    Keys: `id`, `family`, `split`, NUMBERS, `num_tokens`, `right` (for each token, whether it was the most likely), `chosen`,
    `p` and `log_probs` (choices), `text` (where it was generated), `right_but_end`, and `unscored` (why there are no numbers).

    `end`: what must follow a free answer (auto: the end of the turn in a conversation, else the end of text; newline; none).
    `generate`: none, free (items with a free answer) or all. `cache`: scores of earlier calls with the same model.
    """
    results: list[Scores | None] = [None] * len(items)
    keys = [item.digest() for item in items]
    if cache is not None:
        cache.open(digest_of(probed.model), probed.processor.digest(), probed.chat, end, generate, max_new_tokens, pmi)
        results = [cache.get(key) for key in keys]
    missing = [index for index, scores in enumerate(results) if scores is None]
    if missing:
        with precision(), torch.no_grad():
            computed = fresh_scores(
                probed, [items[index] for index in missing], end, generate, max_new_tokens, batch_tokens, pmi=pmi
            )
        for index, scores in zip(missing, computed, strict=True):
            results[index] = scores
            # The reason of an unscored item is in the language of this report: it is not cached.
            if cache is not None and scores["unscored"] is None:
                cache.add(keys[index], scores)
        if cache is not None:
            cache.save()
    return [
        {"id": item.id, "family": item.probe_family, "split": item.split, **(scores or {})}
        for item, scores in zip(items, results, strict=True)
    ]


def fresh_scores(
    probed: ProbedModel,
    items: Sequence[Item],
    end: str,
    generate: str,
    max_new_tokens: int,
    batch_tokens: int,
    *,
    pmi: bool,
) -> list[Scores]:
    """Score items that the cache does not have."""
    if probed.model_family == "clip":
        return [
            {"unscored": result} if isinstance(result, str) else {"unscored": None, **tower_numbers(item, result)}
            for item, result in zip(items, choice_log_probs(probed, items, batch_tokens), strict=True)
        ]
    # 1. Encode all items, and leave out those that the model cannot answer.
    encoder = ItemEncoder(probed, end)
    encoded = encoder.encode(items)
    scored = [index for index, example in enumerate(encoded) if example.unscored is None]
    out: list[Scores] = [{"unscored": example.unscored} for example in encoded]
    if not scored:
        return out
    # 2. One forward pass gives the log-probability of each token of each answer.
    families = [items[index].probe_family for index in scored]
    answer_scores = score_answers(probed, [encoded[index] for index in scored], families, batch_tokens)
    alone = unconditional(probed, encoder, items, encoded, scored, batch_tokens) if pmi else {}
    for index, answers in zip(scored, answer_scores, strict=True):
        item, example = items[index], encoded[index]
        base = [alone[tuple(answer)] for answer in example.answers] if item.choices and alone else None
        causal = probed.model_family != "bert"
        out[index] = {"unscored": None, **numbers(item, example, answers, base, causal=causal)}
    # 3. Generate text where it is asked for.
    generated = [index for index in scored if generate == "all" or (generate == "free" and items[index].free)]
    generated = [index for index in generated if not items[index].choices and probed.model_family != "bert"]
    if generated:
        write_texts(probed, items, encoded, generated, out, max_new_tokens, end)
    return out


def score_answers(
    probed: ProbedModel, encoded: Sequence[EncodedItem], families: Sequence[str], batch_tokens: int
) -> list[list[TokenScores]]:
    """Score each answer of each item token by token with teacher forcing."""
    model, pad = probed.model, probed.processor.pad_id
    if probed.model_family == "t5":
        return score_encoder_decoder(
            model, pad, [example.prompt for example in encoded], [example.answers for example in encoded], batch_tokens
        )
    if probed.model_family == "bert":
        mask = probed.processor.tokenizer.mask_token_id
        after = probed.processor.special_ids()[1]
        flat = score_masked(
            model,
            pad,
            mask,
            [(example.prompt, answer, after) for example in encoded for answer in example.answers],
            batch_tokens,
        )
        scores = iter(flat)
        return [[next(scores) for _ in example.answers] for example in encoded]
    out: list[list[TokenScores]] = [[] for _ in encoded]
    for indices in groups(encoded, families):
        prompts = [ChoicePrompt(encoded[at].prompt, encoded[at].answers, encoded[at].image_inputs) for at in indices]
        for index, answers in zip(indices, score_choices(model, pad, prompts, batch_tokens), strict=True):
            out[index] = answers
    return out


def groups(encoded: Sequence[EncodedItem], families: Sequence[str]) -> list[list[int]]:
    """Group the indices of items that are scored together.

    A family whose prompts begin alike is a group of its own, so that the common beginning is read once. All other items
    form two groups, with and without an image.
    """
    by_family: dict[str, list[int]] = defaultdict(list)
    for index, name in enumerate(families):
        by_family[f"with image {name}" if encoded[index].image_inputs else name].append(index)
    common, plain, with_image = [], [], []
    for members in by_family.values():
        if encoded[members[0]].image_inputs:
            with_image += members
        elif (
            len(members) > 1
            and len(common_prefix([encoded[index].prompt[:-1] for index in members])) >= MIN_SHARED_PREFIX
        ):
            common.append(members)
        else:
            plain += members
    return [group for group in (*common, plain, with_image) if group]


def unconditional(
    probed: ProbedModel, encoder: ItemEncoder, items: Sequence[Item], encoded: Sequence[EncodedItem], scored: Sequence[int],
    batch_tokens: int,
) -> dict[tuple[int, ...], float]:  # fmt: skip
    """log p of each choice after an empty prompt, for pointwise mutual information (Holtzman 2021, arXiv 2104.08315)."""
    distinct = list(
        dict.fromkeys(tuple(answer) for index in scored if items[index].choices for answer in encoded[index].answers)
    )
    if not distinct or probed.model_family == "bert":
        return {}
    model, pad = probed.model, probed.processor.pad_id
    if probed.model_family == "t5":
        empty = probed.processor.plain_ids([""])[0] + encoder.after or [pad]
        results = score_encoder_decoder(model, pad, [empty], [[list(answer) for answer in distinct]], batch_tokens)[0]
    else:
        results = score_decoder(
            model, pad, [(list(encoder.empty), list(answer)) for answer in distinct], None, batch_tokens
        )
    return {answer: scores.total for answer, scores in zip(distinct, results, strict=True)}


def numbers(
    item: Item, example: EncodedItem, answers: list[TokenScores], alone: list[float] | None, *, causal: bool
) -> Scores:
    """Compute the metrics of one item.

    Of the likeliest accepted answer: logp_per_token, logp_per_byte, tok (share of tokens that are the most likely), rank (the
    worst rank of its tokens; 1 means em). Of all accepted answers: em (greedy decoding writes one of them), logp (log of the
    probability that a sample is right, nats), pass (that probability).

    Choices: p, softmax over their log-probabilities; acc, the likeliest is right (acc_bytes: by log-probability per byte;
    acc_pmi: by what the prompt adds to it); rank of the right choice; brier, sum of (p_k - [k right])^2 (Brier 1950);
    p_choices and p_vocab, probability of the right choice among the choices and among all texts (Schaeffer 2024,
    arXiv 2406.04391). Without `causal` (masked models), log-probabilities are pseudo-log-likelihoods, and em, pass and
    p_vocab are not defined.
    """
    texts = item.choices or item.accepted
    totals = np.array([answer.total for answer in answers])
    index = (item.label if item.choices else int(totals.argmax())) or 0
    best = answers[index]
    logp = best.total if item.choices else float(np.logaddexp.reduce(totals))
    size = len(texts[index].encode())
    # Numbers of one text: the right choice, or the likeliest accepted answer.
    result: Scores = dict.fromkeys(NUMBERS)
    result |= {
        "logp": logp,
        "logp_per_token": best.total / len(best.log_probs),
        "logp_per_byte": best.total / size,
        "tok": sum(best.best) / len(best.best),
        "rank": max(best.ranks),
        "num_tokens": len(best.log_probs),
        "right": [int(likeliest) for likeliest in best.best],
    }
    if causal:
        right = answers if not item.choices else [best]
        result |= {"em": float(any(all(answer.best) for answer in right)), "pass": math.exp(min(logp, 0.0))}
        ends = example.ends
        result["right_but_end"] = bool(ends) and not result["em"] and any(all(answer.best[:-ends]) for answer in right)
    if item.choices:
        result |= choice_numbers(item, totals, alone)
        result["p_vocab"] = result["pass"]
    return result


def tower_numbers(item: Item, log_probs: np.ndarray) -> Scores:
    """Compute the metrics of one item for a model of two towers, from the log-probabilities [K] of the choices.

    Metrics that need the probability of a text are None. logp is that of the right choice among the choices; an answer
    counts as one token, and tok says whether it is the nearest.
    """
    result: Scores = dict.fromkeys(NUMBERS) | choice_numbers(item, log_probs, None)
    logp = float(log_probs[item.label or 0])
    result |= {"acc_bytes": None, "logp": logp, "logp_per_token": logp, "tok": result["acc"]}
    return result | {"num_tokens": 1, "right": [int(result["acc"])], "right_but_end": False}


def choice_numbers(item: Item, totals: Any, alone: list[float] | None) -> Scores:
    """Compute the metrics of an item with choices. `totals` [K]: their log-probabilities; `alone`: without the prompt."""
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
    probed: ProbedModel, items: Sequence[Item], encoded: Sequence[EncodedItem], generated: Sequence[int], out: list[Scores],
    max_new_tokens: int, end: str,
) -> None:  # fmt: skip
    """Generate greedy text; add its edit similarity to the nearest accepted answer (tokens) and chrF (0 to 100) to `out`."""
    from sacrebleu import sentence_chrf

    longest = max(len(answer) for index in generated for answer in encoded[index].answers)
    cfg = GenerationConfig(max_new_tokens=min(max_new_tokens, longest + EXTRA_TOKENS))
    # Items with and without an image cannot share a batch.
    for extra in ({}, {"pixel_values": None}):
        group = [index for index in generated if bool(encoded[index].image_inputs) == bool(extra)]
        if not group:
            continue
        pixels = {name: torch.stack([encoded[index].image_inputs[name] for index in group]) for name in extra}
        replies = generate_replies(
            probed.model, probed.processor, [encoded[index].prompt for index in group], cfg, model_inputs=pixels
        )
        for index, (text, _) in zip(group, replies, strict=True):
            text = (text.lstrip("\n").split("\n")[0] if end == "newline" else text).strip()
            accepted = [answer.strip() for answer in items[index].accepted]
            ids = probed.processor.plain_ids([text, *accepted])
            out[index]["text"] = text
            out[index]["ted"] = max(edit_similarity(ids[0], right) for right in ids[1:])
            out[index]["chrf"] = sentence_chrf(text, accepted).score


def edit_similarity(first: Sequence[int], second: Sequence[int]) -> float:
    """Return 1 - Levenshtein distance / length of the longer sequence; 1 for two empty ones."""
    from nltk.metrics.distance import edit_distance  # type: ignore[import-untyped]

    longer = max(len(first), len(second))
    return 1.0 - edit_distance(first, second) / longer if longer else 1.0
