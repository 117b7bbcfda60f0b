"""Packed rows: what the proof accepts equals transformers' own loss on each document alone, and what leaks is not accepted.

The reference is the forward of transformers for one document without a mask: `model(input_ids, labels=input_ids).loss`.
"""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from torch import nn

import llmstage.models.packing_proof as proofs
from llmstage.data.encoding.collate import labels_for, pack
from llmstage.models.lm_loss import masked_losses, token_losses
from llmstage.models.packing import PackedForm, read_packed_rows
from llmstage.models.packing_proof import PackingProof, Prover, prove_packing

SIZES = {
    "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64,
}  # fmt: skip
GROUPED = {**SIZES, "num_key_value_heads": 2, "head_dim": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WINDOW = 20

DECODERS: dict[str, tuple[dict[str, Any], str | None]] = {
    # type: (config, expected form; None: not packed)
    "llama": (GROUPED, "block"),
    "gpt2": ({"vocab_size": 120, "n_embd": 32, "n_layer": 2, "n_head": 4, "bos_token_id": 1, "eos_token_id": 2}, "block"),
    "mistral": ({**GROUPED, "sliding_window": WINDOW}, "positions"),
    "qwen2": ({**GROUPED, "use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 1}, "layers"),
    "gemma2": ({**GROUPED, "sliding_window": WINDOW}, "layers, additive"),
    "llama4_text": (
        {**GROUPED, "attention_chunk_size": WINDOW, "num_local_experts": 2, "intermediate_size_mlp": 64, "no_rope_layers": [1, 0]},
        "layers",
    ),
    "gpt_neo": (
        {
            "vocab_size": 120, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "window_size": WINDOW,
            "attention_types": [[["global", "local"], 1]], "max_position_embeddings": 128, "bos_token_id": 1, "eos_token_id": 2,
        },
        "block, additive",
    ),
    "lfm2": ({**GROUPED, "layer_types": ["conv", "full_attention"]}, None),
    "mamba2": (
        {
            "vocab_size": 120, "hidden_size": 32, "num_hidden_layers": 2, "head_dim": 8, "num_heads": 8, "state_size": 8,
            "n_groups": 1, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
        },
        None,
    ),
}  # fmt: skip
ENCODERS: dict[str, tuple[dict[str, Any], str | None]] = {
    "bert": (SIZES, "block"),
    "roberta": (SIZES, "block, positions + 2"),
    "mpnet": (SIZES, "block, additive, positions + 2"),
    "modernbert": ({**SIZES, "num_hidden_layers": 3, "pad_token_id": 0, "local_attention": WINDOW, "bos_token_id": 1,
                    "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}, "layers"),
}  # fmt: skip
EXPECTED = DECODERS | ENCODERS


def build(model_type: str, **changes: Any) -> Any:
    """A small model whose attention is far from flat, so that what leaks would change the loss."""
    config = transformers.AutoConfig.for_model(model_type, **{**EXPECTED[model_type][0], **changes})
    auto = transformers.AutoModelForCausalLM if model_type in DECODERS else transformers.AutoModelForMaskedLM
    torch.manual_seed(0)
    model = auto.from_config(config).eval()
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim == 2:
                weight.mul_(4)
    read_packed_rows(model)
    return model


def prove(model: Any, context: int = 256, *, causal: bool | None = None) -> PackingProof:
    proofs.PROOFS.clear()
    causal = "MaskedLM" not in type(model).__name__ if causal is None else causal
    return prove_packing(model, causal=causal, context=context, pad_id=model.config.pad_token_id or 0)


def rows() -> list[list[list[int]]]:
    """Documents longer than the window, and one that is shorter than a convolution."""
    generator = np.random.default_rng(3)
    return [[generator.integers(5, 120, size).tolist() for size in row] for row in ((45, 31), (2, 50, 7))]


def packed_nll(model: Any, documents: list[list[list[int]]]) -> torch.Tensor:
    """Our losses of packed rows, token by token."""
    causal = "MaskedLM" not in type(model).__name__
    inputs = pack(documents, model.config.pad_token_id or 0, causal=causal).inputs
    labels = labels_for([[[-100, *ids[1:]] for ids in row] for row in documents], -100)
    return (token_losses if causal else masked_losses)(model, inputs, labels, -100).nll


def alone_nll(model: Any, documents: list[list[list[int]]]) -> torch.Tensor:
    """transformers' own loss of each document alone, as a sum for each."""
    sums = []
    for ids in (ids for row in documents for ids in row):
        labels = [-100, *ids[1:]]
        loss = model(input_ids=torch.tensor([ids]), labels=torch.tensor([labels])).loss
        sums.append(loss * (len(ids) - 1))
    return torch.stack(sums)


@pytest.mark.parametrize("model_type", EXPECTED)
def test_a_packed_row_has_the_loss_of_its_documents_alone(model_type):
    model = build(model_type)
    proof = prove(model)
    expected = EXPECTED[model_type][1]
    assert (None if proof.form is None else str(proof.form)) == expected, proof.reason
    assert proof.padded is not None and proof.padded.accepted
    if expected is None:
        return
    documents = rows()
    with torch.no_grad():
        packed, alone = packed_nll(model, documents), alone_nll(model, documents)
    lengths = [len(ids) - 1 for row in documents for ids in row]
    sums = torch.stack([part.sum() for part in packed.split(lengths)])
    torch.testing.assert_close(sums / torch.tensor(lengths), alone / torch.tensor(lengths), rtol=0, atol=1e-4)


def test_gradients_of_a_packed_row_are_those_of_its_documents():
    model = build("mistral")
    prove(model)
    packed_nll(model, rows()).sum().backward()
    packed = {name: weight.grad.clone() for name, weight in model.named_parameters()}
    model.zero_grad()
    alone_nll(model, rows()).sum().backward()
    for name, weight in model.named_parameters():
        torch.testing.assert_close(packed[name], weight.grad, rtol=1e-3, atol=1e-4)


LEAKS = {
    "a window is lost": ("mistral", PackedForm("block")),
    "windows of some layers are lost": ("gemma2", PackedForm("block")),
    "chunks are lost": ("llama4_text", PackedForm("block")),
    "bools are added to the scores": ("gpt_neo", PackedForm("block")),
    "an encoder's windows are lost": ("modernbert", PackedForm("block")),
    "positions lack the offset of the padding id": ("roberta", PackedForm("block")),
    "positions have an offset that does not belong there": ("gpt2", PackedForm(offset=2)),
    "no mask between documents": ("bert", PackedForm("positions")),
}


@pytest.mark.parametrize("leak", LEAKS)
def test_each_kind_of_leak_is_seen(leak, monkeypatch):
    model_type, form = LEAKS[leak]
    monkeypatch.setattr(Prover, "forms", lambda self: [form])
    proof = prove(build(model_type))
    assert proof.form is None
    assert proof.difference is not None, proof.reason


@pytest.mark.parametrize("model_type", ["llama", "bert"])
def test_a_leak_through_nearly_flat_layers_is_seen(model_type, monkeypatch):
    """Attention that adds almost nothing to the residual stream changes the loss by far less than the tolerance."""
    model = build(model_type)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "o_proj" in name or "attention.output.dense" in name:
                weight.mul_(5e-5)
    causal = model_type == "llama"

    def without_blocks(documents: Any, pad_id: int, *, causal: bool) -> Any:
        packed = pack(documents, pad_id, causal=causal)
        if "position_ids" in packed.inputs:
            length = packed.inputs["input_ids"].shape[1]
            mask = torch.ones(length, length, dtype=torch.bool)
            packed.inputs["attention_mask"] = (mask.tril() if causal else mask).expand(len(documents), 1, -1, -1)
        return packed

    assert prove(model).form == PackedForm()
    monkeypatch.setattr(proofs, "pack", without_blocks)
    monkeypatch.setattr(Prover, "forms", lambda self: [PackedForm()])
    proof = prove(model)
    assert proof.form is None and proof.difference is not None
    assert proof.difference.nats < proofs.NATS, "the leak is too large to test this"
    assert causal or proof.difference.leak > 0


def test_a_decoder_that_tags_words_gets_no_later_tokens():
    """A task of encoders gives masks with both sides; the reference is the decoder's own mask for each document alone."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("mistral", **GROUPED, sliding_window=WINDOW, num_labels=5)
    model = transformers.AutoModelForTokenClassification.from_config(config).eval()
    read_packed_rows(model)
    assert str(prove(model, causal=False).form) == "positions, causal"
    documents = rows()
    with torch.no_grad():
        packed = model(**pack(documents, 0, causal=False).inputs).logits
        alone = [[model(input_ids=torch.tensor([ids])).logits[0] for ids in row] for row in documents]
    for logits, row in zip(packed, alone, strict=True):
        expected = torch.cat(row)
        torch.testing.assert_close(logits[: len(expected)], expected, rtol=1e-4, atol=1e-5)


def test_a_window_that_no_row_exceeds_does_not_matter():
    assert str(prove(build("mistral"), context=WINDOW).form) == "block"


def test_a_model_that_sees_later_tokens_is_no_decoder():
    torch.manual_seed(0)
    config = transformers.BertConfig(**SIZES)
    model = transformers.AutoModelForCausalLM.from_config(config).eval()
    read_packed_rows(model)
    assert prove(model).sees_later
    assert not prove(build("llama")).sees_later


def test_the_proof_leaves_no_trace():
    model = build("mistral", attention_dropout=0.1).train()
    config, windows = model.config.to_dict(), [getattr(module, "sliding_window", None) for module in model.modules()]
    buffers = {name: value.clone() for name, value in model.named_buffers()}
    torch.manual_seed(5), np.random.seed(5), random.seed(5)
    states = torch.get_rng_state(), np.random.get_state()[1].tolist(), random.getstate()
    prove(model)
    assert torch.equal(torch.get_rng_state(), states[0])
    assert np.random.get_state()[1].tolist() == states[1]
    assert random.getstate() == states[2]
    assert model.training and all(module.training for module in model.modules())
    assert model.config.to_dict() == config
    assert [getattr(module, "sliding_window", None) for module in model.modules()] == windows
    for name, value in model.named_buffers():
        assert torch.equal(value, buffers[name])
    assert all(weight.grad is None for weight in model.parameters())


def test_the_proof_is_made_once_for_a_config(monkeypatch):
    prove(build("llama"))
    monkeypatch.setattr(Prover, "prove", lambda self: pytest.fail("the proof was made again"))
    model = build("llama")
    assert prove_packing(model, causal=True, context=256, pad_id=0).form == PackedForm()
    with pytest.raises(pytest.fail.Exception):
        prove_packing(model, causal=True, context=512, pad_id=0)


def test_an_error_in_the_model_is_the_reason():
    class Broken(nn.Module):
        def forward(self, **kwargs: Any) -> Any:
            raise RuntimeError("only one row at a time\nand more")

    model = build("llama")
    model.model.layers[0].self_attn = Broken()
    proof = prove(model)
    assert proof.form is None and proof.difference is None
    assert proof.reason == "RuntimeError: only one row at a time"
