"""What makes training fast leaves what is learned as it is: bf16 beside fp32, each key beside its absence, resumed runs."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import yaml

from llmstage.cli.command import main
from llmstage.kernels import llama_blocks
from llmstage.kernels.head_loss import CHUNK_BYTES
from llmstage.models import lm_loss
from llmstage.stages.prove_resume import compare, final
from llmstage.training import fault_injection

SMALL = [
    "stage=pretrain", "task=causal_lm", "model.num_hidden_layers=2", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=200", "data.context=32", "trainer.batch_size=4", "trainer.threads=1",
    "trainer.train_rows_scored=0", "trainer.eval_rows=4", "trainer.eval_every=0", "trainer.baselines=false",
    "optim.lr=3e-3",
]  # fmt: skip
MEAN, LARGEST = 0.003, 0.03
"""Nats by which the loss of a step in bf16 may be off that in fp32, over 300 steps from one start: mean and largest."""


pytestmark = pytest.mark.usefixtures("fault_dir")


def losses(name: str, *words: str) -> list[float]:
    assert main([*SMALL, f"hydra.run.dir={name}", *words]) == 0
    lines = [json.loads(line) for line in Path(name, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_bf16_with_all_its_short_cuts_learns_as_fp32_does() -> None:
    """Chunked head, batched attention and lean blocks together, on packed rows."""
    steps = ("trainer.max_steps=300", "data.context=32")
    exact = losses("fp32", *steps, "trainer.precision=fp32", "trainer.head_chunk=off")
    rounded = losses("bf16", *steps, "trainer.precision=bf16")
    resolved = yaml.safe_load(Path("bf16/run.yaml").read_text())["resolved"]
    assert resolved["lean"] and resolved["attention"] == "products" and resolved["head_chunk"]
    apart = [abs(a - b) for a, b in zip(exact, rounded, strict=True)]
    assert exact[-1] < exact[0] - 1, "something is learned"
    assert statistics.fmean(apart) < MEAN and max(apart) < LARGEST, f"{statistics.fmean(apart):.4f}, {max(apart):.4f}"


KEYS = ("trainer.head_chunk=off", "trainer.head_chunk=3", "trainer.fused_blocks=off")


@pytest.mark.parametrize("key", KEYS)
def test_a_killed_run_with_this_key_ends_as_the_undisturbed_one(key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    words = [*SMALL, "trainer.max_steps=6", "trainer.save_every=2", "trainer.precision=bf16", key]
    assert main([*words, "hydra.run.dir=whole"]) == 0
    fault_injection.reset_faults()
    monkeypatch.setenv("LLMSTAGE_FAULT", "step:4:die")
    with pytest.raises(fault_injection.Killed):
        main([*words, "hydra.run.dir=killed"])
    monkeypatch.delenv("LLMSTAGE_FAULT")
    assert main([*words, "hydra.run.dir=killed"]) == 0
    assert compare(final(Path("whole")), final(Path("killed"))) is None


def test_each_key_changes_how_and_not_what(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other functions, and the same loss but for the last digits."""
    seen: list[str] = []
    head, feed = lm_loss.head_losses, llama_blocks.MlpBlock.apply
    monkeypatch.setattr(lm_loss, "head_losses", lambda *args: seen.append(f"chunk {args[-1]}") or head(*args))
    monkeypatch.setattr(llama_blocks.MlpBlock, "apply", lambda *args: seen.append("lean") or feed(*args))
    steps = ("trainer.max_steps=4", "trainer.precision=bf16")
    plain = losses("plain", *steps)
    chunk_size = CHUNK_BYTES // (4 * 320)
    assert set(seen) == {"lean", f"chunk {chunk_size}"}
    expected = ({"lean"}, {"lean", "chunk 3"}, {f"chunk {chunk_size}"})
    for number, (key, used) in enumerate(zip(KEYS, expected, strict=True)):
        seen.clear()
        assert losses(f"other{number}", *steps, key) == pytest.approx(plain, abs=5e-3), key
        assert set(seen) == used, key
