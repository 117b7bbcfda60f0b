"""Log-probability of each of several answers to each of many prompts: what is shared is read once, the head sees answers only.

Prompts that begin alike share one reading of that beginning; each prompt is read once for all its choices; its choices stand
side by side in one row, each seeing the prompt, from its keys and values, and itself. Every choice so has the log-probability
that it would have alone behind the prompt. A prompt with one answer is read in one pass with it (models/told.py), unless it
shares its beginning. models/choose.py does the same for one fixed set of answers to all prompts.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from llmstage.models.generation import padded, takes_cache
from llmstage.models.loglikelihood import AT_ONCE, Told, finish, head_of, tell_decoder
from llmstage.models.multiple_choice import features

SHARED = 16
"""Tokens that prompts must have in common for their beginning to be read on its own."""


@dataclass(slots=True)
class Item:
    """A prompt and the texts that may follow it, all as ids; neither may be empty."""

    prompt: list[int]
    choices: list[list[int]]
    beside: dict[str, Tensor] = field(default_factory=dict)
    """What is read with the prompt, e.g. pixel_values [3, H, W]; the same names in every item."""

    @property
    def read(self) -> int:
        """Tokens of choices that the model reads: the last of a choice is only predicted."""
        return sum(len(choice) - 1 for choice in self.choices)


@torch.no_grad()
def tell_choices(model: Any, pad_id: int, items: Sequence[Item], at_once: int = AT_ONCE) -> list[list[Told]]:
    """What the model makes of every choice of every item, token by token, in the order given. `at_once`: tokens of prompts
    and choices that go through the model together; it bounds the cache and the mask."""
    out: list[list[Told]] = [[] for _ in items]
    cached = takes_cache(model)
    shared = common_beginning([item.prompt[:-1] for item in items]) if len(items) > 1 else []
    if len(shared) < SHARED or not cached or any(item.beside for item in items):
        shared = []
    alone = [index for index, item in enumerate(items) if not cached or (not shared and len(item.choices) == 1)]
    rows = [(index, choice) for index in alone for choice in items[index].choices]
    beside = [items[index].beside for index, _ in rows]
    pairs = [(items[index].prompt, choice) for index, choice in rows]
    told = tell_decoder(model, pad_id, pairs, beside if any(beside) else None, at_once)
    for (index, _), one in zip(rows, told, strict=True):
        out[index].append(one)
    taken = set(alone)
    among = [index for index in range(len(items)) if index not in taken]
    own = [replace(items[index], prompt=items[index].prompt[len(shared) :]) for index in among]
    for chosen in batches(own, at_once):
        for number, found in zip(chosen, score(model, pad_id, [own[n] for n in chosen], shared), strict=True):
            out[among[number]] = found
    return out


def common_beginning(prompts: list[list[int]]) -> list[int]:
    """What all of them begin with: that of the least and the greatest, whose order is that of words in a dictionary."""
    least, greatest = min(prompts), max(prompts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, greatest, strict=False))
    return [token for token, _ in same]


def batches(items: Sequence[Item], at_once: int = AT_ONCE) -> list[list[int]]:
    """Neighbours in length together, as many as fit in `at_once`."""
    found: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(items)), key=lambda item: (len(items[item].prompt), items[item].read)):
        item = items[index]
        widest = max(widest, item.read)
        if found and (len(found[-1]) + 1) * (len(item.prompt) + widest) <= at_once:
            found[-1].append(index)
        else:
            found.append([index])
            widest = item.read
    return found


def score(model: Any, pad_id: int, items: list[Item], shared: list[int]) -> list[list[Told]]:
    """One batch. `shared`: what stands before every prompt."""
    device = next(model.parameters()).device
    ids, mask = (part.to(device) for part in padded([item.prompt for item in items], pad_id, left=True))
    cache = DynamicCache(config=model.config)
    if shared:
        read(model, torch.tensor([shared], device=device), cache)
        cache.batch_repeat_interleave(len(items))
        mask = torch.cat([mask.new_ones(len(items), len(shared)), mask], 1)
    places = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    beside = {name: torch.stack([item.beside[name] for item in items]).to(device) for name in items[0].beside}
    last = read(model, ids, cache, attention_mask=mask, position_ids=places, **beside)[:, -1:]  # [B, 1, D]
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
    return told_of(model, hidden, items)


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


def told_of(model: Any, hidden: Tensor, items: list[Item]) -> list[list[Told]]:
    """What stands at the predicting positions of hidden [B, 1 + N, D or V]: the prompt's end, then the choices' tokens."""
    rows, places = [], []
    for row, item in enumerate(items):
        at = 1
        for choice in item.choices:
            rows += [row] * len(choice)
            places += [0, *range(at, at + len(choice) - 1)]
            at += len(choice) - 1
    picked = hidden[torch.tensor(rows, device=hidden.device), torch.tensor(places, device=hidden.device)]  # [S, D or V]
    told = iter(finish(head_of(model), picked, [choice for item in items for choice in item.choices]))
    return [[next(told) for _ in item.choices] for item in items]


def read(model: Any, ids: Tensor, cache: DynamicCache, **more: Tensor) -> Tensor:
    """Hidden states [B, T, D] where the head can be put on them later; else logits [B, T, V]."""
    return features(model, {"input_ids": ids, "cache": cache, "use_cache": True, **more})
