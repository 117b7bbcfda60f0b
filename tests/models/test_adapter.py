"""What adapter=lora promises: the base stays bit for bit, merging changes no logit, peft itself loads what was saved."""

from __future__ import annotations

import sys
from dataclasses import replace

import pytest
import torch
import transformers

from llmstage.config import AdapterConfig
from llmstage.errors import UserError
from llmstage.models.adapter import (
    adapter_base,
    add_adapter,
    has_adapter,
    load_adapter,
    merge_adapter,
    quantization,
    save_adapter,
    targets,
)
from llmstage.models.build import count_parameters, save_model

pytestmark = pytest.mark.lowest

LORA = AdapterConfig(name="lora", rank=4)
CASES = [("causal_lm", "gpt"), ("dialogue", "gpt"), ("classification", "gpt"), ("classification", "bert"), ("masked_lm", "bert")]  # fmt: skip
each_case = pytest.mark.parametrize("case", CASES, ids="-".join)


def same(ours: torch.Tensor, theirs: torch.Tensor) -> None:
    """Equal but for the last bits: on AVX2 MKL's sums depend on where in memory an operand lies."""
    torch.testing.assert_close(ours, theirs, rtol=1e-5, atol=1e-5)


@pytest.fixture(scope="module")
def adapted(tiny_task):
    """(tiny task, a model with an adapter that has been trained for a few steps, its weights before)."""

    def make(name: str, kind: str, cfg: AdapterConfig = LORA, steps: int = 3):
        it = tiny_task(name, kind, context=160)
        model = it.model()
        model.new_weights = [name for name, _ in model.named_parameters() if name.startswith(("classifier", "score"))]
        torch.manual_seed(0)
        add_adapter(model, cfg, it.task.auto_model, "base")
        before = {name: value.clone() for name, value in model.state_dict().items()}
        optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
        model.train()
        for _ in range(steps):
            part = it.task.loss(model, it.batch())
            (part.total / part.count).backward()
            optimizer.step()
            optimizer.zero_grad()
        return it, model.eval(), before

    return make


@torch.no_grad()
def logits(it, model):
    return model(**it.batch().inputs).logits


@each_case
def test_only_the_adapter_and_new_heads_change(case, adapted):
    _, model, before = adapted(*case)
    # ModernBERT's classifier has its `head` outside the body; that of its masked language model is pretrained.
    heads = ("classifier.", "score.", *(("head.",) if case[0] == "classification" else ()))
    trained = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert trained == {name for name in before if ".lora_" in name or name.startswith(heads)}
    assert any(".lora_" in name for name in trained)
    assert any(name.startswith(heads) for name in trained) is (case[0] == "classification")
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]) is (name not in trained), name
    assert count_parameters(model, trained=True) == sum(before[name].numel() for name in trained)


@each_case
def test_an_untrained_adapter_changes_nothing_and_a_merged_one_says_the_same(case, adapted):
    it, model, _ = adapted(*case, steps=0)
    torch.testing.assert_close(logits(it, model), logits(it, it.model()), rtol=0, atol=0)
    it, model, _ = adapted(*case)
    unmerged = logits(it, model)
    assert not torch.allclose(unmerged, logits(it, it.model()), atol=1e-3)
    names = set(it.model().state_dict())
    merge_adapter(model)
    torch.testing.assert_close(logits(it, model), unmerged, rtol=1e-4, atol=1e-5)
    assert set(model.state_dict()) == names and not has_adapter(model)
    assert all(parameter.requires_grad for parameter in model.parameters())


