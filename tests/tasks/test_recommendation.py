"""Options of task=recommendation, cold items, negatives, predictions and bad models."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
import torch
from sklearn.metrics import log_loss, roc_auc_score
from transformers import AutoConfig

from llmstage.data.row_source import ListSource
from llmstage.errors import DataError, ModelError
from llmstage.models.pooling import text_vectors
from llmstage.models.recommender import NegativeSampler, decode_logits, fixed_uniform_numbers
from llmstage.tasks.base import RowError


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("recommendation", "bert", num_rows=12, context=48)


def changed(it, **options):
    """The same task with other options, and its features."""
    task = type(it.task)(replace(it.run.task, **options), it.run.generation)
    task.fit_labels(it.rows)
    task.attach_tokenizer(it.processor, it.context)
    return replace(it, task=task, features=[item for row in it.rows for item in task.encode(row)])


@torch.no_grad()
def loss_of(it, model=None, train=False, seed=0):
    model = (model or it.model()).train(train)
    torch.manual_seed(seed)
    part = it.task.loss(model, it.batch())
    return part.total.item(), part.logs


@torch.no_grad()
def predicted(it, model=None):
    return it.task.predict(model or it.model(), it.batch(), generate=False)


def test_history_is_cut_to_the_newest(it):
    row = it.rows[0]
    short = changed(it, history=3).task.encode(row)[0]
    long = it.task.encode(row)[0]
    names = [it.task.catalog.ids[index] for index in short.arrays["history"]]
    assert names == row["item"][-4:-1] and len(long.arrays["history"]) == len(row["item"]) - 1
    assert sorted(short.ref["seen"]) == sorted(long.ref["seen"])  # what is left out of the ranking stays the same


def test_files_to_score_in_which_nobody_has_a_past_are_told(it):
    rows = [{"user": f"u{number}", "item": f"i{number}"} for number in range(3)]
    task = type(it.task)(it.run.task, it.run.generation)
    given = {"test": ListSource("test", rows, "a list", task.columns.identity)}
    with pytest.raises(DataError, match="No user has two clicks"):
        task.build_splits(given, {}, it.run.data)


def test_aggregate_mean_weighs_all_equally(it):
    same, mean = changed(it), changed(it, aggregate="mean")
    model, other = same.model(), mean.model()
    for head in (model.extra, other.extra):
        head.recency.data[0] = 8.0
    assert [item["p"] for item in predicted(same, model)] != [item["p"] for item in predicted(mean, other)]
    events, values = torch.randn(1, 3, 32), torch.zeros(1, 3)
    mask = torch.tensor([[True, True, True]])
    told = other.extra.users(events, values, mask, None)
    assert torch.allclose(told, other.extra.users(events.flip(1), values, mask, None), atol=1e-5)
    assert not torch.allclose(told, model.extra.users(events, values, mask, None), atol=1e-3)


def test_seen_items_are_left_out_of_the_ranking_unless_told(it):
    for exclude in (True, False):
        task = changed(it, exclude_seen=exclude)
        shown = [
            set(item["top"]) & set(feature.ref["seen"])
            for item, feature in zip(predicted(task), task.features, strict=True)
        ]
        assert any(shown) is not exclude


def test_ratings_below_the_bar_are_explicit_negatives(it):
    strict = changed(it, positive_rating=5)
    assert strict.task.explicit and not it.task.explicit
    assert [feature.arrays["click"][0] for feature in strict.features] == [
        int(row["rating"][-1] >= 5) for row in it.rows
    ]
    assert all(not item["others"] for item in predicted(strict))
    assert all(len(item["others"]) == 4 for item in predicted(it))


def test_click_options_change_the_loss_and_the_score(it):
    assert all(len(item["others"]) == 2 for item in predicted(changed(it, click_negatives=2)))
    total, logs = loss_of(it)
    assert total == pytest.approx(logs["ranking"] + 0.2 * logs["click"], rel=1e-5)
    without, same = loss_of(changed(it, click_weight=0.0))
    assert without == pytest.approx(same["ranking"], rel=1e-5)


def test_negatives_are_drawn_anew_in_training_and_fixed_by_the_row_else(it):
    assert loss_of(it, seed=0) == loss_of(it, seed=1)
    assert loss_of(it, train=True, seed=0) == loss_of(it, train=True, seed=0)
    assert loss_of(it, train=True, seed=0) != loss_of(it, train=True, seed=1)
    assert loss_of(changed(it, negatives=8))[1]["ranking"] != loss_of(it)[1]["ranking"]


def test_drawn_items_have_the_chance_that_is_said():
    negatives = NegativeSampler(np.array([81, 16, 1, 0]))
    drawn = Counter(negatives.draw(fixed_uniform_numbers(list(range(200)), 400)).flatten().tolist())
    shares = torch.tensor([drawn[item] / 80_000 for item in range(4)])
    assert torch.allclose(shares, negatives.log_q.exp(), atol=0.01)
    assert negatives.log_q.exp().sum() == pytest.approx(1.0)


def test_many_draws_give_the_whole_softmax(it):
    """Importance-weighted draws estimate the same loss as all items at once."""
    wide = changed(it, negatives=20_000, click_weight=0.0)
    model = wide.model()
    batch = wide.batch()
    with torch.no_grad():
        sampled = wide.task.loss(model, batch).total.item()
        vectors, biases = wide.task.all_items(model)
        past = vectors[batch.inputs["history"].clamp(min=0)]
        users = model.extra.users(past, batch.inputs["values"], batch.inputs["history"] >= 0, None)
        logits = model.extra.rank(users, vectors, biases)
        for row, feature in enumerate(wide.features):
            logits[row, [index for index in feature.ref["seen"] if index != feature.ref["target"]]] = -torch.inf
        exact = torch.nn.functional.cross_entropy(logits, batch.inputs["item"], reduction="sum").item()
    assert sampled == pytest.approx(exact, rel=0.02)


def test_a_model_begins_from_co_clicks_unless_it_shall_not(it):
    """Before any step, items of the history's neighbourhood rank above others; a random start knows popularity alone."""
    known = it.task.catalog.ids[: it.task.catalog.num_known]
    found = it.task.co_clicks.vectors(known, 32)
    warm, cold = it.model(), changed(it, start="random")
    assert cold.task.co_clicks is None
    cold.task.fit_labels(it.rows)
    cold.task.attach_tokenizer(it.processor, it.context)
    torch.testing.assert_close(warm.extra.item_ids.weight.detach(), torch.from_numpy(found))
    assert torch.equal(warm.extra.user.weight, torch.eye(32))
    assert not torch.equal(cold.model().extra.user.weight, torch.eye(32))


