"""Language-model losses of a transformers model: causal, encoder-decoder and masked.

The shift between a position and its target is made in one place, and the head is applied only to positions that have a target.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from llmstage.kernels.head_loss import CHUNK_BYTES, head_losses, supports_chunks


@dataclass(slots=True)
class TokenLosses:
    """What is computed for each target token, in the order of the batch."""

    nll: Tensor
    """[N] -log p(target), nats, fp32."""
    correct: Any
    """[N] bool: the target was the likeliest token; None while gradients are recorded."""
    where: Tensor
    """[N] index of the target in the flattened [B * T] labels."""
    best: Any = None
    """[N] id of the likeliest token, for masked language models; None while gradients are recorded."""


def has_split_head(model: Any) -> bool:
    """Whether logits are just head(last hidden state), so that the head can be applied to some positions only."""
    return bool(getattr(model, "split_head", False))


def hidden_or_logits(model: Any, inputs: dict[str, Any]) -> Tensor:
    """Hidden states [B, T, D] where the head can be applied to them later; else logits [B, T, V]."""
    out: Tensor = model.base_model(**inputs).last_hidden_state if has_split_head(model) else model(**inputs).logits
    return out


def targets_of(labels: Tensor, ignore: int) -> tuple[Tensor, Tensor]:
    """(index of the predicting position, target id), both [N].

    A label is at the position of its token, as in transformers, and the position before predicts it. No other function shifts.
    """
    shifted = labels[:, 1:]  # [B, T-1]
    row, column = (shifted != ignore).nonzero(as_tuple=True)
    return row * labels.shape[1] + column, shifted[row, column]


def last_hidden(model: Any, inputs: dict[str, Tensor]) -> Tensor:
    """The input of the head, [B, T, D]; of an encoder-decoder, at the decoder's positions."""
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


def without_cache(model: Any) -> dict[str, bool]:
    """The argument that keeps a decoder from storing the keys and values of every layer, which no loss reads."""
    return {"use_cache": False} if "use_cache" in inspect.signature(model.forward).parameters else {}


def start_id(model: Any) -> int:
    """The token with which a decoder starts."""
    config = model.config
    names = (
        "decoder_start_token_id",
        "bos_token_id",
        "pad_token_id",
    )  # which of them a config has depends on the model
    return next((int(token) for name in names if (token := getattr(config, name, None)) is not None), 0)


def decoder_inputs(model: Any, labels: Tensor, ignore: int) -> Tensor:
    """[B, T] ids that the decoder reads with teacher forcing: the start token, then each target at the position of its label.

    No token attends to padding, which is on the right of a causal row, so its id does not matter.
    """
    ids = labels.masked_fill(labels == ignore, 0)
    ids[:, 0] = start_id(model)
    return ids


