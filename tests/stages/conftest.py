"""One small model a task, for the tests of what is done with a trained one."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from llmstage.cli.command import main

SMALL = [
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=320", "data.demo_rows=60", "data.max_lost=1",
    "data.context=96", "trainer.max_steps=6", "trainer.batch_size=4", "trainer.threads=1", "trainer.train_rows_scored=8",
    "trainer.eval_every=3", "trainer.eval_batch_tokens=500", "optim.lr=3e-3", "seed=5",
]  # fmt: skip
WRITES = ("dialogue", "translation", "summarization", "captioning")


@pytest.fixture(scope="session")
def trained(shared_folder: Callable[..., Path]) -> Callable[[str], Path]:
    """`trained("dialogue")`: the run folder of a small model, trained once; it says little."""

    def train(task: str) -> None:
        stage = "pretrain" if task in ("causal_lm", "masked_lm", "contrastive") else "finetune"
        more = ["generation.max_new_tokens=4"] if task in WRITES else []
        assert main([f"stage={stage}", f"task={task}", *SMALL, *more, f"hydra.run.dir={task}"]) == 0

    return lambda task: shared_folder(f"trained/{task}", lambda: train(task)) / task
