"""The likeliest of a set of answers, each as a whole: one pass over the prompt, one over all answers at once.

The answers are laid out as a tree whose branches share their beginnings. Its tokens go through the model side by side, each
seeing the prompt (from its keys and values, computed once and not copied) and its own ancestors, so that every answer has
the log-probability that it would have alone behind the prompt.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from llmstage.models.generation import padded

AT_ONCE = 8_192
"""Prompt and answer tokens that go through the model together; bounds the cache and the mask."""
LOGITS = 16 * 2**20
"""Numbers in the logits that may stand in memory at once."""


@dataclass(slots=True)
class AnswerTree:
    """Answers (ids, their end token included) as a tree. The last token of an answer is only predicted, never read."""

    tokens: Tensor
    """[N] the token of each node; ancestors come first."""
    depth: Tensor
    """[N] tokens before it in its answer."""
    sees: Tensor
    """[N, N] whether a node looks at another: itself and its ancestors."""
    steps: Tensor
    """[3, S] all tokens of all answers: which answer, behind which node (0: the prompt, k: node k - 1), which token."""
    num_answers: int

    @classmethod
    def of(cls, answers: Sequence[Sequence[int]]) -> AnswerTree:
        known: dict[tuple[int, ...], int] = {}
        parents: list[int] = []
        steps: list[tuple[int, int, int]] = []
        for number, answer in enumerate(answers):
            at = 0
            for place, token in enumerate(answer):
                steps.append((number, at, token))
                path = tuple(answer[: place + 1])
                if place + 1 == len(answer):
                    break
                if path not in known:
                    known[path] = len(known) + 1
                    parents.append(at)
                at = known[path]
        sees = torch.eye(len(known), dtype=torch.bool)
        for node, parent in enumerate(parents):
            if parent:
                sees[node] |= sees[parent - 1]
        return cls(
            torch.tensor([path[-1] for path in known], dtype=torch.long),
            torch.tensor([len(path) - 1 for path in known], dtype=torch.long),
            sees,
            torch.tensor(steps, dtype=torch.long).T,
            len(answers),
        )


@torch.no_grad()
def answer_log_probs(
    model: nn.Module,
    pad_id: int,
    prompts: Sequence[list[int]],
    tree: AnswerTree,
    beside: dict[str, Tensor] | None = None,
) -> Tensor:
    """[N, A] log p(answer | prompt) in nats, fp32, on the CPU. `beside`: what is read with the prompts, a row each."""
    device = next(model.parameters()).device
    out = torch.empty(len(prompts), tree.num_answers)
    each = max(map(len, prompts), default=0) + len(tree.tokens)
    at_once = max(1, AT_ONCE // each)
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    for start in range(0, len(order), at_once):
        rows = order[start : start + at_once]
        ids, mask = (part.to(device) for part in padded([prompts[row] for row in rows], pad_id, left=True))
        own = {name: value[rows].to(device) for name, value in (beside or {}).items()}
        out[rows] = tree_log_probs(model, ids, mask, tree, own).float().cpu()
    return out


def tree_log_probs(model: Any, ids: Tensor, mask: Tensor, tree: AnswerTree, beside: dict[str, Tensor]) -> Tensor:
    """The same for prompts padded on the left: ids and mask [B, P] -> [B, A]."""
    cache = DynamicCache(config=model.config)
    places = (mask.cumsum(-1) - 1).clamp(min=0)  # [B, P]
    read = {"input_ids": ids, "attention_mask": mask, "position_ids": places, **beside}
    states = [features(model, {**read, "cache": cache, "use_cache": True})[:, -1:]]  # [B, 1, D or V]
    num_nodes = len(tree.tokens)
    if num_nodes:
        sees = tree.sees.to(ids.device)[None].expand(len(ids), -1, -1)  # [B, N, N]
        prompt = mask.bool()[:, None].expand(-1, num_nodes, -1)  # [B, N, P]
        inputs = {
            "input_ids": tree.tokens.to(ids.device)[None].expand(len(ids), -1),
            "attention_mask": torch.cat([prompt, sees], -1)[:, None],  # [B, 1, N, P + N]
            "position_ids": mask.sum(-1, keepdim=True) + tree.depth.to(ids.device)[None],
        }
        states.append(features(model, {**inputs, "cache": cache, "use_cache": True}))
    hidden = torch.cat(states, 1)  # [B, 1 + N, D or V]
    answer, behind, token = tree.steps.to(ids.device)
    total = torch.zeros(len(ids), tree.num_answers, device=ids.device)
    width = model.get_output_embeddings().weight.shape[0]
    step = max(1, LOGITS // max(1, (1 + num_nodes) * width))
    for start in range(0, len(ids), step):
        part = hidden[start : start + step]
        logits = model.get_output_embeddings()(part) if splits(model) else part
        log_probs = logits.float().log_softmax(-1)  # [b, 1 + N, V]
        total[start : start + step].index_add_(1, answer, log_probs[:, behind, token])
    return total


def splits(model: Any) -> bool:
    return bool(getattr(model, "split_head", False))


def features(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Hidden states [B, T, D] where the head can be put on them later; else logits [B, T, V]."""
    out: Tensor = model.base_model(**inputs).last_hidden_state if splits(model) else model(**inputs).logits
    return out
