"""Visual reasoning: three ways to answer, their vocabulary, bad rows, scores by kind, and what is set beside the model."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from sklearn.metrics import f1_score, matthews_corrcoef

from llmstage.cli.command import main
from llmstage.errors import DataError
from llmstage.tasks.base import IGNORE_INDEX, RowError
from llmstage.tasks.visual_reasoning import VisualReasoning, answer_of

SMALL = [
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=400", "model.vision.size=16",
    "model.vision.num_hidden_layers=1", "model.vision.hidden_size=32", "model.vision.num_attention_heads=2", "model.vision.intermediate_size=48", "data.context=96",
    "trainer.max_steps=4", "trainer.batch_size=2", "trainer.batch_tokens=null", "trainer.threads=1", "task.control=off",
]  # fmt: skip


@pytest.fixture
def made(compose_run):
    """`made("task.answer=truth")`: the task, unbound."""

    def make(*words: str) -> VisualReasoning:
        run = compose_run(["stage=finetune", "task=visual_reasoning", *words])
        task = VisualReasoning(run.task, run.generation)
        task.set_model_family("vlm")
        return task

    return make


def rows_with(*answers):
    return [{"image": f"{number}.png", "question": "Is it?", "answer": answer} for number, answer in enumerate(answers)]


def refs_with(*answers, kinds=None, known=True):
    kinds = kinds or [None] * len(answers)
    return [
        {"question": "Is it?", "answer": answer, "known": known, "kind": kind, "composition": None, "image": 0}
        for answer, kind in zip(answers, kinds, strict=True)
    ]


def said(*answers):
    return [
        {"answer": answer, "probability": 0.9, "nll": 1.0, "tokens": 2, "correct": 1, "other": None}
        for answer in answers
    ]


@pytest.mark.parametrize(
    ("answers", "words", "mode", "vocabulary"),
    [
        (("yes", "No", True, 0, "对"), (), "truth", ["false", "true"]),
        (("yes", "red", 3, 3.0, "红色"), (), "choose", ["3", "red", "yes", "红色"]),
        (("a", "b", "c"), ("task.max_answers=2",), "generate", []),
        (("a", "b", "c", "b", "c"), ("task.max_answers=2", "task.answer=choose"), "choose", ["b", "c"]),
        (("yes", "no"), ("task.answer=choose",), "choose", ["no", "yes"]),
        (("yes", "no"), ("task.answer=generate",), "generate", []),
        (("yes", "ture"), (), "choose", ["ture", "yes"]),
    ],
)
def test_how_it_answers_follows_from_the_training_answers(answers, words, mode, vocabulary, made, capsys):
    task = made(*words)
    task.fit_labels(rows_with(*answers))
    assert (task.answer_mode, task.answers) == (mode, vocabulary)
    console_text = capsys.readouterr().err
    assert ("without the answers of 1 training rows" in console_text) is (vocabulary == ["b", "c"])
    assert (f"task.answer=auto: {mode}" in console_text) is not any(word.startswith("task.answer") for word in words)
    saved = task.model_options()["llmstage"]
    again = made()
    again.load_config(type("Config", (), {"llmstage": json.loads(json.dumps(saved))}))
    assert (again.answer_mode, again.answers, again.blind) == (mode, vocabulary, False)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"question": "  "}, "question is empty"),
        ({"question": None}, "question is not text"),
        ({"answer": ""}, "answer is empty"),
        ({"answer": None}, "answer is neither"),
        ({"answer": float("nan")}, "answer is neither"),
        ({"answer": ["red"]}, "answer is neither"),
        ({"image": ""}, "image is not the path"),
        ({"kind": 3}, "kind is not text"),
        ({"answer": False}, None),
        ({"answer": 3}, None),
    ],
)
def test_bad_rows_are_named(changes, told, made):
    found = made().check_row({"image": "a.png", "question": "Is it?", "answer": "red", **changes})
    assert found is None if told is None else told in (found or "")


def test_answers_as_text():
    rows = rows_with(True, False, 3, 3.0, 2.5, " red ")
    assert [answer_of(row) for row in rows] == ["true", "false", "3", "3", "2.5", "red"]


@pytest.fixture
def yes_and_no(tiny_task, monkeypatch):
    """A tiny task whose rows are truth values."""
    demo = VisualReasoning.demo_rows

    def rows(num_rows, seed):
        found = [row for row in demo(8 * num_rows, seed) if row["answer"] in ("yes", "no", "是", "否")]
        return found[:num_rows]

    monkeypatch.setattr(VisualReasoning, "demo_rows", staticmethod(rows))
    return tiny_task("visual_reasoning", "vlm")


def test_truth_values_are_one_word_and_others_are_refused(yes_and_no):
    it = yes_and_no
    row = it.rows[0]
    for answer, told in ((True, "true"), ("否", "false"), ("1", "true"), ("No.", "false")):
        made = it.task.encode({**row, "answer": answer})[0]
        assert made.ref["answer"] == told and made.ref["known"]
        assert it.processor.decode(written_ids(made)).startswith(told)
    with pytest.raises(RowError, match="'ture' is not a truth value"):
        it.task.encode({**row, "answer": "ture"})


def written_ids(features):
    pairs = zip(features.input_ids, features.arrays["target"], strict=True)
    return [token for token, is_target in pairs if is_target]


def test_pictures_are_never_learned_and_a_blind_model_sees_none(tiny_task):
    for blind in (False, True):
        it = tiny_task("visual_reasoning", "vlm", words=(f"task.blind={str(blind).lower()}",))
        batch = it.batch()
        marks = batch.inputs["input_ids"] == it.processor.image_id
        assert bool((batch.labels[marks] == IGNORE_INDEX).all())
        assert int(marks.sum()) == (0 if blind else len(it.features) * it.processor.vision.tokens)
        assert ("pixel_values" in batch.inputs) is not blind
        for features, row in zip(it.features, it.rows, strict=True):
            assert it.processor.decode(written_ids(features)).strip() == row["answer"]
    assert it.task.controls() == [] and it.task.model_options()["llmstage"]["blind"]
    bad = {**it.rows[0], "image": "nowhere.png"}
    it.task.image_store.read([bad["image"]])
    with pytest.raises(RowError):  # a blind run leaves out the rows that a seeing one does
        it.task.encode(bad)


def test_the_control_can_be_switched_off(made):
    assert [item.name for item in made().controls()] == ["blind"]
    assert made("task.control=off").controls() == []
    assert made("task.blind=true").controls() == []


def test_choose_predicts_the_likeliest_answer_and_generate_writes(tiny_task):
    chosen = tiny_task("visual_reasoning", "vlm")
    model = chosen.model()
    with torch.no_grad():
        items = chosen.task.predict(model, chosen.batch(), generate=False)
    assert {item["answer"] for item in items} <= set(chosen.task.answers)
    assert all(1 / len(chosen.task.answers) <= item["probability"] + 1e-6 <= 1.00001 for item in items)
    written = tiny_task("visual_reasoning", "vlm", words=("task.answer=generate", "generation.max_new_tokens=3"))
    assert written.task.answers == []
    with torch.no_grad():
        short = written.task.predict(model, written.batch(), generate=False)
        items = written.task.predict(model, written.batch(), generate=True)
    assert all("answer" not in item for item in short) and all("answer" in item for item in items)
    assert "accuracy" not in written.task.score(short, [item.ref for item in written.features])
    assert "ece" not in written.task.score(items, [item.ref for item in written.features])


def test_truth_scores_are_scikit_learns(yes_and_no):
    task = yes_and_no.task
    assert task.answer_mode == "truth"
    told = ["true", "true", "false", "true", "false", "false"]
    guess = ["true", "false", "false", "true", "true", "false"]
    scores = task.score(said(*guess), refs_with(*told))
    assert scores["accuracy"].value == pytest.approx(4 / 6)
    assert scores["macro_f1"].value == pytest.approx(f1_score(told, guess, average="macro"))
    assert scores["mcc"].value == pytest.approx(matthews_corrcoef(told, guess))
    assert scores["ece"].value == pytest.approx(0.9 - 4 / 6)
    matrix = [one for one in task.report_items(said(*guess), refs_with(*told)) if one["kind"] == "matrix"]
    assert matrix and matrix[0]["values"] == [[2, 1], [1, 2]]


def test_accuracy_by_kind_beside_the_blind_model(tiny_task):
    task = tiny_task("visual_reasoning", "vlm").task
    task.answers = [str(number) for number in range(20)]  # too many for a matrix
    refs = refs_with("red", "red", "2", "2", kinds=["attribute", "attribute", "counting", "counting"])
    ours, blind = said("red", "Red.", "2", "3"), said("red", "blue", "2", "3")
    scores = task.score(ours, refs)
    assert scores["accuracy"].value == 0.75 and scores["macro_kind_accuracy"].value == 0.75
    kinds = next(one for one in task.report_items(ours, refs) if one.get("report_key") == "kinds")
    assert {kind: values["accuracy"]["value"] for kind, values in kinds["values"].items()} == {
        "attribute": 1.0,
        "counting": 0.5,
    }
    assert all(values["accuracy"]["low"] is not None for values in kinds["values"].values())
    gains, shown = task.compare_with_control("blind", ours, blind, refs)
    assert gains["image_gain"].value == 0.25
    chart, table = shown
    assert chart["marks"] == [0.5, 0.5] and table["columns"][-2:] == ["blind", "gain"]
    assert table["values"]["attribute"]["blind"]["value"] == 0.5
    assert {one["title"] for one in shown} <= {one["title"] for one in task.report_items(ours, refs)}


def test_simple_methods_look_at_the_question_alone(tiny_task):
    it = tiny_task("visual_reasoning", "vlm")
    train = [
        {"image": "x", "question": question, "answer": answer, "kind": kind}
        for question, answer, kind in [
            ("What colour is it?", "red", "colour"),
            ("What colour is that?", "red", "colour"),
            ("How many are there?", "2", "count"),
            ("How many do you see?", "2", "count"),
            ("Is it so?", "red", "other"),
        ]
    ]
    refs = refs_with("red", "2", kinds=["colour", "count"])
    refs[0]["question"], refs[1]["question"] = "What colour is this?", "How many are red?"
    accuracies = {name: scores["accuracy"].value for name, scores in it.task.baselines(train, refs).items()}
    assert accuracies["most frequent answer"] == 0.5
    assert accuracies["most frequent answer of the kind"] == 1.0
    assert accuracies["most frequent answer after the first 3 words"] in (0.5, 1.0)
    assert any("logistic regression" in name for name in accuracies)
    nameless = [{key: value for key, value in row.items() if key != "kind"} for row in train]
    assert "most frequent answer of the kind" not in it.task.baselines(nameless, refs)


def test_an_answer_nobody_taught_counts_as_wrong_and_is_told(tiny_task):
    it = tiny_task("visual_reasoning", "vlm")
    strange = it.task.encode({**it.rows[0], "answer": "turquoise"})[0]
    assert strange.ref["known"] is False
    refs = [strange.ref, it.features[1].ref]
    scores = it.task.score(said("red", refs[1]["answer"]), refs)
    assert scores["accuracy"].value == 0.5 and scores["answers_known"].value == 0.5
    warnings = it.task.warnings([], refs)
    assert len(warnings) == 1 and "1 of 2 rows" in warnings[0] and "'turquoise'" in warnings[0]
    assert it.task.warnings([], refs[1:]) == [] and "answers_known" not in it.task.score(said("a"), refs[1:])


def drawn(folder: Path, rows: list[dict], name: str = "rows.jsonl") -> Path:
    from PIL import Image

    for number, row in enumerate(rows):
        row["image"] = f"{number}.png"
        Image.new("RGB", (20, 20), (200, 30, 30) if number % 2 else (30, 30, 200)).save(folder / row["image"])
    path = folder / name
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def test_files_of_chinese_questions_from_end_to_end(workplace, capsys):
    rows = [{"question": f"第{n}张图是红色的吗？", "answer": bool(n % 2)} for n in range(12)]
    path = drawn(workplace, rows)
    words = [f"data.train={path}", f"data.validation={path}", "data.max_lost=1"]
    assert main(["stage=finetune", "task=visual_reasoning", *SMALL, *words, "hydra.run.dir=run"]) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert {"accuracy", "macro_f1", "mcc", "ece", "perplexity"} <= report["scores"]["validation"].keys()
    line = json.loads(Path("run/predictions.jsonl").read_text().splitlines()[0])
    assert line["question"].endswith("红色的吗？") and line["reference"] in ("true", "false")
    strange = workplace / "strange.jsonl"
    strange.write_text(json.dumps({**rows[0], "answer": "也许"}, ensure_ascii=False) + "\n", encoding="utf-8")
    capsys.readouterr()
    again = ["stage=evaluate", "model.path=run", f"data.test={strange}", "hydra.run.dir=again"]
    assert main(again) != 0
    console_text = capsys.readouterr().err
    assert "strange.jsonl:1" in console_text and "'也许' is not a truth value" in console_text


def test_an_answer_outside_the_vocabulary_at_evaluation_is_told_in_the_report(workplace, capsys):
    rows = [{"question": f"What colour is number {n}?", "answer": "red" if n % 2 else "blue"} for n in range(12)]
    path = drawn(workplace, rows)
    other = workplace / "other.jsonl"
    other.write_text(json.dumps({**rows[0], "answer": "mauve"}) + "\n" + json.dumps(rows[1]) + "\n")
    words = [f"data.train={path}", f"data.validation={other}", "data.max_lost=1"]
    assert main(["stage=finetune", "task=visual_reasoning", *SMALL, *words, "hydra.run.dir=run"]) == 0
    report = json.loads(Path("run/report.json").read_text())
    assert report["scores"]["validation"]["answers_known"]["value"] == 0.5
    assert any("'mauve'" in line for line in report["warnings"])
    steps = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert all(line["answers_known"] == 0.5 for line in steps if line.get("kind") == "eval")
    assert "'mauve'" in capsys.readouterr().err


def test_no_rows_to_learn_from_is_no_traceback(made, tiny_task):
    task = made()
    task.fit_labels([])
    with pytest.raises(DataError, match=r"task\.answer=generate"):
        task.attach_tokenizer(tiny_task("visual_reasoning", "vlm").processor, 96)


def test_captions_of_the_rows_are_learned_and_never_scored(tiny_task):
    from llmstage.tasks.base import UNSCORED

    it, plain = (tiny_task("visual_reasoning", "vlm", words=(f"task.describe={share}",)) for share in (1, 0))
    row = it.rows[0]
    asked, described = it.task.encode(row)
    assert described.ref == UNSCORED != asked.ref
    text_ids = [
        token for token, is_target in zip(described.input_ids, described.arrays["target"], strict=True) if is_target
    ]
    assert it.processor.decode(text_ids) == row["caption"]
    assert len(plain.task.encode(row)) == 1 and plain.task.cache_key() != it.task.cache_key()
    named = {key: value for key, value in row.items() if key != "prompt"}
    assert it.task.cfg.prompt in it.processor.decode(it.task.encode(named)[1].input_ids)
    without = {key: value for key, value in row.items() if key != "caption"}
    assert len(it.task.encode(without)) == 1


def test_the_captions_of_a_share_of_the_rows_are_learned(tiny_task):
    it = tiny_task("visual_reasoning", "vlm", num_rows=200, words=("task.describe=0.25",))
    chosen = [len(it.task.encode(row)) == 2 for row in it.rows]
    assert 30 <= sum(chosen) <= 70  # of 200, a quarter; beyond these bounds once in ten thousand
    assert chosen == [len(it.task.encode(row)) == 2 for row in it.rows], (
        "what a row says decides, so that a resume sees the same"
    )
