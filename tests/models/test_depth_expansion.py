"""A grown model computes what it computed, loads with transformers alone, and learns in its new blocks."""

from __future__ import annotations

import pytest
import torch
import transformers

from llmstage.errors import ModelError
from llmstage.models.depth_expansion import FIRST_NORM_MISSING, SEQUENTIAL, deepen, grow_depth

SHAPE = {
    "vocab_size": 60, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4,
    "intermediate_size": 64, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
}  # fmt: skip


def make(kind: str, layers: int = 2):
    shape = SHAPE | {"num_hidden_layers": layers}
    if kind == "gpt2":
        shape = {"vocab_size": 60, "n_embd": 32, "n_layer": layers, "n_head": 4, "n_positions": 64}
    if kind == "modernbert":
        shape |= {"cls_token_id": 1, "sep_token_id": 2}
    auto = transformers.AutoModelForMaskedLM if kind == "modernbert" else transformers.AutoModelForCausalLM
    torch.manual_seed(0)
    return auto, auto.from_config(transformers.AutoConfig.for_model(kind, **shape)).eval()


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", sorted(SEQUENTIAL))
@torch.no_grad()
def test_logits_are_the_same_before_and_after_growing_and_after_loading(kind, layers, tmp_path):
    auto, model = make(kind, layers)
    ids = torch.arange(3, 23).repeat(2, 1)
    before = model(ids).logits
    grow_depth(model, 2)
    assert torch.allclose(model(ids).logits, before, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded, told = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and loaded.config.num_hidden_layers == layers + 2
    assert torch.allclose(loaded.eval()(ids).logits, before, atol=1e-5)
    if kind != "modernbert":
        told = [
            model.generate(ids[:1], max_new_tokens=4, do_sample=False, use_cache=cached) for cached in (True, False)
        ]
        assert torch.equal(*told)


@pytest.mark.parametrize("layers", [1, 2])
@pytest.mark.parametrize("kind", sorted(set(SEQUENTIAL) - set(FIRST_NORM_MISSING)))
@torch.no_grad()
def test_blocks_below_change_no_logit_either_and_what_was_learned_stands_above_them(kind, layers, tmp_path):
    auto, model = make(kind, layers)
    ids = torch.arange(3, 23).repeat(2, 1)
    before = model(ids).logits
    name, writers = SEQUENTIAL[kind]
    old = list(getattr(model.base_model, name))
    grow_depth(model, 2, below=True)
    blocks = getattr(model.base_model, name)
    assert [id(block) for block in blocks[2:]] == [id(block) for block in old]
    assert not any(block.get_submodule(path).weight.any() for block in blocks[:2] for path in writers)
    assert torch.allclose(model(ids).logits, before, atol=1e-5)
    model.save_pretrained(tmp_path)
    loaded, told = auto.from_pretrained(tmp_path, output_loading_info=True)
    assert not told["missing_keys"] and not told["unexpected_keys"] and loaded.config.num_hidden_layers == layers + 2
    assert torch.allclose(loaded.eval()(ids).logits, before, atol=1e-5)
    told = [model.generate(ids[:1], max_new_tokens=4, do_sample=False, use_cache=cached) for cached in (True, False)]
    assert torch.equal(*told)


def test_the_only_block_of_a_decoder_gets_one_below_and_others_get_theirs_behind():
    for kind, layers, where, writes in (
        ("llama", 1, "below", [0]),
        ("llama", 4, "behind", [4, 5]),
        ("modernbert", 1, "behind", [1]),
    ):
        _, model = make(kind, layers)
        assert deepen(model) == where
        name, (writer, _) = SEQUENTIAL[kind]
        silent = [not block.get_submodule(writer).weight.any() for block in getattr(model.base_model, name)]
        assert [number for number, one in enumerate(silent) if one] == writes and len(silent) == layers + len(writes)


def test_nothing_is_put_below_a_first_block_that_has_no_norm_of_its_own():
    _, model = make("modernbert")
    with pytest.raises(ModelError, match="below a model of type modernbert"):
        grow_depth(model, 1, below=True)


def test_gradients_reach_the_new_blocks():
    _, model = make("llama")
    grow_depth(model, 1)
    ids = torch.arange(3, 23)[None]
    model(ids, labels=ids).loss.backward()
    assert float(model.model.layers[-1].mlp.down_proj.weight.grad.abs().sum()) > 0


def test_a_model_that_normalises_after_adding_is_refused():
    shape = {key: value for key, value in SHAPE.items() if key != "num_key_value_heads"}
    model = transformers.AutoModelForMaskedLM.from_config(transformers.BertConfig(**shape))
    with pytest.raises(ModelError, match="bert"):
        grow_depth(model, 1)