def test_id_dropout_leaves_the_text_and_cold_items_have_nothing_else(it):
    text_only = changed(it, id_dropout=1.0)
    model = text_only.model().train()
    index = torch.arange(4)
    assert (
        not text_only.task.uses_item_weights(model, index).any()
        and it.task.uses_item_weights(model.eval(), index).all()
    )
    text = torch.randn(4, 32)
    head = model.extra
    cold, known = index + head.num_known, torch.ones(4, dtype=torch.bool)
    alone, bias = head.items(text, index, None, ~known)
    assert torch.equal(head.items(text, cold, None, known)[0], alone)
    assert torch.allclose(bias, head.text_bias(text).squeeze(-1))
    assert not torch.allclose(head.items(text, index, None, known)[0], alone)


def test_number_and_category_columns_reach_the_model(it):
    rows = [{**row, "age": str(20 + number), "country": "ab"[number % 2]} for number, row in enumerate(it.rows)]
    task = type(it.task)(replace(it.run.task, user_numbers=["age"], user_categories=["country"], item_numbers=["price"], item_categories=["shelf"]), it.run.generation)  # fmt: skip
    assert {"age", "country"} <= set(task.columns.optional) and {"price", "shelf"} <= set(task.tables["items"].optional)
    task.item_rows = {row["item"][-1]: {"price": str(at), "shelf": "xy"[at % 2]} for at, row in enumerate(rows)}
    task.fit_labels(rows)
    task.attach_tokenizer(it.processor, it.context)
    other = replace(it, task=task, features=[item for row in rows for item in task.encode(row)])
    assert len(other.features[0].arrays["user_columns"]) == 4 and task.catalog.features.shape[1] == 4
    model = other.model()
    before = [item["p"] for item in predicted(other, model)]
    model.extra.user_columns.weight.data += torch.randn_like(model.extra.user_columns.weight)
    assert before != [item["p"] for item in predicted(other, model)]
    before = [item["p"] for item in predicted(other, model)]
    model.extra.item_columns.weight.data.zero_()
    task._items = None  # weights written through .data do not count as changed
    assert before != [item["p"] for item in predicted(other, model)]


