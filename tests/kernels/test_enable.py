"""Each kernel is compared with the plain operation when it is enabled; a broken one is named, and the plain one is used."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, ModernBertConfig, ModernBertForMaskedLM

from llmstage.config import TrainerConfig
from llmstage.kernels import activation_checkpointing as checkpointing
from llmstage.kernels import (
    attention,
    comparison,
    enable,
    float8,
    head_loss,
    llama_blocks,
    llama_decode,
    matmul,
    modernbert_encoder,
    rotary,
    varlen_attention,
)
from llmstage.models.packing import read_packed_rows

pytestmark = pytest.mark.lowest

CPU = SimpleNamespace(device=torch.device("cpu"), precision="bf16")
SLOW = SimpleNamespace(device=torch.device("cpu"), precision="fp32")
SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
SPECIAL = {"pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "cls_token_id": 1, "sep_token_id": 2}


def llama(**more: Any) -> Any:
    torch.manual_seed(0)
    model: Any = LlamaForCausalLM(LlamaConfig(vocab_size=96, **SIZES, **more))
    model.split_head = True
    return model.train()


def modernbert() -> Any:
    torch.manual_seed(0)
    config = ModernBertConfig(vocab_size=96, local_attention=8, initializer_range=0.1, **SIZES, **SPECIAL)
    model: Any = ModernBertForMaskedLM(config)
    model.split_head = True
    read_packed_rows(model)
    return model.train()


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    rotary.restore_rotary()
    monkeypatch.setattr(matmul, "AGREED", {})
    yield
    rotary.restore_rotary()


def result(model: Any, *, training: bool = False) -> list[Tensor]:
    """Output and gradients in bf16, as a training step computes them."""
    inputs = comparison.sample_inputs(model)
    return list(comparison.model_pass(model, inputs, torch.bfloat16, training=training).tensors.values())


def same(ours: list[Tensor], theirs: list[Tensor]) -> bool:
    return all(torch.equal(a, b) for a, b in zip(ours, theirs, strict=True))


def wrong(function: Callable[..., Any], change: Callable[[Any], Any] = lambda value: value * 1.5) -> Callable[..., Any]:
    """The function with a wrong result."""
    return lambda *args, **kwargs: change(function(*args, **kwargs))


@pytest.mark.parametrize("make", [llama, modernbert])
def test_sound_kernels_pass_and_leave_no_trace(make: Callable[[], Any], capsys: pytest.CaptureFixture[str]) -> None:
    model = make()
    model.eval()
    model.base_model.train()
    modes = [module.training for module in model.modules()]
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    torch.manual_seed(7)
    state = torch.get_rng_state()
    kernels = enable.enable(model, TrainerConfig(activation_checkpointing="on"), CPU, {})
    assert kernels["attention"] == "products" and kernels["lean"] and kernels["checkpointing"] and kernels["head_chunk"]
    assert "rotary" not in kernels and model.head_chunk == kernels["head_chunk"]
    assert torch.equal(torch.get_rng_state(), state)
    assert [module.training for module in model.modules()] == modes
    assert all(weight.grad is None for weight in model.parameters())
    assert all(torch.equal(value, weights[name]) for name, value in model.state_dict().items())
    assert "kernels" not in capsys.readouterr().err


def test_without_a_kernel_nothing_is_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(enable, "ModelComparison", lambda *args, **kwargs: pytest.fail("compared"))
    kernels = enable.enable(llama(), TrainerConfig(head_chunk="off"), SLOW, {})
    assert kernels["attention"] == "sdpa" and not kernels["head_chunk"]


def test_saved_decisions_are_taken_without_a_comparison(monkeypatch: pytest.MonkeyPatch) -> None:
    saved = enable.enable(llama(), TrainerConfig(activation_checkpointing="on"), CPU, {})
    rotary.restore_rotary()
    monkeypatch.setattr(enable, "ModelComparison", lambda *args, **kwargs: pytest.fail("compared"))
    monkeypatch.setattr(enable, "head_difference", lambda *args: pytest.fail("compared"))
    model = llama()
    assert enable.enable(model, TrainerConfig(activation_checkpointing="on"), CPU, saved) == saved
    assert model.config._attn_implementation == attention.NAME and rotary.PATCHED
    plain = {**saved, "attention": "sdpa", "lean": False, "head_chunk": 0, "checkpointing": False}
    model = llama()
    assert enable.enable(model, TrainerConfig(activation_checkpointing="on"), CPU, plain) == plain
    assert model.config._attn_implementation == "sdpa" and model.head_chunk == 0


BROKEN = {
    "attention": (attention, "attention", lambda out: (out[0] * 1.5, None)),
    "rotary": (rotary, "rotate", lambda out: out.flip(-1)),
    "fused_blocks": (llama_blocks, "causal_attention", lambda out: (out[0] * 1.5, out[1])),
    "activation_checkpointing": (checkpointing, "checkpoint", lambda out: out * 1.5),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_kernel_is_named_and_left_out(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer = TrainerConfig(activation_checkpointing="on" if name == "activation_checkpointing" else "off")
    key = {"fused_blocks": "lean", "activation_checkpointing": "checkpointing"}.get(name, name)
    without = {"attention": {"attention": "sdpa"}, "rotary": {"rotary": False}}.get(name, {key: False})
    expected_model = llama()
    expected_kernels = enable.enable(expected_model, trainer, CPU, without)
    expected = result(expected_model, training=name == "activation_checkpointing")
    rotary.restore_rotary()
    capsys.readouterr()

    module, function, change = BROKEN[name]
    monkeypatch.setattr(module, function, wrong(getattr(module, function), change))
    model = llama()
    kernels = enable.enable(model, trainer, CPU, {})
    warning = capsys.readouterr().err
    assert f"{name}=" in warning and "The plain operation is used" in warning
    if name != "attention":
        assert kernels == {**expected_kernels, **without}
    assert kernels[key] in (False, "sdpa")
    if name != "attention":
        assert same(result(model, training=name == "activation_checkpointing"), expected)


def test_a_kernel_that_raises_is_left_out(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    def fail(*args: Any, **kwargs: Any) -> Any:
        raise RuntimeError("no such instruction")

    monkeypatch.setattr(llama_blocks, "stacked", fail)
    kernels = enable.enable(llama(), TrainerConfig(), CPU, {})
    assert kernels["lean"] is False and kernels["attention"] == "products"
    assert "fused_blocks=True" in (warning := capsys.readouterr().err) and "no such instruction" in warning


def test_a_wrong_gradient_alone_is_seen(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    real = llama_blocks.norm_gradient

    def zero_scale(*args: Tensor) -> tuple[Tensor, Tensor]:
        dx, d_scale = real(*args)
        return dx, torch.zeros_like(d_scale)

    monkeypatch.setattr(llama_blocks, "norm_gradient", zero_scale)
    assert enable.enable(llama(), TrainerConfig(), CPU, {})["lean"] is False
    assert "layernorm.weight" in capsys.readouterr().err


@pytest.mark.parametrize("make", [llama, modernbert])
@pytest.mark.parametrize("machine", [CPU, SLOW], ids=["bf16", "fp32"])
def test_a_broken_head_loss_is_named_and_left_out(
    make: Callable[[], Any], machine: Any, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(head_loss, "losses_and_logit_gradients", wrong(head_loss.losses_and_logit_gradients))
    model = make()
    assert enable.enable(model, TrainerConfig(), machine, {})["head_chunk"] == 0 == model.head_chunk
    assert "head_chunk=" in capsys.readouterr().err


GPU_CHOICE = {
    "rotary": False,
    "lean": False,
    "head_chunk": 0,
    "float8": "off",
    "checkpointing": False,
    "compile": False,
}


@pytest.mark.parametrize("broken", [False, True])
@pytest.mark.parametrize("make", [llama, modernbert])
def test_varlen_attention_is_compared_on_packed_rows(
    make: Callable[[], Any], broken: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On a CPU the kernel rebuilds its mask; the comparison and the way back are those of a GPU."""
    if broken:
        mask = varlen_attention.mask_from_cu_seqlens
        monkeypatch.setattr(varlen_attention, "mask_from_cu_seqlens", wrong(mask, torch.ones_like))
    choice = {**GPU_CHOICE, "attention": "documents"}
    monkeypatch.setattr(enable, "choose_kernels", lambda *args: dict(choice))
    model = make()
    kernels = enable.enable(model, TrainerConfig(), CPU, {})
    assert kernels["attention"] == ("sdpa" if broken else "documents")
    assert model.config._attn_implementation == ("sdpa" if broken else varlen_attention.NAME)
    assert ("attention=documents" in capsys.readouterr().err) == broken


