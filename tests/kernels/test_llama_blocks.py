"""Blocks with a written-out gradient: transformers' own to fp32 accuracy, its bf16 within bf16's noise, and only in training."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, MistralConfig, Qwen2Config

from llmstage.data.encoding.collate import pack
from llmstage.kernels import llama_blocks
from llmstage.kernels.attention import use_matmul_attention
from llmstage.kernels.llama_blocks import use_fused_blocks
from llmstage.kernels.matmul import weight_gradient

ROWS = {
    "whole": [[40], [40]],
    "packed": [[15, 25], [12, 3, 20]],
    "one short": [[11], [40]],
}


KINDS: dict[str, tuple[Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, {}),
    "grouped": (LlamaConfig, {"num_key_value_heads": 2, "head_dim": 24}),
    "mistral": (MistralConfig, {"num_key_value_heads": 1, "sliding_window": 4096, "head_dim": 16}),
    "qwen2": (Qwen2Config, {"num_key_value_heads": 2}),
}


def model(kind: str = "llama", **more: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96}
    config_class, keys = KINDS[kind]
    net = AutoModelForCausalLM.from_config(config_class(vocab_size=64, **{**sizes, **keys, **more}))
    for name, weight in net.named_parameters():
        if "norm" in name or "bias" in name:  # ones and zeros would hide a forgotten factor
            weight.data.uniform_(0.5, 1.5)
    return net.train()


def inputs_of(rows: list[list[int]]) -> dict[str, Tensor]:
    ids = [[[(7 * place + length) % 61 + 2 for place in range(length)] for length in row] for row in rows]
    return pack(ids, 0, causal=True).inputs


def learn(net: Any, inputs: dict[str, Tensor], *, bf16: bool) -> tuple[float, dict[str, Tensor]]:
    net.zero_grad()
    with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        logits = net(**inputs, use_cache=False).logits.float()
    loss = logits[:, :11].log_softmax(-1)[..., ::5].square().mean()
    loss.backward()
    return loss.item(), {
        name: weight.grad.clone() for name, weight in net.named_parameters() if weight.grad is not None
    }


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ROWS)
def test_the_gradient_is_that_of_transformers(rows: str, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """In fp32 all through, and with blocks of queries smaller than a row."""
    net, inputs = model(kind), inputs_of(ROWS[rows])
    loss, gradients = learn(net, inputs, bf16=False)
    monkeypatch.setattr(llama_blocks, "BF16", torch.float32)
    monkeypatch.setattr(llama_blocks, "QUERY_BLOCK", 16)
    monkeypatch.setattr(llama_blocks.FusedBlock, "fits", lambda *args: True)
    assert use_fused_blocks(net) == 2
    ours, found = learn(net, inputs, bf16=False)
    assert ours == pytest.approx(loss, rel=1e-5)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(found[name], gradient, rtol=1e-3, atol=1e-6, msg=name)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("rows", ROWS)
def test_bf16_is_as_near_to_fp32_as_theirs(rows: str, kind: str) -> None:
    net, inputs = model(kind), inputs_of(ROWS[rows])
    loss, true = learn(net, inputs, bf16=False)
    use_matmul_attention(net)
    _, theirs = learn(net, inputs, bf16=True)
    use_fused_blocks(net)
    ours, found = learn(net, inputs, bf16=True)
    assert ours == pytest.approx(loss, rel=0.02)
    whole = torch.cat([gradient.flatten() for gradient in true.values()])
    off = [
        float((torch.cat([gradient.flatten() for gradient in some.values()]) - whole).norm() / whole.norm())
        for some in (theirs, found)
    ]
    assert off[1] < 1.3 * off[0], f"{off[1]:.4f} from fp32; transformers' own bf16 {off[0]:.4f}"


@pytest.mark.parametrize("rows", ROWS)
def test_long_rows_keep_no_weights_of_attention_and_learn_the_same_bits(
    rows: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    net, inputs = model(), inputs_of(ROWS[rows])
    use_matmul_attention(net)
    use_fused_blocks(net)
    monkeypatch.setattr(llama_blocks, "QUERY_BLOCK", 16)
    made: list[tuple[int, int]] = []

    def counted(*args: Any) -> Tensor:
        made.append(args[-2:])
        return attention_weights(*args)

    attention_weights = llama_blocks.attention_weights
    monkeypatch.setattr(llama_blocks, "attention_weights", counted)
    kept = learn(net, inputs, bf16=True)
    once = len(made)
    monkeypatch.setattr(llama_blocks, "MAX_TOKENS", 39)
    again = learn(net, inputs, bf16=True)
    assert len(made) - once == 2 * once, "computed once more for the gradient"
    assert again[0] == kept[0] and all(torch.equal(again[1][name], kept[1][name]) for name in kept[1])
    monkeypatch.setattr(llama_blocks, "MAX_FUSED_TOKENS", 39)
    before = len(made)
    learn(net, inputs, bf16=True)
    assert len(made) == before, "longer ones are transformers' own"


def test_scoring_fp32_and_dropout_are_transformers_to_the_bit() -> None:
    net, inputs = model(), inputs_of(ROWS["packed"])
    before = learn(net, inputs, bf16=False)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        scored = net(**inputs).logits
    use_fused_blocks(net)
    after = learn(net, inputs, bf16=False)
    assert after[0] == before[0] and all(torch.equal(after[1][name], before[1][name]) for name in before[1])
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(net(**inputs).logits, scored)
    dropping = model(attention_dropout=0.5)
    losses = []
    for change in (False, True):
        if change:
            use_fused_blocks(dropping)
        torch.manual_seed(1)
        losses.append(learn(dropping, inputs, bf16=True)[0])
    assert losses[0] == losses[1]


@pytest.mark.parametrize("other", [{"attention_bias": True}, {"hidden_act": "gelu"}, {"mlp_bias": True}])
def test_layers_that_are_not_plain_stay_as_they_are(other: dict[str, Any]) -> None:
    assert use_fused_blocks(model(**other)) == 0


def test_layers_with_a_window_stay_as_they_are() -> None:
    assert use_fused_blocks(model("mistral", sliding_window=512)) == 0
    assert use_fused_blocks(model("qwen2", use_sliding_window=True, sliding_window=8, max_window_layers=1)) == 0


def test_nothing_of_it_is_saved(tmp_path) -> None:
    net = model()
    use_fused_blocks(net)
    net.save_pretrained(tmp_path)
    again = LlamaForCausalLM.from_pretrained(tmp_path)
    assert again.state_dict().keys() == net.state_dict().keys()


@pytest.mark.parametrize(("outputs", "width"), [(8, 8), (2048, 16), (16, 2048)])
def test_each_order_of_operands_is_the_same_product(outputs: int, width: int) -> None:
    gradient, inputs = torch.randn(32, outputs).bfloat16(), torch.randn(32, width).bfloat16()
    found = weight_gradient(gradient, inputs)
    assert found.is_contiguous() or max(outputs, width) < 1024
    torch.testing.assert_close(found.float(), gradient.float().t() @ inputs.float(), rtol=0.02, atol=0.1)
