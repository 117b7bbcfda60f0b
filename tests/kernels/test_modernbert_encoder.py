"""The encoder's forward for answering: transformers' own to fp32 accuracy, as near to it in bf16 as autocast, and only where it fits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import ModernBertConfig, ModernBertForSequenceClassification

from llmstage.data.encoding.collate import pack, pad
from llmstage.kernels.modernbert_encoder import FastEncoder, supported_body, use_fast_encoder
from llmstage.models.packing import read_packed_rows

LENGTHS = {"one": [9], "alike": [7, 7, 7], "unlike": [31, 12, 3], "longer than the window": [60, 59, 5]}


def model(**more: Any) -> Any:
    torch.manual_seed(0)
    sizes = {"hidden_size": 64, "num_hidden_layers": 4, "num_attention_heads": 4, "intermediate_size": 96}
    ids = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}
    windows = {"local_attention": 16, "global_attn_every_n_layers": 3}
    config = ModernBertConfig(vocab_size=97, num_labels=3, classifier_pooling="mean", **sizes, **ids, **windows)
    for name, value in more.items():
        setattr(config, name, value)
    net = ModernBertForSequenceClassification(config)
    for name, weight in net.named_parameters():
        # Ones and small weights would hide a forgotten factor.
        weight.data.uniform_(0.5, 1.5) if "norm" in name else weight.data.normal_(0, weight.shape[-1] ** -0.5)
    return net.eval()


def inputs_of(lengths: list[int]) -> dict[str, Tensor]:
    ids = [[(7 * place + length) % 91 + 5 for place in range(length)] for length in lengths]
    mask = torch.arange(max(lengths))[None] < torch.tensor(lengths)[:, None]
    return {"input_ids": pad(ids, 0), "attention_mask": mask.long()}


def hidden(net: Any, inputs: dict[str, Tensor], *, bf16: bool = False) -> Tensor:
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=bf16):
        found: Tensor = net.base_model(**inputs).last_hidden_state.float()
    mask = inputs.get("attention_mask")
    return found if mask is None or mask.ndim != 2 else found[mask.bool()]


@pytest.mark.parametrize("lengths", LENGTHS)
def test_in_fp32_it_reads_as_transformers_does(lengths: str) -> None:
    net, inputs = model(), inputs_of(LENGTHS[lengths])
    before, whole = hidden(net, inputs), {**inputs, "attention_mask": None}
    unmasked = hidden(net, whole)
    use_fast_encoder(supported_body(net), torch.float32)
    torch.testing.assert_close(hidden(net, inputs), before, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(hidden(net, whole), unmasked, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("lengths", LENGTHS)
def test_in_bf16_it_is_as_near_to_fp32_as_autocast(lengths: str) -> None:
    net, inputs = model(), inputs_of(LENGTHS[lengths])
    true = hidden(net, inputs)
    theirs = hidden(net, inputs, bf16=True)
    use_fast_encoder(supported_body(net), torch.bfloat16)
    found = hidden(net, inputs, bf16=True)
    assert not torch.equal(found, true), "products were not rounded, so this compares nothing"
    assert (found - true).norm() < 1.2 * (theirs - true).norm()


def test_packed_rows_see_what_they_saw() -> None:
    net = model()
    read_packed_rows(net)
    ids = [[[(5 * place + size) % 91 + 5 for place in range(size)] for size in row] for row in ([40, 9, 3], [22, 30])]
    inputs = pack(ids, 0, causal=False).inputs
    real = pack(ids, 0, causal=False).segments >= 0
    before = hidden(net, inputs)[real]
    use_fast_encoder(supported_body(net), torch.float32)
    torch.testing.assert_close(hidden(net, inputs)[real], before, rtol=1e-4, atol=1e-5)


def test_the_whole_model_gives_the_same_logits() -> None:
    net, inputs = model(), inputs_of([31, 12, 3])
    with torch.no_grad():
        before = net(**inputs).logits
        use_fast_encoder(supported_body(net), torch.float32)
        torch.testing.assert_close(net(**inputs).logits, before, rtol=1e-4, atol=1e-5)


def test_what_it_is_not_made_for_goes_to_transformers(monkeypatch: pytest.MonkeyPatch) -> None:
    net, inputs = model(), inputs_of([12, 5])
    before = hidden(net, inputs, bf16=True)
    use_fast_encoder(supported_body(net), torch.float32)
    monkeypatch.setattr(FastEncoder, "read", lambda *args: pytest.fail("read by the forward that does not fit"))
    net(**inputs).logits.sum().backward()
    assert all(weight.grad is not None for weight in net.parameters())
    assert torch.equal(hidden(net, inputs, bf16=True), before), "arithmetic that its weights were not prepared for"
    with torch.no_grad():
        assert len(net.base_model(**inputs, output_hidden_states=True).hidden_states) == 5
        vectors = net.get_input_embeddings()(inputs["input_ids"])
        assert net.base_model(inputs_embeds=vectors, attention_mask=inputs["attention_mask"]).last_hidden_state.shape


@pytest.mark.parametrize("other", [{"attention_bias": True}, {"mlp_bias": True}, {"hidden_activation": "silu"}])
def test_layers_that_are_not_plain_stay_as_they_are(other: dict[str, Any]) -> None:
    assert supported_body(model()) is not None and supported_body(model(**other)) is None


def test_nothing_of_it_is_saved(tmp_path) -> None:
    net = model()
    use_fast_encoder(supported_body(net), torch.float32)
    net.save_pretrained(tmp_path)
    again = ModernBertForSequenceClassification.from_pretrained(tmp_path)
    assert again.state_dict().keys() == net.state_dict().keys()
