"""Pairs, labels, class weights, and scores against scikit-learn."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score, log_loss, matthews_corrcoef
from sklearn.utils.class_weight import compute_class_weight
from transformers import AutoConfig

from llmstage.data.encoding.store import encode_split
from llmstage.data.row_source import ListSource
from llmstage.errors import DataError, ModelError
from llmstage.tasks.base import RowError

ROWS = [{"text": f"text {number}", "label": label} for number, label in enumerate("baabbbcb")]


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("classification", "bert", context=32)


def learned(it, rows, **words):
    task = type(it.task)(it.run.task, it.run.generation)
    for key, value in words.items():
        setattr(task.cfg, key, value)
    task.fit_labels(rows)
    task.attach_tokenizer(it.processor, it.context)
    return task


def test_a_pair_is_marked_as_the_tokenizer_marks_it(it):
    ids, types, cut = it.processor.marked_ids("water is wet", "火很热", 32)
    theirs = it.processor.tokenizer("water is wet", "火很热", return_token_type_ids=True)
    assert ids == theirs["input_ids"] and types == theirs["token_type_ids"] and cut == 0
    (features,) = it.task.encode({"text": "water is wet", "text_pair": "火很热", "label": it.task.labels[0]})
    assert features.input_ids == ids and features.ref["text_pair"] == "火很热"
    (single,) = it.task.encode({"text": "water is wet", "text_pair": "", "label": it.task.labels[0]})
    assert single.input_ids == it.processor.tokenizer("water is wet")["input_ids"]


@pytest.mark.parametrize(("first", "second"), [(40, 5), (5, 40), (40, 40), (20, 21), (0, 60), (60, 0)])
def test_the_longer_of_two_gives_way(it, first, second):
    a, b = "1" * first, "2" * second  # digits are tokens of their own
    ids, types, cut = it.processor.marked_ids(a, b or None, 32)
    room = 32 - (3 if b else 2)
    text = it.processor.tokenizer.decode(ids)
    kept_a, kept_b = text.count("1"), text.count("2")
    assert len(ids) == len(types) == 32 and kept_a + kept_b == room and cut == first + second - room
    if first and second:
        small = min(first, second)
        assert min(kept_a, kept_b) >= min(small, room // 2)  # the shorter loses nothing while the longer can give
    assert ids[0] == it.processor.bos_id and ids[-1] == it.processor.eos_id  # marks are never cut


def test_labels_are_sorted_and_numbers_by_value(it):
    assert learned(it, ROWS).labels == ["a", "b", "c"]
    assert learned(it, [{"text": "x", "label": value} for value in (10, 9, 2, -1)]).labels == ["-1", "2", "9", "10"]
    assert learned(it, [{"text": "x", "label": value} for value in ("乙", "甲")]).model_options()["id2label"] == {
        0: "乙",
        1: "甲",
    }


@pytest.mark.parametrize(
    ("labels", "reason"), [(["a", "a"], "1 label"), (["a", 1], "different types"), ([True, "a"], "different types")]
)
def test_labels_that_cannot_be_learned(it, labels, reason):
    with pytest.raises(DataError, match=reason):
        learned(it, [{"text": "x", "label": label} for label in labels])


def test_balanced_weights_are_scikit_learns_and_change_the_loss(it):
    plain = learned(it, ROWS, class_weights="none")
    weighted = learned(it, ROWS, class_weights="balanced")
    y = np.array([row["label"] for row in ROWS])
    weights = compute_class_weight("balanced", classes=np.array(["a", "b", "c"]), y=y)
    assert weighted.heads[0].weights == pytest.approx(weights.tolist()) and plain.heads[0].weights is None
    model = replace(it, task=weighted).model(seed=3)
    batch = weighted.collate([weighted.encode(row) for row in ROWS])
    with torch.no_grad():
        log_p = torch.log_softmax(model(**batch.inputs).logits, -1).numpy()
        one, two = weighted.loss(model, batch), plain.loss(model, batch)
    index = np.searchsorted(["a", "b", "c"], y)
    nll = -log_p[np.arange(len(y)), index]
    by_row = weights[index]
    assert float(one.total) / one.count == pytest.approx((by_row * nll).sum() / by_row.sum(), rel=1e-5)
    assert float(one.total) / one.count == pytest.approx(
        log_loss(index, np.exp(log_p), sample_weight=by_row, labels=range(log_p.shape[1])), rel=1e-4
    )
    assert float(two.total) / two.count == pytest.approx(nll.mean(), rel=1e-5)
    plain.cfg.class_weights = "none"


def test_an_unknown_label_is_named_with_its_place(it):
    task = learned(it, ROWS)
    rows = [*ROWS[:2], {"text": "new", "label": "d"}]
    with pytest.raises(DataError, match=r"validation:3: unknown label 'd'; the model knows: a, b, c"):
        encode_split(
            ListSource("validation", rows, "x"), task.encode_many, task.num_targets, 600,
            refs_of_rows=None, on_row_error=RowError, cache=None, key={},
        )  # fmt: skip


def test_a_trained_models_labels_are_taken_over(it):
    task = type(it.task)(it.run.task, it.run.generation)
    task.load_config(AutoConfig.for_model("bert", id2label={0: "b", 1: "a"}))
    assert task.labels == ["b", "a"]  # the model's order, not the alphabet's
    task.load_config(AutoConfig.for_model("bert", num_labels=3))
    assert task.labels == ["0", "1", "2"]


@torch.no_grad()
def test_scores_equal_scikit_learn_on_the_predictions(it):
    model = it.model(seed=5)
    task = it.task
    rows = task.demo_rows(60, 9)
    batch = task.collate([task.encode(row) for row in rows])
    predictions = task.predict(model, batch, generate=False)
    log_p = F.log_softmax(model(**batch.inputs).logits, -1)
    predicted, expected = [item["label"] for item in predictions], [row["label"] for row in rows]
    assert predicted == [task.labels[index] for index in log_p.argmax(-1)]
    scores = task.score(predictions, batch.refs)
    assert scores["accuracy"].value == pytest.approx(accuracy_score(expected, predicted))
    assert scores["macro_f1"].value == pytest.approx(f1_score(expected, predicted, average="macro"))
    assert scores["mcc"].value == pytest.approx(matthews_corrcoef(expected, predicted))
    assert scores["loss"].value == pytest.approx(log_loss(expected, log_p.exp().numpy(), labels=task.labels), rel=1e-4)
    assert not scores["loss"].higher_is_better


@torch.no_grad()
def test_a_model_with_other_classes_is_refused(it):
    other = learned(it, ROWS)
    with pytest.raises(ModelError, match="classes"):
        other.predict(it.model(), other.collate([other.encode(ROWS[0])]), generate=False)


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"text": " ", "label": "a"}, "empty"),
        ({"text": None, "label": "a"}, "not text"),
        ({"text": "x", "text_pair": 3, "label": "a"}, "not text"),
        ({"text": "x", "label": None}, "label None"),
        ({"text": "x", "label": 1.5}, "label 1.5"),
        ({"text": "x", "label": ""}, "label ''"),
    ],
)
def test_bad_rows_are_told(it, row, reason):
    assert reason in it.task.check_row(row)
