"""The one command: rows in order, figures kept after each, rows that were measured before stay, a budget of time."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import race
import run
from race import Result, Run
from start import Start

ROOT = Path(__file__).resolve().parents[2]


def fake(rate: float, loss: float = 5.0, *, lose: str = ""):
    """run_race that answers at once: llmstage at `rate`, the others at 100; the side `lose` with another loss."""

    def run_race(settings, sides, runs, **_: object) -> Result:
        found = {}
        for side in sides:
            own = rate if not side.script else 100.0
            other = 2 * loss if side.name == lose else loss
            found[side.name] = [Run(own, own, other, 900.0, 1.0, first_step=1.0)] * runs
        return Result(Start("a model", 4, 5.0, False, {}), found, {})

    return run_race


@pytest.fixture
def command(monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    monkeypatch.setattr(run, "peaks", lambda threads, size: {"fp32": 1e11, "bf16": 1e12})
    path = tmp_path / "machine.json"

    def call(*words: str) -> tuple[int, dict]:
        monkeypatch.setattr(sys, "argv", ["run.py", "--peer-python", "python", "--out", str(path), *words])
        return run.main(), json.loads(path.read_text("utf-8"))

    return call


def test_rows_that_were_measured_before_stay(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_race", fake(300.0))
    status, found = command("--only", "masked_lm")
    assert status == 0 and list(found["rows"]) == ["masked_lm"]
    monkeypatch.setattr(run, "run_race", fake(500.0))
    _, found = command("--only", "causal_lm_1024", "--runs", "1", "--steps", "7")
    assert list(found["rows"]) == ["causal_lm_1024", "masked_lm"], "in the order of rows.py"
    assert found["rows"]["masked_lm"]["marks"][0]["ratio"] == 3.0
    row = found["rows"]["causal_lm_1024"]
    assert row["marks"][0]["ratio"] == 5.0 and row["settings"]["steps"] == 7 and row["runs"] == 1
    assert row["sides"]["llmstage"]["rates"] == [500.0] and found["machine"]["cores"] >= 1
    monkeypatch.setattr(run, "peaks", lambda threads, size: {"fp32": 1e11, "bf16": 4e12})
    _, found = command("--only", "masked_lm")
    peaks = {name: record["peaks"]["bf16"] for name, record in found["rows"].items()}
    assert peaks == {"causal_lm_1024": 1e12, "masked_lm": 4e12}


def test_no_row_is_begun_after_the_budget(command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(run, "run_race", fake(300.0))
    clock = iter(range(0, 10_000, 40))
    monkeypatch.setattr(run.time, "monotonic", lambda: float(next(clock)))
    _, found = command("--only", "causal_lm_1024", "causal_lm_120m", "masked_lm", "--budget-minutes", "1.5")
    assert list(found["rows"]) == ["causal_lm_1024"]


def test_losses_that_are_apart_end_with_status_1(
    command, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(run, "run_race", fake(100.0, lose="llmstage"))
    status, _ = command("--only", "masked_lm")
    assert status == 1 and "RATES ARE NOT COMPARABLE: masked_lm, HF Trainer" in capsys.readouterr().out
    monkeypatch.setattr(run, "run_race", fake(100.0))
    status, _ = command("--only", "masked_lm")
    assert status == 0 and "below the mark: masked_lm, HF Trainer" in capsys.readouterr().out


def test_a_script_that_is_not_there_or_breaks_is_told(command, monkeypatch: pytest.MonkeyPatch) -> None:
    missing = run.Row("gone", "gone", "无", marks=(), program=("no_such_script.py",))
    broken = run.Row("broken", "broken", "坏", marks=(), program=("train.py", "--no-such-word"))
    monkeypatch.setattr(run, "ROWS", (missing, broken))
    monkeypatch.setattr(run, "NAMES", ["gone", "broken"])
    _, found = command("--only", "gone", "broken")
    assert found["rows"]["gone"]["failed"] == {"no_such_script.py": "the script does not exist"}
    assert "--no-such-word" in found["rows"]["broken"]["failed"]["train.py"]


def test_bf16_takes_this_repositorys_peer_and_defaults_the_given_ones(tmp_path: Path) -> None:
    (tmp_path / "hf_clm.py").touch()
    plain, rounded = race.Side("a", "hf_clm.py"), race.Side("b", "hf_clm.py", ("--bf16",))
    assert race.peer_script(plain, tmp_path).parent == tmp_path
    assert race.peer_script(rounded, tmp_path).parent == race.PEERS_DIR
    with pytest.raises(race.Failed, match="neither"):
        race.peer_script(race.Side("c", "none.py"), tmp_path)


@pytest.mark.skipif(
    "LLMSTAGE_SLOW_TESTS" not in os.environ or not importlib.util.find_spec("accelerate"),
    reason="a minute and more of real runs: set LLMSTAGE_SLOW_TESTS=1, with accelerate installed",
)
def test_the_smoke_run_runs(tmp_path: Path) -> None:
    out = tmp_path / "quick.json"
    words = [
        "--quick",
        "--only",
        "masked_lm",
        "generate",
        "--threads",
        "1",
        "--peer-python",
        sys.executable,
        "--out",
        str(out),
    ]
    done = subprocess.run(
        [sys.executable, str(ROOT / "benchmarks" / "run.py"), *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads(out.read_text("utf-8"))["rows"]
    assert found["masked_lm"]["marks"][0]["ratio"] > 0 and not found["masked_lm"]["failed"]
    assert found["generate"]["note"] == "16 of 16 texts agree in fp32"
