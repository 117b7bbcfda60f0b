"""Token classification: logits of chosen tokens, with the head applied to these only, and the best legal sequence of classes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from llmstage import console


def token_logits(model: Any, inputs: dict[str, Tensor], where: Tensor) -> Tensor:
    """[N, C] at `where` [N], positions in the flattened [B * T] tokens."""
    if not hasattr(model, "plain_token_head"):
        warn_about_direction(model)
        model.plain_token_head = head_is_plain(model, inputs["input_ids"].device)
    if not model.plain_token_head:
        logits: Tensor = model(**inputs).logits
        return logits.reshape(-1, logits.shape[-1]).index_select(0, where)
    hidden = model.base_model(**inputs).last_hidden_state
    chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, where)  # [N, D]
    chosen_logits: Tensor = head_of(model)(chosen)
    return chosen_logits


def warn_about_direction(model: nn.Module) -> None:
    """Warn where a causal model tags: a word is tagged without those behind it."""
    if any(getattr(module, "is_causal", False) for module in model.modules()):
        console.warn(
            f"{type(model).__name__} reads from left to right: a word is tagged without the words behind it, and only by its first "
            f"token. An encoder (model=bert_base, or model.path=<encoder>) reads both sides."
        )


def head_of(model: Any) -> Callable[[Tensor], Tensor]:
    """The layers between the last hidden state and the logits, as transformers' token classifiers have them."""
    parts = [getattr(model, name, None) for name in ("head", "drop", "dropout", "classifier", "score")]
    return nn.Sequential(*(part for part in parts if isinstance(part, nn.Module)))


@torch.no_grad()
def head_is_plain(model: Any, device: torch.device) -> bool:
    """Whether head_of() applied to the body's output gives the model's logits; if not, the model's own forward is used."""
    ids = (torch.arange(1, 9, device=device) % model.get_input_embeddings().weight.shape[0])[None]
    was_training = model.training
    model.eval()
    # Weights that were cast to bf16 are for use under autocast.
    rounded = any(weight.dtype == torch.bfloat16 for weight in model.parameters())
    try:
        with torch.autocast(device.type, torch.bfloat16, enabled=rounded), torch.compiler.set_stance("force_eager"):
            hidden = model.base_model(input_ids=ids).last_hidden_state
            return torch.allclose(head_of(model)(hidden), model(input_ids=ids).logits, atol=1e-5)
    except (AttributeError, TypeError, NotImplementedError, RuntimeError, ValueError):  # a head of another form
        return False
    finally:
        model.train(was_training)


def best_path(log_p: NDArray[np.float64], step: NDArray[np.float64], edges: NDArray[np.float64]) -> list[int]:
    """The likeliest sequence of classes (Viterbi 1967). `log_p` [T, C]; `step` [C, C] from one class to the next and
    `edges` [2, C] at both ends, 0 where allowed and -inf where not."""
    score = log_p[0] + edges[0]
    back = np.zeros(log_p.shape, dtype=np.int64)
    for index in range(1, len(log_p)):
        reached = score[:, None] + step  # [from, to]
        back[index] = reached.argmax(0)
        score = reached.max(0) + log_p[index]
    path = [int((score + edges[1]).argmax())]
    for index in range(len(log_p) - 1, 0, -1):
        path.append(int(back[index, path[-1]]))
    return path[::-1]
