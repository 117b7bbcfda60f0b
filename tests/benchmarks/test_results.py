"""Figures of races: what counts as met, what is kept of a run that is killed, and that the pages say what the files say."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import environments
import figures
import pytest
import race
import results
import rows
from race import Result, Run, Settings, Side
from start import Start
from works import WORKS

ROOT = Path(__file__).resolve().parents[2]
START = Start("gpt_tiny", 10, 5.0, False, {})
MARKED = rows.Row(
    "lm", "an LM", "语言模型", sides=(Side("llmstage"), Side("peer", "hf_clm.py"), Side("absent", "none.py")),
    marks=(rows.Mark("peer", 2.0, 3.0), rows.Mark("absent", 1.5)), work="causal_lm", share=(0.2, 0.4),
)  # fmt: skip


def run(rate: float, loss: float = 5.0, peak: float = 1000.0, flops: float | None = None) -> Run:
    return Run(rate, rate, loss, peak, 1.0, first_step=2.5, flops=flops)


def record(ours: list[Run], theirs: list[Run]) -> dict:
    result = Result(START, {"llmstage": ours, "peer": theirs, "absent": []}, {"absent": "no such package"})
    return results.judged(MARKED, results.raced(MARKED, result, "tokens/s", {"steps": 20}), peak=1000.0)


def test_a_mark_is_met_by_the_ratio_of_the_medians() -> None:
    found = record([run(100), run(210), run(200, flops=250.0)], [run(50), run(100), run(90)])
    mark, absent = found["marks"]
    assert mark["ratio"] == pytest.approx(200 / 90) and mark["met"]
    assert (mark["low"], mark["high"]) == (pytest.approx(2.0), pytest.approx(200 / 90))
    assert mark["memory_met"] and mark["loss_apart"] == 0
    assert absent["ratio"] is None and absent["met"] is None and absent["why"] == "no such package"
    assert found["share"] == {"value": 0.25, "least": 0.2, "aim": 0.4, "met": True}


def test_losses_that_are_apart_leave_a_mark_open() -> None:
    (mark, _) = record([run(300, loss=4.8)], [run(100)])["marks"]
    assert not mark["fair"] and mark["met"] is None
    assert record([run(150)], [run(100)])["marks"][0]["met"] is False
    assert record([run(300, peak=1030)], [run(100)])["marks"][0]["memory_met"] is False


def test_the_tables_name_every_side_and_every_reason(tmp_path: Path) -> None:
    machine = {"cpu": "A processor", "bf16": "AMX", "threads": 2, "memory_gib": 8.0, "torch": "2", "transformers": "5"}
    found = {"machine": machine, "peaks": {"bf16": 2e12}, "rows": {"lm": record([run(300, flops=250.0)], [run(100)])}}
    path = tmp_path / "results" / "machine.json"
    results.save_results(path, found)
    assert results.load_results(path) == json.loads(json.dumps(found))
    long, short = figures.long_table(found), figures.short_table(found)
    assert "| an LM | llmstage / peer | 300 tokens/s | 100 tokens/s | 3.00 (3.00–3.00) | 2 (aim 3) | ✓ |" in long
    assert "25% (mark 20%)" in long and "1,000 / 1,000" in long and "2.5 / 2.5" in long
    assert "absent: not run. no such package" in long
    assert "| an LM | peer | 3.00 (3.00–3.00) | 2 |  |" in short and "A processor (AMX), 2 threads" in short
    missed = {**found, "rows": {"lm": record([run(150)], [run(100)])}}
    assert "| an LM | peer | 1.50 (1.50–1.50) | 2 | not investigated |" in figures.short_table(missed)
    assert len({line.count("|") for line in long.splitlines() if line.startswith("|")}) == 1, "all lines have all cells"
    figures.long_table(
        {**found, "rows": {"s": {**found["rows"]["lm"], "marks": [], "limit": {"value": 7, "most": 8, "met": True}}}}
    )


def test_a_row_tells_how_fast_the_machine_was_then() -> None:
    """A shared machine is not always as fast, and the ratio of bf16 to fp32 changes with it."""
    machine = {"cpu": "A processor", "bf16": "AMX", "threads": 2, "memory_gib": 8.0, "torch": "2", "transformers": "5"}
    slow = {**record([run(300, flops=250.0)], [run(100)]), "peaks": {"bf16": 0.8e12}}
    old = record([run(300)], [run(100)])  # before rows had their own
    found = {"machine": machine, "peaks": {"bf16": 2.7e12}, "rows": {"slow": slow, "old": old}}
    assert "0.80 to 2.70 TFLOP/s in bf16" in figures.machine_line(found)
    slow_line, old_line = (line for line in figures.long_table(found).splitlines() if "llmstage / peer" in line)
    assert "| 0.80 |" in slow_line and "| 2.70 |" in old_line
    assert "0.80 to 2.70 TFLOP/s in bf16" in figures.short_table(found)
    found["rows"]["slow"]["peaks"]["bf16"] = 2.65e12
    assert "2.65 TFLOP/s in bf16" in figures.machine_line(found), "a difference that says nothing"


def test_the_pages_are_what_the_results_say() -> None:
    for path, text in figures.pages():
        assert path.read_text("utf-8") == text, f"{path}: python benchmarks/figures.py"


def test_figures_are_placed_between_their_marks(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text(f"before\n{figures.BEGIN}\nold\n{figures.END}\nafter\n", "utf-8")
    assert figures.placed(page, "| new |") == f"before\n{figures.BEGIN}\n\n| new |\n\n{figures.END}\nafter\n"
    page.write_text("no marks", "utf-8")
    with pytest.raises(SystemExit, match="lacks the lines"):
        figures.placed(page, "x")


def test_every_row_can_be_run() -> None:
    for row in rows.ROWS:
        names = {side.name for side in row.sides}
        if row.sides:
            assert row.work in WORKS and row.sides[0].name == rows.OURS
            assert all({mark.against, mark.ours} <= names for mark in row.marks), row.name
            for side in row.sides:
                assert not side.script or race.peer_script(side, ROOT / "absent").is_file()
                assert not side.script or side.packages in environments.PACKAGES
        else:
            assert row.program and set(row.packages) <= environments.PACKAGES.keys()


def test_a_side_that_fails_is_told_and_the_others_run_on_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    def one(settings, side, start, folder, number, pythons, peers):
        order.append(f"{side.name}{number}")
        if side.name == "broken":
            raise race.Failed("it broke")
        return run(1.0)

    class Pool:
        def __init__(self, *_: object) -> None: ...
        def __enter__(self):
            return self

        def __exit__(self, *_: object) -> None: ...
        def apply(self, *_: object) -> Start:
            return START

    monkeypatch.setattr(race, "run_side", one)
    monkeypatch.setattr(race.multiprocessing, "get_context", lambda _: type("C", (), {"Pool": Pool}))
    settings = Settings("causal_lm", "tiny", 64, 2, 4, 1e-3, 1)
    sides = [Side("llmstage"), Side("broken", "x.py"), Side("peer", "y.py")]
    found = race.run_race(settings, sides, 2, pythons={}, report=lambda line: None)
    assert order == ["llmstage0", "broken0", "peer0", "peer1", "llmstage1"]
    assert found.failed == {"broken": "it broke"} and len(found.runs["peer"]) == 2


def test_a_child_tells_its_output_its_memory_and_its_first_step(tmp_path: Path) -> None:
    code = "import time; print({'loss': 1.5}, flush=True); time.sleep(0.4); print('done')"
    watch = race.Watch(None, race.LOSS)
    output, peak, wall = race.child([sys.executable, "-c", code], {}, tmp_path, watch)
    assert (
        output.endswith("done\n") and 1 < peak < 50_000
    )  # MB; a fork of a large test process counts as large at first
    assert watch.seconds is not None and watch.seconds < wall - 0.2
    with pytest.raises(race.Failed, match="ended with 3"):
        race.child([sys.executable, "-c", "raise SystemExit(3)"], {}, tmp_path)


def test_packages_that_cannot_be_installed_are_a_reason(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(environments.PACKAGES, "none", ("no-such-package-at-all",))
    answer = subprocess.CompletedProcess([], 1, "", "WARNING: x\nERROR: No matching distribution found")
    monkeypatch.setattr(environments.subprocess, "run", lambda command, **_: answer)
    assert environments.environment("none", tmp_path) == (
        "", "none could not be installed: ERROR: No matching distribution found"
    )  # fmt: skip
    torch, transformers, accelerate, *_ = environments.requirements("transformers")
    assert torch.startswith("torch==2") and transformers.startswith("transformers==5") and accelerate == "accelerate"


def test_an_environment_is_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []

    def made(command: list[str], **_: object) -> subprocess.CompletedProcess[str]:
        calls.append(command)
        python = tmp_path / "litgpt" / "bin" / "python"
        python.parent.mkdir(parents=True, exist_ok=True)
        python.touch()
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(environments.subprocess, "run", made)
    first, again = environments.environment("litgpt", tmp_path), environments.environment("litgpt", tmp_path)
    assert first == again == (str(tmp_path / "litgpt" / "bin" / "python"), "") and len(calls) == 2
