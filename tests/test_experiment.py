"""Recipes: each composes into a run that can start, and what is typed beside it wins."""

from __future__ import annotations

import pytest

from llmstage.cli import command
from llmstage.cli.command import main
from llmstage.cli.experiment import choices_of, preset_words
from llmstage.cli.overrides import read_words
from llmstage.paths import options

RECIPES = options("experiment")


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_sets_stage_and_task_itself(name, compose_run):
    chosen = choices_of(name)
    assert chosen["stage"] in options("stage") and chosen["task"] in options("task")
    run = compose_run([f"experiment={name}"])
    assert (run.stage.name, run.task.name) == (chosen["stage"], chosen["task"])


@pytest.mark.parametrize("name", RECIPES)
def test_a_trainer_preset_typed_beside_a_recipe_wins_over_its_budget(name, compose_run):
    run = compose_run([f"experiment={name}", "trainer=smoke"])
    preset = preset_words("smoke")
    assert run.trainer.max_steps == preset["trainer.max_steps"] and run.trainer.epochs is None
    assert run.trainer.batch_size == preset["trainer.batch_size"] and run.trainer.batch_tokens is None
    assert run.data.limit == preset["data.limit"]


def test_a_key_typed_beside_a_recipe_and_a_preset_wins_over_both(compose_run):
    assert compose_run(["experiment=banking77", "trainer=smoke", "trainer.max_steps=3"]).trainer.max_steps == 3


def test_data_root_moves_the_paths(compose_run, tmp_path):
    run = compose_run(["experiment=banking77", f"data_root={tmp_path}"])
    assert run.data.train == f"{tmp_path}/banking77/train.csv"


def test_a_missing_data_root_is_told_before_anything_is_loaded(workplace, capsys):
    assert main(["experiment=banking77", "data_root=nowhere"]) == 2
    told = capsys.readouterr().err
    assert "data_root=nowhere: there is no such folder" in told and "nowhere/banking77/train.csv" in told


def test_data_root_without_a_recipe_is_no_silent_option(workplace, capsys):
    assert main(["stage=finetune", "task=classification", "data_root=."]) == 2
    assert "data_root is not read here" in capsys.readouterr().err


def test_data_root_beside_a_recipe_that_generates_its_rows_is_no_mistake():
    assert command.compose_run(["experiment=short_answers", "data_root=/x"]).data_root == "/x"


def test_an_unknown_recipe_is_told_with_the_nearest(capsys):
    assert main(["experiment=bankin77"]) == 2
    assert "banking77" in capsys.readouterr().err


def test_keys_of_the_recipes_task_are_known():
    assert not read_words(["experiment=banking77", "task.class_weights=balanced"]).wrong
    assert read_words(["experiment=banking77", "task.generate_rows=3"]).wrong
