"""stage=prove_resume says yes where resume is exact, and names the first part that differs where it is not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.command import main
from llmstage.stages import prove_resume

WORDS = [
    "stage=prove_resume", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=320",
    "data.demo_rows=40", "data.context=64", "trainer.max_steps=6", "trainer.batch_size=4", "trainer.threads=1",
    "trainer.eval_rows=4", "hydra.run.dir=proof",
]  # fmt: skip


def test_the_verdict_on_an_exact_run(workplace: Path, children_here: Any, capsys: pytest.CaptureFixture[str]) -> None:
    """One process is killed, and this one goes on. That each run is a process of its own is seen by .ci/run."""
    children_here()
    assert main([*WORDS, "task=causal_lm", "stage.kill_at=[4]", "stage.train_stage=finetune"]) == 0
    output = capsys.readouterr().out
    assert (
        "resume is exact: 6 steps, killed after 4" in output
        and "a cold start (weights only) differs in model.safetensors" in output
    )
    report = json.loads(Path("proof/report.json").read_text())
    assert (
        report["exact"]
        and report["cold_differs"]
        and report["sha256"]["whole"] == report["sha256"]["resumed"] != report["sha256"]["cold"]
    )
    assert json.loads(Path("proof/whole/report.json").read_text())["stage"] == "finetune", (
        "stage.train_stage is what was run"
    )


def test_the_first_difference_is_named(workplace: Path) -> None:
    small = [word for word in WORDS if not word.startswith(("stage=", "hydra."))]
    for folder, seed in (("a", 1), ("b", 2)):
        assert main(["stage=pretrain", "task=causal_lm", *small, f"seed={seed}", f"hydra.run.dir={folder}"]) == 0
    a, b = (prove_resume.final(Path(folder)) for folder in "ab")
    assert prove_resume.compare(a, a) is None
    difference = prove_resume.compare(a, b)
    assert (
        difference is not None
        and difference.part == "model.safetensors"
        and difference.detail.startswith(("lm_head", "model."))
    )


@pytest.mark.parametrize(
    ("word", "output"),
    [
        ("stage.kill_at=[6]", "not before the end"),
        ("trainer.max_steps=2", "too short"),
        ("trainer.epochs=1", "needs trainer.max_steps"),
    ],
)
def test_what_it_cannot_prove_it_says(
    word: str, output: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [item for item in WORDS if not (word.startswith("trainer.") and item.startswith("trainer.max_steps"))]
    assert main([*words, "task=causal_lm", word]) == 2
    assert output in capsys.readouterr().err
