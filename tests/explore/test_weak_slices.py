"""Weak slices end to end: a classifier of the demo world that saw hardly any refunds, and one that saw all of them."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from llmstage.cli.command import main
from llmstage.demo.classification import classification_rows


def write(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def english(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Half of the world: a model of 0.1 M weights learns it in a hundred steps."""
    return [row for row in classification_rows(num_rows, seed) if row["text"].isascii()]


@pytest.fixture(scope="module")
def folder(shared_folder):
    """Two runs, `planted` and `whole`, of which the first saw 4 of 133 refunds; and rows to score."""
    return shared_folder("weak", make)


def make() -> None:
    folder = Path.cwd()
    rows = english(1600, 1)
    refunds = [row for row in rows if row["label"] == "refund"]
    write(folder / "whole.jsonl", rows)
    write(folder / "planted.jsonl", [row for row in rows if row not in refunds[4:]])
    rng = random.Random(0)
    test = [{**row, "channel": rng.choice(["mail", "chat"])} for row in english(960, 9)]
    write(folder / "test.jsonl", test)
    for name in ("planted", "whole"):
        words = ["stage=finetune", "task=classification", "model.num_hidden_layers=1", "model.hidden_size=64", "model.intermediate_size=128",
                 "trainer.max_steps=100", "trainer.threads=1", "trainer.baselines=false", "optim.lr=0.006",
                 "trainer.eval_every=25", "trainer.save_every=0", f"data.train={folder / name}.jsonl", "data.split.test=0",
                 f"hydra.run.dir={folder / 'runs' / name}"]  # fmt: skip
        assert main(words) == 0
    words = ["stage.diagnosis.elicit=[16]", "stage.diagnosis.elicit_steps=10"]
    assert explore(folder, folder / "explored", "planted", *words) == 0


def explore(folder: Path, out: Path, run: str, *words: str) -> int:
    base = ["stage=explore", f"model.path={folder / 'runs' / run}", "trainer.threads=1", f"hydra.run.dir={out}"]
    given = [] if any(word.startswith("data.test=") for word in words) else [f"data.test={folder / 'test.jsonl'}"]
    return main([*base, *given, *words])


def lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "weaknesses.jsonl").read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def explored(folder):
    return folder / "explored"


def test_the_planted_class_is_confirmed_named_and_diagnosed(folder, explored):
    weaknesses = lines(explored)
    assert {"label": "refund"} in [line["slice"] for line in weaknesses]
    refund = next(line for line in weaknesses if line["slice"] == {"label": "refund"})
    assert refund["action"] == "data" and refund["coverage_ratio"] < 0.1 and refund["metric"] == "accuracy"
    assert refund["score"] < 0.5 < refund["rest"] and refund["gap"] == pytest.approx(refund["rest"] - refund["score"])
    assert refund["ci"][0] > 0.2 and refund["p_holm"] < 0.001 and refund["n"] >= 30
    assert any(reason.startswith("coverage: 0.") for reason in refund["why"])
    assert any("elicit: 16 examples" in reason or "elicits: 16 examples" in reason for reason in refund["why"])
    assert len(refund["examples"]) == 5 and all(row["label"] == "refund" for row in refund["examples"])
    report = json.loads((explored / "report.json").read_text(encoding="utf-8"))
    assert report["explore"]["slices"]["weaknesses"] == weaknesses and report["task"] == "classification"
    assert any('label "refund"' in line and "action: data" in line for line in report["sentences"])
    titles = [exhibit["title"] for exhibit in report["exhibits"]]
    assert titles[0].startswith("Weak slices") and any(title.startswith("Examples") for title in titles)


def test_a_plan_and_a_card_are_written_that_can_be_used(folder, explored):
    plan = yaml.safe_load((explored / "plan.yaml").read_text(encoding="utf-8"))
    keys = plan["overrides"]
    assert keys["stage"] == "finetune" and keys["task"] == "classification" and Path(keys["model.path"]).is_dir()
    pool, more = keys["data.train"]
    assert pool == str(folder / "planted.jsonl")
    rows = [json.loads(line) for line in Path(more).read_text(encoding="utf-8").splitlines()]
    assert len(rows) >= 40 and {row["label"] for row in rows} == {"refund"}  # four of them, repeated
    assert plan["weaknesses"][0]["action"] == "data"
    card = next((explored / "cards").glob("*refund.md")).read_text(encoding="utf-8")
    assert "## Why" in card and "Action: **data**" in card and card.count("- prediction:") == 5


