"""Text from a causal model: many prompts at once, length-sorted, cut at the first end token."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from llmstage.models.tokenizer import Processor
from llmstage.schema import GenerationConfig

PROMPTS_AT_ONCE = 64


def generate_replies(
    model: nn.Module, processor: Processor, prompts: Sequence[list[int]], cfg: GenerationConfig, seed: int = 0
) -> list[tuple[str, bool]]:
    """(text, ended by itself) for each prompt (ids), in the order given. Sampling, if asked for, is seeded."""
    from transformers import GenerationConfig as HFGenerationConfig

    device = next(model.parameters()).device
    base: Any = model.generation_config
    settings = HFGenerationConfig(
        max_new_tokens=cfg.max_new_tokens,
        num_beams=cfg.beams,
        do_sample=cfg.temperature > 0,
        temperature=cfg.temperature or None,
        top_p=cfg.top_p if cfg.temperature > 0 else None,
        top_k=0 if cfg.temperature > 0 else None,
        eos_token_id=base.eos_token_id,
        pad_token_id=processor.pad_id,
        bos_token_id=processor.bos_id,
    )
    ends = base.eos_token_id if isinstance(base.eos_token_id, list) else [base.eos_token_id]
    order = sorted(range(len(prompts)), key=lambda index: len(prompts[index]))
    replies: list[tuple[str, bool]] = [("", False)] * len(prompts)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for at in range(0, len(order), PROMPTS_AT_ONCE):
            chosen = order[at : at + PROMPTS_AT_ONCE]
            longest = max(len(prompts[index]) for index in chosen)
            ids = torch.full((len(chosen), longest), processor.pad_id)
            mask = torch.zeros_like(ids)
            for row, index in enumerate(chosen):  # padded on the left: generation goes on at the right
                ids[row, longest - len(prompts[index]) :] = torch.tensor(prompts[index])
                mask[row, longest - len(prompts[index]) :] = 1
            out = model.generate(input_ids=ids.to(device), attention_mask=mask.to(device), generation_config=settings)  # type: ignore[operator]
            for row, index in enumerate(chosen):
                new = out[row, longest:].tolist()
                stop = next((place for place, token in enumerate(new) if token in ends), None)
                replies[index] = (processor.decode(new if stop is None else new[:stop]), stop is not None)
    return replies
