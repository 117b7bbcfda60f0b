"""Find, fix, guard (EMERGENCE.md 4.4) by commands: long reversals that training lacks are found, fixed and guarded.

The short form of the same is test_improve.py, with a small classifier. `pytest -n 0 -m slow tests/explore/test_find_fix_guard.py`
"""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.command import main
from llmstage.data.split_keys import row_hash
from llmstage.tasks.translation import TASK

HERE = Path(__file__).parent
IDENTITY = TASK.columns.identity


def generator():
    spec = importlib.util.spec_from_file_location("planted", HERE / "planted.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def pretrained(folder: Path, seed: int, *, planted: bool) -> None:
    """Write data/ and base/; stage=explore reads the rows to score."""
    data = generator().write(folder / "data", seed, planted=planted)
    status = main([
        "stage=finetune", "task=translation", "model=gpt_tiny", "model.num_hidden_layers=2", "model.hidden_size=64", "model.num_attention_heads=4",
        "model.intermediate_size=172", "model.vocab_size=300", f"data.train={data / 'train.jsonl'}", "data.split.test=0",
        "data.split.validation=0", "data.context=32", "trainer.max_steps=2000", "trainer.threads=1", "trainer.baselines=false",
        "trainer.train_rows_scored=0", f"seed={seed}", f"hydra.run.dir={folder / 'base'}",
    ])  # fmt: skip
    assert status == 0


def explore(folder: Path, out: str, *words: str) -> tuple[int, dict[str, Any]]:
    """Return exit status and before_after.json."""
    status = main([
        "stage=explore", f"model.path={folder / 'base'}", f"data.test={folder / 'data' / 'test.jsonl'}", "trainer.threads=1",
        f"hydra.run.dir={folder / out}", *words,
    ])  # fmt: skip
    path = folder / out / "before_after.json"
    return status, json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_a_planted_weakness_is_fixed_and_guarded(workplace, seed):
    pretrained(workplace, seed, planted=True)
    keys = [
        "stage.improve.enabled=true", f"stage.improve.data={workplace / 'data' / 'new.jsonl'}", "stage.improve.lr=1e-3",
    ]  # fmt: skip
    status, result = explore(
        workplace, "replay", *keys, "stage.diagnosis.elicit=[]", "stage.improve.target_share=[0.5]"
    )
    weaknesses = lines(workplace / "replay" / "weaknesses.jsonl")
    known = set(json.loads((workplace / "replay" / "confirming.json").read_text(encoding="utf-8")))
    rows = lines(workplace / "data" / "test.jsonl")
    bad = [row for row in rows if row["op"] == "rev" and row["len"] >= 6]
    bad = [row for row in bad if f"{row_hash(row, IDENTITY, 0):016x}" in known]
    different = {row_hash(row, IDENTITY, 0) for row in bad}
    # Slices do not share rows: as many rows as were planted, all of them reversals, is precision = recall = 1.
    assert len(different) <= sum(line["n"] for line in weaknesses) <= len(bad)  # a row may be in both halves
    assert all(line["slice"]["op"] == "rev" and line["gap"] > 0.3 and line["rest"] > 0.9 for line in weaknesses)
    assert status == 0 and result["promoted"] and result["candidate"] == "targeted"
    assert result["weak"]["gain"]["value"] >= 0.70 and result["weak"]["gain"]["low"] > 0.6
    assert result["weak"]["more_of_same_gain"]["value"] < 0.15
    assert [group["margin"] for group in result["guard"]["families"]] == [0.01]

    final = [row for row in bad if row_hash(row, IDENTITY, 1) % 2 == 0]
    assert len(final) == result["weak"]["n"]
    again = workplace / "final.jsonl"
    again.write_text("".join(json.dumps(row) + "\n" for row in final), encoding="utf-8")
    improved = [f"model.path={workplace / 'replay' / 'improved'}", f"data.test={again}", "trainer.baselines=false"]
    assert main(["stage=evaluate", *improved, "trainer.threads=1", f"hydra.run.dir={workplace / 'again'}"]) == 0
    report = json.loads((workplace / "again" / "report.json").read_text(encoding="utf-8"))
    assert report["scores"]["test"]["exact_match"]["value"] == pytest.approx(result["weak"]["after"], abs=1e-9)

    weak = f"stage.improve.weaknesses={workplace / 'replay' / 'weaknesses.jsonl'}"
    alone = ["stage.improve.target_share=[1.0]", "stage.improve.guard.fallback=[]", "stage.improve.control=false"]
    status, result = explore(workplace, "targeted_only", *keys, "stage.slices.enabled=false", weak, *alone)
    assert status == 9 and "guard refused" in result["reason"]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_slice_is_confirmed_in_a_model_that_saw_all_cells_alike(workplace, seed):
    pretrained(workplace, seed, planted=False)
    status, result = explore(workplace, "unplanted", "stage.diagnosis.elicit=[]")
    assert status == 0 and result == {}
    assert (workplace / "unplanted" / "weaknesses.jsonl").read_text(encoding="utf-8") == ""
