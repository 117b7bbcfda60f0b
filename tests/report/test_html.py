"""The page: opens alone, tells what it was given, and lets no text of a user become markup."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from llmstage.evaluation.metrics.score import proportion
from llmstage.report import formatting
from llmstage.report.console_table import score_lines, score_table
from llmstage.report.files import append_line
from llmstage.report.html import tiles, write_html
from llmstage.report.model_card import write_card

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


@pytest.fixture
def report() -> dict[str, Any]:
    after, before = proportion([True] * 87 + [False] * 13).as_dict(), proportion([True] * 25 + [False] * 75).as_dict()
    return {
        "status": "completed", "stage": "finetune", "task": "classification", "seed": 3, "seconds": 75.0,
        "command": "llmstage stage=finetune 'data.train=评论.csv' seed=3", "started": "2026-11-23T19:24:48.357413",
        "run_dir": "outputs/finetune/x", "plan": "600 steps", "warnings": [EVIL],
        "data": {"described": "评论.csv", "mapping": {"text": "review"},
                 "splits": {"train": {"rows": 1234, "tokens": 56789, "lost_target_share": 2e-5},
                            "test": {"rows": 100}}},
        "model": {"name": "bert_tiny", "parameters": 4385920, "pipeline_tag": "text-classification"},
        "train": {"steps": 600, "tokens": 50000, "selected_step": 2, "peak_memory_bytes": 2**30, "mfu": None,
                  "loss": {"first": 6.5, "last": 1.25}},
        "scores": {"validation": {"accuracy": after}, "test": {"accuracy": after, "macro_f1": {"value": None}}},
        "before": {"test": {"accuracy": before}},
        "exhibits": [
            {"kind": "text", "title": "T", "text": EVIL},
            {"kind": "table", "title": EVIL, "columns": ["a", EVIL], "rows": [[1.5, EVIL], ["长文本", None]]},
            {"kind": "matrix", "title": "M", "row_labels": [EVIL], "column_labels": ["b"], "values": [[7]]},
            {"kind": "lines", "title": "L", "x_label": "x", "y_label": "y",
             "series": [{"name": EVIL, "x": [1, 2], "y": [3, 4]}, {"name": "z", "x": [1], "y": [2]}]},
            {"kind": "bars", "title": "B", "labels": [EVIL], "values": [2]},
        ],
        "samples": [
            {"id": "t-1", "split": "test", "prediction": EVIL, "reference": "投诉", "correct": False, "prompt": EVIL},
            {"id": "t-2", "split": "test", "prediction": ["B-甲", "O"], "reference": ["B-甲", "O"], "correct": True,
             "prompt": [{"role": "user", "content": "你好" + EVIL}, {"role": EVIL, "content": "ok"}], "extra": 0.5},
        ],
        "predicted": {"steps": 600, "tokens": 40000, "seconds": 50.0, "memory_bytes": 2**29},
        "machine": {"device": "cpu"}, "versions": {"python": "3.11"},
    }  # fmt: skip


def render(run_dir: Path, report: dict[str, Any]) -> tuple[str, Page]:
    path = write_html(run_dir, report)
    assert path == run_dir / "report.html"
    text = path.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_needs_nothing_from_outside(tmp_path: Path, report: dict[str, Any]) -> None:
    text, page = render(tmp_path, report)
    assert "url(" not in text and "@import" not in text
    for tag, attributes in page.tags:
        assert tag not in ("script", "link", "img", "iframe", "object", "base")  # pictures: test_pictures.py
        assert not any(name.startswith("on") for name in attributes)
        for name in ("src", "href", "srcset", "xlink:href"):
            assert (attributes.get(name) or "#").startswith("#")
    ids = {attributes.get("id") for _, attributes in page.tags}
    assert {attributes["href"] for tag, attributes in page.tags if tag == "a"} <= {f"#{name}" for name in ids}


def test_user_text_is_shown_and_never_becomes_markup(tmp_path: Path, report: dict[str, Any]) -> None:
    _, page = render(tmp_path, report)
    assert page.text.count("<script>alert('x')</script>") >= 8
    assert all(text in page.text for text in ("你好", "投诉", "长文本", "评论.csv", "B-甲 O"))


def test_numbers_on_the_page_are_those_given(tmp_path: Path, report: dict[str, Any]) -> None:
    _, page = render(tmp_path, report)
    given = report["scores"]["test"]["accuracy"]
    assert "0.8700" in page.text and f"{given['low']:.4f} to {given['high']:.4f}" in page.text
    assert "0.2500" in page.text and "+0.6200" in page.text  # before, and the step from it
    assert "1,234" in page.text and "56,789" in page.text and "4.39 M" in page.text and "0.002 %" in page.text
    assert "1.50 ×" in page.text and "1.25 ×" in page.text and "2.00 ×" in page.text  # time, tokens, memory
    assert report["command"] in page.text and report["run_dir"] in page.text
    titles = [attributes["title"] for tag, attributes in page.tags if tag == "div" and attributes.get("title")]
    assert float(titles[0] or "nan") == given["value"]  # in full beside the rounded one


def test_curves_come_from_metrics_jsonl(tmp_path: Path, report: dict[str, Any]) -> None:
    assert "Curves" not in render(tmp_path, report)[1].words
    for step in (1, 2, 3):
        append_line(tmp_path / "metrics.jsonl", {"step": step, "kind": "train", "loss": 7.0 - step, "lr": 0.1 * step})
        append_line(
            tmp_path / "metrics.jsonl", {"step": step, "kind": "eval", "split": "validation", "accuracy": step / 4}
        )
    _, page = render(tmp_path, report)
    assert {"Curves", "Loss", "accuracy", "Learning rate", "selected: 2"} <= {word.strip() for word in page.words}


def test_of_many_curves_the_first_are_open_and_that_of_the_comparison_leads(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    many = {f"recall@{number}": 0.5 for number in range(9)}
    for step in (1, 2):
        append_line(tmp_path / "metrics.jsonl", {"step": step, "kind": "eval", "split": "validation", **many})
    score = {"value": 0.5, "count": 9}
    report["scores"]["test"]["recall@8"] = score
    report["baselines"] = {
        "split": "test", "metric": "recall@8", "verdict": "", "methods": {"chance": {"recall@8": score}}
    }  # fmt: skip
    text, page = render(tmp_path, report)
    titles = [word for word in page.words if word.startswith("recall@")]
    assert "3 more" in page.words and titles.index("recall@8") < titles.index("recall@0")
    curves = text[text.index('id="curves"') : text.index('id="exhibits"')]
    assert curves.index("recall@8") < curves.index("recall@0") < curves.index("<details>") < curves.index("recall@7")


def test_a_failed_run_shows_its_error_first(tmp_path: Path) -> None:
    error = f"data.train=x.csv has no column 'text'.\nSet data.columns.text. {EVIL}"
    _, page = render(tmp_path, {"status": "failed", "error": error, "stage": "finetune", "task": "dialogue"})
    assert "The run failed" in page.text and error in page.text
    assert not {"Scores", "Curves", "Training"} & set(page.words)


PARTS = ["data", "model", "train", "scores", "before", "exhibits", "samples", "predicted", "machine", "versions"]


@pytest.mark.parametrize("missing", [*PARTS, "warnings", "plan", "command", "started", "task", "status"])
@pytest.mark.parametrize("as_null", [True, False])
def test_any_part_may_be_missing_or_null(tmp_path: Path, report: dict[str, Any], missing: str, as_null: bool) -> None:
    report[missing] = None
    if not as_null:
        del report[missing]
    render(tmp_path, report)
    write_card(tmp_path, report)
    score_lines(report)


def test_an_empty_report_makes_a_page_a_card_and_no_lines(tmp_path: Path) -> None:
    render(tmp_path, {})
    assert "not known" in write_card(tmp_path, {}).read_text() and score_lines({}) == []


def test_the_card_loads_as_a_hub_card_with_the_scores(tmp_path: Path, report: dict[str, Any]) -> None:
    from huggingface_hub import ModelCard

    report["data"]["splits"]["test"]["overlap_with_train"] = 4
    path = write_card(tmp_path / "model", report)
    card = ModelCard(path.read_text(encoding="utf-8"))
    data: Any = card.data
    assert data.library_name == "transformers" and data.pipeline_tag == "text-classification"
    results = data.eval_results
    assert [(one.metric_type, one.metric_value) for one in results] == [("accuracy", 0.87)]
    assert results[0].dataset_name == "评论.csv" and results[0].dataset_split == "test"
    body = card.text
    assert "AutoModelForSequenceClassification.from_pretrained" in body and "| accuracy | 0.2500 | 0.8700 |" in body
    assert "also in train: 4" in body and "100 items" in body


@pytest.mark.parametrize(
    ("auto_class", "call"),
    [
        ("AutoModelForSeq2SeqLM", "model.generate("),
        ("AutoModelForCausalLM", "model.generate("),
        ("AutoModelForQuestionAnswering", 'tokenizer("Who lives in Paris?", "Anna'),
        ("AutoModel", 'model(**tokenizer("Some text."'),
    ],
)
def test_the_card_shows_the_class_that_holds_the_weights_whatever_the_task_is_called(
    tmp_path: Path, report: dict[str, Any], auto_class: str, call: str
) -> None:
    report["model"] |= {"pipeline_tag": "translation", "auto_class": auto_class}
    body = write_card(tmp_path, report).read_text(encoding="utf-8")
    assert f"{auto_class}.from_pretrained" in body and call in body
    assert "extra.*" not in body


def test_the_card_says_that_weights_of_our_own_are_not_loaded_by_transformers(
    tmp_path: Path, report: dict[str, Any]
) -> None:
    report["model"]["own_weights"] = 1200
    body = write_card(tmp_path, report).read_text(encoding="utf-8")
    assert "1,200 of its weights (`extra.*`) are read by llmstage only" in body


def test_the_console_shows_the_same_numbers(report: dict[str, Any]) -> None:
    lines = score_lines(report)
    assert lines[0].split("\t") == ["split", "metric", "before", "after", "95 % interval", "count"]
    assert lines[1].split("\t")[:4] == ["test", "accuracy", "0.2500", "0.8700"]
    assert score_table(report).row_count == len(lines) - 1
    del report["before"]
    assert score_lines(report)[0].split("\t")[2] == "value"


@pytest.mark.parametrize(
    ("value", "shown"),
    [(0.87, "0.8700"), (12.345, "12.35"), (1234.6, "1,235"), (3.2e-5, "3.20e-5"), (0, "0"), (7, "7"), (None, "–"),
     (float("nan"), "–"), (99.999, "100.00"), (-0.03011, "-0.0301"), (True, "True")],
)  # fmt: skip
def test_numbers_as_words(value: Any, shown: str) -> None:
    assert formatting.number(value) == shown


def test_times_sizes_and_changes_as_words() -> None:
    assert [formatting.seconds(v) for v in (0.84, 42, 192.4, 7500)] == ["0.8 s", "42 s", "3 min 12 s", "2 h 05 min"]
    assert [formatting.memory(v) for v in (100, 2**20, 1.5 * 2**30)] == ["100 B", "1 MiB", "1.5 GiB"]
    assert [formatting.short(v) for v in (950, 12_034, 66_400_000)] == ["950", "12 k", "66.4 M"]
    assert formatting.change({"value": 5.0}, {"value": 4.0, "higher_is_better": False}) == ("−1.000", "better")
    assert formatting.change({"value": 0.5}, {"value": 0.25}) == ("−0.2500", "worse")
    assert formatting.label("macro_f1") == "macro F1" and formatting.label("rouge_l") == "ROUGE-L"


def test_the_metric_of_the_comparison_comes_first_and_the_simple_methods_stand_in_a_table(tmp_path):
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 10, "method": "wilson", "higher_is_better": True}
    beside = {
        "split": "test", "metric": "b", "best": "majority class", "beaten": False, "clearly": False,
        "verdict": "The model does not beat it.", "methods": {"majority class": {"b": {**score, "value": 0.7}}},
    }  # fmt: skip
    report = {"status": "completed", "scores": {"test": {"a": score, "b": score}}, "baselines": beside}
    assert [tile["name"] for tile in tiles(report)] == ["b", "a"]
    text = write_html(tmp_path, report).read_text("utf-8")
    assert "The model does not beat it." in text and "majority class" in text and "0.7000" in text
