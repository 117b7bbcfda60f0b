"""Pictures on the page: embedded or not shown, marked in more than colour, no more of them than a reader can take."""

from __future__ import annotations

import base64
import io
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from llmstage.evaluation.metrics.composition import group_scores
from llmstage.report import formatting
from llmstage.report.console_table import score_lines, score_table
from llmstage.report.html import write_html
from llmstage.report.model_card import write_card
from llmstage.report.thumbnails import MAX_IMAGES, image_grid, png_size, safe_image, without_pixels

EVIL = "<script>alert('x')</script>\"><img src=x onerror=alert(1)>"


def source(wide: int = 32, high: int = 32, kind: str = "PNG") -> str:
    file = io.BytesIO()
    Image.new("RGB", (wide, high), "teal").save(file, kind)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def grid(items: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
    return {"kind": "images", "title": "What it saw", "items": items, **more}


class Page(HTMLParser):
    def __init__(self, text: str) -> None:
        super().__init__()
        self.images: list[dict[str, str | None]] = []
        self.classes: list[str] = []
        self.words: list[str] = []
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = dict(attrs)
        assert tag != "script" and not any(name.startswith("on") for name in found)
        if tag == "img":
            self.images.append(found)
        self.classes.append(f"{tag}.{found.get('class') or ''}")

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    @property
    def text(self) -> str:
        return "\n".join(self.words)


def page(run_dir: Path, *report_items: dict[str, Any], samples: list[dict[str, Any]] | None = None) -> Page:
    path = write_html(run_dir, {"status": "completed", "exhibits": list(report_items), "samples": samples})
    return Page(path.read_text(encoding="utf-8"))


def test_a_grid_shows_pictures_lines_and_marks(tmp_path: Path) -> None:
    items: list[dict[str, Any]] = [
        {"src": source(), "lines": ["said: 红色方块", EVIL], "good": True},
        {"src": source(), "lines": ["said: blue"], "good": False},
        {"src": source(300, 200), "lines": [], "good": None},
    ]
    found = page(tmp_path, grid(items, columns=4, note="Of the test split."))
    assert len(found.images) == 3 and all((one["src"] or "").startswith("data:image/png;") for one in found.images)
    assert found.classes.count("li.right") == 1 and found.classes.count("li.wrong") == 1
    assert "✓ right" in found.text and "✗ wrong" in found.text  # not in colour alone
    assert "said: 红色方块" in found.text and "<script>alert('x')</script>" in found.text
    assert "Of the test split. 1 of these 2 are right." in found.text
    # Enlarged by squares where it is small; a photograph is not.
    assert [one.get("class") for one in found.images] == ["coarse", "coarse", None]
    assert (found.images[2]["width"], found.images[2]["height"]) == ("300", "200") and found.images[0]["alt"]
    assert "--columns: 4" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(
    "src",
    ["https://example.org/a.png", "//example.org/a.png", "file:///etc/passwd", "x", "", None, 7,
     "data:text/html;base64,AAAA", "data:image/svg+xml;base64,AAAA", f'{source()}" onerror="x', f"{source()}\n"],
)  # fmt: skip
def test_what_is_no_embedded_picture_is_not_shown(tmp_path: Path, src: Any) -> None:
    assert safe_image(src) is None
    found = page(tmp_path, grid([{"src": src, "lines": ["a"]}]), samples=[{"prediction": "b", "picture": src}])
    assert not found.images and "no picture" in found.text


def test_a_page_holds_no_more_pictures_than_a_reader_can_take(tmp_path: Path) -> None:
    many = image_grid(grid([{"src": source(), "lines": []}] * (MAX_IMAGES + 5)))
    assert (
        len(many["images"]) == MAX_IMAGES and many["note"] == f"The first {MAX_IMAGES} of {MAX_IMAGES + 5} are shown."
    )
    heavy = f"data:image/jpeg;base64,{'A' * 1_500_000}"
    assert len(image_grid(grid([{"src": heavy}] * 5))["images"]) == 2
    assert "The first 2 of 5 are shown." in page(tmp_path, grid([{"src": heavy}] * 5)).text
    assert image_grid(grid([]))["images"] == [] and image_grid(grid([], columns=99))["columns"] == 12


def test_sizes_are_read_from_the_header() -> None:
    assert png_size(source(7, 9)) == (7, 9) and png_size(source(7, 9, "JPEG")) is None
    assert png_size("data:image/png;base64,AAA") is None


def test_a_sample_shows_what_was_looked_at(tmp_path: Path) -> None:
    sample = {"id": "3", "prediction": "red", "reference": "红", "picture": source(), "image": "demo:x"}
    found = page(tmp_path, samples=[sample])
    assert [one["src"] for one in found.images] == [source()] and "image: demo:x" in found.text
    assert source() not in found.text


def test_report_json_keeps_the_words_and_not_the_pixels() -> None:
    report = {
        "exhibits": [grid([{"src": source(), "lines": ["a"], "good": True}]), {"kind": "text", "title": "T"}],
        "samples": [{"id": "1", "prediction": "a", "picture": source(), "image": "a.png"}],
    }
    kept = without_pixels(report)
    assert "base64" not in json.dumps(kept) and "base64" in json.dumps(report)
    assert kept["exhibits"][0]["items"] == [{"lines": ["a"], "good": True}] and kept["exhibits"][1]["title"] == "T"
    assert kept["samples"] == [{"id": "1", "prediction": "a", "image": "a.png"}]
    assert without_pixels({"exhibits": None}) == {"exhibits": [], "samples": []}


def test_marks_on_bars_have_a_legend(tmp_path: Path) -> None:
    chart = {"kind": "bars", "title": "B", "labels": ["甲", "b"], "values": [0.5, 0.25]}
    marked = page(tmp_path, {**chart, "marks": [0.4, None], "mark_name": f"blind {EVIL}", "top": 1.0})
    drawn = (tmp_path / "report.html").read_text()
    assert drawn.count('class="beside"') == 1 and "blind <script>" in marked.text
    wide = [float(found) for found in re.findall(r'class="bar s0"[^>]* width="([\d.]+)"', drawn)]
    page(tmp_path, chart)
    alone = [float(found) for found in re.findall(r'class="bar s0"[^>]* width="([\d.]+)"', (tmp_path / "report.html").read_text())]  # fmt: skip
    assert wide[0] == pytest.approx(alone[0] / 2, abs=0.2)  # the scale ends at 1, not at the longest bar


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("image_to_text_recall@1", "image → text recall@1"),
        ("text_to_image_recall@10", "text → image recall@10"),
        ("text_to_image_median_rank", "text → image median rank"),
        ("mean_recall", "mean recall"),
        ("zero_shot_accuracy", "zero-shot accuracy"),
        ("foil_accuracy_unseen", "foil accuracy, unseen pairs"),
        ("exact_match_seen", "exact match, seen pairs"),
        ("accuracy_gap", "accuracy, seen minus unseen pairs"),
        ("image_gain", "gain from the image"),
        ("cider", "CIDEr"),
        ("bleu4", "BLEU-4"),
        ("rouge_l", "ROUGE-L"),
        ("macro_f1", "macro F1"),
        ("unseen_word", "unseen word"),
    ],
)
def test_names_of_metrics_as_words(name: str, said: str) -> None:
    assert formatting.label(name) == said


