"""Non-finite losses, spikes, memory, early stopping, budgets: what the loop does when things are not fine."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import pytest

from llmstage.cli.command import main
from llmstage.training import fault_injection
from llmstage.training.checkpoint import TrainState, list_checkpoints
from llmstage.training.loop import is_spike, remember

SMALL = [
    "stage=pretrain", "task=causal_lm", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=60", "data.context=64", "trainer.batch_size=4", "trainer.threads=1",
    "trainer.train_rows_scored=0", "trainer.eval_rows=4", "trainer.eval_every=0", "optim.lr=3e-3",
    "trainer.baselines=false",
]  # fmt: skip


pytestmark = pytest.mark.usefixtures("fault_dir")


def train(*more: str) -> int:
    return main([*SMALL, "hydra.run.dir=run", *more])


def steps() -> list[dict]:
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    return [line for line in lines if line["kind"] == "train"]


def report() -> dict:
    return json.loads(Path("run/report.json").read_text())


def test_one_bad_step_is_skipped_logged_as_null_and_the_schedule_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTAGE_FAULT", "loss:3:nan")
    assert train("trainer.max_steps=8", "optim.schedule=linear", "optim.warmup_steps=0") == 0
    lines = steps()
    assert [line["loss"] is None for line in lines] == [number == 3 for number in range(1, 9)]
    assert lines[3]["lr"] == lines[2]["lr"], "the update that was skipped did not use up its rate"
    assert report()["train"]["skipped_steps"] == 1
    assert math.isfinite(report()["scores"]["test"]["perplexity"]["value"])


def test_many_bad_steps_roll_back_and_pass_over_the_window(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMSTAGE_FAULT", "loss:6-9:nan")
    assert train("trainer.max_steps=14", "trainer.save_every=5") == 0
    assert "rolled back to step 5" in capsys.readouterr().err
    assert report()["train"]["rollbacks"] == 1 and report()["train"]["steps"] == 14


def test_lasting_bad_steps_end_with_status_5_and_never_save_a_broken_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTAGE_FAULT", "loss:6-999:nan")
    assert train("trainer.max_steps=40", "trainer.save_every=5") == 5
    assert report()["status"] == "failed" and "non-finite" in report()["error"]
    assert [folder.name for folder in list_checkpoints(Path("run/checkpoints"))] == ["step_000005"]


def test_memory_that_runs_out_halves_the_micro_batch_and_not_the_gradient(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A resumed run goes on with the smaller one, to the bit."""
    exact = ("trainer.max_steps=6", "trainer.precision=fp32", "trainer.save_every=3")
    assert train(*exact) == 0
    undisturbed = steps()
    Path("run").rename("undisturbed")
    monkeypatch.setenv("LLMSTAGE_FAULT", "loss:2-3:oom")
    fault_injection.reset_faults()
    assert train(*exact) == 0
    assert "micro_batch_size=1, which leaves the gradient" in capsys.readouterr().err
    for mine, theirs in zip(steps(), undisturbed, strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=1e-5)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=1e-4)
    states = [json.loads((folder / "state.json").read_text()) for folder in list_checkpoints(Path("run/checkpoints"))]
    assert {state["resolved"]["micro_batch_size"] for state in states} == {1}