@pytest.mark.parametrize("factor", [1.02, 3.0])
def test_float8_may_round_but_not_be_wrong(
    factor: float, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With a layer in the place of torchao's: products that are 2 % off are those of eight bits, ones 3 times as large are not."""

    class Rounded(torch.nn.Linear):
        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x) * factor

    def replace(model: Any, setting: str) -> dict[str, torch.nn.Module]:
        replaced = {name: layer for name, layer in model.named_modules() if float8.eligible(layer, name)}
        for name, layer in replaced.items():
            rounded = torch.nn.utils.skip_init(Rounded, layer.in_features, layer.out_features, bias=False)
            rounded.weight = layer.weight
            parent, _, last = name.rpartition(".")
            setattr(model.get_submodule(parent), last, rounded)
        return replaced

    monkeypatch.setattr(enable, "use_float8", replace)
    model, wrong_products = llama(), factor > 2
    kernels = enable.enable(model, TrainerConfig(float8="emulated"), CPU, {})
    assert kernels["float8"] == ("off" if wrong_products else "emulated")
    kinds = {type(layer) for name, layer in model.named_modules() if name.endswith("_proj")}
    assert kinds == ({torch.nn.Linear} if wrong_products else {Rounded})
    assert ("float8=emulated" in capsys.readouterr().err) == wrong_products


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_broken_encoder_is_named_and_left_out(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = modernbert().eval()
    body = modernbert_encoder.supported_body(model)
    assert modernbert_encoder.use_fast_encoder(body, dtype) and "forward" in body.__dict__
    model = modernbert().eval()
    body = modernbert_encoder.supported_body(model)
    monkeypatch.setattr(modernbert_encoder, "bias_of", wrong(modernbert_encoder.bias_of, torch.zeros_like))
    assert not modernbert_encoder.use_fast_encoder(body, dtype)
    assert "forward" not in body.__dict__ and "modernbert_encoder" in capsys.readouterr().err


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_broken_decoding_is_named_and_left_out_once(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with torch.autocast("cpu", dtype, enabled=dtype != torch.float32):
        model = llama().eval()
        assert llama_decode.stepper_body(model, 64) is model.model
        norm = llama_decode.DecoderLayer.norm
        monkeypatch.setattr(llama_decode.DecoderLayer, "norm", wrong(norm))
        assert llama_decode.stepper_body(model, 64) is model.model, "compared once"
        model = llama().eval()
        assert llama_decode.stepper_body(model, 64) is None
        assert "llama_decode" in capsys.readouterr().err
        assert llama_decode.stepper_body(model, 64) is None and not capsys.readouterr().err
    assert all(weight.grad is None for weight in model.parameters())


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_broken_packed_product_is_named_and_left_out(
    dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    weight, x = torch.randn(48, 32).to(dtype), torch.randn(3, 32).to(dtype)
    if matmul.PackedLinear(weight).blocks is None:
        pytest.skip("this machine packs no such weight")
    monkeypatch.setattr(matmul, "AGREED", {})
    monkeypatch.setattr(matmul, "packed_linear", wrong(matmul.packed_linear))
    packed = matmul.PackedLinear(weight)
    assert packed.blocks is None and torch.equal(packed(x), torch.nn.functional.linear(x, weight))
    assert "kernels.matmul" in capsys.readouterr().err
    assert matmul.PackedLinear(weight).blocks is None and not capsys.readouterr().err