def test_several_references_are_told_apart_and_tags_are_not() -> None:
    assert formatting.text(["a red square", "a square"]) == "a red square / a square"
    assert formatting.text(["左上方有一个大的红色方块右下方有一个小的蓝色圆形", "x"]).count(" / ") == 1
    assert (
        formatting.text(["B-甲", "O", "I-ORG"]) == "B-甲 O I-ORG"
        and formatting.text(["one text alone"]) == "one text alone"
    )


def test_the_method_of_a_gap_is_told_where_there_is_one(tmp_path: Path) -> None:
    scores = group_scores("accuracy", [1.0, 0.0, 1.0, 0.0], ["seen", "seen", "unseen", "unseen"])
    for wanted in (True, False):
        given = {name: score.as_dict() for name, score in scores.items() if wanted or not name.endswith("_gap")}
        report = {"status": "completed", "scores": {"test": given}}
        text = write_html(tmp_path, report).read_text(encoding="utf-8")
        assert ("Newcombe" in text) == wanted == ("Newcombe" in write_card(tmp_path, report).read_text())


def test_the_terminal_takes_scores_of_images() -> None:
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 9}
    report = {"scores": {"test": {"image_to_text_recall@1": score}}, "exhibits": [grid([{"src": source()}])]}
    assert score_lines(report)[1].split("\t")[:2] == ["test", "image_to_text_recall@1"]
    assert score_table(report).row_count == 1
