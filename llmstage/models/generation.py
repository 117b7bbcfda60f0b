"""Generate text with a decoder or an encoder-decoder: many prompts in a batch, sorted by length, cut at the first end token.

Greedy decoding steps over a cache of keys and values, and finished rows leave the batch; a Llama-like model on a CPU is stepped by
kernels/llama_decode.py. Prompts of which one begins with another are read once (kernels/prompt_batch.py). Beam search and sampling go through transformers' generate().
"""

from __future__ import annotations

import inspect
from collections.abc import Collection, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache, EncoderDecoderCache
from transformers import GenerationConfig as HFGenerationConfig

from llmstage.config import GenerationConfig
from llmstage.kernels.llama_decode import LlamaStepper, stepper_body
from llmstage.kernels.prompt_batch import PromptBatch, prefixes_agree, prompt_hosts
from llmstage.kernels.transformers_internals import cache_arguments, cache_parameter
from llmstage.models.lm_loss import has_split_head, start_id
from llmstage.tokenization.tokenizer import Processor

MAX_BATCH_TOKENS = 16_384
"""Prompt tokens and new tokens in a batch; it bounds the cache."""
UNFINISHED_SHARE = 0.75
"""Finished rows leave the batch once at most this share of its rows is unfinished."""


def generate_replies(
    model: nn.Module,
    processor: Processor,
    prompts: Sequence[list[int]],
    cfg: GenerationConfig,
    seed: int = 0,
    model_inputs: dict[str, Tensor] | None = None,
    marks: Collection[int] = (),
) -> list[tuple[str, bool]]:
    """(text, whether it ended with an end token) for each prompt (ids), in the order given. Sampling is seeded.

    For an encoder-decoder a prompt is what the encoder reads, its special tokens included. `model_inputs`: what the model reads
    with the prompts, one row each, e.g. pixel_values [N, 3, H, W]. `marks`: special tokens that are a part of the text.
    """
    device = next(model.parameters()).device
    ends = end_ids(model)
    greedy = cfg.temperature == 0 and cfg.num_beams == 1 and takes_cache(model)
    replies: list[tuple[str, bool]] = [("", False)] * len(prompts)
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(seed)
        shares = greedy and not is_encoder_decoder(model) and not model_inputs and has_split_head(model)
        hosts = prompt_hosts(prompts) if shares else list(range(len(prompts)))
        if max(hosts, default=0) and hosts != list(range(len(prompts))) and not prefixes_agree(model):
            hosts = list(range(len(prompts)))
        for chosen in prompt_batches([len(prompt) for prompt in prompts], hosts, cfg.max_new_tokens):
            rows = {name: value[chosen].to(device) for name, value in (model_inputs or {}).items()}
            if greedy:
                batch = read_together(prompts, hosts, chosen, processor.pad_id, rows, model)
                written = greedy_ids(model, batch, ends, cfg.max_new_tokens)
            else:
                left = not is_encoder_decoder(model)
                ids, mask = padded([prompts[index] for index in chosen], processor.pad_id, left=left)
                written = searched_ids(model, processor, ids.to(device), mask.to(device), ends, cfg, rows)
            for index, new in zip(chosen, written, strict=True):
                reply_ids, ended = cut_at_end(new, ends)
                replies[index] = (processor.decode(reply_ids, marks=marks), ended)
    return replies


def is_encoder_decoder(model: Any) -> bool:
    return bool(model.config.is_encoder_decoder)


def end_ids(model: Any) -> set[int]:
    """Tokens that end a text."""
    ends = model.generation_config.eos_token_id
    return {end for end in (ends if isinstance(ends, list) else [ends]) if end is not None}


def cut_at_end(ids: Sequence[int], ends: set[int]) -> tuple[Sequence[int], bool]:
    """The ids before the first end token, and whether there was one."""
    stop = next((index for index, token in enumerate(ids) if token in ends), None)
    return (ids, False) if stop is None else (ids[:stop], True)


def prompt_batches(lengths: Sequence[int], hosts: Sequence[int], max_new_tokens: int) -> list[list[int]]:
    """Indices of prompts in batches of similar length, as many as fit in MAX_BATCH_TOKENS.

    `hosts`: for each prompt, the prompt that it is the beginning of; both are in the same batch.
    """
    groups: dict[int, list[int]] = {}
    for index, host in enumerate(hosts):
        groups.setdefault(host, []).append(index)
    batches: list[list[int]] = []
    for host in sorted(groups, key=lambda item: lengths[item]):
        # Sorted upwards, so this prompt is the longest of its batch.
        members = groups[host]
        if batches and (len(batches[-1]) + len(members)) * (lengths[host] + max_new_tokens) <= MAX_BATCH_TOKENS:
            batches[-1] += members
        else:
            batches.append(list(members))
    return batches


def read_together(
    prompts: Sequence[list[int]],
    hosts: Sequence[int],
    chosen: Sequence[int],
    pad_id: int,
    model_inputs: dict[str, Tensor],
    model: Any,
) -> PromptBatch:
    """The chosen prompts as one batch, on the device of the model."""
    device = next(model.parameters()).device
    read = [index for index in chosen if hosts[index] == index]
    ids, mask = padded([prompts[index] for index in read], pad_id, left=not is_encoder_decoder(model))
    row_of = {index: row for row, index in enumerate(read)}
    return PromptBatch(
        ids.to(device),
        mask.to(device),
        torch.tensor([row_of[hosts[index]] for index in chosen], device=device),
        torch.tensor([len(prompts[index]) for index in chosen], device=device),
        model_inputs,
    )