def test_a_model_that_saw_them_all_raises_no_alarm(folder, tmp_path, capsys):
    assert explore(folder, tmp_path / "out", "whole") == 0
    assert lines(tmp_path / "out") == []
    assert not (tmp_path / "out" / "plan.yaml").exists()
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert "No weak slice was confirmed" in report["sentences"][0]


def test_the_keys_of_slices_and_diagnosis_change_the_report(folder, tmp_path):
    quick = ("stage.diagnosis.elicit=[]",)
    assert explore(folder, tmp_path / "a", "planted", *quick, "stage.slices.features=[length,channel]") == 0
    assert all(set(line["slice"]) <= {"length", "channel"} for line in lines(tmp_path / "a"))
    keys = [
        "stage.slices.features=[label]", "stage.slices.examples=1", "stage.diagnosis.coverage=false",
        f"stage.diagnosis.bigger=[{folder / 'runs' / 'whole'}]",
    ]  # fmt: skip
    assert explore(folder, tmp_path / "b", "planted", *quick, *keys) == 0
    first = lines(tmp_path / "b")[0]
    assert first["slice"] == {"label": "refund"} and len(first["examples"]) == 1
    assert not any("coverage" in reason or "elicit" in reason for reason in first["why"])
    assert any("larger model" in reason for reason in first["why"]) and first["action"] == "structure"
    assert explore(folder, tmp_path / "c", "planted", *quick, "stage.slices.features=[topic]") == 0
    assert all(set(line["slice"]) == {"topic"} for line in lines(tmp_path / "c"))


def test_a_copy_that_trains_longer_learns_more_of_the_slice(folder, tmp_path):
    def learned(steps: int) -> float:
        out = tmp_path / str(steps)
        keys = "stage.diagnosis.elicit=[64]", f"stage.diagnosis.elicit_steps={steps}", "stage.slices.features=[label]"
        assert explore(folder, out, "planted", *keys) == 0
        refund = next(line for line in lines(out) if line["slice"] == {"label": "refund"})
        return float(re.search(r"\d+ examples → ([\d.]+)", " ".join(refund["why"])).group(1))

    assert learned(60) > learned(1) + 0.2


def test_every_key_of_the_search_reaches_it(folder, tmp_path, monkeypatch):
    """The effect of each there: tests/explore/test_slices.py."""
    from llmstage.explore import weak_slices

    seen: dict[str, Any] = {}
    search = weak_slices.find_slices
    monkeypatch.setattr(weak_slices, "find_slices", lambda *args, **keys: seen.update(keys) or search(*args, **keys))
    given = {"max_order": 1, "min_support": 40, "alpha": 0.5, "min_gap": 0.3, "top_k": 2, "fdr": 0.01, "level": 0.001}
    words = [f"stage.slices.{key}={value}" for key, value in given.items()]
    assert explore(folder, tmp_path / "out", "planted", "stage.diagnosis.elicit=[]", *words) == 0
    assert {key: seen[key] for key in given} == given


def test_slices_can_be_switched_off_and_their_keys_are_then_not_read(folder, tmp_path, capsys):
    assert explore(folder, tmp_path / "out", "planted", "stage.slices.enabled=false") == 2
    assert "leaves nothing to look at" in capsys.readouterr().err
    logs = f"stage.novelty.logs={folder / 'test.jsonl'}"
    assert explore(folder, tmp_path / "out", "planted", "stage.slices.enabled=false", logs) == 0
    assert not (tmp_path / "out" / "weaknesses.jsonl").exists()
    assert explore(folder, tmp_path / "out", "planted", "stage.slices.enabled=false", logs, "stage.slices.top_k=3") == 2
    assert "stage.slices.top_k is not read here: stage.slices.enabled=false" in capsys.readouterr().err


def test_rows_that_the_model_has_seen_are_refused_and_can_be_dropped(folder, tmp_path, capsys):
    seen = [json.loads(line) for line in (folder / "planted.jsonl").read_text(encoding="utf-8").splitlines()]
    test = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    mixed = write(tmp_path / "mixed.jsonl", seen[:60] + test)
    known = explore(folder, tmp_path / "a", "planted", "stage.diagnosis.elicit=[]", f"data.test={mixed}")
    err = capsys.readouterr().err
    assert (
        known == 3 and "of 540 rows of test are also in the training pool" in err and "stage.slices.overlap=drop" in err
    )
    words = "stage.diagnosis.elicit=[]", f"data.test={mixed}", "stage.slices.overlap=drop"
    assert explore(folder, tmp_path / "b", "planted", *words) == 0
    report = json.loads((tmp_path / "b" / "report.json").read_text(encoding="utf-8"))
    dropped = report["explore"]["slices"]["dropped"]
    assert 30 <= dropped <= 60 and report["explore"]["slices"]["rows"] == 540 - dropped  # the rest is validation


