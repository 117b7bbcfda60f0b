"""Training in eight bits: which layers, what it rounds, that scoring and checkpoints know nothing of it. Emulated: no GPU."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM

from llmstage.cli.command import main
from llmstage.errors import UserError
from llmstage.kernels import float8
from llmstage.kernels.enable import choose_kernels
from llmstage.kernels.float8 import check_float8, use_float8
from llmstage.training.machine import Machine

PACKAGE = pytest.mark.skipif(
    importlib.util.find_spec("torchao") is None,
    reason="torchao is not installed; it is not in dev, as transformers imports it wherever it is",
)


def model(inner: int = 64) -> LlamaForCausalLM:
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=64, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=inner,
        initializer_range=0.1,
    )  # fmt: skip
    return LlamaForCausalLM(config)


def gradient(net: LlamaForCausalLM) -> torch.Tensor:
    net.zero_grad()
    ids = torch.arange(2 * 21).view(2, 21) % 64  # 42 tokens: no multiple of 16
    net(input_ids=ids, labels=ids).loss.backward()
    return torch.cat([parameter.grad.flatten() for parameter in net.parameters()])


@PACKAGE
def test_products_are_rounded_while_training_and_not_while_scoring() -> None:
    plain, net = model(), model()
    assert len(use_float8(net, "emulated")) == 14, "seven products of each layer; not the head"
    assert list(net.state_dict()) == list(plain.state_dict())
    true, found = gradient(plain), gradient(net)
    off = float((found - true).norm() / true.norm())
    assert 1e-3 < off < 0.2, "e4m3 has three bits behind the point"
    ids = torch.arange(20)[None]
    with torch.no_grad():
        assert torch.equal(net(input_ids=ids).logits, plain(input_ids=ids).logits)


@PACKAGE
def test_layers_that_the_hardware_does_not_take_stay_as_they_are() -> None:
    assert len(use_float8(model(inner=40), "emulated")) == 8, "gate, up and down have a side of 40"
    frozen = model()
    frozen.requires_grad_(False)
    with pytest.raises(UserError, match="no layer of this model can be trained in eight bits"):
        use_float8(frozen, "emulated")


def test_a_machine_without_it_is_told(compose_run, monkeypatch) -> None:
    run = compose_run(["stage=pretrain", "task=causal_lm", "trainer.float8=on"])
    with pytest.raises(UserError, match="needs a GPU"):
        choose_kernels(model(), run.trainer, Machine(torch.device("cpu"), 2, "bf16", ""), {})
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (8, 0))
    with pytest.raises(UserError, match=r"compute capability 8\.9"):
        check_float8("on", torch.device("cuda"))
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    check_float8("on", torch.device("cuda"))
    assert float8.MIN_CAPABILITY == (8, 9)


def test_without_torchao_the_package_is_named(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "torchao.float8", None)
    with pytest.raises(UserError, match=r"pip install 'llmstage\[float8\]'"):
        use_float8(model(), "emulated")


SMALL = [
    "stage=pretrain", "task=causal_lm", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=40", "data.context=96", "trainer.max_steps=4", "trainer.batch_size=4",
    "trainer.eval_every=0", "trainer.train_rows_scored=0", "trainer.threads=1", "data.max_lost=1",
]  # fmt: skip


@PACKAGE
def test_the_loss_of_a_run_is_that_of_the_rounded_products(workplace) -> None:
    losses = {}
    for setting in ("off", "emulated"):
        assert main([*SMALL, f"trainer.float8={setting}", f"hydra.run.dir={setting}"]) == 0
        lines = [json.loads(line) for line in Path(setting, "metrics.jsonl").read_text().splitlines()]
        losses[setting] = [line["loss"] for line in lines if line["kind"] == "train"]
    assert losses["off"] != losses["emulated"] == pytest.approx(losses["off"], rel=0.01)
    kept = AutoModelForCausalLM.from_pretrained("emulated/model")
    assert type(kept.model.layers[0].mlp.up_proj) is torch.nn.Linear, "a plain model for everybody else"
