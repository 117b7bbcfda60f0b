"""Text from a model, causal or encoder-decoder: many prompts at once, sorted by length, cut at the first end token."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers import GenerationConfig as HFGenerationConfig

from llmstage.config import GenerationConfig
from llmstage.kernels.llama_decode import LeanStepper, step_body
from llmstage.models.lm_loss import start_id
from llmstage.tokenization.tokenizer import Processor

TOKENS_AT_ONCE = 16_384
"""Prompt tokens and new tokens of the prompts that are generated for together; bounds the cache."""
KEEP = 0.75
"""Finished rows leave the batch once no more than this share of it is still being written."""


def generate_replies(
    model: nn.Module,
    processor: Processor,
    prompts: Sequence[list[int]],
    cfg: GenerationConfig,
    seed: int = 0,
    beside: dict[str, Tensor] | None = None,
) -> list[tuple[str, bool]]:
    """(text, ended by itself) for each prompt (ids), in the order given. Sampling, if asked for, is seeded.

    For an encoder-decoder a prompt is what the encoder reads, its special tokens included. `beside`: what the model reads
    together with the prompts, one row each, e.g. pixel_values [N, 3, H, W].
    """
    device = next(model.parameters()).device
    ends = end_ids(model)
    greedy = cfg.temperature == 0 and cfg.num_beams == 1 and takes_cache(model)
    replies: list[tuple[str, bool]] = [("", False)] * len(prompts)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        for chosen in prompt_batches([len(prompt) for prompt in prompts], cfg.max_new_tokens):
            ids, mask = (
                part.to(device)
                for part in padded(
                    [prompts[index] for index in chosen], processor.pad_id, left=not is_encoder_decoder(model)
                )
            )
            rows = {name: value[chosen].to(device) for name, value in (beside or {}).items()}
            write = greedy_ids if greedy else searched_ids
            for index, new in zip(chosen, write(model, processor, ids, mask, ends, cfg, rows), strict=True):
                kept, ended = cut_at_end(new, ends)
                replies[index] = (processor.decode(kept), ended)
    return replies


def is_encoder_decoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def end_ids(model: Any) -> set[int]:
    """Tokens that end a text."""
    known = model.generation_config.eos_token_id
    return {end for end in (known if isinstance(known, list) else [known]) if end is not None}


def cut_at_end(ids: Sequence[int], ends: set[int]) -> tuple[Sequence[int], bool]:
    """The ids before the first end token, and whether there was one."""
    stop = next((place for place, token in enumerate(ids) if token in ends), None)
    return (ids, False) if stop is None else (ids[:stop], True)


def prompt_batches(lengths: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    """Neighbours in length together, as many as fit in TOKENS_AT_ONCE."""
    batches: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda item: lengths[item]):
        # Sorted upwards, so this prompt is the longest of its batch.
        if batches and (len(batches[-1]) + 1) * (lengths[index] + max_new_tokens) <= TOKENS_AT_ONCE:
            batches[-1].append(index)
        else:
            batches.append([index])
    return batches


def padded(prompts: Sequence[list[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """ids and mask [B, T]. A causal model goes on at the right, so its prompts are padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        at = longest - len(prompt) if left else 0
        ids[row, at : at + len(prompt)] = torch.tensor(prompt)
        mask[row, at : at + len(prompt)] = 1
    return ids, mask


def takes_cache(model: Any) -> bool:
    """Whether greedy_ids knows how to step this model; others (recurrent ones) go through their own generate()."""
    known = inspect.signature(model.forward).parameters
    return "cache" in known and (is_encoder_decoder(model) or "position_ids" in known)


