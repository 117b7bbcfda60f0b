"""A user's mistakes through the whole program: the status, the words, and what is left behind."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from llmstage.cli.command import main

CLASSIFY = ["stage=finetune", "task=classification", "trainer=smoke", "hydra.run.dir=run"]
TALK = ["stage=finetune", "task=dialogue", "trainer=smoke", "hydra.run.dir=run"]


@pytest.fixture
def fails(workplace, capsys):
    """`fails(status, *words)`: the words on standard error, after what every failure promises was checked."""

    def call(status: int, *words: str) -> str:
        before = {
            path: path.read_bytes() for path in workplace.rglob("*") if path.is_file() and "run" not in path.parts
        }
        got = main(list(words))
        out, err = capsys.readouterr()
        assert got == status, err
        assert "Traceback" not in err and out == ""
        report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
        assert report["status"] == "failed" and report["error"].strip().splitlines()[0] in err
        assert before == {path: path.read_bytes() for path in before}, "a failure changes nothing of the user's"
        return err

    return call


def write_rows(name: str, rows: list[str]) -> None:
    Path(name).write_text("\n".join(rows) + "\n", encoding="utf-8")


def good_rows(num: int = 40) -> list[str]:
    return [json.dumps({"text": f"水 {n} water", "label": "ab"[n % 2]}, ensure_ascii=False) for n in range(num)]


def test_a_missing_file(fails):
    assert "语料.jsonl" in fails(3, *CLASSIFY, "data.train=语料.jsonl")


def test_an_empty_file(fails):
    Path("empty.jsonl").touch()
    assert "empty.jsonl" in fails(3, *CLASSIFY, "data.train=empty.jsonl")


def test_a_broken_line_is_named(fails):
    rows = good_rows()
    rows[6] = '{"text": "x", "label"'
    write_rows("train.jsonl", rows)
    assert "train.jsonl:7" in fails(3, *CLASSIFY, "data.train=train.jsonl")


def test_a_bad_row_is_named_with_its_reason(fails):
    rows = good_rows()
    rows[3] = json.dumps({"text": "  ", "label": "a"})
    write_rows("train.jsonl", rows)
    err = fails(3, *CLASSIFY, "data.train=train.jsonl")
    assert "train.jsonl:4" in err and "text is empty" in err and "quarantine" in err


def test_a_label_that_training_never_saw_is_named(fails):
    write_rows("train.jsonl", good_rows())
    write_rows("test.jsonl", [*good_rows(3), json.dumps({"text": "x", "label": "新"}, ensure_ascii=False)])
    err = fails(3, *CLASSIFY, "data.train=train.jsonl", "data.test=test.jsonl")
    assert "test.jsonl:4" in err and "unknown label '新'" in err and "a, b" in err


def test_a_missing_column_offers_those_there_are(fails):
    Path("train.csv").write_text("review,stars\n" + "good,1\nbad,0\n" * 20, encoding="utf-8")
    err = fails(3, *CLASSIFY, "data.train=train.csv", "data.columns.text=reviw", "data.columns.label=stars")
    assert "reviw" in err and "review" in err


def test_one_label_is_nothing_to_learn(fails):
    write_rows("train.jsonl", [row.replace('"b"', '"a"') for row in good_rows()])
    assert "two are needed" in fails(3, *CLASSIFY, "data.train=train.jsonl")


def test_answers_longer_than_the_context_stop_the_run_before_training(fails):
    talk = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "7" * 900}]}
    write_rows("talk.jsonl", [json.dumps(talk | {"n": n}) for n in range(1)] + [
        json.dumps({"messages": [{"role": "user", "content": f"q{n}"}, {"role": "assistant", "content": f"a{n}"}]})
        for n in range(40)
    ])  # fmt: skip
    err = fails(3, *TALK, "data.train=talk.jsonl", "data.split.test=0", "data.split.validation=0")
    assert "data.max_lost" in err and "data.context" in err


def test_a_path_that_is_no_model(fails):
    Path("notes").mkdir()
    (Path("notes") / "readme.txt").touch()
    assert "no config.json" in fails(4, *TALK, "model.path=notes")
    Path("own").mkdir()
    (Path("own") / "config.json").write_text(json.dumps({"model_type": "llama"}))
    assert "own" in fails(4, *TALK, "model.path=own")


def test_a_run_folder_goes_on_only_with_its_own_config(fails, capsys):
    assert main([*CLASSIFY, "trainer.max_steps=2", "trainer.save_every=1"]) == 0
    capsys.readouterr()
    kept = Path("run/model/model.safetensors").read_bytes()
    err = fails(4, *CLASSIFY, "trainer.max_steps=2", "trainer.save_every=1", "model.num_hidden_layers=3")
    assert "model.num_hidden_layers: 4 -> 3" in err and "trainer.resume=never" in err
    assert Path("run/model/model.safetensors").read_bytes() == kept
    shutil.rmtree("run/checkpoints")
    err = fails(
        4, "stage=evaluate", "model.path=run/checkpoints/step_000001", "task=classification", "hydra.run.dir=run"
    )
    assert "step_000001" in err


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written(workplace, capsys):
    Path("closed").mkdir(mode=0o500)
    assert main([*CLASSIFY[:-1], "hydra.run.dir=closed/run"]) == 7
    assert "closed" in capsys.readouterr().err


def test_a_file_in_the_place_of_the_run_folder(workplace, capsys):
    Path("taken").touch()
    assert main([*CLASSIFY[:-1], "hydra.run.dir=taken/run"]) == 7
    assert "hydra.run.dir=taken/run: taken is a file. Name a folder: hydra.run.dir=<folder>" in capsys.readouterr().err
    assert main(["-m", *CLASSIFY[:-1], "seed=1,2", f"hydra.sweep.dir={Path.cwd()}/taken/sweep"]) == 7
    assert "taken is a file. Name a folder: hydra.sweep.dir=<folder>" in capsys.readouterr().err


def test_a_failed_job_of_a_sweep_is_a_row_of_its_table(workplace, capsys):
    write_rows("train.jsonl", good_rows())
    status = main(
        ["-m", *CLASSIFY[:-1], "trainer.max_steps=1", "data.train=train.jsonl,missing.jsonl", "hydra.sweep.dir=sweep"]
    )
    out, err = capsys.readouterr()
    assert status == 1
    assert "completed" in out and "failed (3)" in out and "missing.jsonl" in err
    assert [json.loads(Path(f"sweep/{job}/report.json").read_text())["status"] for job in (0, 1)] == [
        "completed",
        "failed",
    ]


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only there a process starts again for its allocator")
def test_the_console_script_shows_no_traceback_after_its_second_start(workplace):
    """What the first process sets for itself, the one that it becomes must not inherit."""
    write_rows("one.jsonl", [json.dumps({"text": f"t {n}", "label": "a"}) for n in range(20)])
    free = {key: value for key, value in os.environ.items() if not key.startswith(("LLMSTAGE", "HYDRA", "LD_PRELOAD"))}
    free |= {"PYTHONPATH": str(Path(__file__).resolve().parents[1])}
    done = subprocess.run(
        [sys.executable, "-m", "llmstage", *CLASSIFY, "data.train=one.jsonl"], env=free, capture_output=True, text=True
    )
    assert done.returncode == 3 and "two are needed" in done.stderr and "Traceback" not in done.stderr


BROKEN_TASK = """
from llmstage.config import TaskConfig
from llmstage.tasks.classification import Classification


