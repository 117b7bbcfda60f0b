"""Attention by document on a GPU computes what the block mask says; its kernel is replaced here by one that runs on a CPU."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import (
    BertConfig,
    BertModel,
    GPT2Config,
    GPT2Model,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    ModernBertConfig,
    ModernBertModel,
)  # fmt: skip

from llmstage.data.encoding.collate import block_mask, pack
from llmstage.kernels import varlen_attention
from llmstage.kernels.varlen_attention import (
    is_cu_seqlens,
    mask_from_cu_seqlens,
    use_varlen_attention,
    uses_cu_seqlens,
    with_cu_seqlens,
)
from llmstage.models.packing import read_packed_rows

ROWS = [[5, 9, 3], [12], [2, 2, 7]]


def packed(*, causal: bool) -> dict[str, Tensor]:
    ids = [[[(3 * place + length) % 64 for place in range(length)] for length in row] for row in ROWS]
    return pack(ids, 0, causal=causal).inputs


def flash(
    query: Tensor, key: Tensor, value: Tensor, starts: Tensor, _keys: Tensor, longest: int, _longest: int, *,
    scale: float | None, window_size: tuple[int, int], enable_gqa: bool,
) -> Tensor:  # fmt: skip
    """What torch documents of varlen_attn: [tokens, heads, width], each stretch of `starts` by itself."""
    out = torch.full_like(query, torch.nan)
    left, right = window_size
    for start, stop in zip(starts.tolist(), starts[1:].tolist(), strict=False):
        assert 0 <= stop - start <= longest
        if start == stop:
            continue
        place = torch.arange(stop - start)
        apart = place[:, None] - place[None, :]
        seen = torch.ones_like(apart, dtype=torch.bool)
        if left >= 0:
            seen &= apart <= left
        if right >= 0:
            seen &= apart >= -right
        q, k, v = (part[start:stop].transpose(0, 1)[None] for part in (query, key, value))
        made = F.scaled_dot_product_attention(q, k, v, seen, scale=scale, enable_gqa=enable_gqa)
        out[start:stop] = made[0].transpose(0, 1)
    return out


def models() -> dict[str, tuple[torch.nn.Module, bool]]:
    torch.manual_seed(0)
    size = {
        "vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 32,
        "initializer_range": 0.2,
    }  # fmt: skip
    sdpa = {"attn_implementation": "sdpa"}
    no = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    gpt2 = GPT2Config(
        vocab_size=64, n_embd=32, n_layer=2, n_head=4, n_positions=64, attn_pdrop=0.0, embd_pdrop=0.0, resid_pdrop=0.0
    )
    return {
        "llama": (LlamaModel._from_config(LlamaConfig(**size, num_key_value_heads=4), **sdpa), True),
        "grouped keys": (LlamaModel._from_config(LlamaConfig(**size, num_key_value_heads=2), **sdpa), True),
        "causal window": (MistralModel._from_config(MistralConfig(**size, num_key_value_heads=4, sliding_window=4), **sdpa), True),
        "gpt2": (GPT2Model._from_config(gpt2, **sdpa), True),
        "bert": (BertModel._from_config(BertConfig(**size, **no), **sdpa), False),
        "local layers": (ModernBertModel._from_config(ModernBertConfig(**size, local_attention=6, pad_token_id=0), **sdpa), False),
    }  # fmt: skip


def hidden_and_gradient(model: torch.nn.Module, inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    model.zero_grad()
    hidden = model(**inputs).last_hidden_state
    real = torch.arange(hidden.shape[1]) < torch.tensor([sum(row) for row in ROWS])[:, None]
    hidden[real].square().mean().backward()
    gradient = torch.cat([p.grad.flatten() for p in model.parameters() if p.grad is not None])
    return hidden[real].detach(), gradient


@pytest.mark.parametrize("name", models())
@pytest.mark.parametrize("kernel", ["flash", "mask"])
def test_documents_equal_the_block_mask(name: str, kernel: str, monkeypatch) -> None:
    model, causal = models()[name]
    read_packed_rows(model)
    inputs = packed(causal=causal)
    reach = getattr(model.config, "sliding_window", None) if name == "causal window" else None
    masked = dict(inputs)
    if reach:  # a 4D mask is taken as it is: the window must be in it
        near = torch.arange(inputs["input_ids"].shape[1])
        masked["attention_mask"] = inputs["attention_mask"] & (near[:, None] - near[None, :] < reach)
    true, true_gradient = hidden_and_gradient(model, masked)
    use_varlen_attention(model)
    assert uses_cu_seqlens(model)
    seen = []
    if kernel == "flash":
        monkeypatch.setattr(varlen_attention, "kernel_dtype", lambda query, dropout: query.dtype)
        monkeypatch.setattr(
            varlen_attention, "varlen_attn", lambda *args, **words: seen.append(words) or flash(*args, **words)
        )
    found, gradient = hidden_and_gradient(model, with_cu_seqlens(inputs))
    torch.testing.assert_close(found, true, atol=2e-5, rtol=1e-4)
    torch.testing.assert_close(gradient, true_gradient, atol=2e-5, rtol=1e-3)
    assert bool(seen) == (kernel == "flash")


def test_rows_see_nothing_of_each_other() -> None:
    """A bug in the places would show: another first document changes nothing in the second."""
    model = LlamaModel._from_config(models()["llama"][0].config, attn_implementation="sdpa")
    use_varlen_attention(model)
    inputs = packed(causal=True)
    before = model(**with_cu_seqlens(inputs)).last_hidden_state
    inputs["input_ids"][0, :5] = 7
    after = model(**with_cu_seqlens(inputs)).last_hidden_state
    assert torch.equal(after[0, 5:14], before[0, 5:14]) and not torch.equal(after[0, :5], before[0, :5])


def test_places_and_the_mask_they_stand_for() -> None:
    inputs = packed(causal=True)
    found = with_cu_seqlens(inputs)["attention_mask"]
    assert is_cu_seqlens(found) and found.shape == (1, 1, 1, varlen_attention.ROUND)
    # 17 tokens a row: features at 0 5 14 | 17, then five of padding | 34 36 38, then six of padding; then the end
    assert found.flatten().tolist()[:17] == [0, 5, 14, 17, 29, 30, 31, 32, 33, 34, 36, 38, 45, 46, 47, 48, 49]
    assert set(found.flatten().tolist()[18:]) == {51}
    owner = torch.repeat_interleave(torch.arange(3), torch.tensor([5, 9, 3]))[None]
    assert torch.equal(mask_from_cu_seqlens(found, 3, 17, causal=True)[:1], block_mask(owner, causal=True))
    plain = pack([[[1, 2]], [[3]]], 0, causal=True).inputs
    assert with_cu_seqlens(plain) is plain, "rows of one feature have no mask to exchange"


def test_what_the_kernel_is_not_made_for() -> None:
    query = torch.zeros(1, 2, 4, 16)
    assert varlen_attention.kernel_dtype(query, 0.0) is None, "a CPU"
    assert varlen_attention.HAS_WINDOWS, "this torch knows windows and grouped keys"
    there = torch.zeros(1, 2, 4, 16, device="meta", dtype=torch.bfloat16)
    out = varlen_attention.varlen_attn(
        there[0].transpose(0, 1), there[0].transpose(0, 1), there[0].transpose(0, 1),
        torch.zeros(3, dtype=torch.int32, device="meta"), torch.zeros(3, dtype=torch.int32, device="meta"), 4, 4,
        window_size=(-1, 0),
    )  # fmt: skip
    assert out.shape == (4, 2, 16), "the signature that attention() calls"
