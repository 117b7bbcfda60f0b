"""-m: a folder for each job, a failed job is a result, nothing leaks from one job into the next, a table at the end."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmstage.cli.command import main

SMALL = [
    "stage=pretrain", "task=causal_lm", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=40", "data.context=64", "trainer.max_steps=4", "trainer.batch_size=4",
    "trainer.threads=1", "trainer.train_rows_scored=0", "trainer.eval_every=2", "model.dropout=0.1",
]  # fmt: skip


def loss(run_dir: Path) -> list[float]:
    lines = [json.loads(line) for line in (run_dir / "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_jobs_equal_single_runs_and_a_failed_one_stops_nobody(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["-m", *SMALL, "optim.lr=1e-3", "seed=1,2", "trainer.device=cpu,cuda:7", "hydra.sweep.dir=sweep"]) == 1
    out = capsys.readouterr()
    states = [json.loads(Path(f"sweep/{number}/report.json").read_text())["status"] for number in range(4)]
    assert states == ["completed", "failed", "completed", "failed"]
    assert "4 jobs" in out.out and out.out.count("failed (2)") == 2 and out.out.count("completed") == 2
    assert "torch sees no GPU here" in out.err
    # job 2 came after a failed job and another seed; alone it is the same to the last bit
    assert main([*SMALL, "optim.lr=1e-3", "seed=2", "trainer.device=cpu", "hydra.run.dir=alone"]) == 0
    assert loss(Path("sweep/2")) == loss(Path("alone")) != loss(Path("sweep/0"))


def test_default_sweep_folders_lie_under_outputs(workplace: Path) -> None:
    assert main(["-m", *SMALL, "seed=1,2"]) == 0
    (sweep,) = Path("outputs/sweeps").iterdir()
    assert {"0", "1"} <= {path.name for path in sweep.iterdir()}
    assert Path("outputs/latest").resolve() == (sweep / "1").resolve()
