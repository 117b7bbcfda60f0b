"""Score a given answer token by token with teacher forcing: one forward pass, no sampling.

If every token of an answer is the likeliest one, greedy decoding writes exactly that answer, and the sum of their
log-probabilities is that of sampling it. A masked language model has no such chain of probabilities: each token is masked in turn while
all others are visible (pseudo-log-likelihood: Salazar 2020, arXiv 1910.14659).
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
from llmstage.models.lm_loss import has_split_head, hidden_or_logits, masked_head, start_id

MAX_BATCH_TOKENS = 8_192
"""Tokens that go through the model together; bounds memory."""
Pair = tuple[list[int], list[int]]
"""(ids of a prompt, ids of an answer)."""


@dataclass(slots=True)
class TokenScores:
    """The scores of one answer, token by token."""

    log_probs: list[float]
    """nats"""
    best: list[bool]
    """Whether the token was the likeliest."""
    ranks: list[int]
    """1: no token was likelier."""

    @property
    def total(self) -> float:
        """Log-probability of the full answer, nats."""
        return float(sum(self.log_probs))


def length_batches(lengths: Sequence[int], max_batch_tokens: int) -> list[list[int]]:
    """Indices of sequences in batches of similar length, as many as fit in `max_batch_tokens` once they are padded."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda number: lengths[number]):
        if batches and (len(batches[-1]) + 1) * lengths[index] <= max_batch_tokens:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def token_scores(
    head: Callable[[Tensor], Tensor] | None, states: Tensor, targets: Tensor, counts: list[int]
) -> list[TokenScores]:
    """Scores of answers of `counts` tokens each, from hidden states [S, D] and the head, or from logits [S, V] without one.

    Logits are in memory some at a time, in fp32.
    """
    width = states.shape[-1] if head is None else int(getattr(head, "out_features", 0) or 65_536)
    size = max(1, CHUNK_BYTES // (4 * width))
    columns: list[tuple[Tensor, Tensor, Tensor]] = []
    for start in range(0, len(states), size):
        chunk = states[start : start + size]
        logits = (chunk if head is None else head(chunk)).float()
        target = targets[start : start + size]
        value = logits.gather(1, target[:, None])  # [s, 1]
        ranks = 1 + (logits > value).sum(-1)
        columns.append((value.squeeze(1) - logits.logsumexp(-1), logits.argmax(-1) == target, ranks))
    if not columns:
        return []
    joined: list[list[Any]] = [torch.cat(parts).tolist() for parts in zip(*columns, strict=True)]
    ends = list(itertools.accumulate(counts, initial=0))
    return [TokenScores(*(column[a:b] for column in joined)) for a, b in itertools.pairwise(ends)]


def score_answers(
    head: Callable[[Tensor], Tensor] | None, states: Tensor, answers: list[list[int]]
) -> list[TokenScores]:
    """token_scores() of these answers, whose predicting positions are `states`, one after the other."""
    targets = torch.tensor([token for answer in answers for token in answer], device=states.device)
    return token_scores(head, states, targets, [len(answer) for answer in answers])


def token_positions(starts: Sequence[int], counts: Sequence[int], device: torch.device) -> tuple[Tensor, Tensor]:
    """(row, column) of every predicting position: in row r, `counts[r]` columns from `starts[r]` on."""
    rows = [row for row, count in enumerate(counts) for _ in range(count)]
    columns = [start + offset for start, count in zip(starts, counts, strict=True) for offset in range(count)]
    return torch.tensor(rows, device=device), torch.tensor(columns, device=device)


def device_of(model: Any) -> torch.device:
    """The device of the model's weights."""
    device: torch.device = next(model.parameters()).device
    return device


def split_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The output layer, where it can be applied to hidden states separately; else None."""
    return model.get_output_embeddings() if has_split_head(model) else None


@torch.no_grad()
def score_decoder(
    model: Any,
    pad_id: int,
    pairs: Sequence[Pair],
    model_inputs: Sequence[dict[str, Tensor]] | None = None,
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> list[TokenScores]:
    """Scores of the answer of each pair, with prompt and answer in one row, padded on the right, where no token attends.

    `model_inputs`: what the model reads with each prompt, e.g. pixel_values [3, H, W].
    """
    out: list[TokenScores] = [TokenScores([], [], [])] * len(pairs)
    for chosen in length_batches([len(prompt) + len(answer) for prompt, answer in pairs], max_batch_tokens):
        batch = [pairs[index] for index in chosen]
        # The last token of an answer is only predicted, never read.
        ids, _ = padded([prompt + answer[:-1] for prompt, answer in batch], pad_id, left=False)
        device = device_of(model)
        inputs = {"input_ids": ids.to(device), "use_cache": False}
        if model_inputs is not None:
            for name in model_inputs[chosen[0]]:
                inputs[name] = torch.stack([model_inputs[index][name] for index in chosen]).to(device)
        hidden = hidden_or_logits(model, inputs)  # [B, T, D or V]
        predicting = token_positions(
            [len(prompt) - 1 for prompt, _ in batch], [len(answer) for _, answer in batch], device
        )
        scores = score_answers(split_head(model), hidden[predicting], [answer for _, answer in batch])
        for index, answer_scores in zip(chosen, scores, strict=True):
            out[index] = answer_scores
    return out


@torch.no_grad()
def score_encoder_decoder(
    model: Any,
    pad_id: int,
    prompts: Sequence[list[int]],
    answers: Sequence[list[list[int]]],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> list[list[TokenScores]]:
    """Scores of all answers to each prompt.

    The encoder reads each prompt once; its answers are rows of the decoder, which begin with the start token.
    """
    out: list[list[TokenScores]] = [[] for _ in prompts]
    sizes = [
        len(prompt) + sum(map(len, choices)) + len(prompt) * (len(choices) - 1)
        for prompt, choices in zip(prompts, answers, strict=True)
    ]
    start, device = start_id(model), device_of(model)
    for chosen in length_batches(sizes, max_batch_tokens):
        # 1. The encoder, once a prompt.
        ids, mask = (part.to(device) for part in padded([prompts[index] for index in chosen], pad_id, left=False))
        encoded = model.get_encoder()(input_ids=ids, attention_mask=mask).last_hidden_state  # [B, S, D]
        # 2. The decoder, one row an answer; `owner` is the row of its prompt.
        owner = torch.tensor([row for row, index in enumerate(chosen) for _ in answers[index]], device=device)
        batch = [answer for index in chosen for answer in answers[index]]
        decoder_ids, _ = padded([[start, *answer[:-1]] for answer in batch], pad_id, left=False)
        inputs = {"encoder_attention_mask": mask[owner], "encoder_hidden_states": encoded[owner]}
        if has_split_head(model):
            decoder = model.get_decoder()
            hidden = decoder(input_ids=decoder_ids.to(device), use_cache=False, **inputs).last_hidden_state
        else:
            hidden = model(
                encoder_outputs=(encoded[owner],), attention_mask=mask[owner], decoder_input_ids=decoder_ids.to(device)
            ).logits
        # 3. The scores, in the order of the prompts.
        predicting = token_positions([0] * len(batch), [len(answer) for answer in batch], device)
        scores = iter(score_answers(split_head(model), hidden[predicting], batch))
        for index in chosen:
            out[index] = [next(scores) for _ in answers[index]]
    return out


@torch.no_grad()
def score_masked(
    model: Any,
    pad_id: int,
    mask_id: int,
    rows: Sequence[tuple[list[int], list[int], list[int]]],
    max_batch_tokens: int = MAX_BATCH_TOKENS,
) -> list[TokenScores]:
    """Pseudo-log-likelihood of an answer between the tokens before and after it: each of its tokens is masked in turn.

    `rows`: (tokens before, answer, tokens after).
    """
    # One sequence for each token of each answer: (ids, position of the mask, the token).
    masked_rows = [
        (before + answer[:at] + [mask_id] + answer[at + 1 :] + after, len(before) + at, answer[at])
        for before, answer, after in rows
        for at in range(len(answer))
    ]
    token_parts: list[TokenScores] = [TokenScores([], [], [])] * len(masked_rows)
    head, device = masked_head(model) if has_split_head(model) else None, device_of(model)
    for chosen in length_batches([len(ids) for ids, _, _ in masked_rows], max_batch_tokens):
        batch = [masked_rows[index] for index in chosen]
        ids, mask = (part.to(device) for part in padded([ids for ids, _, _ in batch], pad_id, left=False))
        inputs = {"input_ids": ids, "attention_mask": mask}
        states = model(**inputs).logits if head is None else model.base_model(**inputs).last_hidden_state
        positions = torch.tensor([position for _, position, _ in batch], device=device)
        states = states[torch.arange(len(batch), device=device), positions]
        scores = score_answers(head, states, [[token] for _, _, token in batch])
        for index, token_score in zip(chosen, scores, strict=True):
            token_parts[index] = token_score
    out, start = [], 0
    for _, answer, _ in rows:
        parts = token_parts[start : start + len(answer)]
        start += len(answer)
        out.append(
            TokenScores(
                [part.log_probs[0] for part in parts],
                [part.best[0] for part in parts],
                [part.ranks[0] for part in parts],
            )
        )
    return out
