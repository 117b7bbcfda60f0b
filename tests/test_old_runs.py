"""Run folders that version 0.1.0 wrote: their models score the same, load, and their training goes on.

tests/fixtures/v0_1/ holds two such runs, of 12 steps each, with the data they were trained on. report.json there is cut to
the scores and the command; the classifier has its checkpoint of step 8.
"""

from __future__ import annotations

import hashlib
import json
import shlex
import shutil
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.command import main

FIXTURES = Path(__file__).resolve().parent / "fixtures" / "v0_1"
DATA = {"classification": "reviews.csv", "causal_lm": "corpus.txt"}
WHERE_IT_RAN = "/tmp/fx"
"""The folder in which version 0.1.0 was run; run.yaml and checkpoints hold absolute paths of the data."""


def report(folder: Path) -> dict[str, Any]:
    loaded: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return loaded


def values(scores: dict[str, Any]) -> dict[str, float]:
    return {name: score["value"] for name, score in scores.items() if isinstance(score.get("value"), float)}


@pytest.fixture
def old_run(workplace: Path):
    """`old_run("classification")`: a copy of an old run folder in the working directory, beside its data."""

    def copy(task: str) -> Path:
        folder = workplace / task
        shutil.copytree(FIXTURES / task, folder)
        shutil.copy(FIXTURES / DATA[task], workplace)
        for path in [folder / "run.yaml", *folder.glob("checkpoints/*/state.json")]:
            text = path.read_text(encoding="utf-8")
            assert f"{WHERE_IT_RAN}/{DATA[task]}" in text
            path.write_text(text.replace(WHERE_IT_RAN, str(workplace)), encoding="utf-8")
        for path in folder.glob("checkpoints/*/MANIFEST.json"):
            manifest = json.loads(path.read_text(encoding="utf-8"))
            state = (path.parent / "state.json").read_bytes()
            manifest["files"]["state.json"] = {"bytes": len(state), "sha256": hashlib.sha256(state).hexdigest()}
            path.write_text(json.dumps(manifest), encoding="utf-8")
        return folder

    return copy


@pytest.mark.parametrize("task", DATA)
def test_an_old_model_scores_as_it_did(old_run, task):
    expected = values(report(FIXTURES / task)["scores"]["test"])
    old_run(task)
    words = [f"model.path={task}", "trainer.threads=1", "hydra.run.dir=evaluated"]
    assert main(["stage=evaluate", *words]) == 0
    scores = values(report(Path("evaluated"))["scores"]["test"])
    # Processors round differently: 1e-6 holds on the machine that wrote the fixture, 1e-4 on every machine.
    assert {name: scores[name] for name in expected} == pytest.approx(expected, rel=1e-4)


def test_an_old_checkpoint_goes_on_under_the_old_command(old_run, capsys):
    old = report(FIXTURES / "classification")
    folder = old_run("classification")
    words = shlex.split(old["command"])[1:]
    assert "model.width=32" in words and words[-1] == "hydra.run.dir=classification"
    (folder / "report.json").unlink()
    shutil.rmtree(folder / "model")
    assert main(words) == 0
    err = capsys.readouterr().err
    assert "resumed from step 8" in err
    assert "note: model.width is called model.hidden_size now; the old key works until 0.3" in err
    new = report(folder)
    assert new["train"]["steps"] == 12
    expected = values(old["scores"]["test"])
    assert values(new["scores"]["test"]) == pytest.approx(expected, rel=1e-4)


def test_an_old_model_is_a_start_for_new_training(old_run):
    old_run("causal_lm")
    words = ["stage=pretrain", "task=causal_lm", "model.path=causal_lm", "data.train=corpus.txt", "trainer=smoke"]
    assert main([*words, "trainer.max_steps=1", "trainer.threads=1", "hydra.run.dir=more"]) == 0
    assert report(Path("more"))["status"] == "completed"