def test_an_unknown_feature_and_too_few_rows_are_reported(folder, tmp_path, capsys):
    assert explore(folder, tmp_path / "a", "planted", "stage.slices.features=[labels]") == 2
    err = capsys.readouterr().err
    assert "these rows have no feature labels" in err and "topic" in err
    test = [json.loads(line) for line in (folder / "test.jsonl").read_text(encoding="utf-8").splitlines()]
    assert explore(folder, tmp_path / "b", "planted", f"data.test={write(tmp_path / 'few.jsonl', test[:20])}") == 0
    report = json.loads((tmp_path / "b" / "report.json").read_text(encoding="utf-8"))
    assert report["limits"][0].startswith("20 scored rows of test are too few") and lines(tmp_path / "b") == []
    assert main(["stage=explore"]) == 2
    assert "model.path=" in capsys.readouterr().err


def test_what_is_new_in_logs(folder, tmp_path):
    seen = [json.loads(line)["text"] for line in (folder / "planted.jsonl").read_text(encoding="utf-8").splitlines()]
    new = [f"我要申请发票，税号{number}，抬头是第{number}公司" for number in range(100, 130)]
    new += [f"Please send an invoice with tax number {number * 7919} for our company {number}" for number in range(30)]
    logs = [{"text": text} for text in [*seen[:25], *new, *new[:10]]]
    (tmp_path / "logs").mkdir()
    write(tmp_path / "logs" / "one.jsonl", logs)
    words = ["stage.slices.enabled=false", f"stage.novelty.logs={tmp_path}/logs/*.jsonl"]
    keys = ["stage.novelty.dedupe=0.95", "stage.novelty.clusters=2", "stage.novelty.contamination_ngram=8"]
    assert explore(folder, tmp_path / "out", "planted", *words, *keys) == 0
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))["explore"]["collect"]
    assert report["read"] == 95 and report["double"] == 10 and 20 <= report["in_pool"] <= 25
    collected = (tmp_path / "out" / "collected.jsonl").read_text(encoding="utf-8").splitlines()
    texts = [json.loads(line) for line in collected]
    assert len(texts) == report["new"] == 85 - report["in_pool"]
    assert [line["priority"] for line in texts] == sorted((line["priority"] for line in texts), reverse=True)
    assert all(line["place"].startswith(str(tmp_path / "logs")) for line in texts) and len(report["groups"]) == 2
    assert report["measured_by"].startswith("1 - confidence")
    assert explore(folder, tmp_path / "few", "planted", *words, "stage.novelty.max_items=7") == 0
    assert len((tmp_path / "few" / "collected.jsonl").read_text(encoding="utf-8").splitlines()) == 7


def test_clusters_of_hidden_states_can_be_improved_on(folder, tmp_path, capsys):
    quick = (
        "stage.diagnosis.elicit=[]",
        "stage.improve.steps=1",
        "stage.improve.target_share=[0.5]",
        "stage.improve.control=false",
    )
    words = (*quick, "stage.improve.enabled=true", "stage.improve.guard.fallback=[]")
    assert explore(folder, tmp_path / "out", "planted", *words, "stage.slices.features=[topic]") in (0, 9)
    result = json.loads((tmp_path / "out" / "before_after.json").read_text(encoding="utf-8"))
    weaknesses = lines(tmp_path / "out")
    assert weaknesses and [line["slice"] for line in result["slices"]] == [line["slice"] for line in weaknesses]
    # The rows of the halves, of which one was compared on, are those that the search counted.
    assert 0 < result["slices"][0]["n"] < weaknesses[0]["n"]
    alone = tmp_path / "alone.jsonl"
    alone.write_text((tmp_path / "out" / "weaknesses.jsonl").read_text(encoding="utf-8"), encoding="utf-8")
    off = "stage.slices.enabled=false", f"stage.improve.weaknesses={alone}"
    assert explore(folder, tmp_path / "other", "planted", *words[1:], *off) == 3
    assert "groups.json, which defines the groups" in capsys.readouterr().err
