"""The kinds of target, several at once, and columns beside the text: what each option changes, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import f1_score
from transformers import AutoModelForSequenceClassification

from llmstage.cli.command import main
from llmstage.errors import DataError, ModelError, UserError
from llmstage.models.build import save_model
from llmstage.models.heads import HEADS, HeadOptions, build_head, load_head
from llmstage.tasks.base import RowError

FEATURES = ("task.features.numbers=[temperature,load]", "task.features.categories=[machine]")
SEVERAL = (
    "task.targets.topic=label",
    "task.targets.rush=ordinal",
    "task.targets.hours=number",
    "task.targets.all=multilabel",
)
VARIANTS = {
    "multilabel": ("task.target=multilabel",),
    "ordinal": ("task.target=ordinal",),
    "number": ("task.target=number",),
    "features": (*FEATURES, "task.features.ngrams=true"),
    "several": (*SEVERAL, *FEATURES),
}
MAIN = {"multilabel": "micro_f1", "ordinal": "qwk", "number": "mae", "features": "macro_f1", "several": "mean_score"}


@pytest.fixture(scope="module", params=VARIANTS)
def variant(request, tiny_task):
    return request.param, tiny_task("classification", "bert", context=96, num_rows=12, words=VARIANTS[request.param])


def fitted_head(target_type, values, **knobs):
    head = build_head(target_type, "label", HeadOptions(**knobs))
    for value in values:
        assert head.check_value(value) is None
        head.update(value)
    head.fit()
    return head


def test_every_way_learns_saves_and_comes_back_the_same(variant, tmp_path):
    name, it = variant
    assert it.task.select == MAIN[name]
    model = it.model(hidden_size=64, intermediate_size=128).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    batch = it.batch()
    full = it.task.loss(model.eval(), batch)
    halves = [it.task.loss(model, it.batch(part)) for part in (it.features[:5], it.features[5:])]
    assert full.count == sum(part.count for part in halves)
    assert float(full.total.detach()) == pytest.approx(sum(float(part.total.detach()) for part in halves), rel=1e-5)
    model.train()
    for _ in range(60):
        part = it.task.loss(model, batch)
        (part.total / part.count).backward()
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    with torch.no_grad():
        predictions = it.task.predict(model, batch, generate=False)
    scores = it.task.score(predictions, batch.refs)
    assert scores[it.task.select].value == pytest.approx(
        0.0 if name == "number" else 1.0, abs=0.6 if name == "number" else 0.1
    )
    for prediction, ref in zip(json.loads(json.dumps(predictions)), batch.refs, strict=True):
        (line,) = it.task.records(prediction, ref)
        json.dumps(line, allow_nan=False)
    for exhibit in it.task.report_items(predictions, batch.refs):
        json.dumps(exhibit, allow_nan=False)
    simple = it.task.baselines(it.task.demo_rows(40, 5), batch.refs)
    assert len(simple) == (4 if "numbers" in it.features[0].arrays else 2)
    assert all(method_scores.keys() == scores.keys() for method_scores in simple.values())
    save_model(model, it.processor, tmp_path)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path).eval()
    inputs = it.processor.tokenizer("水 and fire", return_tensors="pt")
    with torch.no_grad():
        torch.testing.assert_close(
            theirs(**inputs).logits, model(**inputs).logits, rtol=1e-5, atol=1e-5
        )  # text alone, nothing of ours
    adopted = type(it.task)(it.run.task, it.run.generation)
    adopted.load_config(theirs.config)
    adopted.attach_tokenizer(it.processor, it.context)
    assert [feature for row in it.rows for feature in adopted.encode(row)] == it.features


def test_several_targets_share_a_body_and_weights_change_the_loss(tiny_task):
    it = tiny_task("classification", "bert", context=96, words=SEVERAL)
    model, batch = it.model(), it.batch()
    one = it.task.loss(model, batch)
    it.task.options.weights["topic"] = 3.0
    two = it.task.loss(model, batch)
    it.task.options.weights.clear()
    topic_loss = one.logs["topic"] * len(batch.refs)
    assert float((two.total - one.total).detach()) == pytest.approx(
        2 * topic_loss, rel=1e-4
    ) and two.count == one.count + 2 * len(batch.refs)
    names = it.task.model_options()["id2label"].values()
    assert "topic=leak" in names and "hours=hours" in names
    with torch.no_grad():
        scores = it.task.score(it.task.predict(model, batch, generate=False), batch.refs)
    main_scores = [scores[key].value for key in ("topic/macro_f1", "rush/qwk", "hours/spearman", "all/micro_f1")]
    assert scores["mean_score"].value == pytest.approx(np.mean(main_scores))


def test_labels_of_a_list_or_a_text_and_rare_ones_dropped():
    head = fitted_head("multilabel", ["中国 公司", "公司", ["公司", "新冠"], ""], separator=" ", min_count=2)
    assert head.labels == ["公司"] and head.dropped == ["中国", "新冠"]
    assert head.encode("中国 公司") == [1.0] and head.encode("") == [0.0] and head.ref("新冠 公司 公司") == ["公司"]
    assert head.encode("外国 公司") == [1.0]  # no training row at all is fewer than two
    again = load_head(json.loads(json.dumps(head.as_dict())), HeadOptions(separator=" "))
    assert again.encode("外国 公司") == [1.0]
    with pytest.raises(ValueError, match=r"unknown label '外国'.*min_count"):
        fitted_head("multilabel", ["公司", "新冠"]).encode("外国")
    with pytest.raises(DataError, match=r"task\.min_count"):
        fitted_head("multilabel", ["a"], min_count=2)
    assert build_head("multilabel", "label", HeadOptions()).check_value({"a": 1})


def test_balanced_multilabel_weighs_as_torchs_pos_weight_and_smoothing_moves_targets():
    values, logits = ["a", "a,b", "a", "a"], torch.randn(4, 2)
    head = fitted_head("multilabel", values, class_weights="balanced")
    hits = torch.tensor([head.encode(value) for value in values])
    assert head.pos_weights == [1.0, 3.0]
    theirs = F.binary_cross_entropy_with_logits(logits, hits, pos_weight=torch.tensor([1.0, 3.0]))
    total, count = head.loss(logits, hits)
    assert float(total) / count == pytest.approx(float(theirs), rel=1e-5)
    smooth = fitted_head("multilabel", values, label_smoothing=0.2)
    theirs = F.binary_cross_entropy_with_logits(logits, hits * 0.8 + 0.1)
    assert float(smooth.loss(logits, hits)[0]) / 4 == pytest.approx(float(theirs), rel=1e-5)


def test_label_smoothing_is_torchs():
    head, logits = fitted_head("label", ["a", "b", "c"], label_smoothing=0.3), torch.randn(3, 3)
    total, count = head.loss(logits, torch.tensor([[0], [1], [2]]))
    theirs = F.cross_entropy(logits, torch.arange(3), label_smoothing=0.3)
    assert float(total) / count == pytest.approx(float(theirs), rel=1e-5)


def test_levels_are_ordered_by_value_or_as_told():
    assert fitted_head("ordinal", ["10", "9", "-1"]).labels == ["-1", "9", "10"]
    assert fitted_head("ordinal", ["high", "low"], order=["low", "mid", "high"]).labels == ["low", "mid", "high"]
    with pytest.raises(DataError, match=r"task\.order=\[lowest"):
        fitted_head("ordinal", ["high", "low"])
    with pytest.raises(DataError, match="does not name: mid"):
        fitted_head("ordinal", ["mid", "low"], order=["low", "high"])


def test_a_grade_is_the_expected_level_and_a_far_miss_costs_more():
    head = fitted_head("ordinal", [0, 1, 2, 3, 4])
    (prediction,) = head.decode(torch.log(torch.tensor([[0.4, 0.0001, 0.0001, 0.2999, 0.2999]])))
    assert prediction["label"] == "2"  # not the likeliest, but the one with the least squared distance
    logits = torch.tensor([[5.0, 0, 0, 0, 0]])
    costs = [float(head.loss(logits, torch.tensor([[level]]))[0]) for level in range(5)]
    assert costs == sorted(costs) and costs[4] > costs[1] + 2


def test_numbers_are_learned_standardised_and_said_in_their_unit():
    head = fitted_head("number", ["100", 300, "500"])
    assert head.mean == 300 and [round(head.encode(value)[0], 3) for value in ("100", 300)] == [-1.225, 0.0]
    assert head.decode(torch.tensor([[1.0]]))[0]["value"] == pytest.approx(300 + head.std)
    assert "text, not a number" in head.check_value("dear") and head.check_value("") == "label is empty"
    with pytest.raises(DataError, match="nothing to learn"):
        fitted_head("number", [5, 5, 5])


def test_the_positive_label_is_the_rarer_one_or_as_told():
    values = ["no"] * 5 + ["yes"] * 2
    assert (
        fitted_head("label", values).positive == "yes" and fitted_head("label", values, positive="no").positive == "no"
    )
    assert fitted_head("label", [0, 1]).positive == "1" and fitted_head("label", ["a", "b", "c"]).positive is None
    with pytest.raises(DataError, match=r"task\.positive=maybe"):
        fitted_head("label", values, positive="maybe")


def test_a_tuned_threshold_raises_f1_and_a_temperature_lowers_ece_and_both_are_saved():
    rng = np.random.default_rng(3)
    truth = rng.random(600) < 0.1
    refs = ["yes" if hit else "no" for hit in truth]
    score = rng.normal(-4 + 2.5 * truth, 1.2)
    logits = torch.from_numpy(np.stack([np.zeros(600), 3 * score], axis=1))  # three times too sure
    head = fitted_head("label", ["no"] * 9 + ["yes"], threshold="tuned", temperature="scaled")
    before = head.decode(logits)
    head.tune(before, refs)
    after = head.decode(logits)
    is_positive = [[item["label"] == "yes" for item in predictions] for predictions in (before, after)]
    assert f1_score(truth, is_positive[1]) > f1_score(truth, is_positive[0]) + 0.1
    assert head.temperature > 1.5 and head.score(after, refs)["ece"].value < head.score(before, refs)["ece"].value
    likeliest = [np.argmax(item["log_p"]) for item in before] == [np.argmax(item["log_p"]) for item in after]
    assert likeliest and load_head(json.loads(json.dumps(head.as_dict())), HeadOptions()).decode(logits) == after
    assert head.score(after, refs)["average_precision"].value == pytest.approx(
        head.score(before, refs)["average_precision"].value
    )


def test_each_label_gets_its_own_threshold():
    rng = np.random.default_rng(4)
    hits = rng.random((500, 2)) < (0.4, 0.05)
    logits = torch.from_numpy(rng.normal(-2.0 + 2 * hits, 1.0))
    refs = [[name for name, hit in zip("ab", row, strict=True) if hit] for row in hits]
    head = fitted_head("multilabel", ["a,b", "a"], threshold="tuned", temperature="scaled")
    before = head.score(head.decode(logits), refs)
    head.tune(head.decode(logits), refs)
    assert head.thresholds[0] != head.thresholds[1]
    assert head.score(head.decode(logits), refs)["macro_f1"].value > before["macro_f1"].value
    assert fitted_head("multilabel", ["a,b"], threshold=0.1).decode(torch.tensor([[-2.0, -3.0]]))[0]["labels"] == ["a"]


def test_every_kind_has_a_head():
    assert set(HEADS) == {"label", "multilabel", "ordinal", "number"}


@pytest.mark.parametrize(
    ("words", "row", "reason"),
    [
        ((), {"text": 12, "label": "a"}, "number_text=convert"),
        (FEATURES[:1], {"temperature": "hot", "label": "a"}, "temperature: 'hot' is text"),
        (VARIANTS["number"], {"text": "x", "label": "dear"}, "is text, not a number"),
        (VARIANTS["multilabel"], {"text": "x", "label": 1.5}, "neither a list"),
    ],
)
def test_bad_rows_of_each_kind(tiny_task, words, row, reason):
    assert reason in tiny_task("classification", "bert", words=words).task.check_row(row)


def test_a_text_column_of_numbers_is_refused_or_converted(tiny_task):
    rows = [{"text": str(number), "label": "ab"[number % 2]} for number in range(9)]
    task = tiny_task("classification", "bert").task
    with pytest.raises(DataError, match="9 of 9 training texts are bare numbers"):
        task.fit_labels(rows)
    task.fit_labels([*rows, *({"text": "words", "label": "a"} for _ in range(10))])  # a few are told and read as text
    other = tiny_task("classification", "bert", words=("task.number_text=convert",)).task
    other.fit_labels(rows)
    assert other.check_row({"text": 5, "label": "a"}) is None and other.texts({"text": 5}) == ["5"]


def test_a_model_for_other_targets_or_columns_is_refused(tiny_task):
    it = tiny_task("classification", "bert", words=VARIANTS["ordinal"])
    config = it.model().config
    with pytest.raises(ModelError, match=r"trained for label \(ordinal\)"):
        tiny_task("classification", "bert").task.load_config(config)


def test_a_models_ngrams_come_back_without_being_asked_for(tiny_task):
    config = tiny_task("classification", "bert", words=("task.features.ngrams=true",)).model().config
    task = tiny_task("classification", "bert").task
    assert task.extra_module(config) is None
    task.load_config(config)
    assert task.extra_module(config).grams is not None


def test_a_column_has_one_role(tiny_task):
    with pytest.raises(UserError, match="only one of them"):
        tiny_task("classification", "bert", words=("task.features.numbers=[label]",))
    with pytest.raises(UserError, match="data=demo has no feature column price"):
        tiny_task("classification", "bert", words=("task.features.numbers=[price]",))


SENSORS = "speed,kind,fails\n" + "".join(
    f"{number % 17},{'AB'[number % 2]},{int(number % 17 > 12)}\n" for number in range(200)
)


def write(path, text):
    Path(path).write_text(text, encoding="utf-8")
    return path


def sensors(*words):
    return main(["stage=finetune", "task=classification", "trainer=smoke", "data.columns.label=fails", *words])


def test_records_without_text_train_and_evaluate_repeats_them(workplace, capsys):
    write("a.csv", SENSORS.replace("\n3,", "\nNA,", 1))
    words = [
        "data.train=a.csv",
        "task.features.numbers=[speed]",
        "task.features.categories=[kind]",
        "task.threshold=tuned",
    ]
    assert sensors(*words, "hydra.run.dir=run") == 0, capsys.readouterr().err
    trained = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert {"average_precision", "roc_auc"} <= trained["scores"]["test"].keys()
    assert "columns, logistic regression" in trained["baselines"]["methods"]
    assert main(["stage=evaluate", "model.path=run", "hydra.run.dir=again"]) == 0, capsys.readouterr().err
    assert (
        json.loads(Path("again/report.json").read_text(encoding="utf-8"))["scores"]["test"] == trained["scores"]["test"]
    )


@pytest.mark.parametrize(
    ("text", "words", "status", "message"),
    [
        (
            SENSORS.replace("\n5,", "\nfast,", 1),
            ("task.features.numbers=[speed]",),
            3,
            "a.csv:7: speed: 'fast' is text",
        ),
        (SENSORS, ("task.features.numbers=[sped]",), 3, "no column fits 'sped'"),
        (SENSORS, ("task.features.numbers=[speed]", "task.min_count=2"), 2, "no target is multilabel"),
        (SENSORS, ("task.targets.fails=label", "task.target=ordinal"), 2, "task.targets names the targets"),
        (SENSORS, ("task.targets.fails=lable",), 2, "lable"),
        (SENSORS, ("task.weights.fails=2",), 2, "there is one target"),
        (SENSORS, ("data.columns.text=speed",), 3, "bare numbers"),
    ],
)
def test_mistakes_are_told(workplace, capsys, text, words, status, message):
    write("a.csv", text)
    assert sensors("data.train=a.csv", *words) == status
    assert message in capsys.readouterr().err


def test_a_label_seen_only_in_test_is_named_or_quarantined(workplace, capsys):
    write("a.csv", SENSORS)
    write("t.csv", "speed,kind,fails\n3,A,0\n4,A,2\n15,B,1\n")
    words = ("data.train=a.csv", "data.test=t.csv", "task.features.numbers=[speed]")
    assert sensors(*words) == 3
    assert "t.csv:3: unknown label '2'" in capsys.readouterr().err
    assert sensors(*words, "data.on_bad_row=quarantine", "hydra.run.dir=run") == 0
    assert "unknown label '2'" in Path("run/quarantine.jsonl").read_text(encoding="utf-8")
    with pytest.raises(RowError):
        raise RowError("kept for the loader")
