"""What a model says of the tokens of an answer while it is told the truth before each: one forward pass, no sampling.

If every token of an answer is the likeliest one, greedy decoding writes exactly that answer, and the sum of their
log-probabilities is that of sampling it. For masked language models there is no such chain; each token is hidden in turn,
with all others in sight (pseudo-log-likelihood: Salazar 2020, arXiv 1910.14659).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from llmstage.kernels.head_loss import CHUNK_BYTES
from llmstage.models.generation import padded
from llmstage.models.lm_loss import masked_head, start_id
from llmstage.models.multiple_choice import features, splits

AT_ONCE = 8_192
"""Tokens that go through the model together; bounds memory."""
Pair = tuple[list[int], list[int]]
"""(ids of a prompt, ids of an answer)."""


@dataclass(slots=True)
class Told:
    """One answer, token by token."""

    log_probs: list[float]
    """nats"""
    best: list[bool]
    """The token was the likeliest."""
    ranks: list[int]
    """1: no token was likelier."""

    @property
    def total(self) -> float:
        return float(sum(self.log_probs))


def in_batches(lengths: Sequence[int], at_once: int) -> list[list[int]]:
    """Neighbours in length together, as many as fit in `at_once` tokens once they are padded."""
    found: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if found and (len(found[-1]) + 1) * lengths[index] <= at_once:
            found[-1].append(index)
        else:
            found.append([index])
    return found


def read_off(head: Callable[[Tensor], Tensor] | None, picked: Tensor, targets: Tensor, counts: list[int]) -> list[Told]:
    """Answers of `counts` tokens each from hidden states [S, D] and the head, or from logits [S, V] without one. Logits stand
    in memory some at a time, and are looked at in fp32."""
    width = picked.shape[-1] if head is None else int(getattr(head, "out_features", 0) or 65_536)
    size = max(1, CHUNK_BYTES // (4 * width))
    parts: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(picked), size):
        own = picked[start : start + size]
        logits = (own if head is None else head(own)).float()
        target = targets[start : start + size]
        value = logits.gather(1, target[:, None])  # [s, 1]
        ranks = 1 + (logits > value).sum(-1)
        parts.append((value.squeeze(1) - logits.logsumexp(-1), logits.argmax(-1) == target, ranks))
    if not parts:
        return []
    every: list[list[Any]] = [torch.cat(part).tolist() for part in zip(*parts, strict=True)]
    ends = list(itertools.accumulate(counts, initial=0))
    return [Told(*(column[a:b] for column in every)) for a, b in itertools.pairwise(ends)]


def places_of(starts: Sequence[int], counts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """(row, column) of every predicting position: in row r, `counts[r]` columns from `starts[r]` on."""
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    columns = [start + at for start, count in zip(starts, counts, strict=True) for at in range(count)]
    return torch.tensor(rows, device=device), torch.tensor(columns, device=device)


def device_of(model: Any) -> torch.device:
    device: torch.device = next(model.parameters()).device
    return device


def head_of(model: Any) -> Callable[[Tensor], Tensor] | None:
    return model.get_output_embeddings() if splits(model) else None


@torch.no_grad()
def tell_decoder(
    model: Any,
    pad_id: int,
    pairs: Sequence[Pair],
    beside: Sequence[dict[str, Tensor]] | None = None,
    at_once: int = AT_ONCE,
) -> list[Told]:
    """A prompt and its answer in one row. Padding stands on the right, where no token looks. `beside`: what is read with
    each prompt, e.g. pixel_values [3, H, W]."""
    out: list[Told] = [Told([], [], [])] * len(pairs)
    for chosen in in_batches([len(prompt) + len(answer) for prompt, answer in pairs], at_once):
        own = [pairs[index] for index in chosen]
        # The last token of an answer is only predicted, never read.
        ids, _ = padded([prompt + answer[:-1] for prompt, answer in own], pad_id, left=False)
        device = device_of(model)
        more = {} if beside is None else {name: together(beside, chosen, name).to(device) for name in beside[chosen[0]]}
        hidden = features(model, {"input_ids": ids.to(device), "use_cache": False, **more})  # [B, T, D or V]
        where = places_of([len(prompt) - 1 for prompt, _ in own], [len(answer) for _, answer in own], device)
        told = finish(head_of(model), hidden[where], [answer for _, answer in own])
        for index, found in zip(chosen, told, strict=True):
            out[index] = found
    return out


def together(beside: Sequence[dict[str, Tensor]], chosen: Sequence[int], name: str) -> Tensor:
    return torch.stack([beside[index][name] for index in chosen])


def finish(head: Callable[[Tensor], Tensor] | None, picked: Tensor, answers: list[list[int]]) -> list[Told]:
    targets = torch.tensor([token for answer in answers for token in answer], device=picked.device)
    return read_off(head, picked, targets, [len(answer) for answer in answers])


@torch.no_grad()
def tell_encoder_decoder(
    model: Any, pad_id: int, prompts: Sequence[list[int]], answers: Sequence[list[list[int]]], at_once: int = AT_ONCE
) -> list[list[Told]]:
    """Each prompt is read once by the encoder; its answers are rows of the decoder, which begin with the start token."""
    out: list[list[Told]] = [[] for _ in prompts]
    sizes = [
        len(prompt) + sum(map(len, own)) + len(prompt) * (len(own) - 1)
        for prompt, own in zip(prompts, answers, strict=True)
    ]
    start, device = start_id(model), device_of(model)
    for chosen in in_batches(sizes, at_once):
        ids, mask = (part.to(device) for part in padded([prompts[index] for index in chosen], pad_id, left=False))
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, S, D]
        owner = torch.tensor([row for row, index in enumerate(chosen) for _ in answers[index]], device=device)
        own = [answer for index in chosen for answer in answers[index]]
        given, _ = padded([[start, *answer[:-1]] for answer in own], pad_id, left=False)
        inputs = {"encoder_attention_mask": mask[owner], "encoder_hidden_states": encoded[owner]}
        if splits(model):
            hidden = model.get_decoder()(input_ids=given.to(device), use_cache=False, **inputs).last_hidden_state
        else:
            hidden = model(
                encoder_outputs=(encoded[owner],), attention_mask=mask[owner], decoder_input_ids=given.to(device)
            ).logits
        where = places_of([0] * len(own), [len(answer) for answer in own], device)
        told = iter(finish(head_of(model), hidden[where], own))
        for index in chosen:
            out[index] = [next(told) for _ in answers[index]]
    return out


@torch.no_grad()
def tell_masked(
    model: Any,
    pad_id: int,
    mask_id: int,
    rows: Sequence[tuple[list[int], list[int], list[int]]],
    at_once: int = AT_ONCE,
) -> list[Told]:
    """Pseudo-log-likelihood of an answer between what stands before and after it: each of its tokens is hidden in turn."""
    hidden_rows = [
        (before + answer[:at] + [mask_id] + answer[at + 1 :] + after, len(before) + at, answer[at])
        for before, answer, after in rows
        for at in range(len(answer))
    ]
    flat: list[Told] = [Told([], [], [])] * len(hidden_rows)
    head, device = masked_head(model) if splits(model) else None, device_of(model)
    for chosen in in_batches([len(ids) for ids, _, _ in hidden_rows], at_once):
        own = [hidden_rows[index] for index in chosen]
        ids, mask = (part.to(device) for part in padded([ids for ids, _, _ in own], pad_id, left=False))
        inputs = {"input_ids": ids, "attention_mask": mask}
        made = model(**inputs).logits if head is None else model.base_model(**inputs).last_hidden_state
        picked = made[
            torch.arange(len(own), device=device), torch.tensor([place for _, place, _ in own], device=device)
        ]
        for index, found in zip(chosen, finish(head, picked, [[token] for _, _, token in own]), strict=True):
            flat[index] = found
    found_all, at = [], 0
    for _, answer, _ in rows:
        own_parts = flat[at : at + len(answer)]
        at += len(answer)
        found_all.append(
            Told(
                [part.log_probs[0] for part in own_parts],
                [part.best[0] for part in own_parts],
                [part.ranks[0] for part in own_parts],
            )
        )
    return found_all
