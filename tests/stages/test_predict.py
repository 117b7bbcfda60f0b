"""stage=predict: every task, every form of output, rows without references; resumable, in a pipe, and honest about bad input."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from processes import Running

from llmstage.cli.command import main
from llmstage.data.inference_rows import InferenceRow
from llmstage.inference.predict import output_line
from llmstage.naming import load_module
from llmstage.paths import options

ROOT = Path(__file__).resolve().parents[2]


def lines(path: str | Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in Path(path).read_text(encoding="utf-8").splitlines()]


def write(path: str, rows: list[dict[str, Any]]) -> None:
    Path(path).write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")


@pytest.fixture
def classifier(trained: Callable[[str], Path]) -> Path:
    return trained("classification")


def asked_rows(task: str, compose_run: Any) -> tuple[list[dict[str, Any]], tuple[str, ...]]:
    """Demo rows of a task without what is asked for, and the words that were taken out."""
    run = compose_run(
        [f"stage={'pretrain' if task in ('causal_lm', 'masked_lm', 'contrastive') else 'finetune'}", f"task={task}"]
    )
    made = load_module("tasks", task, trusted=True).TASK(run.task, run.generation)
    kept = made.columns.without(made.target_columns)
    rows = made.demo_rows(12, 3)
    words = {*kept.required, *(group[0] for group in kept.either if group)} or {"text"}
    if task == "classification":
        words = {"text"}
    return [
        {"id": f"row {number}"} | {word: row[word] for word in words if word in row} for number, row in enumerate(rows)
    ], made.target_columns


@pytest.mark.parametrize("task", options("task"))
def test_every_task_predicts_rows_that_have_no_answers(
    task: str, trained: Callable[[str], Path], workplace: Path, compose_run: Any
) -> None:
    rows, target_columns = asked_rows(task, compose_run)
    if task == "dialogue":  # ends with what the user said
        rows = [{"id": row["id"], "messages": row["messages"][:-1]} for row in rows]
    assert not any(word in row for row in rows for word in target_columns)
    write("rows.jsonl", rows)
    assert (
        main(
            [
                "stage=predict",
                f"model.path={trained(task)}",
                "data.test=rows.jsonl",
                "stage.output=out.jsonl",
                "trainer.threads=1",
            ]
        )
        == 0
    )
    said = lines("out.jsonl")
    assert not any({"reference", "correct"} & line.keys() for line in said) or task in ("causal_lm", "masked_lm")
    if task == "recommendation":  # one line a user, in the order in which they first occur
        users = list(dict.fromkeys(str(row["user"]) for row in rows))
        assert [line["user"] for line in said] == users
        assert all(len(line["prediction"]) and line["prediction"][0]["probability"] >= 0 for line in said)
        return
    assert [line["id"] for line in said] == [row["id"] for row in rows]
    for line, row in zip(said, rows, strict=True):
        assert all(line.get(f"input_{key}", line.get(key)) == value for key, value in row.items())
        assert line.get("prediction") is not None or "log_probability" in line


def test_predictions_are_those_of_the_same_rows_with_references(classifier: Path, workplace: Path) -> None:
    rows = lines(classifier / "predictions.jsonl")
    write("rows.jsonl", [{"text": row["text"]} for row in rows])
    assert main(["stage=predict", f"model.path={classifier}", "data.test=rows.jsonl", "stage.output=out.jsonl"]) == 0
    said = lines("out.jsonl")
    assert [line["prediction"] for line in said] == [row["prediction"] for row in rows]
    for line, row in zip(said, rows, strict=True):
        assert line["log_probabilities"] == pytest.approx(row["log_probabilities"], abs=1e-4)
        assert sum(2.718281828**value for value in line["log_probabilities"].values()) == pytest.approx(1, abs=1e-4)


def test_forms_of_input_and_output_say_the_same(classifier: Path, workplace: Path) -> None:
    import pyarrow.parquet

    texts = ["a refund, please", "退款要等多久？", 'said "no", twice\nin two lines']
    write("rows.jsonl", [{"key": number, "text": text} for number, text in enumerate(texts)])
    with open("rows.csv", "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([["key", "text"], *enumerate(texts)])
    pyarrow.parquet.write_table(pyarrow.table({"key": [0, 1, 2], "text": texts}), "rows.parquet")
    endings = {"rows.jsonl": ("jsonl",), "rows.csv": ("parquet", "csv"), "rows.parquet": ("tsv",)}
    for name in endings:
        for ending in endings[name]:
            words = [f"model.path={classifier}", f"data.test={name}", f"stage.output={name}.{ending}"]
            assert main(["stage=predict", *words]) == 0
    first = lines("rows.jsonl.jsonl")
    assert [line["text"] for line in first] == texts
    table = pyarrow.parquet.read_table("rows.csv.parquet").to_pylist()
    assert [line["prediction"] for line in table] == [line["prediction"] for line in first]
    assert table[0]["log_probabilities"] == pytest.approx(first[0]["log_probabilities"])
    with open("rows.parquet.tsv", newline="", encoding="utf-8") as file:
        read = list(csv.DictReader(file, delimiter="\t"))
    assert [row["text"] for row in read] == texts and [row["key"] for row in read] == ["0", "1", "2"]
    assert json.loads(read[1]["log_probabilities"]) == pytest.approx(first[1]["log_probabilities"])
    assert Path("rows.csv.csv").read_text().startswith("key,text,prediction,")


def test_a_column_that_is_called_like_a_part_of_the_prediction_goes_on(classifier: Path, workplace: Path) -> None:
    write("rows.jsonl", [{"text": "a", "prediction": "mine", "label": "kept as it is"}])
    assert main(["stage=predict", f"model.path={classifier}", "data.test=rows.jsonl", "stage.output=out.jsonl"]) == 0
    line = lines("out.jsonl")[0]
    assert line["input_prediction"] == "mine" and line["label"] == "kept as it is" and line["prediction"] != "mine"


def command(*words: str) -> list[str]:
    return ["stage=predict", "trainer.threads=1", *words]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_it_stands_in_a_pipe_with_nothing_else_on_standard_output(
    classifier: Path, workplace: Path, start_command: Callable[..., Running]
) -> None:
    rows = "".join(json.dumps({"n": n, "text": f"text {n} 订单"}, ensure_ascii=False) + "\n" for n in range(300))
    words = command(f"model.path={classifier}", "data.test=-", "stage.output=-", "stage.chunk_rows=64")
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = start_command(words, env=environment(), **pipes)
    output, errors = running.communicate(rows)
    assert running.returncode == 0, errors
    predictions = [json.loads(line) for line in output.splitlines()]
    assert [line["n"] for line in predictions] == list(range(300)) and "300 rows to standard output" in errors
    # A reader that leaves: no traceback, and the status that says so.
    reader = start_command(words, env=environment(), **pipes)
    assert reader.stdin and reader.stdout and reader.stderr
    reader.stdout.close()
    reader.stdin.write(rows)
    reader.stdin.close()
    told = reader.stderr.read()
    reader.wait(timeout=60)
    assert reader.returncode == 75 and "Traceback" not in told


def test_a_table_may_stand_in_the_pipe(
    classifier: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"text\r\none\r\ntwo\r\n")))
    words = [f"model.path={classifier}", "data.test=-", "data.format=csv", "stage.output=-"]
    assert main(["stage=predict", *words]) == 0
    assert [json.loads(line)["text"] for line in capsys.readouterr().out.splitlines()] == ["one", "two"]


def test_a_killed_run_goes_on_and_writes_what_a_whole_one_writes(
    classifier: Path, workplace: Path, start_command: Callable[..., Running]
) -> None:
    write("rows.jsonl", [{"n": n, "text": f"text {n} of many " * (n % 9 + 1)} for n in range(3000)])
    Path("out.jsonl").write_text("what stood here before\n")
    words = command(f"model.path={classifier}", "data.test=rows.jsonl", "stage.chunk_rows=16")
    running = start_command([*words, "stage.output=out.jsonl"], stderr=subprocess.DEVNULL, env=environment())
    place = Path(".out.jsonl.draft.json")
    until = time.monotonic() + 90
    while time.monotonic() < until and not place.exists():
        time.sleep(0.01)
    running.kill()
    running.wait(timeout=30)
    done = json.loads(place.read_text())["rows"]
    assert 0 < done < 3000 and Path("out.jsonl").read_text() == "what stood here before\n"
    with Path(".out.jsonl.draft").open("a") as file:
        file.write('{"half a li')  # what a kill in the middle of a write leaves
    assert main([*words, "stage.output=out.jsonl", "hydra.run.dir=second"]) == 0
    assert f"resumed from row {done:,}" in Path("second/run.log").read_text()
    assert not place.exists() and not Path(".out.jsonl.draft").exists()
    assert main([*words, "stage.output=whole.jsonl"]) == 0
    assert Path("out.jsonl").read_text() == Path("whole.jsonl").read_text()


def test_a_signal_stops_after_a_chunk_and_the_same_command_goes_on(
    classifier: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmstage.inference.inference_session import InferenceSession

    write("rows.jsonl", [{"n": n, "text": f"text {n}"} for n in range(40)])
    words = [
        "stage=predict",
        f"model.path={classifier}",
        "data.test=rows.jsonl",
        "stage.output=out.jsonl",
        "stage.chunk_rows=10",
    ]
    predict, calls = InferenceSession.predict, []

    def signalled(self: InferenceSession, rows: Any, numbers: Any) -> Any:
        calls.append(list(numbers))
        if len(calls) == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return predict(self, rows, numbers)

    monkeypatch.setattr(InferenceSession, "predict", signalled)
    assert main(words) == 75 and not Path("out.jsonl").exists()
    assert main(words) == 0
    assert [numbers[0] for numbers in calls] == [0, 10, 20, 30], "nothing is computed twice"
    assert [line["n"] for line in lines("out.jsonl")] == list(range(40))


def test_a_draft_of_other_rows_is_begun_anew(classifier: Path, workplace: Path) -> None:
    from llmstage.data.resumable_output import ResumableOutput

    first = ResumableOutput(Path("out.jsonl"), "one")
    first.add([{"n": 1}], 1)
    first.close()
    again = ResumableOutput(Path("out.jsonl"), "one")
    assert again.rows == 1
    again.close()
    other = ResumableOutput(Path("out.jsonl"), "another")
    assert other.rows == 0
    other.add([{"n": 2}], 1)
    other.finish()
    assert lines("out.jsonl") == [{"n": 2}]


def test_bad_rows_stop_or_are_left_out_and_named(
    classifier: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("rows.jsonl").write_text('{"id": 1, "text": "a"}\n{"id": 2}\nnot json\n{"id": 4, "text": "d"}\n')
    words = ["stage=predict", f"model.path={classifier}", "data.test=rows.jsonl", "stage.output=out.jsonl"]
    assert main(words) == 3
    assert "rows.jsonl:2" in capsys.readouterr().err and not Path("out.jsonl").exists()
    assert main([*words, "data.on_bad_row=quarantine", "hydra.run.dir=kept"]) == 0
    assert [line["id"] for line in lines("out.jsonl")] == [1, 4]
    assert [line["line"] for line in lines("kept/quarantine.jsonl")] == [2, 3]


def test_a_file_that_changes_while_it_is_read_is_named(
    classifier: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from llmstage.inference.inference_session import InferenceSession

    write("rows.jsonl", [{"text": f"text {n}"} for n in range(200)])
    predict = InferenceSession.predict

    def slow(self: InferenceSession, rows: Any, numbers: Any) -> Any:
        with Path("rows.jsonl").open("a") as file:
            file.write('{"text": "more"}\n')
        return predict(self, rows, numbers)

    monkeypatch.setattr(InferenceSession, "predict", slow)
    words = [
        "stage=predict",
        f"model.path={classifier}",
        "data.test=rows.jsonl",
        "stage.output=out.jsonl",
        "stage.chunk_rows=50",
    ]
    assert main(words) == 3
    told = capsys.readouterr().err
    assert "rows.jsonl was changed while it was read" in told
    assert not Path("out.jsonl").exists() and not Path(".out.jsonl.draft").exists()


def test_what_cannot_start_is_said_with_the_key_that_mends_it(
    classifier: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write("rows.jsonl", [{"sentence_without_a_name": "a"}])
    cases = {
        ("data.test=rows.jsonl", "stage.output=out.txt"): (2, ".parquet"),
        ("data.test=none.jsonl",): (3, "no such file"),
        ("data.test=rows.jsonl",): (3, "data.columns.text="),
    }
    for words, (status, told) in cases.items():
        assert main(["stage=predict", f"model.path={classifier}", *words]) == status
        assert told in capsys.readouterr().err
    assert main(["stage=predict", "task=classification", "data.test=rows.jsonl"]) == 2
    assert "model.path" in capsys.readouterr().err


def test_limit_and_chunks_change_what_they_say(classifier: Path, workplace: Path) -> None:
    write("rows.jsonl", [{"n": n, "text": f"text {n}"} for n in range(30)])
    words = ["stage=predict", f"model.path={classifier}", "data.test=rows.jsonl", "stage.output=out.jsonl"]
    assert main([*words, "data.limit=7", "hydra.run.dir=run"]) == 0
    assert [line["n"] for line in lines("out.jsonl")] == list(range(7))
    assert json.loads(Path("run/report.json").read_text())["predicted"]["rows"] == 7
    assert main([*words, "stage.chunk_rows=4", "stage.output=small.jsonl"]) == 0
    assert main([*words, "stage.output=large.jsonl"]) == 0
    small, large = lines("small.jsonl"), lines("large.jsonl")
    assert [line["prediction"] for line in small] == [line["prediction"] for line in large]


def test_a_text_under_the_name_of_the_file_is_not_written_twice() -> None:
    row = InferenceRow(text="a film", text_pair="long")
    row.record, row.number = {"review": "a film", "length": "long", "stars": 3}, 0
    line = output_line(row, {"prediction": "good", "text": "a film", "text_pair": "short"})
    assert line == {"review": "a film", "length": "long", "stars": 3, "prediction": "good", "text_pair": "short"}
    row.record = {"text": "a film"}
    assert output_line(row, {"prediction": "good", "text": "a film"}) == {"text": "a film", "prediction": "good"}
