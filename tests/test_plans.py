"""plan=: the overrides of a plan.yaml stand below what is typed, are checked like it, and name no code."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from llmstage.cli.command import main
from llmstage.cli.inherit import in_words, with_plan
from llmstage.cli.overrides import parse, read_words, values_of
from llmstage.errors import Refused, UserError


def plan(folder: Path, overrides: object, **rest: object) -> Path:
    path = folder / "plan.yaml"
    path.write_text(yaml.safe_dump({"overrides": overrides, **rest}, allow_unicode=True), encoding="utf-8")
    return path


def typed(words: list[str]) -> dict[str, list[object]]:
    read = read_words(with_plan(words))
    assert not read.wrong, read.wrong
    return read.typed


def test_a_plan_sets_keys_and_choices_and_what_is_typed_wins(tmp_path):
    path = plan(
        tmp_path,
        {
            "task": "dialogue",
            "optim": {"lr": 1e-4},
            "trainer.max_steps": 300,
            "data.train": ["a.jsonl", "更多 b,c.jsonl"],
        },
        weaknesses=[{"slice": {"op": "rev"}}],
    )
    found = typed(["stage=finetune", f"plan={path}", "optim.lr=3e-4"])
    assert found["task"] == ["dialogue"]
    assert found["optim.lr"] == [3e-4]
    assert found["trainer.max_steps"] == [300]
    assert found["data.train"] == [["a.jsonl", "更多 b,c.jsonl"]]


def test_without_a_plan_nothing_changes():
    assert with_plan(["stage=finetune", "plan=null"]) == ["stage=finetune", "plan=null"]


def test_a_typed_budget_switches_the_planned_one_off(tmp_path):
    path = plan(tmp_path, {"task": "dialogue", "trainer.max_steps": 300})
    found = typed(["stage=finetune", f"plan={path}", "trainer.epochs=2"])
    assert "trainer.max_steps" not in found and found["trainer.epochs"] == [2]


def test_unknown_keys_are_refused_like_typed_ones(tmp_path):
    path = plan(tmp_path, {"task": "dialogue", "optim.learning_rate": 1e-4})
    assert any(
        "Unknown key 'optim.learning_rate'" in line
        for line in read_words(with_plan([f"plan={path}", "stage=finetune"])).wrong
    )


@pytest.mark.parametrize(
    "overrides",
    [
        {"task": "my_package.my_task"},
        {"data.format": "my_package.reader"},
        {"hydra.run.dir": "/elsewhere"},
        {"optim": {"_target_": "os.system"}},
        {"data.train": "${oc.env:HOME}/x"},
        {"plan": "another.yaml"},
    ],
)
def test_a_plan_names_no_code(tmp_path, overrides):
    with pytest.raises(Refused, match="plan="):
        with_plan([f"plan={plan(tmp_path, overrides)}"])


@pytest.mark.parametrize("body", ["- a", "overrides: 3", "overrides: {seed: 1}\nextra: 1", "overrides: {", "\x00"])
def test_a_file_that_is_no_plan_is_named(tmp_path, body):
    path = tmp_path / "plan.yaml"
    path.write_text(body, encoding="utf-8")
    with pytest.raises(UserError, match=r"plan\.yaml"):
        with_plan([f"plan={path}"])


def test_a_missing_plan_is_a_mistake_of_usage(workplace, capsys):
    assert main(["stage=finetune", "plan=nowhere.yaml"]) == 2
    assert "there is no such file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "value",
    [
        "plain",
        "a b",
        "it's",
        "a,b",
        "1e-4",
        "true",
        "null",
        "语料.txt",
        "a\\",
        "a\\'b",
        "[x]",
        "",
        3,
        0.5,
        True,
        None,
        ["a,b", 1],
    ],
)
def test_every_value_comes_back_from_hydras_grammar(value):
    assert values_of(parse(f"key={in_words(value)}")) == [value]


def test_a_planned_run_trains_with_what_the_plan_says(workplace):
    path = plan(workplace, {"task": "classification", "trainer": "smoke", "trainer.max_steps": 2, "data.demo_rows": 60})
    assert main(["stage=finetune", f"plan={path}", "trainer.threads=1", "hydra.run.dir=out"]) == 0
    told = yaml.safe_load((workplace / "out" / "run.yaml").read_text(encoding="utf-8"))
    assert told["trainer"]["max_steps"] == 2 and told["plan"] == str(path)
