"""Windows, spans and their characters; questions without an answer; the written style; which model fits which."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from llmstage.cli.command import main
from llmstage.config.run import GenerationConfig
from llmstage.config.task import QuestionAnswering as Config
from llmstage.models.answer_spans import best_of, best_spans, confidences
from llmstage.tasks.question_answering import TASK, Extractive, Generative

WORDS = [
    "the",
    "red",
    "fox",
    "ran",
    "over",
    "the",
    "old",
    "hill",
    "老狐狸跑过了那座山。",
    "it",
    "met",
    "37",
    "𠀀geese,",
    "two",
    "hens",
    "和一只鸭子",
]
LONG = " ".join(WORDS * 12)


@pytest.fixture(scope="module")
def it(tiny_task):
    return tiny_task("question_answering", "bert", context=48)


@pytest.fixture(scope="module")
def written(tiny_task):
    return tiny_task("question_answering", "gpt", context=64)


def row_of(answer: str, context: str = LONG, question: str = "谁 met the fox?"):
    at = context.rindex(answer)
    return {"question": question, "context": context, "answers": [{"text": answer, "answer_start": at}]}


def changed(it, **keys):
    task = TASK(replace(it.run.task, **keys), it.run.generation)
    task.fit_labels(it.rows)
    task.attach_tokenizer(it.processor, it.context)
    return task


def test_windows_cover_the_context_and_share_the_stride(it):
    for stride in (5, 12):
        windows, cut = changed(it, stride=stride)._windows("谁 met the fox?", LONG)
        assert cut == 0 and len(windows) > 4 and all(len(window.ids) <= 48 for window in windows)
        encoding = it.processor._plain.encode(LONG, add_special_tokens=False)
        seen = windows[0].offsets + [offset for window in windows[1:] for offset in window.offsets[stride:]]
        assert seen == encoding.offsets, "nothing lost, and only the stride twice"
        question = it.processor.plain_ids(["谁 met the fox?"])[0]
        assert all(window.ids[1 : 1 + len(question)] == question for window in windows)
    few, _ = changed(it, stride=1)._windows("谁 met the fox?", LONG)
    assert len(few) < len(windows)


def test_a_question_longer_than_half_of_the_context_is_cut_and_counted(it):
    features = it.task.encode({"question": LONG, "context": "a hill", "answers": "hill"})
    assert features[0].cut > 0 and all(len(item.input_ids) <= it.context for item in features)
    assert "hill" in it.processor.decode(features[0].input_ids)


@pytest.mark.parametrize("answer", ["fox", "37", "𠀀geese", "狐狸", "山", "hill 老狐", "old hill"])
def test_a_span_goes_to_tokens_and_back_to_the_same_characters(it, answer):
    row = row_of(answer)
    start = row["answers"][0]["answer_start"]
    held = 0
    for features, window in zip(it.task.encode(row), it.task._windows(row["question"], LONG)[0], strict=True):
        none, first, stop, a, b = features.arrays["place"]
        if (a, b) == (none, none):
            assert window.offsets[0][0] > start or window.offsets[-1][1] < start + len(answer)
            continue
        held += 1
        assert first <= a <= b < stop
        at, end = window.characters_of(a, b, LONG)
        assert (at, LONG[at:end]) == (start, answer)
    assert held >= 1


def test_an_answer_that_no_window_holds_is_a_lost_target(it):
    features = it.task.encode(row_of(LONG[10:400]))
    assert features[0].cut_targets == 1 and sum(item.cut_targets for item in features) == 1


def test_best_spans_are_those_of_a_search_over_all_pairs():
    torch.manual_seed(0)
    start, end = torch.randn(2, 9).log_softmax(1), torch.randn(2, 9).log_softmax(1)
    inside = torch.zeros(2, 9, dtype=torch.bool)
    inside[0, 2:8] = inside[1, 4:9] = True
    for longest in (1, 3, 20):
        scores, first, last = best_spans(start, end, inside, longest, 4)
        for row in range(2):
            pairs = [
                (float(start[row, a] + end[row, b]), a, b)
                for a in range(9)
                for b in range(a, min(9, a + longest))
                if inside[row, a] and inside[row, b]
            ]
            expected = sorted(pairs, reverse=True)[:4]
            result = list(zip(scores[row].tolist(), first[row].tolist(), last[row].tolist(), strict=True))
            assert [item[1:] for item in result] == [item[1:] for item in expected]
            assert [item[0] for item in result] == pytest.approx([item[0] for item in expected])


@torch.no_grad()
def test_no_span_is_longer_than_asked_and_as_many_are_kept_as_asked(it):
    model = it.model()
    plain = "1234567890" * 12  # a token each
    for most, count in ((1, 3), (4, 6)):
        task = changed(it, max_answer_tokens=most, n_best=count)
        features = task.encode(row_of("567", plain))
        predictions = task.predict(model, task.collate([[item] for item in features]), generate=False)
        for one in predictions:
            assert len(one["spans"]) == count and one["spans"] == sorted(one["spans"], key=lambda span: -span[2])
            for start, end, _ in one["spans"]:
                assert 0 < end - start <= most
        merged, refs, rows = task.merge(predictions, [item.ref for item in features], [3] * len(features))
        assert len(merged) == len(refs) == 1 and rows == [3]
        best = max((span for one in predictions for span in one["spans"]), key=lambda span: span[2])
        assert merged[0]["spans"][0] == best
        assert merged[0]["none"] == min(one["none"] for one in predictions)
        (record,) = task.records(merged[0], refs[0])
        assert record["prediction"] == plain[record["start"] : record["end"]] and len(record["n_best"]) == count
        assert 0 < record["confidence"] <= 1


def test_the_same_place_in_two_windows_counts_once():
    assert best_of([[[1, 2, -3.0], [4, 5, -1.0]], [[1, 2, -2.0]]], 5) == [[4, 5, -1.0], [1, 2, -2.0]]
    assert confidences([-1.0, -1.0], float("-inf")) == [0.5, 0.5, 0.0]
    assert sum(confidences([-1.0, -4.0], -2.0)) == pytest.approx(1.0)


def test_the_threshold_is_tuned_saved_and_decides(it):
    task = changed(it, unanswerable=True)
    refs = [task.ref_of({"question": "?", "context": "a fox", "answers": a}) for a in ("fox", "fox", "", "")]
    predictions = [{"spans": [[2, 5, -1.0]], "none": none} for none in (-9.0, 1.0, 3.0, 4.0)]
    assert task.needs_tuning and task.score(predictions, refs)["f1"].value == 0.75
    task.tune(predictions, refs)
    assert 2.0 <= task.threshold < 4.0
    scores = task.score(predictions, refs)
    assert scores["f1"].value == scores["no_answer_accuracy"].value == 1.0
    model = replace(it, task=task).model()
    again = TASK(it.run.task, it.run.generation)
    again.load_config(model.config)
    assert again.has_unanswerable and again.threshold == task.threshold
    assert "never an answer" in task.baselines(it.rows, refs)
    record = task.records(predictions[3], refs[3])[0]
    assert record["prediction"] == "" and record["start"] is None and record["correct"] is True


def test_unanswerable_is_found_in_the_training_rows_or_set(it):
    none = {"question": "?", "context": "a fox", "answers": []}
    for setting, rows, silent in (
        ("auto", it.rows, False), ("auto", [*it.rows, none], True), (True, it.rows, True), (False, it.rows, False),
    ):  # fmt: skip
        task = TASK(replace(it.run.task, unanswerable=setting), it.run.generation)
        task.fit_labels(rows)
        assert task.has_unanswerable is silent
    assert "task.unanswerable=false" in task.check_row(none)
    assert any(row["is_impossible"] for row in changed(it, unanswerable=True).demo_rows(40, 0))
    # An answer is given, however unlikely, where there is always one.
    assert task.answer({"spans": [[2, 5, -50.0]], "none": 0.0}, {"context": "a fox"}) == "fox"


def test_answers_in_several_places_are_told(it, capsys):
    changed(it).fit_labels([{"question": "?", "context": "a fox, a fox", "answers": "fox"}])
    assert "1 answers without answer_start occur more than once" in capsys.readouterr().err


def test_match_features_are_weights_of_ours_and_change_the_loss(it, tmp_path):
    from llmstage.models.build import build_model, save_model
    from llmstage.paths import locate_model

    task = changed(it, match_features=True)
    tiny = replace(it, task=task, features=[item for row in it.rows for item in task.encode(row)])
    model = tiny.model()
    batch = tiny.batch()
    assert batch.inputs["matches"].shape == (*batch.inputs["input_ids"].shape, 3)
    question = task.encode(row_of("fox", "a cat. a fox met 37 hens.", "who met hens?"))[0]
    marked = [number for number, value in enumerate(question.arrays["match"]) if value]
    words = it.processor.decode([question.input_ids[number] for number in marked])
    assert "met" in words and "hens" in words and "fox" not in words
    with torch.no_grad():
        plain = float(task.loss(model, batch).total)
        model.extra.weight.zero_()
        without = float(task.loss(model, batch).total)
        model.extra.weight.normal_()
    assert plain != without
    theirs = it.task.loss(tiny.model(), it.batch()).total  # a model without them sees the same as with weights of zero
    assert float(theirs.detach()) == pytest.approx(without, rel=1e-4)
    save_model(model, it.processor, tmp_path)
    again = TASK(it.run.task, it.run.generation)
    again.load_config(model.config)
    again.attach_tokenizer(it.processor, it.context)
    loaded = build_model(
        it.run.model, again.auto_model, it.processor, it.context, again.model_options(), locate_model(str(tmp_path)),
        offline=True, extra=again.extra_module,
    )  # fmt: skip
    assert torch.equal(loaded.extra.weight, model.extra.weight)


def test_the_written_style_reads_context_and_question_and_learns_the_answer(written):
    task = written.task
    assert isinstance(task, Generative)
    (one,) = task.encode(row_of("37", "it met 37 geese", "how many?"))
    length = len(one.input_ids) - sum(one.arrays["target"])
    assert written.processor.decode(one.input_ids[:length]) == "it met 37 geese\nhow many?\n"
    assert written.processor.decode(one.input_ids[length:]) == "37" and one.input_ids[-1] == written.processor.eos_id
    assert one.cut == 0
    (none,) = task.encode({"question": "who?", "context": "it met 37 geese", "answers": []})
    assert sum(none.arrays["target"]) == 1, "no answer is the end alone"


def test_what_a_long_context_loses_is_counted_and_not_told_by_the_answer(written):
    context = "over the old hill " * 20 + "zebra 42 crossing " + "over the old hill " * 20
    row = row_of("42", context, "the zebra crossing?")
    (one,) = written.task.encode(row)
    context_length = len(written.processor.plain_ids([context])[0])
    prompt = len(one.input_ids) - sum(one.arrays["target"])
    remaining = prompt - 1 - len(written.processor.plain_ids(["the zebra crossing?"])[0]) - 2
    assert len(one.input_ids) <= written.context and one.cut == context_length - remaining > 0
    text = written.processor.decode(one.input_ids[:prompt])
    assert "zebra 42 crossing" in text
    (other,) = written.task.encode({**row, "answers": [{"text": "over the old hill", "answer_start": 0}]})
    assert other.input_ids[:prompt] == one.input_ids[:prompt]
    (long,) = written.task.encode(row_of(context[:300], context, "the zebra crossing?"))
    assert long.cut_targets > 0 and long.lost_end and len(long.input_ids) == written.context


@torch.no_grad()
def test_rows_that_were_not_answered_have_no_score(written):
    batch = written.batch()
    model = written.model()
    silent = written.task.predict(model, batch, generate=False)
    assert "f1" not in written.task.score(silent, batch.refs) and "perplexity" in written.task.score(silent, batch.refs)
    predictions = written.task.predict(model, batch, generate=True)
    assert written.task.score([*predictions[:3], *silent[3:]], batch.refs)["f1"].count == 3
    (record,) = written.task.records(predictions[0], batch.refs[0])
    assert record["ended"] in (True, False) and record["context"] and record["log_probability"] < 0


def test_the_style_chooses_the_class():
    assert isinstance(TASK(Config(style="extract"), GenerationConfig()), Extractive)
    assert isinstance(TASK(Config(style="generate"), GenerationConfig()), Generative)
    assert Config(model_families=["bert", "gpt", "t5"]).takes() == ["bert"]
    assert Config(model_families=["bert", "gpt", "t5"], style="generate").takes() == ["gpt", "t5"]


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["model=gpt_tiny"], "It takes: model=bert_tiny.*With task.style=generate it does"),
        (
            ["task.style=generate"],
            "does not fit model=bert_tiny.*It takes: model=gpt_tiny.*With task.style=extract it does",
        ),
        (
            ["task.style=generate", "model=gpt_tiny", "task.stride=8"],
            "task.stride is not read here: task.style=generate",
        ),
        (["generation.num_beams=2"], "generation.num_beams is not read here"),
    ],
)
def test_what_does_not_fit_the_style_is_refused_before_the_run(words, reason, workplace, capsys):
    import re

    assert main(["stage=finetune", "task=question_answering", *words]) == 2
    assert re.search(reason, " ".join(capsys.readouterr().err.split()))
    assert not list(workplace.iterdir())


SMALL = [
    "stage=finetune", "task=question_answering", "trainer=smoke", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2",
    "model.intermediate_size=48", "data.demo_rows=60",
]  # fmt: skip


@pytest.mark.parametrize(
    "words", [["task.unanswerable=true", "task.match_features=true"], ["task.style=generate", "model=gpt_tiny"]]
)
def test_evaluate_repeats_the_scores_of_either_style(words, workplace):
    assert main([*SMALL, *words, "hydra.run.dir=run"]) == 0
    assert main(["stage=evaluate", "model.path=run", "hydra.run.dir=again"]) == 0
    first, second = (json.loads(Path(name, "report.json").read_text(encoding="utf-8")) for name in ("run", "again"))
    assert first["scores"]["test"] == second["scores"]["test"] and first["scores"]["test"]["f1"]["count"] > 0
    assert {"sliding window span", "first sentence"} <= first["baselines"]["methods"].keys()
    assert "the best simple method" in first["baselines"]["verdict"]
    lines = [json.loads(line) for line in Path("run/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
    assert all({"prediction", "reference", "start", "end", "question", "context"} <= line.keys() for line in lines)
