"""What weak slices need of every task: features of its rows, one vector for each row, and a copy that learns."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf

from llmstage.explore.elicit import mean_error, trained_copy
from llmstage.explore.hidden_states import group_rows, row_vectors
from llmstage.explore.row_features import RowFeatures
from llmstage.paths import conf_dir, options
from llmstage.tasks.base import UNSCORED
from llmstage.training.machine import Machine


def keys_of(name):
    loaded = OmegaConf.load(conf_dir() / "task" / f"{name}.yaml")
    return loaded.get("task") or loaded


CASES = [(name, model_family) for name in options("task") for model_family in keys_of(name).model_families]
each_task = pytest.mark.parametrize("case", CASES, ids=lambda case: "-".join(case))
CPU = Machine(torch.device("cpu"), 1, "fp32", "")


@pytest.fixture(scope="module")
def tiny(tiny_task):
    return cache(lambda name, model_family: tiny_task(name, model_family, context=224, num_rows=8))


def examples_of(it):
    return [[item for item in it.task.encode(row) if item.ref != UNSCORED] for row in it.rows]


@each_task
def test_rows_have_words_and_a_vector_that_does_not_depend_on_its_neighbours(case, tiny):
    it = tiny(*case)
    known = RowFeatures(it.task.texts, lambda texts: [len(ids) for ids in it.processor.plain_ids(texts)], None)
    table = known.table(it.rows)
    assert "length" in table and all(len(cells) == len(it.rows) for cells in table.values())
    model, rows = it.model(), examples_of(it)
    vectors = row_vectors(it.task, model, rows, CPU.device)
    assert vectors.shape[0] == len(rows) and vectors.shape[1] >= 16 and np.isfinite(vectors).all()
    assert len(np.unique(vectors.round(9), axis=0)) > 1
    alone = row_vectors(it.task, model, rows[2:3], CPU.device)
    np.testing.assert_allclose(alone[0], vectors[2], rtol=1e-3, atol=1e-4)


@each_task
def test_a_copy_learns_a_few_rows_and_the_model_stays_as_it_was(case, tiny):
    it = tiny(*case)
    if not it.task.additive_loss:
        pytest.skip("the task scores rows against each other: it is not elicited, and the report says so")
    model, rows = it.model(), examples_of(it)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = trained_copy(it.task, model, rows[:4], rows[4:], CPU, steps=3, seed=0)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert any(not torch.equal(value, before[name]) for name, value in trained.state_dict().items())
    error = mean_error(it.task, model, rows, CPU)
    assert error is not None and error >= 0


def test_groups_of_vectors_are_named_by_their_words():
    rng = np.random.default_rng(0)
    middles = np.array([[0.0] * 6, [4.0] * 6])
    side = rng.integers(0, 2, 300)
    texts = [["my card is lost today", "我要退款退款"][at] for at in side]
    groups = group_rows(middles[side] + rng.normal(size=(300, 6)), texts, seed=0)
    assert groups is not None and len(groups.names) == 3
    assigned = groups.assign(middles)
    assert "退款" in assigned[1] and assigned[0] != assigned[1]
    assert groups.assign(np.zeros((0, 6))) == []
    assert group_rows(rng.normal(size=(30, 6)), ["x"] * 30, seed=0) is None  # too few rows to tell groups
    assert len(group_rows(rng.normal(size=(30, 6)), ["x"] * 30, seed=0, num_groups=4).names) == 4
