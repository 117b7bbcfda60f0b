"""Log-probability of each of several answers to each of many prompts: what is shared is read once, the head sees answers only.

Prompts that begin alike share one reading of that beginning; each prompt is read once for all its choices; its choices stand
side by side in one row, each seeing the prompt, from its keys and values, and itself. Every choice so has the log-probability
that it would have alone behind the prompt. models/choose.py does the same for one fixed set of answers to all prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmstage.models.choose import features, splits
from llmstage.models.generate import padded
from llmstage.models.head_loss import CHUNK_BYTES

AT_ONCE = 8_192
"""Tokens of prompts and choices that go through the model together; bounds the cache and the mask."""
SHARED = 16
"""Tokens that prompts must have in common for their beginning to be read on its own."""


@dataclass(slots=True)
class Item:
    """A prompt and the texts that may follow it, all as ids; neither may be empty."""

    prompt: list[int]
    choices: list[list[int]]

    @property
    def read(self) -> int:
        """Tokens of choices that the model reads: the last of a choice is only predicted."""
        return sum(len(choice) - 1 for choice in self.choices)


@torch.no_grad()
def choice_log_probs(model: Any, pad_id: int, items: Sequence[Item]) -> list[list[float]]:
    """log p(choice | prompt) in nats for every choice of every item, summed over its tokens; in the order given."""
    out: list[list[float]] = [[] for _ in items]
    shared = common_beginning([item.prompt[:-1] for item in items]) if len(items) > 1 else []
    shared = shared if len(shared) >= SHARED else []
    for chosen in batches(items):
        own = [Item(items[index].prompt[len(shared) :], items[index].choices) for index in chosen]
        for index, found in zip(chosen, score(model, pad_id, own, shared), strict=True):
            out[index] = found
    return out


def common_beginning(prompts: list[list[int]]) -> list[int]:
    """What all of them begin with: that of the least and the greatest, whose order is that of words in a dictionary."""
    least, greatest = min(prompts), max(prompts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, greatest, strict=False))
    return [token for token, _ in same]


def batches(items: Sequence[Item]) -> list[list[int]]:
    """Neighbours in length together, as many as fit in AT_ONCE."""
    found: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(items)), key=lambda item: (len(items[item].prompt), items[item].read)):
        item = items[index]
        widest = max(widest, item.read)
        if found and (len(found[-1]) + 1) * (len(item.prompt) + widest) <= AT_ONCE:
            found[-1].append(index)
        else:
            found.append([index])
            widest = item.read
    return found


def score(model: Any, pad_id: int, items: list[Item], shared: list[int]) -> list[list[float]]:
    """One batch. `shared`: what stands before every prompt."""
    device = next(model.parameters()).device
    ids, mask = (part.to(device) for part in padded([item.prompt for item in items], pad_id, left=True))
    cache = DynamicCache(config=model.config)
    if shared:
        read(model, torch.tensor([shared], device=device), cache)
        cache.batch_repeat_interleave(len(items))
        mask = torch.cat([mask.new_ones(len(items), len(shared)), mask], 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    last = read(model, ids, cache, attention_mask=mask, position_ids=places)[:, -1:]  # [B, 1, D]
    states = [last]
    width = max(item.read for item in items)
    if width:
        tokens, owner, depth = (row.to(device) for row in laid_out(items, width, pad_id))
        place = torch.arange(width, device=device)
        sees = (owner[:, :, None] == owner[:, None, :]) & (place[:, None] >= place[None, :])  # [B, N, N]
        prompt = mask.bool()[:, None].expand(-1, width, -1)  # [B, N, P]
        positions = mask.sum(-1, keepdim=True) + depth
        states.append(
            read(model, tokens, cache, attention_mask=torch.cat([prompt, sees], -1)[:, None], position_ids=positions)
        )
    hidden = torch.cat(states, 1)  # [B, 1 + N, D or V]
    return read_off(model, hidden, items)


def laid_out(items: list[Item], width: int, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, choice, place in the choice), [B, N] each, of the choices side by side; padding is a choice of its own."""
    tokens = torch.full((len(items), width), pad_id)
    owner, depth = torch.full_like(tokens, -1), torch.zeros_like(tokens)
    for row, item in enumerate(items):
        flat = [
            (token, number, at) for number, choice in enumerate(item.choices) for at, token in enumerate(choice[:-1])
        ]
        if flat:
            tokens[row, : len(flat)], owner[row, : len(flat)], depth[row, : len(flat)] = torch.tensor(flat).T
    return tokens, owner, depth


def read_off(model: Any, hidden: Tensor, items: list[Item]) -> list[list[float]]:
    """Sums over the tokens of each choice; logits are made for the positions before such tokens only, some at a time."""
    rows, places, tokens, counts = [], [], [], []
    for row, item in enumerate(items):
        at = 1
        for choice in item.choices:
            rows += [row] * len(choice)
            places += [0, *range(at, at + len(choice) - 1)]
            tokens += choice
            counts.append(len(choice))
            at += len(choice) - 1
    picked = hidden[torch.tensor(rows, device=hidden.device), torch.tensor(places, device=hidden.device)]  # [S, D or V]
    target = torch.tensor(tokens, device=hidden.device)
    head = model.get_output_embeddings()
    size = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
    parts = []
    for start in range(0, len(picked), size):
        logits = head(picked[start : start + size]) if splits(model) else picked[start : start + size]
        parts.append(-nn.functional.cross_entropy(logits.float(), target[start : start + size], reduction="none"))
    sums = [float(part.double().sum()) for part in torch.cat(parts).split(counts)]
    ends = [0]
    for item in items:
        ends.append(ends[-1] + len(item.choices))
    return [sums[start:stop] for start, stop in itertools.pairwise(ends)]


def read(model: Any, ids: Tensor, cache: DynamicCache, **more: Tensor) -> Tensor:
    """Hidden states [B, T, D] where the head can be put on them later; else logits [B, T, V]."""
    return features(model, {"input_ids": ids, "cache": cache, "use_cache": True, **more})
