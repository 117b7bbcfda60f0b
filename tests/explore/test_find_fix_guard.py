"""Find, fix, guard (EMERGENCE.md 4.4) by commands: long reversals left out of training are found, mended and guarded.

Four minutes a seed on two idle cores. The short form of the same is test_improve.py, with a small classifier.
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from llmstage.cli import main
from llmstage.data.splits import row_hash
from llmstage.tasks.translation import TASK

HERE = Path(__file__).parent


def generator():
    spec = importlib.util.spec_from_file_location("planted", HERE / "planted.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretrained(folder: Path, seed: int, *, planted: bool) -> Path:
    data = generator().write(folder / "data", seed, planted=planted)
    status = main([
        "stage=finetune", "task=translation", "model=gpt_tiny", "model.layers=2", "model.width=64", "model.heads=4",
        "model.mlp_width=172", "model.vocab_size=300", f"data.train={data / 'train.jsonl'}", f"data.test={data / 'test.jsonl'}",
        "data.split.validation=0", "data.context=32", "trainer.max_steps=2000", "trainer.threads=1", "trainer.baselines=false",
        "trainer.train_rows_scored=0", f"seed={seed}", f"hydra.run.dir={folder / 'base'}",
    ])  # fmt: skip
    assert status == 0
    return folder / "base"


def explore(folder: Path, base: Path, out: str, *words: str) -> tuple[int, dict]:
    status = main(
        [
            "stage=explore",
            f"model.path={base}",
            "trainer.threads=1",
            "stage.why.elicit=[]",
            f"hydra.run.dir={folder / out}",
            *words,
        ]
    )
    path = folder / out / "before_after.json"
    return status, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_weakness_is_found_mended_and_guarded(workplace, seed):
    base = pretrained(workplace, seed, planted=True)
    new = f"stage.improve.data={workplace / 'data' / 'new.jsonl'}"
    keys = ["stage.improve.enabled=true", new, "stage.improve.lr=1e-3"]
    status, told = explore(workplace, base, "replay", *keys, "stage.improve.target_share=[0.5]")
    found = [json.loads(line) for line in (workplace / "replay" / "weaknesses.jsonl").open(encoding="utf-8")]
    known = set(json.loads((workplace / "replay" / "confirming.json").read_text(encoding="utf-8")))
    rows = [json.loads(line) for line in (workplace / "data" / "test.jsonl").open(encoding="utf-8")]
    bad = [row for row in rows if row["op"] == "rev" and row["len"] >= 6]
    planted = sum(f"{row_hash(row, TASK.columns.identity, 0):016x}" in known for row in bad)
    # Slices do not share rows: as many rows as were planted, all of reversals, all wrong, is precision = recall = 1.
    assert sum(one["n"] for one in found) == planted
    assert all(one["slice"]["op"] == "rev" and one["score"] < 0.3 < 0.9 < one["rest"] for one in found)
    assert status == 0 and told["promoted"] and told["candidate"] == "targeted"
    assert told["weak"]["gain"]["value"] >= 0.70 and told["weak"]["gain"]["low"] > 0.6
    assert told["weak"]["more_of_same_gain"]["value"] < 0.15
    alone = ["stage.improve.target_share=[1.0]", "stage.improve.guard.fallback=[]"]
    status, told = explore(workplace, base, "targeted_only", *keys, *alone)
    assert status == 9 and "guard refused" in told["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_nothing_is_found_in_a_model_that_saw_all_cells_alike(workplace, seed):
    base = pretrained(workplace, seed, planted=False)
    status, told = explore(workplace, base, "unplanted")
    assert status == 0 and told == {}
    assert (workplace / "unplanted" / "weaknesses.jsonl").read_text(encoding="utf-8") == ""
