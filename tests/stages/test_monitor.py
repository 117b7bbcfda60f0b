"""stage=monitor through the door: real classifiers, the promised files, a kill, and every mistake told."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from llmstage.cli.command import main
from llmstage.errors import UserError
from llmstage.inference.monitor.classifiers import assign_roles

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def place(stream_of_moods: Path) -> Path:
    return stream_of_moods


def words(place: Path, *more: str) -> list[str]:
    negative = json.loads((place / "said.json").read_text(encoding="utf-8"))["negative"]
    return [
        "stage=monitor", "trainer.threads=1", f"stage.input={place / 'in.jsonl'}", f"stage.models.sentiment={place / 'cls'}",
        f"stage.negative=[{negative}]", *more,
    ]  # fmt: skip


def test_one_classifier_finds_the_surge_and_leaves_the_promised_files(place: Path, workplace: Path) -> None:
    assert main(words(place, "hydra.run.dir=run")) == 0
    (alert,) = [json.loads(line) for line in Path("run/alerts.jsonl").read_text().splitlines()]
    assert list(alert)[:6] == ["time", "topic", "window", "share", "expected", "p_value"]
    assert (alert["topic"], alert["window"]) == ("all", "2026-03-09T15:00:00+00:00/2026-03-09T16:00:00+00:00")
    told = json.loads((place / "said.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (place / "in.jsonl").read_text(encoding="utf-8").splitlines()]
    hour = [row for row in rows if row["time"].startswith("2026-03-09T15")]
    negative = sum(told["said"][row["text"]] == told["negative"] for row in hour)
    assert alert["share"] == negative / len(hour), "what the monitor counts is what the model says"
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert report["status"] == "completed" and report["monitor"]["items"] == len(rows)
    assert report["monitor"]["texts_asked"] == len({row["text"] for row in rows}), "equal texts are asked once"
    assert "<svg" in Path("run/report.html").read_text(encoding="utf-8")
    assert Path("outputs/latest").resolve() == Path("run").resolve()
    assert main(words(place, "hydra.run.dir=run")) == 0  # nothing new
    assert len(Path("run/alerts.jsonl").read_text().splitlines()) == 1
    assert json.loads(Path("run/report.json").read_text())["monitor"]["items"] == len(rows)
    # Counts that were made otherwise do not meet them.
    assert main(words(place, "hydra.run.dir=run", "stage.window=2h")) == 4


def test_topics_come_from_the_other_classifiers(place: Path, workplace: Path) -> None:
    model = f"stage.models.topic={place / 'cls' / 'model'}"  # a Hugging Face directory inside the run
    assert main(words(place, model, "hydra.run.dir=run", "stage.timezone=Asia/Shanghai", "stage.language=zh")) == 0
    told = json.loads((place / "said.json").read_text(encoding="utf-8"))
    rows = [json.loads(line) for line in (place / "in.jsonl").read_text(encoding="utf-8").splitlines()]
    db = sqlite3.connect("run/monitor.db")
    found = dict(db.execute("SELECT topic, SUM(items) FROM counts GROUP BY topic"))
    db.close()
    labels = [told["said"][row["text"]] for row in rows]
    assert found == {label: labels.count(label) for label in set(labels)}
    assert "负面" in Path("run/report.html").read_text(encoding="utf-8")
    assert main(words(place, model, f"stage.models.other={place / 'cls'}", "hydra.run.dir=two")) == 0
    db = sqlite3.connect("two/monitor.db")
    names = {name for (name,) in db.execute("SELECT DISTINCT topic FROM counts")}
    db.close()
    assert {name.partition("=")[0] for name in names} == {"topic", "other"}


def test_report_every_says_how_often_the_report_is_made_while_the_run_goes_on(
    place: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import llmstage.stages.monitor as stage

    drawn: list[str] = []
    write = stage.write_html

    def noted(folder: Path, report: dict[str, Any]) -> Path:
        drawn.append(report["status"])
        return write(folder, report)

    monkeypatch.setattr(stage, "write_html", noted)
    assert main(words(place, "hydra.run.dir=seldom", "stage.batch=500", "stage.report_every=3600")) == 0
    assert drawn == []
    assert main(words(place, "hydra.run.dir=often", "stage.batch=500", "stage.report_every=0.000001")) == 0
    batches = -(-len((place / "in.jsonl").read_text(encoding="utf-8").splitlines()) // 500)
    assert drawn == ["in progress"] * (batches - 1), (
        "after each batch but the last, which is followed by the final report"
    )


def test_a_run_that_was_stopped_before_its_first_item_goes_on(place: Path, workplace: Path) -> None:
    typed = [word for word in words(place, "hydra.run.dir=run") if not word.startswith("stage.input=")]
    Path("in.jsonl").touch()
    assert main([*typed, "stage.input=in.jsonl"]) == 0
    shutil.copy(place / "in.jsonl", "in.jsonl")
    assert main([*typed, "stage.input=in.jsonl"]) == 0
    assert items(Path("run")) == len(Path("in.jsonl").read_text(encoding="utf-8").splitlines())


@pytest.mark.slow
def test_killed_and_started_again_it_raises_the_same_alerts(place: Path, workplace: Path) -> None:
    assert main(words(place, "hydra.run.dir=whole")) == 0
    command = [sys.executable, "-m", "llmstage", *words(place, "hydra.run.dir=run", "stage.batch=2")]
    running = subprocess.Popen(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, stderr=subprocess.DEVNULL)
    until = time.monotonic() + 300
    while time.monotonic() < until and running.poll() is None and items(Path("run")) < 500:
        time.sleep(0.01)
    running.send_signal(signal.SIGKILL)
    running.wait()
    assert 500 <= items(Path("run")) < items(Path("whole"))
    assert main(words(place, "hydra.run.dir=run", "stage.batch=2")) == 0
    assert "resumed after" in Path("run/run.log").read_text()
    assert Path("run/alerts.jsonl").read_text() == Path("whole/alerts.jsonl").read_text()
    assert items(Path("run")) == items(Path("whole"))


def items(folder: Path) -> int:
    try:
        db = sqlite3.connect(f"file:{folder / 'monitor.db'}?mode=ro", uri=True)
        found = db.execute("SELECT value FROM kept WHERE key = 'items'").fetchone()
        db.close()
    except sqlite3.Error:
        return 0
    return int(found[0]) if found else 0


@pytest.mark.parametrize(
    ("word", "told"),
    [
        ("stage.window=7h", "stage.window=7h must part a day evenly"),
        ("stage.window=0h", "stage.window=0h must part a day evenly"),
        ("stage.late=soon", "stage.late=soon is no span of time"),
        (
            "stage.history=1d",
            "stage.history=1d is too short for stage.window=1h: nothing would ever be judged. It must be at least 2d",
        ),
        (
            "stage.window=7d",
            "stage.history=28d is too short for stage.window=7d: nothing would ever be judged. It must be at least 147d",
        ),
        ("stage.timezone=Asia/Shangai", "Did you mean 'Asia/Shanghai'"),
        ("stage.alpha=1", "stage.alpha=1 must be above 0 and below 1"),
        ("stage.webhook=mail", "stage.webhook=mail is no address"),
        ("stage.command=[]", "stage.command=[] names no program"),
        ("task=dialogue", "task=dialogue is not read by stage=monitor"),
        ("data.limit=5", "data.limit is not read by stage=monitor."),
        ("data.split.test=0.5", "data.split is not read by stage=monitor."),
        ("data.test=x", "data.test is not read by stage=monitor"),
        ("data.format=parquet", "data.format=parquet: stage=monitor reads jsonl, csv, tsv"),
        ("model.path=x", "model.path is not read by stage=monitor"),
        ("stage.input=null", "stage=monitor needs items"),
        ("stage.models={}", "stage=monitor needs a classifier"),
    ],
)
def test_a_wrong_word_is_told_before_anything_is_loaded(
    word: str, told: str, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    key = word.partition("=")[0]
    given = {"stage.input": "stage.input=in.jsonl", "stage.models": "stage.models.sentiment=cls"}
    others = [line for name, line in given.items() if name != key]
    assert main(["stage=monitor", *others, word]) == 2
    assert told in capsys.readouterr().err and not Path("outputs").exists()


def test_no_socket_is_opened_offline_not_even_for_a_webhook(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    typed = ["stage=monitor", "stage.input=a", "stage.models.sentiment=b", "offline=true", "stage.webhook=http://a.b/c"]
    assert main(typed) == 2 and "offline=true opens no socket" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("more", "status", "told"),
    [
        (["stage.negative=auto"], 2, "No label is known to be negative (sentiment:"),
        (["stage.negative=nothing"], 2, "No label is known to be negative"),
        (["stage.input=gone.jsonl"], 3, "stage.input=gone.jsonl: there is no such file"),
        (["data.columns.time=when"], 3, "there is no column 'when'"),
        (["stage.command=[/bin/true]"], 8, "export LLMSTAGE_COMMANDS=/bin/true"),
        (["stage.models.topic=other"], 4, "is a run of task=translation"),
        (["stage.models.topic=own"], 8, "a task from a Python module"),
        (["stage.models.topic=empty"], 4, "is not a model"),
    ],
)
def test_what_cannot_be_watched_is_told(
    more: list[str],
    status: int,
    told: str,
    place: Path,
    workplace: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: Any,
) -> None:
    monkeypatch.delenv("LLMSTAGE_COMMANDS", raising=False)
    Path("empty").mkdir()
    for name, task in (("other", "translation"), ("own", "mine.task")):
        (Path(name) / "model").mkdir(parents=True)
        (Path(name) / "model" / "config.json").write_text("{}")
        (Path(name) / "run.yaml").write_text(yaml.safe_dump({"task": {"name": task}}))
    replaced = {word.partition("=")[0] for word in more}
    kept = [word for word in words(place) if word.partition("=")[0] not in replaced]
    assert main([*kept, *more, "hydra.run.dir=run"]) == status
    said = capsys.readouterr().err
    assert told in said and "Traceback" not in said


def classifier(name: str, *labels: str, target_type: str = "label") -> Any:
    return SimpleNamespace(name=name, labels=list(labels), target_type=target_type)


def test_who_says_what_is_negative() -> None:
    mood, zh = classifier("mood", "negative", "positive"), classifier("sentiment", "负面", "正面")
    topic, many = classifier("topic", "oil", "banks"), classifier("about", "公司", "政策", target_type="multilabel")
    alone = assign_roles([mood], "auto")
    assert (alone.sentiment, alone.negative, alone.topics) == ("mood", ["negative"], ["all"])
    both = assign_roles([topic, mood], "auto")
    assert (both.sentiment, both.topics, both.prefixed) == ("mood", ["oil", "banks"], False)
    three = assign_roles([many, zh, topic], "auto")
    assert three.topics == ["about=公司", "about=政策", "about=none", "topic=oil", "topic=banks"]
    assert assign_roles([mood, zh], "auto").sentiment == "sentiment"
    stars = classifier("stars", "1", "2", "3", target_type="ordinal")
    assert assign_roles([stars], ["1", "2"]).negative == ["1", "2"] and assign_roles([stars], "1").negative == ["1"]
    for found, negative, told in (
        ([mood, classifier("tone", "neg", "pos")], "auto", "Several classifiers have a negative label"),
        ([topic], "auto", "No label is known to be negative"),
        (
            [classifier("sentiment", "negative", "x", target_type="multilabel")],
            "auto",
            "No label is known to be negative",
        ),
        ([stars], ["1", "4"], "stage.negative=4 is no label of stars"),
        ([stars], ["1", "2", "3"], "names every label of stars"),
    ):
        with pytest.raises(UserError, match=told):
            assign_roles(found, negative)