def test_memory_that_never_suffices_is_status_6(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMSTAGE_FAULT", "loss:2-99:oom")
    assert train("trainer.max_steps=4") == 6
    assert "data.context" in capsys.readouterr().err


def test_a_bug_of_ours_is_status_1(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSTAGE_FAULT", "step:2:raise")
    assert train("trainer.max_steps=4") == 1


def test_patience_stops_early_and_the_best_weights_are_saved() -> None:
    assert (
        train(
            "trainer.max_steps=60",
            "trainer.eval_every=2",
            "trainer.patience=2",
            "optim.lr=1.0",
            "optim.schedule=constant",
        )
        == 0
    )
    train_report = report()["train"]
    assert train_report["steps"] < 60 and train_report["selected_step"] < train_report["steps"]
    evals = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines() if '"eval"' in line]
    best = min(evals, key=lambda line: line["perplexity"])
    assert best["step"] == train_report["selected_step"]
    assert (Path("run/checkpoints") / f"step_{train_report['selected_step']:06d}").is_dir() or train_report[
        "selected_step"
    ] == 0


@pytest.mark.parametrize(
    ("word", "low", "high"),
    [("trainer.max_steps=7", 7, 7), ("trainer.epochs=2", 2, 200), ("trainer.max_tokens=1500", 5, 8)],
)
def test_each_budget_holds(word: str, low: int, high: int) -> None:
    assert train(word) == 0
    train_report = report()["train"]
    assert low <= train_report["steps"] <= high
    if "epochs" in word:
        assert train_report["epochs"] == pytest.approx(2)
    if "tokens" in word:
        assert 1500 <= train_report["tokens"] < 1500 + 4 * 64


def test_log_every_and_batch_tokens_change_what_they_say(capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        main(
            [
                *[word for word in SMALL if "batch_size" not in word],
                "hydra.run.dir=run",
                "trainer.max_steps=4",
                "trainer.batch_tokens=128",
                "trainer.log_every=2",
            ]
        )
        == 0
    )
    assert all(line["tokens"] <= 128 for line in steps())
    assert sum(line.startswith("step ") and " loss " in line for line in capsys.readouterr().err.splitlines()) == 2


def test_micro_batches_do_not_change_the_gradient() -> None:
    norms = []
    for size in (1, 2, 4):
        assert (
            main(
                [
                    *SMALL,
                    f"hydra.run.dir=run{size}",
                    "trainer.max_steps=2",
                    f"trainer.micro_batch_size={size}",
                    "trainer.precision=fp32",
                ]
            )
            == 0
        )
        lines = [
            json.loads(line) for line in Path(f"run{size}/metrics.jsonl").read_text().splitlines() if '"train"' in line
        ]
        norms.append([(line["loss"], line["grad_norm"]) for line in lines])
    for norms_of_size in norms[1:]:
        for (loss, norm), (loss2, norm2) in zip(norms[0], norms_of_size, strict=True):
            assert loss2 == pytest.approx(loss, rel=1e-5) and norm2 == pytest.approx(norm, rel=1e-4)


def test_each_step_tells_the_rows_it_saw_not_the_rows_they_share(tmp_path: Path) -> None:
    """Three texts share each row of 64 tokens; the 31 texts of a pass are all counted, the short last batch as it is."""
    texts = [f"row {number} of a small file" for number in range(31)]
    Path("rows.txt").write_text("\n".join(texts))
    files = ["data.train=rows.txt", "data.test=rows.txt", "data.text_rows=line", "data.split.validation=0"]
    words = [word for word in SMALL if not word.startswith("data.demo_rows")]
    assert main([*words, "hydra.run.dir=run", *files, "trainer.max_steps=6", "trainer.batch_size=2"]) == 0
    rows = [line["rows"] for line in steps()]
    assert max(rows) > 2, "several texts share a row"
    assert 31 in itertools.accumulate(rows)


def test_a_spike_is_six_sigma_above_a_full_window() -> None:
    state = TrainState()
    for number in range(64):
        assert not is_spike(state, 100.0, 1.0), "too few steps to tell"
        remember(state, 2.0 + 0.01 * (number % 2), 1.0 + 0.01 * (number % 2))
    assert is_spike(state, 2.5, 1.0) and is_spike(state, 2.0, 1.5) and not is_spike(state, 2.02, 1.02)


def test_tensorboard_gets_the_same_numbers() -> None:
    events = pytest.importorskip(
        "tensorboard.backend.event_processing.event_accumulator", reason="extra tensorboard is not installed"
    )
    assert train("trainer.max_steps=3", "tracker=tensorboard") == 0
    board = events.EventAccumulator("run/tb")
    board.Reload()
    assert [event.value for event in board.Scalars("train/loss")] == pytest.approx([line["loss"] for line in steps()])
