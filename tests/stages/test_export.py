"""stage=export: what other runtimes load says what the model says; what does not is not written."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from llmstage.cli.command import main

SMALL = [
    "trainer=smoke", "trainer.max_steps=2", "model.num_hidden_layers=2", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=60", "data.max_lost=1", "data.context=96", "trainer.threads=1", "seed=5",
    "trainer.baselines=false",
]  # fmt: skip
TEXT = "Where is my order 3051? 退款要等多久？"


@pytest.fixture(scope="module")
def runs(shared_folder: Callable[..., Path]) -> Path:
    """A folder with the runs lm (a decoder), cls (an encoder) and lora (an adapter that was not merged)."""

    def make() -> None:
        assert main(["stage=pretrain", "task=causal_lm", *SMALL, "hydra.run.dir=lm"]) == 0
        assert main(["stage=finetune", "task=classification", *SMALL, "hydra.run.dir=cls"]) == 0
        small = [word for word in SMALL if not word.startswith("model.")]
        words = ["model.path=lm", "adapter=lora", "adapter.merge=false", "hydra.run.dir=lora"]
        assert main(["stage=finetune", "task=dialogue", *small, *words]) == 0

    return shared_folder("export", make)


LOGITS = """
tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
model = getattr(transformers, kind).from_pretrained(folder).eval()
with torch.no_grad():
    out = model(**tokenizer(text, return_tensors="pt")).logits.tolist()
"""


def logits(without_us: Any, name: str, kind: str) -> Any:
    """By transformers alone, in a process that cannot import llmstage."""
    return np.array(without_us(LOGITS, folder=str(Path(name).resolve()), kind=kind, text=TEXT))


def here(folder: Path, kind: str) -> Any:
    """The same in this process."""
    import transformers

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    with torch.no_grad():
        return model(**tokenizer(TEXT, return_tensors="pt")).logits.numpy()


@pytest.mark.lowest
def test_a_directory_with_its_adapter_merged_loads_without_us(runs: Path, workplace: Path, without_us: Any) -> None:
    assert main(["stage=export", f"model.path={runs / 'lora'}", "stage.output=out"]) == 0
    assert not list(Path("out").glob("adapter*")) and Path("out/config.json").is_file()
    said = logits(without_us, "out", "AutoModelForCausalLM")
    base = here(runs / "lm" / "model", "AutoModelForCausalLM")
    assert said.shape == base.shape and np.abs(said - base).max() > 0, "the updates are in it"


def test_v4_files_hold_what_transformers_4_looks_for_and_still_load_in_5(
    runs: Path, workplace: Path, without_us: Any
) -> None:
    for name, kind in (("lm", "AutoModelForCausalLM"), ("cls", "AutoModelForSequenceClassification")):
        assert main(["stage=export", f"model.path={runs / name}", f"stage.output={name}", "stage.compat=v4"]) == 0
        config, tokenizer = (
            json.loads(Path(name, file).read_text()) for file in ("config.json", "tokenizer_config.json")
        )
        assert config["torch_dtype"] == "float32" and tokenizer["tokenizer_class"] == "PreTrainedTokenizerFast"
        assert tokenizer["additional_special_tokens"] and "backend" not in tokenizer
        assert json.loads(Path(name, "special_tokens_map.json").read_text())["pad_token"] == tokenizer["pad_token"]
        assert logits(without_us, name, kind) == pytest.approx(here(runs / name / "model", kind), abs=1e-6)
    assert json.loads(Path("lm/config.json").read_text())["rope_theta"] > 0
    assert json.loads(Path("lm/tokenizer_config.json").read_text())["chat_template"].startswith("{{ bos_token }}")
    assert json.loads(Path("cls/config.json").read_text())["local_rope_theta"] > 0
    assert json.loads(Path("cls/config.json").read_text())["global_attn_every_n_layers"] >= 1


@pytest.mark.parametrize(
    ("name", "kind"), [("cls", "AutoModelForSequenceClassification"), ("lm", "AutoModelForCausalLM")]
)
def test_onnx_and_8_bits_say_in_onnxruntime_what_the_model_says(
    runs: Path, workplace: Path, name: str, kind: str
) -> None:
    import onnxruntime
    import transformers

    folder = runs / name / "model"
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    model = getattr(transformers, kind).from_pretrained(folder).eval()
    batch = tokenizer([TEXT, "short"], padding=True, padding_side="right", return_tensors="pt")
    with torch.no_grad():
        wanted = model(**batch).logits.numpy()
    formats = {"onnx": 1e-4, "int8": 0.05} if name == "cls" else {"onnx": 1e-4}
    for form, most in formats.items():
        assert main(["stage=export", f"model.path={runs / name}", f"stage.format={form}", f"stage.output={form}"]) == 0
        session = onnxruntime.InferenceSession(f"{form}/model.onnx", providers=["CPUExecutionProvider"])
        said = session.run(None, {key: batch[key].numpy() for key in ("input_ids", "attention_mask")})[0]
        real = batch["attention_mask"].numpy().astype(bool) if said.ndim == 3 else slice(None)
        assert np.abs(said[real] - wanted[real]).max() < most
        assert Path(form, "tokenizer.json").is_file()
    if name == "cls":
        size = {form: Path(form, "model.onnx").stat().st_size for form in formats}
        assert size["int8"] < 0.85 * size["onnx"]


def test_an_export_that_differs_leaves_nothing(
    runs: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmstage.stages import export

    honest = export.export_hf

    def damaged(model: Any, processor: Any, folder: Path, *, v4: bool) -> Any:
        ask = honest(model, processor, folder, v4=v4)
        with torch.no_grad():
            model.get_output_embeddings().weight.mul_(1.01)
        honest(model, processor, folder, v4=v4)
        return ask

    monkeypatch.setattr(export, "export_hf", damaged)
    words = ["stage=export", f"model.path={runs / 'lm'}", "stage.output=out"]
    assert main(words) == 4
    assert "differs from its model" in capsys.readouterr().err
    assert not Path("out").exists() and not list(Path().glob(".out*"))
    assert main([*words, "stage.tolerance=0.5", "stage.prompts=3", "hydra.run.dir=run"]) == 0
    told = json.loads(Path("run/report.json").read_text())["export"]
    assert 0.001 < told["difference"] < 0.5 and told["prompts"] == 3 and told["tolerance"] == 0.5


def test_what_cannot_be_exported_is_said(runs: Path, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    Path("full").mkdir()
    Path("full/mine.txt").write_text("mine")
    assert main(["stage=export", f"model.path={runs / 'lm'}", "stage.output=full"]) == 2
    assert "not empty" in capsys.readouterr().err and Path("full/mine.txt").read_text() == "mine"
    assert main(["stage=export", f"model.path={runs / 'lm'}", "stage.format=onnx", "stage.compat=v4"]) == 2
    assert "stage.compat=v4" in capsys.readouterr().err