def padded(prompts: Sequence[list[int]], pad_id: int, *, left: bool) -> tuple[Tensor, Tensor]:
    """ids and mask [B, T]. A decoder continues on the right, so its prompts are padded on the left."""
    longest = max(len(prompt) for prompt in prompts)
    ids = torch.full((len(prompts), longest), pad_id)
    mask = torch.zeros_like(ids)
    for row, prompt in enumerate(prompts):
        start = longest - len(prompt) if left else 0
        ids[row, start : start + len(prompt)] = torch.tensor(prompt)
        mask[row, start : start + len(prompt)] = 1
    return ids, mask


def takes_cache(model: Any) -> bool:
    """Whether greedy_ids() can step this model over a cache; others (recurrent ones) go through their own generate()."""
    takes_positions = "position_ids" in inspect.signature(model.forward).parameters
    return cache_parameter(model) is not None and (is_encoder_decoder(model) or takes_positions)


class Stepper:
    """One forward a token over a cache of keys and values; finished rows can leave."""

    def __init__(self, model: Any, prompts: PromptBatch) -> None:
        self.model, self.mask, self.model_inputs = model, prompts.mask, prompts.model_inputs
        self.split = has_split_head(model)
        self.cache: Any = DynamicCache(config=model.config)
        self.encoded: Any = None
        self.next = prompts.ids
        self.first: Tensor | None = None
        """[B, V] logits of the first token, where the prompts have been read."""
        module = model.base_model if self.split else model
        if is_encoder_decoder(model):
            # The encoder reads the prompt once; the keys and values that the decoder makes of it are in the second cache.
            self.cache = EncoderDecoderCache(self.cache, DynamicCache(config=model.config))
            self.encoded = model.get_encoder()(input_ids=prompts.ids, attention_mask=prompts.mask)
            self.next = torch.full((len(prompts), 1), start_id(model), device=prompts.ids.device)
            module = model.get_decoder() if self.split else model
        elif prompts.is_shared:
            self.first = model.get_output_embeddings()(prompts.last_hidden(module, self.cache))
            prompts.expand(self.cache)
            self.mask = prompts.row_mask()
        self.cache_arguments = cache_arguments(module, self.cache)

    def logits(self) -> Tensor:
        """[B, V] of the token that comes next."""
        if self.first is not None:
            first, self.first = self.first, None
            return first
        model, inputs = self.model, {**self.cache_arguments, **self.model_inputs}
        self.model_inputs = {}  # read with the prompt; its keys and values are in the cache from then on
        if self.encoded is not None and self.split:
            hidden = model.get_decoder()(
                input_ids=self.next,
                encoder_hidden_states=self.encoded.last_hidden_state,
                encoder_attention_mask=self.mask,
                **inputs,
            ).last_hidden_state
            return last_logits(model, hidden)
        if self.encoded is not None:
            inputs |= {"encoder_outputs": self.encoded, "decoder_input_ids": self.next}
        else:
            positions = (self.mask.cumsum(-1) - 1).clamp(min=0)
            inputs |= {"input_ids": self.next, "position_ids": positions[:, -self.next.shape[1] :]}
        if self.encoded is None and self.split:
            hidden = model.base_model(attention_mask=self.mask, **inputs).last_hidden_state
            return last_logits(model, hidden)
        logits: Tensor = model(attention_mask=self.mask, **inputs).logits[:, -1]
        return logits

    def take(self, tokens: Tensor) -> None:
        """Append the tokens [B] that were chosen."""
        self.next = tokens[:, None]
        if self.encoded is None:
            self.mask = torch.cat([self.mask, self.mask.new_ones(len(tokens), 1)], 1)

    def keep(self, rows: Tensor) -> None:
        """Go on with these rows only."""
        self.cache.batch_select_indices(rows)
        self.next, self.mask = self.next[rows], self.mask[rows]
        if self.encoded is not None:
            self.encoded.last_hidden_state = self.encoded.last_hidden_state[rows]


def last_logits(model: Any, hidden: Tensor) -> Tensor:
    """Logits [B, V] of the last position of hidden [B, T, D]."""
    logits: Tensor = model.get_output_embeddings()(hidden[:, -1])
    return logits


def greedy_ids(model: Any, prompts: PromptBatch, ends: set[int], max_new_tokens: int) -> list[list[int]]:
    """The likeliest token at each step: what generate() returns, with rows leaving as they end."""
    new_ids: list[list[int]] = [[] for _ in range(len(prompts))]
    body = stepper_body(model, prompts.width + max_new_tokens)
    stepper: Stepper | LlamaStepper
    stepper = Stepper(model, prompts) if body is None else LlamaStepper(model, body, prompts, max_new_tokens)
    owners = list(range(len(prompts)))  # the prompt of each row of the batch
    unfinished = set(owners)
    for _ in range(max_new_tokens):
        tokens = stepper.logits().max(-1).indices  # as argmax(), which takes three times as long in bf16
        for owner, token in zip(owners, tokens.tolist(), strict=True):
            if owner in unfinished:
                new_ids[owner].append(token)
                if token in ends:
                    unfinished.discard(owner)
        if not unfinished:
            break
        stepper.take(tokens)
        if len(unfinished) <= UNFINISHED_SHARE * len(owners):
            rows = [row for row, owner in enumerate(owners) if owner in unfinished]
            owners = [owners[row] for row in rows]
            stepper.keep(torch.tensor(rows, device=tokens.device))
    return new_ids


def searched_ids(
    model: Any,
    processor: Processor,
    ids: Tensor,
    mask: Tensor,
    ends: set[int],
    cfg: GenerationConfig,
    model_inputs: dict[str, Tensor] | None = None,
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
    out = model.generate(input_ids=ids, attention_mask=mask, generation_config=settings, **(model_inputs or {}))
    first = 1 if is_encoder_decoder(model) else ids.shape[1]
    return [row[first:] for row in out.tolist()]
