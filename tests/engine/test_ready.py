"""A model that is made ready for use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import nn

from llmstage.engine.ready import round_once


@pytest.mark.parametrize("task", ["classification", "token_classification", "masked_lm"])
def test_weights_rounded_once_say_what_autocast_says(task: str, tiny_task: Callable[..., Any]) -> None:
    it = tiny_task(task, "bert")
    model = it.model().eval()
    batch = it.batch()

    def said() -> Any:
        with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
            return it.task.predict(model, batch, generate=True)

    before, kept = said(), model.get_input_embeddings().weight
    round_once(model)
    inner = [module for module in model.modules() if type(module) is nn.Linear and module.weight is not kept]
    assert inner and all(module.weight.dtype == torch.bfloat16 for module in inner)
    assert kept.dtype == torch.float32, "shared with what is no product"
    assert said() == before
