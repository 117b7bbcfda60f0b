"""A model that is made ready for use."""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from llmstage.inference import inference_session
from llmstage.inference.inference_session import cast_linear_weights, inference_precision
from llmstage.training.machine import scoring_precision


@pytest.mark.parametrize("task", ["classification", "token_classification", "masked_lm"])
def test_weights_rounded_once_say_what_autocast_says(task: str, tiny_task: Callable[..., Any]) -> None:
    it = tiny_task(task, "bert")
    model = it.model().eval()
    batch = it.batch()

    def predictions() -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return it.task.predict(model, batch, generate=True)

    before, embedding_weight = predictions(), model.get_input_embeddings().weight
    cast_linear_weights(model)
    inner = [
        module for module in model.modules() if type(module) is nn.Linear and module.weight is not embedding_weight
    ]
    assert inner and all(module.weight.dtype == torch.bfloat16 for module in inner)
    assert embedding_weight.dtype == torch.float32, "shared with what is no product"
    assert predictions() == before


@pytest.mark.parametrize(
    ("stage", "asked", "fast", "fast_encoder", "expected"),
    [
        ("serve", "auto", "AMX", True, "bf16"),
        ("serve", "auto", "AMX", False, "fp32"),
        ("serve", "auto", "", True, "fp32"),
        ("serve", "fp32", "AMX", True, "fp32"),
        ("serve", "bf16", "", True, "bf16"),
        ("predict", "auto", "AMX", True, "fp32"),
        ("predict", "bf16", "AMX", True, "bf16"),
    ],
)
def test_many_who_ask_a_server_are_answered_in_bf16_where_it_is_fast(
    stage: str,
    asked: str,
    fast: str,
    fast_encoder: bool,
    expected: str,
    compose_run: Callable[[list[str]], Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    words = [f"stage={stage}", "task=classification", "model.path=x", f"trainer.eval_precision={asked}"]
    run = compose_run([*words, *(["data.test=x"] if stage == "predict" else [])])
    monkeypatch.setattr(inference_session, "fast_bf16", lambda device: fast)
    machine: Any = SimpleNamespace(device=torch.device("cpu"))
    assert inference_precision(run, machine, fast_encoder=fast_encoder) == expected
    assert scoring_precision(run.trainer) == ("bf16" if asked == "bf16" else "fp32"), "scores are the same everywhere"
