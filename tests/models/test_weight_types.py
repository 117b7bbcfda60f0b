"""Weights in half precision: held as they are, computed as fp32, saved as they were loaded, and scored as they are saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file

from llmstage.cli.command import main
from llmstage.config.run import AdapterConfig
from llmstage.models.adapter import add_adapter, merge_adapter
from llmstage.models.families import in_body
from llmstage.models.loading import load_model
from llmstage.models.weight_types import HALF, dtype_name, file_types, is_held, release, round_weights
from llmstage.paths import locate_model

SaveCheckpoint = Callable[..., Any]
SMOKE = ["trainer=smoke", "trainer.max_steps=2", "data.context=96", "data.max_lost=1", "trainer.threads=1", "trainer.baselines=false", "data.demo_rows=20"]  # fmt: skip
CASES = [
    ("llama", "gpt", "AutoModelForCausalLM"), ("gpt2", "gpt", "AutoModelForCausalLM"), ("gemma3_text", "gpt", "AutoModelForCausalLM"),
    ("t5", "t5", "AutoModelForSeq2SeqLM"), ("bert", "bert", "AutoModelForMaskedLM"), ("mamba", "gpt", "AutoModelForCausalLM"),
    ("bloom", "gpt", "AutoModelForCausalLM"), ("mixtral", "gpt", "AutoModelForCausalLM"),
]  # fmt: skip


def loaded(folder: Path, auto_class: str, *, held: bool) -> Any:
    auto = getattr(transformers, auto_class)
    frozen = in_body if held else None
    return load_model(auto, locate_model(str(folder)), {}, 0.0, offline=True, quantized={}, is_frozen=frozen).eval()


def result(model: Any) -> torch.Tensor:
    ids = torch.arange(3, 19)[None]
    inputs = {"input_ids": ids, **({"decoder_input_ids": ids.flip(1)} if model.config.is_encoder_decoder else {})}
    return model(**inputs).logits


@pytest.mark.parametrize(("model_type", "family", "auto_class"), CASES, ids=lambda value: str(value))
def test_held_weights_take_half_the_memory_and_change_no_number(
    model_type: str, family: str, auto_class: str, save_checkpoint: SaveCheckpoint, tmp_path: Path
) -> None:
    save_checkpoint(tmp_path, model_type, family, auto_class, dtype=torch.bfloat16)
    plain, held = (loaded(tmp_path, auto_class, held=held) for held in (False, True))
    assert not is_held(plain) and is_held(held)
    assert {weight.dtype for weight in plain.parameters()} == {torch.float32}
    matrices = sum(weight.numel() for weight in held.parameters() if weight.ndim == 2)
    in_half = sum(weight.numel() for weight in held.parameters() if weight.dtype in HALF)
    # transformers wants one matrix of each MLP of T5 as fp32, and casts to the type of Gemma's embedding and of Mamba's head.
    assert in_half > {"t5": 0.5, "gemma3_text": 0.2, "mamba": 0.2, "mixtral": 0.5}.get(model_type, 0.9) * matrices
    with torch.no_grad():
        torch.testing.assert_close(result(held), result(plain), rtol=1e-6, atol=1e-6)
    for model in (plain, held):
        add_adapter(model, AdapterConfig(name="lora", rank=2), auto_class, str(tmp_path))
        torch.manual_seed(1)
        for name, weight in model.named_parameters():
            if weight.requires_grad:
                weight.data = torch.randn(weight.shape) / 8
                assert weight.dtype == torch.float32, name
        result(model).sin().mean().backward()
    gradients = [{n: w.grad for n, w in model.named_parameters() if w.grad is not None} for model in (plain, held)]
    assert gradients[0] and set(gradients[0]) == set(gradients[1])
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-4, atol=1e-7)
    for model in (plain, held):
        merge_adapter(model)
        round_weights(model)
    release(held)
    with torch.no_grad():
        torch.testing.assert_close(result(held), result(plain), rtol=1e-5, atol=1e-5)


def dtypes(folder: str) -> set[str]:
    return {dtype_name(tensor.dtype) for tensor in load_file(Path(folder) / "model.safetensors").values()}


def scores_of(folder: str) -> dict[str, float]:
    report = json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))
    return {name: score["value"] for name, score in report["scores"]["test"].items() if score["value"] is not None}


@pytest.mark.parametrize("words", [[], ["adapter=lora", "adapter.rank=4"]], ids=["full", "lora"])
def test_a_model_is_saved_in_the_type_in_which_it_was_loaded_and_scored_as_it_is_saved(
    words: list[str], save_checkpoint: SaveCheckpoint, workplace: Path
) -> None:
    save_checkpoint(Path("checkpoint"), "qwen2", "gpt", "AutoModelForCausalLM", dtype=torch.bfloat16)
    common = ["task=causal_lm", *SMOKE]
    assert main(["stage=finetune", *common, "model.path=checkpoint", *words, "hydra.run.dir=run"]) == 0
    assert dtypes("run/model") == {"bfloat16"}
    assert json.loads(Path("run/model/config.json").read_text())["dtype"] == "bfloat16"
    assert dtypes("run/checkpoints/step_000002") == {"float32"} or words  # the master weights
    again = [word for word in common if not word.startswith("trainer.max_steps")]
    assert main(["stage=evaluate", *again, "model.path=run/model", "hydra.run.dir=again"]) == 0
    assert scores_of("again") == pytest.approx(scores_of("run"), rel=1e-6)
    # transformers alone computes the same from the file as it is
    theirs = transformers.AutoModelForCausalLM.from_pretrained("run/model", dtype="auto")
    assert theirs.dtype == torch.bfloat16


def test_model_dtype_says_in_which_type_a_model_is_saved(save_checkpoint: SaveCheckpoint, workplace: Path) -> None:
    save_checkpoint(Path("checkpoint"), "bert", "bert", dtype=torch.float16)
    words = ["stage=finetune", "task=classification", *SMOKE, "model.path=checkpoint"]
    assert main([*words, "hydra.run.dir=same"]) == 0
    assert main([*words, "model.dtype=float32", "hydra.run.dir=other"]) == 0
    assert dtypes("same/model") == {"float16"} and dtypes("other/model") == {"float32"}


def test_weights_of_another_type_than_the_config_says_are_refused_with_the_key(
    save_checkpoint: SaveCheckpoint, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_checkpoint(Path("checkpoint"), "bert", "bert", dtype=torch.bfloat16)
    file = Path("checkpoint/model.safetensors")
    save_file({name: value.float() for name, value in load_file(file).items()}, file, {"format": "pt"})
    words = ["stage=finetune", "task=classification", *SMOKE, "trainer.max_steps=1", "model.path=checkpoint"]
    assert main(words) == 4
    error = capsys.readouterr().err
    assert "says that the weights are bfloat16, and most of them are float32" in error
    assert "model.dtype=float32 keeps the weights as they are" in error
    assert main([*words, "model.dtype=float32", "hydra.run.dir=kept"]) == 0
    assert dtypes("kept/model") == {"float32"}


def test_the_types_of_a_file_are_counted_without_reading_it(tmp_path: Path) -> None:
    save_file({"a": torch.zeros(8, dtype=torch.bfloat16), "b": torch.zeros(3), "c": torch.zeros(2, dtype=torch.int64)}, tmp_path / "m.safetensors")  # fmt: skip
    assert file_types(tmp_path) == {torch.bfloat16: 16, torch.float32: 12}
    (tmp_path / "m.safetensors").write_bytes(b"torn")
    assert not file_types(tmp_path)