class Stepper:
    """One forward a token over a cache; rows that are finished can leave."""

    def __init__(self, model: Any, ids: Tensor, mask: Tensor, beside: dict[str, Tensor]) -> None:
        self.model, self.mask, self.beside = model, mask, beside
        self.split = getattr(model, "split_head", False)
        self.cache: Any = DynamicCache(config=model.config)
        self.encoded: Any = None
        if is_encoder_decoder(model):
            # Read once; the keys and values that the decoder makes of it are in the second cache.
            self.cache = EncoderDecoderCache(self.cache, DynamicCache(config=model.config))
            self.encoded = model.get_encoder()(input_ids=ids, attention_mask=mask)
            self.next = torch.full((len(ids), 1), start_id(model), device=ids.device)
        else:
            self.next = ids

    def logits(self) -> Tensor:
        """[B, V] of the token that comes next."""
        more: dict[str, Any] = {"cache": self.cache, "use_cache": True, **self.beside}
        self.beside = {}  # read with the prompt; its keys and values are in the cache from then on
        model = self.model
        if self.encoded is not None and self.split:
            hidden = model.get_decoder()(
                input_ids=self.next,
                encoder_hidden_states=self.encoded.last_hidden_state,
                encoder_attention_mask=self.mask,
                **more,
            ).last_hidden_state
            return head(model, hidden)
        if self.encoded is not None:
            more |= {"encoder_outputs": self.encoded, "decoder_input_ids": self.next}
        else:
            places = (self.mask.cumsum(-1) - 1).clamp(min=0)
            more |= {"input_ids": self.next, "position_ids": places[:, -self.next.shape[1] :]}
        if self.encoded is None and self.split:
            hidden = model.base_model(attention_mask=self.mask, **more).last_hidden_state
            return head(model, hidden)
        logits: Tensor = model(attention_mask=self.mask, **more).logits[:, -1]
        return logits

    def take(self, tokens: Tensor) -> None:
        """The tokens [B] that were chosen."""
        self.next = tokens[:, None]
        if self.encoded is None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)

    def keep(self, rows: Tensor) -> None:
        self.cache.batch_select_indices(rows)
        self.next, self.mask = self.next[rows], self.mask[rows]
        if self.encoded is not None:
            self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]


def head(model: Any, hidden: Tensor) -> Tensor:
    """Logits [B, V] of the last position of hidden [B, T, D]."""
    logits: Tensor = model.get_output_embeddings()(hidden[:, -1])
    return logits


def greedy_ids(
    model: Any,
    processor: Processor,
    ids: Tensor,
    mask: Tensor,
    ends: set[int],
    cfg: GenerationConfig,
    beside: dict[str, Tensor],
) -> list[list[int]]:
    """The likeliest token each time: what generate() gives, with rows leaving as they end."""
    new: list[list[int]] = [[] for _ in range(len(ids))]
    body = step_body(model)
    stepper: Stepper | LeanStepper
    if body is None:
        stepper = Stepper(model, ids, mask, beside)
    else:
        stepper = LeanStepper(model, body, ids, mask, beside, cfg.max_new_tokens)
    owners = list(range(len(ids)))  # which prompt each row of the batch belongs to
    writing = set(owners)
    for _ in range(cfg.max_new_tokens):
        tokens = stepper.logits().max(-1).indices  # as argmax(), which takes three times as long in bf16
        for owner, token in zip(owners, tokens.tolist(), strict=True):
            if owner in writing:
                new[owner].append(token)
                if token in ends:
                    writing.discard(owner)
        if not writing:
            break
        stepper.take(tokens)
        if len(writing) <= KEEP * len(owners):
            rows = [row for row, owner in enumerate(owners) if owner in writing]
            owners = [owners[row] for row in rows]
            stepper.keep(torch.tensor(rows, device=tokens.device))
    return new


def searched_ids(
    model: Any,
    processor: Processor,
    ids: Tensor,
    mask: Tensor,
    ends: set[int],
    cfg: GenerationConfig,
    beside: dict[str, Tensor] | None = None,
) -> list[list[int]]:
    """Beam search or sampling by transformers' own generate()."""
    settings = HFGenerationConfig(
        max_new_tokens=cfg.max_new_tokens,
        num_beams=cfg.num_beams,
        do_sample=cfg.temperature > 0,
        temperature=cfg.temperature or None,
        top_p=cfg.top_p if cfg.temperature > 0 else None,
        top_k=0 if cfg.temperature > 0 else None,
        length_penalty=cfg.length_penalty if cfg.num_beams > 1 else None,
        eos_token_id=sorted(ends) or None,
        pad_token_id=processor.pad_id,
        bos_token_id=processor.bos_id,
        decoder_start_token_id=start_id(model) if is_encoder_decoder(model) else None,
    )
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **(beside or {}))
    first = 1 if is_encoder_decoder(model) else ids.shape[1]
    return [row[first:] for row in out.tolist()]
