"""The training attention computes what transformers' sdpa computes, masks, groups and gradients included."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from llmstage.data.encoding.collate import pack
from llmstage.kernels.attention import MAX_TOKENS, mask_bias, use_matmul_attention


def model(groups: int = 4) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=64, num_hidden_layers=2, num_attention_heads=4, num_key_value_heads=groups,
        intermediate_size=64, max_position_embeddings=2048, initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM._from_config(config, attn_implementation="sdpa")


def loss_and_gradient(net: LlamaForCausalLM, inputs: dict, *, bf16: bool) -> tuple[float, torch.Tensor]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        hidden = net.model(**inputs, use_cache=False).last_hidden_state.float()
    loss = hidden.square()[:, ::3].mean()
    loss.backward()
    return loss.item(), net.model.layers[0].self_attn.q_proj.weight.grad.clone()  # type: ignore[union-attr,operator]


@pytest.mark.parametrize("groups", [4, 2])
@pytest.mark.parametrize("rows", [[[20], [20]], [[5, 9], [12]], [[3, 3, 3], [20]]])
def test_products_equal_sdpa_within_bf16(rows: list[list[int]], groups: int) -> None:
    ids = [[[(3 * place + length) % 64 for place in range(length)] for length in row] for row in rows]
    inputs = pack(ids, 0, causal=True).inputs
    net = model(groups)
    exact, true_gradient = loss_and_gradient(net, inputs, bf16=False)
    _, their_gradient = loss_and_gradient(net, inputs, bf16=True)
    use_matmul_attention(net)
    assert net.config._attn_implementation != "sdpa"
    ours, our_gradient = loss_and_gradient(net, inputs, bf16=True)
    assert ours == pytest.approx(exact, rel=0.02)
    ours_off, theirs_off = (
        (gradient - true_gradient).norm() / true_gradient.norm() for gradient in (our_gradient, their_gradient)
    )
    cosine = torch.cosine_similarity(our_gradient.flatten(), true_gradient.flatten(), dim=0)
    assert cosine > 0.98, f"bf16 noise only ({ours_off:.3f}; torch's own bf16 kernel {theirs_off:.3f})"
    again, _ = loss_and_gradient(net, inputs, bf16=False)
    assert again == exact, "outside bf16 autocast it is sdpa to the bit"


def test_long_rows_and_scoring_go_to_sdpa() -> None:
    net = model()
    ids = torch.arange(MAX_TOKENS + 8)[None] % 64
    before, _ = loss_and_gradient(net, {"input_ids": ids}, bf16=True)
    use_matmul_attention(net)
    after, _ = loss_and_gradient(net, {"input_ids": ids}, bf16=True)
    assert after == before


def test_the_bias_is_zero_where_a_query_may_look() -> None:
    mask = torch.tensor([[[[True, False], [True, True]]]])
    bias = mask_bias(mask, 2, causal=True)
    assert bias is not None and (bias == 0).tolist() == mask.tolist() and bias.min() < -1e30
    assert mask_bias(None, 2, causal=False) is None
    causal = mask_bias(None, 3, causal=True)
    assert causal is not None and (causal[0, 0] == 0).tolist() == [
        [True, False, False],
        [True, True, False],
        [True, True, True],
    ]


def test_nothing_of_it_is_saved(tmp_path) -> None:
    net = model()
    use_matmul_attention(net)
    net.save_pretrained(tmp_path)
    assert "llmstage" not in (tmp_path / "config.json").read_text()