def token_losses(
    model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, ignore: int, smoothing: float = 0.0
) -> TokenLosses:
    """-log p of every target. `labels` [B, T] is `ignore` where a token is no target.

    For an encoder-decoder, `inputs` are those of the encoder, and labels begin with one `ignore` at the decoder's start token,
    so that the shift is the same. `smoothing`: share of the target's probability that goes to all tokens alike
    (Szegedy 2016); the loss is then no likelihood.
    """
    if model.config.is_encoder_decoder:  # type: ignore[union-attr]
        inputs = {**inputs, "decoder_input_ids": decoder_inputs(model, labels, ignore)}
    index, target = targets_of(labels, ignore)
    if not has_split_head(model):
        logits = model(**inputs, **without_cache(model)).logits
        chosen = logits.reshape(-1, logits.shape[-1]).index_select(0, index)
        return cross_entropy(chosen, target, index, smoothing)
    hidden = last_hidden(model, inputs)
    chosen = hidden.reshape(-1, hidden.shape[-1]).index_select(0, index)  # [N, D]
    head = model.get_output_embeddings()  # type: ignore[operator]
    if torch.is_grad_enabled():
        return training_losses(model, head, chosen, target, index, smoothing)
    size = max(1, CHUNK_BYTES // (4 * head.weight.shape[0]))
    parts = [
        cross_entropy(head(chosen[at : at + size]), target[at : at + size], index[at : at + size], smoothing)
        for at in range(0, max(1, len(target)), size)
    ]
    return TokenLosses(*(torch.cat([getattr(part, name) for part in parts]) for name in ("nll", "correct", "where")))


def training_losses(
    model: Any, head: Any, hidden: Tensor, target: Tensor, index: Tensor, smoothing: float = 0.0
) -> TokenLosses:
    """Losses of hidden states [N, D] while gradients are recorded; in chunks where the run set `model.head_chunk`."""
    chunk = getattr(model, "head_chunk", 0)
    if not chunk or not supports_chunks(head):
        return cross_entropy(head(hidden), target, index, smoothing)
    return TokenLosses(head_losses(head, hidden, target, smoothing, chunk), None, index + 1)


def masked_head(model: Any) -> Callable[[Tensor], Tensor] | None:
    """The layers from hidden states to logits in a masked language model; None for an unknown class."""
    if hasattr(model, "decoder") and hasattr(model, "head"):  # ModernBERT
        return lambda hidden: model.decoder(model.head(hidden))
    return getattr(model, "cls", None) or getattr(model, "lm_head", None)  # BERT, RoBERTa


def masked_losses(model: nn.Module, inputs: dict[str, Tensor], labels: Tensor, ignore: int) -> TokenLosses:
    """-log p of every masked token, at its own position. `labels` [B, T] is `ignore` where a token is no target."""
    flat = labels.reshape(-1)
    where = (flat != ignore).nonzero().squeeze(1)
    head = masked_head(model) if has_split_head(model) else None
    if head is None:
        logits = model(**inputs).logits
        chosen = logits.reshape(-1, logits.shape[-1]).index_select(0, where)
    else:
        hidden = model.base_model(**inputs).last_hidden_state  # type: ignore[operator]
        states = hidden.reshape(-1, hidden.shape[-1]).index_select(0, where)  # [N, D]
        if torch.is_grad_enabled() and hasattr(model, "decoder") and hasattr(model, "head"):  # ModernBERT
            dense: Any = model.head
            return training_losses(model, model.decoder, dense(states), flat.index_select(0, where), where - 1)
        chosen = head(states)  # [N, V]
    losses = cross_entropy(chosen, flat.index_select(0, where), where - 1)
    if not torch.is_grad_enabled():
        losses.best = chosen.argmax(-1)
    return losses


def cross_entropy(logits: Tensor, target: Tensor, index: Tensor, smoothing: float = 0.0) -> TokenLosses:
    """Cross-entropy of logits [N, V] in fp32, whatever their type."""
    nll = F.cross_entropy(logits.float(), target, reduction="none", label_smoothing=smoothing)
    if torch.is_grad_enabled():  # training needs the loss alone, and an argmax over the vocabulary takes time
        return TokenLosses(nll, None, index + 1)
    return TokenLosses(nll, logits.argmax(-1) == target, index + 1)


def sum_by_segment(values: Tensor, where: Tensor, segments: Tensor, num_segments: int) -> list[float]:
    """Sums of per-token values for each example of the batch. `segments` [B, T]: the example of each token."""
    owner = segments.reshape(-1).index_select(0, where)
    total = torch.zeros(num_segments, dtype=torch.float64, device=values.device)
    return [float(value) for value in total.index_add_(0, owner, values.double()).tolist()]


def correct_positions(losses: TokenLosses, segments: Tensor, num_segments: int) -> list[set[int]]:
    """For each example of the batch the positions within it whose token was the likeliest one. `segments` [B, T]."""
    owner = segments.reshape(-1).cpu()
    first: dict[int, int] = {}
    for index, number in enumerate(owner.tolist()):
        first.setdefault(number, index)
    correct: list[set[int]] = [set() for _ in range(num_segments)]
    for index in losses.where[losses.correct].tolist():
        number = int(owner[index])
        correct[number].add(index - first[number])
    return correct
