"""A run on splits by time: told in the header and the report, and scored again with the same numbers."""

from __future__ import annotations

import csv
import json
import random
from datetime import date, timedelta
from pathlib import Path

import pytest

from llmstage.cli.command import main

SMALL = [
    "task=classification", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=320",
    "data.context=64", "trainer.threads=1", "data.train=a.csv",
]  # fmt: skip
TRAIN = ["stage=finetune", "trainer.max_steps=4", "trainer.batch_size=8", "trainer.eval_every=4"]


def write_table() -> None:
    draw = random.Random(0)
    with Path("a.csv").open("w", encoding="utf-8", newline="") as target:
        writer = csv.writer(target)
        writer.writerow(["text", "label", "日期", "machine"])
        for number in range(200):
            when = date(2014, 1, 1) + timedelta(draw.randrange(100))
            writer.writerow([f"报告 {number % 190}", draw.choice("xy"), when.isoformat(), draw.randrange(30)])


def report(folder: str) -> dict:
    return json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))


@pytest.mark.parametrize(
    ("rule", "by"),
    [
        (["data.split.by=time", "data.split.time=日期"], "time"),
        (["data.split.group=machine", "data.split.time=日期"], "group"),
    ],
)
def test_a_run_tells_how_its_splits_were_cut_and_is_scored_again(
    workplace: Path, capsys: pytest.CaptureFixture[str], rule: list[str], by: str
) -> None:
    write_table()
    assert main([*TRAIN, *SMALL, *rule, "hydra.run.dir=trained"]) == 0
    told = capsys.readouterr().err
    assert f"cut by {by}; train 2014-01-0" in told
    trained = report("trained")
    splits = trained["data"]["splits"]
    assert splits["test"]["cut_by"] == by and "cut_by" not in splits["train"]
    assert splits["test"]["last_time"].startswith("2014-04") and f"cut by {by}" in trained["data"]["described"]
    leaks = [told for told in trained["warnings"] if "before train ends" in told]
    if by == "time":
        assert splits["train"]["last_time"] < splits["validation"]["first_time"]
        assert splits["validation"]["last_time"] < splits["test"]["first_time"] and not leaks
        assert splits["test"]["overlap_with_train"] > 0
    else:
        assert len(leaks) == 2
    assert main(["stage=evaluate", "model.path=trained", "hydra.run.dir=scored"]) == 0
    assert report("scored")["scores"]["test"] == trained["scores"]["test"]
    assert report("scored")["data"]["splits"]["test"]["first_time"] == splits["test"]["first_time"]


def test_a_time_that_does_not_parse_ends_with_its_line_and_status_3(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_table()
    text = Path("a.csv").read_text("utf-8").replace("2014-01-05", "05/01/2014", 1)
    Path("a.csv").write_text(text, "utf-8")
    assert main([*TRAIN, *SMALL, "data.split.by=time", "data.split.time=日期", "hydra.run.dir=run"]) == 3
    told = capsys.readouterr().err
    assert "data.split.time_format=%d/%m/%Y" in told and "a.csv:" in told and "Traceback" not in told
