"""A control is trained beside a run, is resumed bit for bit, changes nothing of the run, and is scored again by evaluate."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from llmstage.cli.command import main
from llmstage.stages.prove_resume import compare, final
from llmstage.training import fault_injection

STEPS = 4
WORDS = [
    "stage=finetune", "task=visual_reasoning", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=400", "model.vision.size=16", "model.vision.num_hidden_layers=1", "model.vision.hidden_size=32", "model.vision.num_attention_heads=2",
    "model.vision.intermediate_size=48", "model.dropout=0.1", "data.demo_rows=60", "data.context=128", f"trainer.max_steps={STEPS}",
    "trainer.batch_size=4", "trainer.batch_tokens=null", "trainer.eval_every=2", "trainer.save_every=2", "trainer.eval_rows=8",
    "trainer.train_rows_scored=0", "trainer.threads=1", "optim.lr=3e-3",
]  # fmt: skip
NAME = "blind: the same model without the image"


def run(folder: str, *more: str) -> dict:
    assert main([*WORDS, f"hydra.run.dir={folder}", *more]) == 0
    return report(folder)


def report(folder: str) -> dict:
    return json.loads((Path(folder) / "report.json").read_text())


def killed(monkeypatch: pytest.MonkeyPatch, folder: str, step: int) -> None:
    fault_injection.reset_faults()
    monkeypatch.setenv("LLMSTAGE_ALLOW_FAULTS", "1")
    monkeypatch.setenv("LLMSTAGE_FAULT", f"step:{step}:die")
    with pytest.raises(fault_injection.Killed):
        main([*WORDS, f"hydra.run.dir={folder}"])
    monkeypatch.delenv("LLMSTAGE_FAULT")
    fault_injection.reset_faults()


def lines(folder: str) -> list[dict]:
    return [json.loads(line) for line in (Path(folder) / "predictions.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with its control that nothing disturbed."""
    with pytest.MonkeyPatch.context() as patch:
        directory = tmp_path_factory.mktemp("control")
        patch.chdir(directory)
        run("whole")
    return directory


@pytest.fixture(autouse=True)
def _there(undisturbed: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(undisturbed)


def test_the_control_stands_beside_the_run(capsys: pytest.CaptureFixture[str]) -> None:
    run_report, blind = report("whole"), report("whole/blind")
    assert run_report["baselines"]["methods"][NAME] == blind["scores"]["test"]
    assert blind["baselines"] is None and blind["train"]["steps"] == STEPS
    assert Path("outputs/latest").resolve() == Path("whole").resolve()
    scores = run_report["scores"]["test"]
    assert list(scores)[:2] == ["accuracy", "image_gain"], "the gain stands beside the score that it is about"
    ours, theirs = ([line["correct"] for line in lines(folder)] for folder in ("whole", "whole/blind"))
    assert [line["id"] for line in lines("whole")] == [line["id"] for line in lines("whole/blind")]
    assert scores["image_gain"]["value"] == pytest.approx(np.mean(ours) - np.mean(theirs))
    assert all("blind" in values for values in run_report["kinds"]["test"].values())
    page = Path("whole/report.html").read_text(encoding="utf-8")
    assert NAME in page and "without the image" in page
    config = json.loads(Path("whole/blind/model/config.json").read_text())
    assert config["llmstage"]["blind"] is True


def test_both_see_the_same_rows_in_each_step() -> None:
    ours, theirs = report("whole")["train"], report("whole/blind")["train"]
    assert ours["plan"]["batch_rows"] == theirs["plan"]["batch_rows"] and ours["epochs"] == theirs["epochs"]
    assert theirs["tokens"] < ours["tokens"]


def test_the_run_does_not_depend_on_its_control() -> None:
    run_report = run("alone", "task.control=off")
    assert not Path("alone/blind").exists() and NAME not in run_report["baselines"]["methods"]
    assert compare(final(Path("whole")), final(Path("alone"))) is None
    with_control = report("whole")["scores"]
    assert run_report["scores"]["validation"] == with_control["validation"]
    assert run_report["scores"]["test"] == {
        name: score for name, score in with_control["test"].items() if name != "image_gain"
    }
    resumed = run("alone")  # and it can be had later
    assert resumed["scores"] == with_control
    assert compare(final(Path("whole/blind")), final(Path("alone/blind"))) is None


@pytest.mark.parametrize("step", [3, STEPS + 3], ids=["in the run", "in the control"])
def test_killed_and_resumed_it_ends_the_same(step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = f"killed{step}"
    killed(monkeypatch, folder, step)
    assert Path(folder, "blind").exists() is (step > STEPS)
    run_report = run(folder)
    for part in ("", "blind"):
        assert compare(final(Path("whole", part)), final(Path(folder, part))) is None
        expected_weights, weights = (
            load_file(Path(directory, part, "model", "model.safetensors")) for directory in ("whole", folder)
        )
        assert all(bool((expected_weights[name] == weights[name]).all()) for name in expected_weights)
    assert run_report["scores"] == report("whole")["scores"]
    assert run_report["baselines"] == report("whole")["baselines"]


def test_evaluate_repeats_both() -> None:
    assert main(["stage=evaluate", "model.path=whole", "trainer.threads=1", "hydra.run.dir=again"]) == 0
    first, again = report("whole"), report("again")
    assert again["scores"] == {split: first["scores"][split] for split in again["scores"]}
    assert again["baselines"] == first["baselines"] and again["kinds"]["test"] == first["kinds"]["test"]
    assert (
        main(
            ["stage=evaluate", "task=visual_reasoning", "model.path=whole", "task.control=off", "hydra.run.dir=without"]
        )
        == 0
    )
    assert (
        NAME not in report("without")["baselines"]["methods"]
        and "image_gain" not in report("without")["scores"]["test"]
    )
    shutil.copytree("whole/model", "bare")  # a model without its run has no control
    assert (
        main(["stage=evaluate", "task=visual_reasoning", "model.path=bare", "data.demo_rows=60", "hydra.run.dir=b"])
        == 0
    )
    assert "image_gain" not in report("b")["scores"]["test"]


def test_a_blind_run_is_no_control_of_itself(capsys: pytest.CaptureFixture[str]) -> None:
    run_report = run("eyeless", "task.blind=true")
    assert not Path("eyeless/blind").exists() and "image_gain" not in run_report["scores"]["test"]
    assert main([*WORDS, "task.blind=true", "task.control=train", "hydra.run.dir=refused"]) == 2
    assert "task.control is not read here" in capsys.readouterr().err


def test_prove_resume_leaves_the_control_out(children_here: Callable[..., None]) -> None:
    children_here(killed=True)
    words = [
        word
        for word in WORDS
        if not word.startswith(("stage=", "trainer.eval_every", "trainer.save", "trainer.train_rows"))
    ]
    assert main(["stage=prove_resume", *words, "hydra.run.dir=proof", "stage.kill_at=[2]"]) == 0
    assert report("proof")["exact"] and not Path("proof/whole/blind").exists()
