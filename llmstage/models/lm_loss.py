"""Language-model losses from a transformers model: one shift, and the head only where there is a target."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.head_loss import CHUNK_BYTES, head_losses, takes_chunks


@dataclass(slots=True)
class TokenLosses:
    """Per target token, in reading order of the batch."""

    nll: Tensor
    """[N] -log p(target), nats, fp32."""
    correct: Any
    """[N] bool: the target was the likeliest token; None while gradients are wanted."""
    where: Tensor
    """[N] index of the target in the flattened [B * T] labels."""
    best: Any = None
    """[N] id of the likeliest token, where the task shows it; None while gradients are wanted."""


def targets_of(labels: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """(index of the predicting position, target id), both [N].

    Labels stand at their own positions, as in transformers; the position before speaks about them. This is the one shift.
    """
    shifted = labels[:, 1:]  # [B, T-1]
    row, column = (shifted != ignore).nonzero(as_tuple=True)
    return row * labels.shape[1] + column, shifted[row, column]


def last_hidden(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """[B, T, D] what the head sees; of an encoder-decoder, at the decoder's positions."""
    if not model.config.is_encoder_decoder:
        hidden: Tensor = model.base_model(**inputs, use_cache=False).last_hidden_state
        return hidden
    mask = inputs.get("attention_mask")  # [B, S]
    encoded = model.get_encoder()(input_ids=inputs["input_ids"], attention_mask=mask).last_hidden_state  # [B, S, D]
    decoded: Tensor = model.get_decoder()(
        input_ids=inputs["decoder_input_ids"],
        encoder_hidden_states=encoded,
        encoder_attention_mask=mask,
        use_cache=False,
    ).last_hidden_state
    return decoded


def start_id(model: Any) -> int:
    """The token that a decoder is given before its first own one."""
    config = model.config
    known = (config.decoder_start_token_id, config.bos_token_id, config.pad_token_id)
    return next((int(token) for token in known if token is not None), 0)


def decoder_inputs(model: Any, labels: Tensor, ignore: int) -> Tensor:
    """[B, T] what the decoder reads while it is told the truth: the start token, then the targets, each where its label
    stands. Padding is never looked at (causal, on the right), so any id will do there."""
    ids = labels.masked_fill(labels == ignore, 0)
    ids[:, 0] = start_id(model)
    return ids


def token_losses(
    model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, ignore: int, smoothing: float = 0.0
) -> TokenLosses:
    """-log p of every target. `labels` [B, T] holds `ignore` where a token is no target.

    Of an encoder-decoder, `inputs` are the encoder's; labels begin with one `ignore`, where the decoder's start token
    stands, so the shift is the same one. `smoothing`: share of the target's probability that all tokens are to have
    (Szegedy 2016); the loss is then no likelihood.
    """
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        inputs = {**inputs, "decoder_input_ids": decoder_inputs(model, labels, ignore)}
    index, target = targets_of(labels, ignore)
    if not getattr(model, "split_head", False):
        logits = model(**inputs).logits
        chosen = logits.reshape(-1, logits.shape[-1]).index_select(0, index)
        return measure(chosen, target, index, smoothing)
    hidden = last_hidden(model, inputs)
    chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, index)  # [N, D]
    head = model.get_output_embeddings()  # type: ignore[operator]
    if torch.is_grad_enabled():
        return learn(model, head, chosen, target, index, smoothing)
    size = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
    parts = [
        measure(head(chosen[at : at + size]), target[at : at + size], index[at : at + size], smoothing)
        for at in range(0, max(1, len(target)), size)
    ]
    return TokenLosses(*(torch.cat([getattr(part, name) for part in parts]) for name in ("nll", "correct", "where")))


def learn(model: Any, head: Any, hidden: Tensor, target: Tensor, index: Tensor, smoothing: float = 0.0) -> TokenLosses:
    """Losses of hidden states [N, D] while gradients are wanted; in chunks where the run set `model.head_chunk`."""
    chunk = getattr(model, "head_chunk", 0)
    if not chunk or not takes_chunks(head):
        return measure(head(hidden), target, index, smoothing)
    return TokenLosses(head_losses(head, hidden, target, smoothing, chunk), None, index + 1)


def masked_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """What makes logits of hidden states in a masked language model; None where it is not known."""
    if hasattr(model, "decoder") and hasattr(model, "head"):  # ModernBERT
        return lambda hidden: model.decoder(model.head(hidden))
    return getattr(model, "cls", None) or getattr(model, "lm_head", None)  # BERT, RoBERTa


def masked_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, ignore: int) -> TokenLosses:
    """-log p of every hidden token, at its own position. `labels` [B, T] holds `ignore` where a token is no target."""
    flat = labels.reshape(-1)
    where = (flat != ignore).nonzero().squeeze(1)
    head = masked_head(model) if getattr(model, "split_head", False) else None
    if head is None:
        logits = model(**inputs).logits
        chosen = logits.reshape(-1, logits.shape[-1]).index_select(0, where)
    else:
        hidden = model.base_model(**inputs).last_hidden_state  # type: ignore[operator]
        states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, where)  # [N, D]
        if torch.is_grad_enabled() and hasattr(model, "decoder") and hasattr(model, "head"):  # ModernBERT
            inner: Any = model.head
            return learn(model, model.decoder, inner(states), flat.index_select(0, where), where - 1)
        chosen = head(states)  # [N, V]
    losses = measure(chosen, flat.index_select(0, where), where - 1)
    if not torch.is_grad_enabled():
        losses.best = chosen.argmax(-1)
    return losses


def measure(logits: Tensor, target: Tensor, index: Tensor, smoothing: float = 0.0) -> TokenLosses:
    """Cross-entropy in fp32 whatever the logits' type."""
    nll = F.cross_entropy(logits.float(), target, reduction="none", label_smoothing=smoothing)
    if torch.is_grad_enabled():  # training looks at the loss alone, and an argmax over the vocabulary takes time
        return TokenLosses(nll, None, index + 1)
    return TokenLosses(nll, logits.argmax(-1) == target, index + 1)


def sum_by_segment(values: Tensor, where: Tensor, segments: Tensor, num_segments: int) -> list[float]:
    """Sums of per-token values for each feature of the batch."""
    owner = segments.reshape(-1).index_select(0, where)
    total = torch.zeros(num_segments, dtype=torch.float64, device=values.device)
    return [float(value) for value in total.index_add_(0, owner, values.double()).tolist()]


def right_places(losses: TokenLosses, segments: Tensor, num_segments: int) -> list[set[int]]:
    """For each feature of the batch the positions (within it) whose token was the likeliest one. `segments` [B, T]."""
    owner = segments.reshape(-1).cpu()
    first: dict[int, int] = {}
    for place, number in enumerate(owner.tolist()):
        first.setdefault(number, place)
    right: list[set[int]] = [set() for _ in range(num_segments)]
    for place in losses.where[losses.correct].tolist():
        number = int(owner[place])
        right[number].add(place - first[number])
    return right