@each_case
def test_what_is_saved_is_loaded_by_peft_and_by_us(case, adapted, tmp_path):
    from peft import PeftModel

    it, model, _ = adapted(*case)
    save_model(it.model(), it.processor, tmp_path / "base")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    save_adapter(model, it.processor, tmp_path / "adapter")
    assert adapter_base(tmp_path / "adapter") == str(tmp_path / "base")
    auto = getattr(transformers, it.task.auto_model)
    theirs = PeftModel.from_pretrained(auto.from_pretrained(tmp_path / "base"), tmp_path / "adapter").eval()
    # Packed rows are left out: only our own model reads them in every layer.
    with torch.no_grad():
        inputs = it.batch(it.features[:1]).inputs
        torch.testing.assert_close(theirs(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-6)
    ours = it.model()
    load_adapter(ours, tmp_path / "adapter")
    same(logits(it, ours), logits(it, model))
    merge_adapter(model)
    save_model(model, it.processor, tmp_path / "model")
    with torch.no_grad():
        same(auto.from_pretrained(tmp_path / "model").eval()(**inputs).logits, model(**inputs).logits)


def test_each_option_changes_what_is_trained(adapted):
    def trained(**changes):
        return adapted("causal_lm", "gpt", replace(LORA, **changes))

    it, plain, _ = trained()
    said = logits(it, plain)
    same(logits(it, trained()[1]), said)
    for changes in ({"rank": 2}, {"alpha": 4.0}, {"dropout": 0.5}, {"targets": ["q_proj", "v_proj"]}):
        assert not torch.equal(logits(it, trained(**changes)[1]), said), changes
    few = trained(targets=["q_proj", "v_proj"])[1]
    assert {name.split(".")[-4] for name, p in few.named_parameters() if p.requires_grad} == {"q_proj", "v_proj"}
    assert count_parameters(trained(rank=8)[1], trained=True) == 2 * count_parameters(plain, trained=True)


def tiny_config(kind: str):
    small = {
        "vocab_size": 64,
        "hidden_size": 16,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "intermediate_size": 24,
    }
    return {
        "llama": lambda: transformers.LlamaConfig(**small),
        "modernbert": lambda: transformers.ModernBertConfig(**small, pad_token_id=0),
        "bert": lambda: transformers.BertConfig(**small),
        "gpt2": lambda: transformers.GPT2Config(vocab_size=64, n_embd=16, n_layer=2, n_head=2),
        "t5": lambda: transformers.T5Config(vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2),
        "t5-gated": lambda: transformers.T5Config(
            vocab_size=64, d_model=16, d_kv=8, d_ff=24, num_layers=2, num_heads=2, feed_forward_proj="gated-gelu"
        ),
    }[kind]()


@pytest.mark.parametrize(
    ("kind", "auto", "expected"),
    [
        ("llama", "CausalLM", "down_proj gate_proj k_proj o_proj q_proj up_proj v_proj"),
        ("gpt2", "CausalLM", "c_attn c_fc c_proj"),
        ("modernbert", "MaskedLM", "Wi Wo Wqkv"),
        ("modernbert", "TokenClassification", "Wi Wo Wqkv"),
        ("t5", "Seq2SeqLM", "k o q v wi wo"),
        ("t5-gated", "Seq2SeqLM", "k o q v wi_0 wi_1 wo"),
    ],
)
def test_targets_are_the_linear_layers_of_the_body(kind, auto, expected):
    model = getattr(transformers, f"AutoModelFor{auto}").from_config(tiny_config(kind))
    assert targets(model, "auto") == expected.split()


def test_names_that_heads_share_are_written_out():
    model = transformers.AutoModelForMaskedLM.from_config(tiny_config("bert"))
    found = targets(model, "auto")
    assert len(found) == 12 and all(name.startswith("bert.encoder.layer.") for name in found)


def test_t5_is_trained_and_merged():
    torch.manual_seed(0)
    model = transformers.T5ForConditionalGeneration(tiny_config("t5")).eval()
    model.config.decoder_start_token_id = 0
    inputs = {"input_ids": torch.arange(1, 9)[None], "labels": torch.arange(3, 8)[None]}
    add_adapter(model, LORA, "AutoModelForSeq2SeqLM", "base")
    assert all(".lora_" in name for name, parameter in model.named_parameters() if parameter.requires_grad)
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=1e-2)
    first = model(**inputs).loss
    for _ in range(5):
        model(**inputs).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    after = model(**inputs)
    assert after.loss < first
    merge_adapter(model)
    torch.testing.assert_close(model(**inputs).logits, after.logits, rtol=1e-4, atol=1e-5)


def test_a_layer_that_is_not_there_is_told(adapted):
    with pytest.raises(UserError, match=r"no layer of this model is called query\. Known: down_proj"):
        adapted("causal_lm", "gpt", replace(LORA, targets=["query"]))


def test_without_peft_the_package_is_named(monkeypatch, adapted):
    monkeypatch.setitem(sys.modules, "peft", None)
    with pytest.raises(UserError, match=r"pip install 'llmstage\[lora\]'"):
        adapted("causal_lm", "gpt")


def test_fewer_bits_need_a_gpu():
    assert quantization("none", torch.device("cpu")) == {}
    with pytest.raises(UserError, match=r"adapter\.quantize=4bit needs a GPU; this run is on cpu"):
        quantization("4bit", torch.device("cpu"))


VARIANTS = {
    "dora": {"dora": True},
    "rslora": {"rslora": True},
    "pissa": {"init": "pissa"},
    "pissa-rslora": {"init": "pissa", "rslora": True},
    "embeddings": {"modules_to_save": ["embed_tokens"]},
}


@pytest.mark.parametrize("keys", VARIANTS.values(), ids=VARIANTS)
def test_a_variant_starts_as_the_model_trains_and_is_loaded_by_peft_and_by_us(keys, adapted, tmp_path):
    from peft import PeftModel

    cfg = replace(LORA, **keys)
    it, fresh, _ = adapted("causal_lm", "gpt", cfg, steps=0)
    torch.testing.assert_close(logits(it, fresh), logits(it, it.model()), rtol=1e-4, atol=1e-5)
    it, model, _ = adapted("causal_lm", "gpt", cfg)
    after = logits(it, model)
    assert not torch.allclose(after, logits(it, it.model()), atol=1e-3)
    save_model(it.model(), it.processor, tmp_path / "base")
    model.peft_config["default"].base_model_name_or_path = str(tmp_path / "base")
    save_adapter(model, it.processor, tmp_path / "adapter")
    base = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "base")
    theirs = PeftModel.from_pretrained(base, tmp_path / "adapter").eval()
    with torch.no_grad():
        inputs = it.batch(it.features[:1]).inputs
        torch.testing.assert_close(theirs(**inputs).logits, model(**inputs).logits, rtol=1e-4, atol=1e-5)
    ours = it.model()
    load_adapter(ours, tmp_path / "adapter")
    torch.testing.assert_close(logits(it, ours), after, rtol=1e-4, atol=1e-5)
    merge_adapter(model)
    torch.testing.assert_close(logits(it, model), after, rtol=1e-4, atol=1e-5)


def test_modules_to_save_are_trained_with_those_that_share_their_weights(adapted):
    _, model, before = adapted("causal_lm", "gpt", replace(LORA, modules_to_save=["embed_tokens"]))
    assert model.peft_config["default"].modules_to_save == ["lm_head", "model.embed_tokens"]
    assert not torch.equal(model.state_dict()["lm_head.weight"], before["lm_head.weight"])
    with pytest.raises(UserError, match="no module of this model is called embeddings"):
        adapted("causal_lm", "gpt", replace(LORA, modules_to_save=["embeddings"]))
