"""Log-probability of several answers to each prompt, for decoders: the model reads each prompt once for all its answers.

Two layouts, for two uses. score_choices() takes a list of answers for each prompt: they lie side by side in one row, each seeing the
prompt, from its keys and values, and itself; a beginning that all prompts share is read once for all of them.
answer_log_probs() takes one fixed set of answers to all prompts: they form a tree whose branches share their beginnings, and
each token sees the prompt and its own ancestors. In both, every answer has the log-probability that it would have alone behind
the prompt.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmstage.kernels.transformers_internals import cache_arguments
from llmstage.models.generation import padded, takes_cache
from llmstage.models.lm_loss import has_split_head, hidden_or_logits
from llmstage.models.loglikelihood import MAX_BATCH_TOKENS, TokenScores, score_answers, score_decoder, split_head

MIN_SHARED_PREFIX = 16
"""Tokens that prompts must have in common for their beginning to be read on its own."""
LOGITS = 16 * 2**20
"""Numbers in the logits of answer_log_probs() that may be in memory at once."""


@dataclass(slots=True)
class ChoicePrompt:
    """A prompt and the texts that may follow it, all as ids; none may be empty."""

    prompt: list[int]
    choices: list[list[int]]
    model_inputs: dict[str, Tensor] = field(default_factory=dict)
    """What the model reads with the prompt, e.g. pixel_values [3, H, W]; the same names in every item."""

    @property
    def num_read(self) -> int:
        """Tokens of choices that the model reads: the last of a choice is only predicted."""
        return sum(len(choice) - 1 for choice in self.choices)


@torch.no_grad()
def score_choices(
    model: Any, pad_id: int, items: Sequence[ChoicePrompt], max_batch_tokens: int = MAX_BATCH_TOKENS
) -> list[list[TokenScores]]:
    """Scores of every choice of every item, token by token, in the order given.

    `max_batch_tokens`: tokens of prompts and choices that go through the model together; it bounds the cache and the mask.
    """
    out: list[list[TokenScores]] = [[] for _ in items]
    # 1. A beginning that all prompts share is read once, where the model takes a cache and reads text alone.
    cached = takes_cache(model)
    prefix = common_prefix([item.prompt[:-1] for item in items]) if len(items) > 1 else []
    if len(prefix) < MIN_SHARED_PREFIX or not cached or any(item.model_inputs for item in items):
        prefix = []
    # 2. A prompt with one choice is read together with it, in one pass.
    alone = [index for index, item in enumerate(items) if not cached or (not prefix and len(item.choices) == 1)]
    rows = [(index, choice) for index in alone for choice in items[index].choices]
    model_inputs = [items[index].model_inputs for index, _ in rows]
    pairs = [(items[index].prompt, choice) for index, choice in rows]
    scores = score_decoder(model, pad_id, pairs, model_inputs if any(model_inputs) else None, max_batch_tokens)
    for (index, _), choice_scores in zip(rows, scores, strict=True):
        out[index].append(choice_scores)
    # 3. All other prompts are read first, then their choices side by side.
    remaining = sorted(set(range(len(items))) - set(alone))
    suffixes = [replace(items[index], prompt=items[index].prompt[len(prefix) :]) for index in remaining]
    for chosen in batches(suffixes, max_batch_tokens):
        batch_scores = score_batch(model, pad_id, [suffixes[number] for number in chosen], prefix)
        for number, item_scores in zip(chosen, batch_scores, strict=True):
            out[remaining[number]] = item_scores
    return out


def common_prefix(prompts: list[list[int]]) -> list[int]:
    """The ids with which all prompts begin: those that the least and the greatest share, in the order of lists."""
    least, greatest = min(prompts), max(prompts)
    same = itertools.takewhile(lambda pair: pair[0] == pair[1], zip(least, greatest, strict=False))
    return [token for token, _ in same]


def batches(items: Sequence[ChoicePrompt], max_batch_tokens: int = MAX_BATCH_TOKENS) -> list[list[int]]:
    """Indices of items in batches of similar length, as many as fit in `max_batch_tokens`."""
    result: list[list[int]] = []
    widest = 0
    for index in sorted(range(len(items)), key=lambda number: (len(items[number].prompt), items[number].num_read)):
        item = items[index]
        widest = max(widest, item.num_read)
        if result and (len(result[-1]) + 1) * (len(item.prompt) + widest) <= max_batch_tokens:
            result[-1].append(index)
        else:
            result.append([index])
            widest = item.num_read
    return result


def score_batch(model: Any, pad_id: int, items: list[ChoicePrompt], prefix: list[int]) -> list[list[TokenScores]]:
    """Scores of one batch. `prefix`: tokens before every prompt."""
    device = next(model.parameters()).device
    ids, mask = (part.to(device) for part in padded([item.prompt for item in items], pad_id, left=True))
    cache = DynamicCache(config=model.config)
    # 1. The shared beginning, once; its keys and values are repeated for every row.
    if prefix:
        forward_cached(model, torch.tensor([prefix], device=device), cache)
        cache.batch_repeat_interleave(len(items))
        mask = torch.cat([mask.new_ones(len(items), len(prefix)), mask], 1)
    # 2. The prompts; their last position predicts the first token of every choice.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
    model_inputs = {
        name: torch.stack([item.model_inputs[name] for item in items]).to(device) for name in items[0].model_inputs
    }
    last = forward_cached(model, ids, cache, attention_mask=mask, position_ids=positions, **model_inputs)[:, -1:]
    states = [last]  # [B, 1, D]
    # 3. The choices side by side: a token sees the prompt, and the tokens before it in its own choice.
    width = max(item.num_read for item in items)
    if width:
        tokens, owner, depth = (row.to(device) for row in side_by_side(items, width, pad_id))
        index = torch.arange(width, device=device)
        visible = (owner[:, :, None] == owner[:, None, :]) & (index[:, None] >= index[None, :])  # [B, N, N]
        prompt = mask.bool()[:, None].expand(-1, width, -1)  # [B, N, P]
        states.append(
            forward_cached(
                model, tokens, cache, attention_mask=torch.cat([prompt, visible], -1)[:, None],
                position_ids=mask.sum(-1, keepdim=True) + depth,
            )
        )  # fmt: skip
    return choice_scores(model, torch.cat(states, 1), items)  # of [B, 1 + N, D or V]


def side_by_side(items: list[ChoicePrompt], width: int, pad_id: int) -> tuple[Tensor, Tensor, Tensor]:
    """(tokens, choice, index within the choice), [B, N] each, of the choices side by side; padding is a choice of its own."""
    tokens = torch.full((len(items), width), pad_id)
    owner, depth = torch.full_like(tokens, -1), torch.zeros_like(tokens)
    for row, item in enumerate(items):
        flat = [
            (token, number, at) for number, choice in enumerate(item.choices) for at, token in enumerate(choice[:-1])
        ]
        if flat:
            tokens[row, : len(flat)], owner[row, : len(flat)], depth[row, : len(flat)] = torch.tensor(flat).T
    return tokens, owner, depth


def choice_scores(model: Any, hidden: Tensor, items: list[ChoicePrompt]) -> list[list[TokenScores]]:
    """Scores from hidden [B, 1 + N, D or V]: position 0 is the end of the prompt, then come the tokens of the choices."""
    rows, columns = [], []
    for row, item in enumerate(items):
        start = 1
        for choice in item.choices:
            rows += [row] * len(choice)
            columns += [0, *range(start, start + len(choice) - 1)]
            start += len(choice) - 1
    states = hidden[
        torch.tensor(rows, device=hidden.device), torch.tensor(columns, device=hidden.device)
    ]  # [S, D or V]
    answers = [choice for item in items for choice in item.choices]
    scores = iter(score_answers(split_head(model), states, answers))
    return [[next(scores) for _ in item.choices] for item in items]


def forward_cached(model: Any, ids: Tensor, cache: DynamicCache, **inputs: Tensor) -> Tensor:
    """Hidden states [B, T, D] where the head is applied later, else logits [B, T, V]; keys and values go into `cache`."""
    module = model.base_model if has_split_head(model) else model
    return hidden_or_logits(model, {"input_ids": ids, **cache_arguments(module, cache), **inputs})


@dataclass(slots=True)
class AnswerTree:
    """Answers (ids, their end token included) as a tree. The last token of an answer is only predicted, never read."""

    tokens: Tensor
    """[N] the token of each node; ancestors come first."""
    depth: Tensor
    """[N] tokens before it in its answer."""
    visible: Tensor
    """[N, N] whether a node sees another: itself and its ancestors."""
    steps: Tensor
    """[3, S] all tokens of all answers: which answer, behind which node (0: the prompt, k: node k - 1), which token."""
    num_answers: int

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> AnswerTree:
        """The tree of these answers."""
        nodes: dict[tuple[int, ...], int] = {}
        parents: list[int] = []
        steps: list[tuple[int, int, int]] = []
        for number, answer in enumerate(answers):
            node = 0
            for index, token in enumerate(answer):
                steps.append((number, node, token))
                path = tuple(answer[: index + 1])
                if index + 1 == len(answer):
                    break
                if path not in nodes:
                    nodes[path] = len(nodes) + 1
                    parents.append(node)
                node = nodes[path]
        visible = torch.eye(len(nodes), dtype=torch.bool)
        for node, parent in enumerate(parents):
            if parent:
                visible[node] |= visible[parent - 1]
        return cls(
            torch.tensor([path[-1] for path in nodes], dtype=torch.long),
            torch.tensor([len(path) - 1 for path in nodes], dtype=torch.long),
            visible,
            torch.tensor(steps, dtype=torch.long).T,
            len(answers),
        )


@torch.no_grad()
def answer_log_probs(
    model: nn.Module,
    pad_id: int,
    prompts: Sequence[list[int]],
    tree: AnswerTree,
    model_inputs: dict[str, Tensor] | None = None,
) -> Tensor:
    """[N, A] log p(answer | prompt) in nats, fp32, on the CPU. `model_inputs`: what is read with the prompts, a row each."""
    device = next(model.parameters()).device
    out = torch.empty(len(prompts), tree.num_answers)
    row_tokens = max(map(len, prompts), default=0) + len(tree.tokens)
    batch_rows = max(1, MAX_BATCH_TOKENS // row_tokens)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), batch_rows):
        rows = order[start : start + batch_rows]
        ids, mask = (part.to(device) for part in padded([prompts[row] for row in rows], pad_id, left=True))
        batch_inputs = {name: value[rows].to(device) for name, value in (model_inputs or {}).items()}
        out[rows] = tree_log_probs(model, ids, mask, tree, batch_inputs).float().cpu()
    return out


def tree_log_probs(model: Any, ids: Tensor, mask: Tensor, tree: AnswerTree, model_inputs: dict[str, Tensor]) -> Tensor:
    """log p(answer | prompt) [B, A] of prompts that are padded on the left, ids and mask [B, P]."""
    cache = DynamicCache(config=model.config)
    # 1. The prompts.
    positions = (mask.cumsum(-1) - 1).clamp(min=0)  # [B, P]
    last = forward_cached(model, ids, cache, attention_mask=mask, position_ids=positions, **model_inputs)[:, -1:]
    states = [last]  # [B, 1, D or V]
    # 2. The tree, in every row.
    num_nodes = len(tree.tokens)
    if num_nodes:
        visible = tree.visible.to(ids.device)[None].expand(len(ids), -1, -1)  # [B, N, N]
        prompt = mask.bool()[:, None].expand(-1, num_nodes, -1)  # [B, N, P]
        tokens = tree.tokens.to(ids.device)[None].expand(len(ids), -1)
        states.append(
            forward_cached(
                model, tokens, cache, attention_mask=torch.cat([prompt, visible], -1)[:, None],  # [B, 1, N, P + N]
                position_ids=mask.sum(-1, keepdim=True) + tree.depth.to(ids.device)[None],
            )
        )  # fmt: skip
    hidden = torch.cat(states, 1)  # [B, 1 + N, D or V]
    # 3. The sums over the tokens of each answer, with logits of some rows at a time.
    answer, node, token = tree.steps.to(ids.device)
    total = torch.zeros(len(ids), tree.num_answers, device=ids.device)
    width = model.get_output_embeddings().weight.shape[0]
    chunk_rows = max(1, LOGITS // max(1, (1 + num_nodes) * width))
    for start in range(0, len(ids), chunk_rows):
        part = hidden[start : start + chunk_rows]
        logits = model.get_output_embeddings()(part) if has_split_head(model) else part
        log_probs = logits.float().log_softmax(-1)  # [b, 1 + N, V]
        total[start : start + chunk_rows].index_add_(1, answer, log_probs[:, node, token])
    return total