class Broken(Classification):
    @staticmethod
    def demo_rows(num_rows, seed):
        {line}


TASK = Broken
Config = TaskConfig
"""


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("return None + 1", "TypeError in broken_task.py:9 (module outside.broken_task): unsupported operand"),
        ("import json; return json.loads('{')", "JSONDecodeError in broken_task.py:9 (module outside.broken_task): "),
    ],
    ids=["its own line", "a library that it calls"],
)
def test_an_error_in_a_module_of_the_users_own_is_said_to_be_theirs(workplace, capsys, monkeypatch, line, error):
    (workplace / "outside").mkdir()
    (workplace / "outside" / "broken_task.py").write_text(BROKEN_TASK.format(line=line), encoding="utf-8")
    (workplace / "mine" / "task").mkdir(parents=True)
    (workplace / "mine" / "task" / "broken.yaml").write_text(
        "name: outside.broken_task\nstages: [finetune]\nmodel_families: [bert]\n"
    )
    monkeypatch.syspath_prepend(str(workplace))
    for name in ("outside", "outside.broken_task"):
        monkeypatch.delitem(sys.modules, name, raising=False)
    words = ["--config-dir", "mine", "stage=finetune", "task=broken", "model=bert_tiny", "trainer=smoke"]
    assert main([*words, "hydra.run.dir=run"]) == 1
    err = capsys.readouterr().err
    assert f"error: {error}" in err and err.rstrip().endswith("this is your own module"), err[-600:]
    assert "bug of llmstage" not in err and "Traceback" in err


def test_an_error_of_llmstage_itself_is_said_to_be_a_bug(workplace, capsys, monkeypatch):
    from llmstage.stages import finetune

    monkeypatch.setattr(finetune, "fit", lambda *args, **kwargs: None + 1)
    monkeypatch.setattr("llmstage.cli.jobs.PACKAGE", Path(__file__).resolve().parent)  # the line that fails is here
    assert main([*CLASSIFY[:-1], "hydra.run.dir=run"]) == 1
    assert "error: this is a bug of llmstage, not of yours: TypeError" in capsys.readouterr().err
