"""Which rows are scored."""

from __future__ import annotations

import numpy as np
import torch

from llmstage.data.encoding.order import evenly_spaced
from llmstage.data.encoding.store import ExampleWriter
from llmstage.evaluation.scoring import score_split
from llmstage.training.machine import Machine


def test_rows_are_spread_evenly_over_a_sorted_split():
    rows = np.arange(1000)
    assert evenly_spaced(rows, 4).tolist() == [0, 250, 500, 750]
    assert evenly_spaced(rows, 0).tolist() == []
    assert evenly_spaced(rows, None) is rows and evenly_spaced(rows, 2000) is rows
    assert len(set(evenly_spaced(rows, 999).tolist())) == 999


def test_rows_looked_at_alone_get_the_predictions_that_they_get_among_all(tiny_task):
    it = tiny_task("classification", "bert", num_rows=12)
    writer = ExampleWriter(None, "uint16")
    for row, features in enumerate(it.features):
        writer.add(features.arrays, row)
        writer.refs.append(features.ref)
    store, model = writer.finish(), it.model()
    machine = Machine(torch.device("cpu"), 1, "fp32", "")
    keys = {"precision": "fp32", "batch_tokens": 4096, "packing": False}
    full = score_split(model, it.task, store, machine, **keys)
    few = score_split(model, it.task, store, machine, **keys, among=np.array([2, 5, 99]), metrics=False)
    assert few.rows == [2, 5] and few.refs == [full.refs[at] for at in few.rows] and few.scores == {}
    assert it.task.errors(few.predictions, few.refs).values == [
        it.task.errors(full.predictions, full.refs).values[at] for at in few.rows
    ]
