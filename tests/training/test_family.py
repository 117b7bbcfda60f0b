"""The family of models whose type the door does not know, and what becomes of one that does not fit the task."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from llmstage.cli.command import main
from llmstage.config.checks import explain_misfit
from llmstage.config.task import QuestionAnswering
from llmstage.models.families import model_families, model_family


@pytest.mark.parametrize(
    ("model_type", "expected"),
    [
        *((name, "bert") for name in ("ernie", "mpnet", "roformer", "deberta", "bert")),
        *((name, "gpt") for name in ("llama", "gpt2", "mamba", "qwen3")),
    ],
)
def test_encoders_are_known_by_what_transformers_registers_them_for(model_type: str, expected: str) -> None:
    assert model_family(SimpleNamespace(is_encoder_decoder=False, model_type=model_type)) == expected
    assert model_family(SimpleNamespace(is_encoder_decoder=True, model_type=model_type)) == "t5"


@pytest.mark.parametrize(
    ("model_type", "keys", "expected"),
    [
        ("bert", {"is_decoder": True}, ["gpt"]),
        ("gemma3", {"vision_config": {}}, ["vlm", "gpt"]),
        ("qwen2_vl", {"vision_config": {}}, ["vlm"]),
        ("siglip", {"vision_config": {}}, ["clip"]),
        ("canine", {}, ["bert"]),
        ("bloom", {}, ["gpt"]),
    ],
)
def test_what_a_model_can_be_loaded_as(model_type: str, keys: dict[str, object], expected: list[str]) -> None:
    config = SimpleNamespace(model_type=model_type, **keys)
    assert model_families(config) == expected
    assert model_family(config, takes=expected[-1:]) == expected[-1]


def test_a_type_without_a_class_for_the_task_is_refused_with_the_tasks_that_it_has(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("spans").mkdir()
    Path("spans/config.json").write_text(json.dumps({"model_type": "splinter"}))
    words = [
        "stage=finetune",
        "task=token_classification",
        "model.path=spans",
        "data.demo_rows=20",
        "trainer.threads=1",
    ]
    assert main(words) == 4
    error = capsys.readouterr().err
    assert "splinter, and transformers has no ...ForTokenClassification for it" in error
    assert "question_answering" in error


def test_a_type_that_the_door_does_not_know_is_refused_once_it_is_read(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("switch").mkdir()
    Path("switch/config.json").write_text(json.dumps({"model_type": "switch_transformers", "is_encoder_decoder": True}))
    words = ["stage=finetune", "task=dialogue", "model.path=switch", "data.demo_rows=20", "trainer.threads=1"]
    assert main(words) == 4
    assert (
        "task=dialogue does not fit model.path=switch (family t5). It takes: model=gpt_tiny" in capsys.readouterr().err
    )


def test_a_family_that_another_style_takes_is_told_with_the_key() -> None:
    extract = QuestionAnswering(name="question_answering", model_families=["gpt", "bert", "t5"], style="extract")
    message = explain_misfit(extract, "t5", "model.path=answers")
    assert "task=question_answering with task.style=extract does not fit model.path=answers (family t5)" in message
    assert "It takes: model=bert_tiny" in message and "With task.style=generate it does." in message