def test_a_batch_without_any_history_is_learned_from(it):
    row = {**it.rows[0], "item": it.rows[0]["item"][-1:], "text": it.rows[0]["text"][-1:], "rating": [5], "time": [1]}
    batch = it.task.collate([it.task.encode(row)])
    assert torch.isfinite(it.task.loss(it.model().train(), batch).total)
    assert text_vectors(it.model(), [], 0).shape == (0, 32)


def test_decode_ranks_excludes_and_draws():
    logits = torch.tensor([3.0, 2.0, 5.0, 1.0, 2.0])
    prediction = decode_logits(logits.clone(), logits, 4, [-1, 2], 7, num_others=2, exclude_seen=True)
    assert prediction["rank"] == 3 and prediction["top"] == [0, 1, 4, 3] and len(prediction["others"]) == 2
    assert prediction["p"] == pytest.approx(torch.sigmoid(torch.tensor(2.0)).item())
    assert decode_logits(logits.clone(), logits, 4, [-1, 2], 7, num_others=0, exclude_seen=False)["rank"] == 4


def test_scores_are_those_of_the_predictions(it):
    predictions = predicted(it)
    refs = [feature.ref for feature in it.features]
    scores = it.task.score(predictions, refs)
    ranks = np.array([item["rank"] for item in predictions])
    assert scores["hit@10"].value == pytest.approx((ranks <= 10).mean())
    p = [item["p"] for item in predictions] + [p for item in predictions for p in item["others"]]
    y = [1] * len(predictions) + [0] * (len(p) - len(predictions))
    assert scores["auc"].value == pytest.approx(roc_auc_score(y, p))
    assert scores["log_loss"].value == pytest.approx(log_loss(y, p), rel=1e-6)


def test_simple_methods_and_tables_stand_beside(it):
    refs = [feature.ref for feature in it.features]
    beside = it.task.baselines(it.rows, refs)
    assert set(beside) == {"popularity", "item-kNN", "TF-IDF of item texts"}
    assert all({"ndcg@10", "hit@10", "mrr"} <= scores.keys() for scores in beside.values())
    table = it.task.report_items(predicted(it), refs)[0]
    assert [row[0] for row in table["rows"]][:2] == ["all", "items in the training split"]
    line = it.task.records(predicted(it)[0], refs[0])[0]
    assert len(line["prediction"]) == 10 and {"item", "text", "probability"} == line["prediction"][0].keys()


def test_an_unknown_candidate_and_a_model_without_items_are_told(it):
    with pytest.raises(RowError, match="neither the training rows nor"):
        it.task.encode({"user": "u", "item": ["nowhere"]})
    with pytest.raises(ModelError, match="has no items"):
        type(it.task)(it.run.task, it.run.generation).load_config(AutoConfig.for_model("bert"))


def test_items_are_encoded_anew_after_an_optimizer_step(it):
    """A fused optimizer changes weights without counting it in their version."""
    model = it.model()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    with torch.no_grad():
        before = it.task.all_items(model)[0].clone()
        assert it.task.all_items(model)[0] is it.task.all_items(model)[0]
    it.task.loss(model, it.batch()).total.backward()
    optimizer.step()
    it.task.after_step(model)
    with torch.no_grad():
        assert not torch.allclose(before, it.task.all_items(model)[0])
