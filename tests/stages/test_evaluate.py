"""stage=evaluate repeats training's numbers, from any directory, on any split, and refuses what it cannot score."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from llmstage.cli.command import main
from llmstage.paths import options

SMALL = [
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=320", "data.demo_rows=60", "data.max_lost=1",
    "data.context=96", "trainer.max_steps=6", "trainer.batch_size=4", "trainer.threads=1", "trainer.train_rows_scored=8",
    "trainer.eval_every=3", "optim.lr=3e-3", "seed=5",
]  # fmt: skip


def scores(run_dir: str) -> dict:
    return json.loads(Path(run_dir, "report.json").read_text())["scores"]


@pytest.mark.parametrize("task", options("task"))
def test_evaluate_repeats_what_training_reported(task: str, trained: Callable[[str], Path], workplace: Path) -> None:
    run = trained(task)  # in another directory
    assert main(["stage=evaluate", f"model.path={os.path.relpath(run)}", "hydra.run.dir=scored"]) == 0
    first_time, again = scores(str(run)), scores("scored")
    assert "eval_batch_tokens: 500" in Path("scored/run.yaml").read_text(), "scored in the same batches"
    assert set(again) == {"validation", "test"} and set(first_time) == {"train", "validation", "test"}
    for split in again:
        assert again[split].keys() == first_time[split].keys()
        for name, score in again[split].items():
            assert score["value"] == pytest.approx(first_time[split][name]["value"], rel=1e-6, abs=1e-6, nan_ok=True)
            low = first_time[split][name]["low"]
            assert score["low"] == (None if low is None else pytest.approx(low, rel=1e-6, abs=1e-6))
    first, second = (Path(folder, "predictions.jsonl").read_text() for folder in (run, "scored"))
    assert [json.loads(line)["prediction"] for line in first.splitlines()] == [
        json.loads(line)["prediction"] for line in second.splitlines()
    ]
    report = json.loads((run / "report.json").read_text())
    assert {json.loads(line)["split"] for line in first.splitlines()} == {"test"}
    assert report["status"] == "completed" and report["train"]["selected_step"] in (0, 3, 6)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 75), (signal.SIGUSR1, 75), (signal.SIGINT, 130)])
def test_a_signal_ends_work_that_saves_nothing_on_the_way(
    number: signal.Signals,
    status: int,
    monkeypatch: pytest.MonkeyPatch,
    trained: Callable[[str], Path],
    workplace: Path,
) -> None:
    def assembled(*_: object, **__: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(5)  # handlers run between two lines of Python, so this is not reached
        raise AssertionError("the signal was not heeded")

    before = signal.getsignal(number)
    words = ["stage=evaluate", f"model.path={trained('classification')}", "hydra.run.dir=scored"]
    with monkeypatch.context() as patch:
        patch.setattr("llmstage.stages.evaluate.setup_run", assembled)
        assert main(words) == status
    assert json.loads(Path("scored/report.json").read_text())["status"] == "interrupted"
    assert signal.getsignal(number) == before
    assert main(words) == 0, "the same command does it again"


def test_classification_numbers_equal_scikit_learn_on_the_predictions_file(workplace: Path) -> None:
    from sklearn.metrics import accuracy_score, classification_report, f1_score, matthews_corrcoef

    assert main(["stage=finetune", "task=classification", *SMALL, "hydra.run.dir=run"]) == 0
    lines = [json.loads(line) for line in Path("run/predictions.jsonl").read_text().splitlines()]
    predicted, true = [line["prediction"] for line in lines], [line["reference"] for line in lines]
    report = json.loads(Path("run/report.json").read_text())
    test = {name: score["value"] for name, score in report["scores"]["test"].items()}
    assert test["accuracy"] == pytest.approx(accuracy_score(true, predicted))
    assert test["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro", zero_division=0))
    assert test["weighted_f1"] == pytest.approx(f1_score(true, predicted, average="weighted", zero_division=0))
    assert test["mcc"] == pytest.approx(matthews_corrcoef(true, predicted))
    text = next(item["text"] for item in report["exhibits"] if item["kind"] == "text")
    assert text == classification_report(true, predicted, digits=4, zero_division=0)


def test_only_a_test_file_is_needed_and_an_unknown_label_is_named(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [{"text": f"word{number % 7} and more {number}", "label": "ab"[number % 2]} for number in range(60)]
    Path("rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    size = [word for word in SMALL if not word.startswith("data.demo")]
    assert main(["stage=finetune", "task=classification", *size, "data.train=rows.jsonl", "hydra.run.dir=run"]) == 0
    Path("new.jsonl").write_text(
        json.dumps({"text": "word1", "label": "a"}) + "\n" + json.dumps({"text": "word2", "label": "c"}) + "\n"
    )
    assert main(["stage=evaluate", "model.path=run", "data.test=new.jsonl"]) == 3
    output = capsys.readouterr().err
    assert "new.jsonl:2" in output and "unknown label 'c'" in output
    assert (
        main(
            ["stage=evaluate", "model.path=run", "data.test=new.jsonl", "data.on_bad_row=quarantine", "hydra.run.dir=q"]
        )
        == 0
    )
    assert json.loads(Path("q/quarantine.jsonl").read_text())["line"] == 2
    assert scores("q")["test"]["accuracy"]["count"] == 1


def test_a_model_without_a_trained_head_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from safetensors.torch import load_file, save_file

    assert main(["stage=finetune", "task=classification", *SMALL, "hydra.run.dir=run"]) == 0
    path = Path("run/model/model.safetensors")
    weights = {name: value for name, value in load_file(path).items() if not name.startswith("classifier")}
    save_file(weights, path, {"format": "pt"})
    assert main(["stage=evaluate", "model.path=run"]) == 4
    assert "Finetune it first" in capsys.readouterr().err


def test_pretrained_weights_are_taken_into_finetuning(workplace: Path) -> None:
    from safetensors.torch import load_file

    size = [word for word in SMALL if not word.startswith(("model.", "optim.lr"))]
    assert main(["stage=pretrain", "task=causal_lm", *SMALL, "hydra.run.dir=lm"]) == 0
    assert (
        main(
            [
                "stage=finetune",
                "task=dialogue",
                *size,
                "model.path=lm",
                "optim.lr=1e-9",
                "generation.max_new_tokens=2",
                "hydra.run.dir=chat",
            ]
        )
        == 0
    )
    before, after = load_file("lm/model/model.safetensors"), load_file("chat/model/model.safetensors")
    assert before.keys() == after.keys()
    assert all((before[name] - after[name]).abs().max() < 1e-6 for name in before)


def test_lm_eval_writes_the_scores_of_the_report_and_tells_the_command(workplace, capsys):
    small = [
        "data.demo_rows=40",
        "model.num_hidden_layers=2",
        "model.hidden_size=32",
        "model.num_attention_heads=2",
        "model.intermediate_size=48",
        "model.vocab_size=320",
        "trainer.threads=1",
    ]
    assert (
        main(["stage=pretrain", "task=causal_lm", "trainer=smoke", "trainer.max_steps=1", *small, "hydra.run.dir=run"])
        == 0
    )
    assert main(["stage=evaluate", "model.path=run", "hydra.run.dir=plain"]) == 0
    assert not list(Path("plain").glob("results_*"))
    assert main(["stage=evaluate", "model.path=run", "stage.lm_eval=true", "hydra.run.dir=told"]) == 0
    (path,) = Path("told").glob("results_*.json")
    written, report = json.loads(path.read_text()), json.loads(Path("told/report.json").read_text())
    task_results = written["results"]["llmstage_causal_lm_test"]
    assert task_results["bits_per_byte,none"] == report["scores"]["test"]["bits_per_byte"]["value"]
    assert "lm_eval --model hf --model_args pretrained=" in capsys.readouterr().out
    assert (Path(written["model_name"]) / "config.json").is_file()
