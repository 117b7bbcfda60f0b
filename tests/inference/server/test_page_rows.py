"""The page's box to try a task: what is typed reaches the route, and what the model says is drawn."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import httpx
from PIL import Image


def asked(page: Any, **fields: str) -> None:
    for name, text in fields.items():
        page.fill(f"#rows_form [name={name}]", text)
    page.click("#rows_send")
    page.wait_for_selector("#answer .raw")


def said(it: Any, route: str, row: Any) -> Any:
    return httpx.post(f"{it.url}/v1/{route}", json={"input": row}, timeout=60).json()["data"][0]


def photo(side: int) -> dict[str, Any]:
    file = io.BytesIO()
    Image.effect_noise((side, side), 90).save(file, "PNG")
    return {"name": "photo.png", "mimeType": "image/png", "buffer": file.getvalue()}


def test_probabilities_are_bars(serving: Callable[..., Any], visit: Callable[..., Any]) -> None:
    with serving("classification") as it:
        page = visit(it.url)
        assert page.locator("#views").is_hidden(), "there is one way to use this model"
        page.fill("[name=text]", "my parcel\nis late")
        page.press("[name=text]", "Enter")
        page.wait_for_selector(".bars")
        told = said(it, "classify", {"text": "my parcel\nis late"})
        assert page.inner_text(".headline") == told["prediction"]
        assert page.locator(".bars .name").all_inner_texts() == sorted(
            told["log_probabilities"], key=lambda label: -told["log_probabilities"][label]
        )
        assert page.inner_text(".bars .value >> nth=0") == f"{100 * told['probability']:.1f} %"
        wide = [page.locator(".bars .fill").nth(place).bounding_box()["width"] for place in (0, -1)]
        assert wide[0] >= wide[1] > 0
        page.fill("[name=text]", " ")
        page.click("#rows_send")
        page.wait_for_selector("#problem")
        assert "input[0]" in page.inner_text("#problem") and page.locator(".bars").count() == 0


def test_spans_are_coloured_where_they_stand(serving: Callable[..., Any], visit: Callable[..., Any]) -> None:
    text = "😀 Anna Berg lives in 北京市 <i>near</i> Paris ."
    with serving("token_classification") as it:
        page = visit(it.url)
        spans = [
            {"start": 2, "end": 11, "label": "PER", "text": "Anna Berg", "confidence": 0.9},
            {"start": 21, "end": 24, "label": "LOC", "text": "北京市", "confidence": 0.8},
        ]
        session = it.row_worker.session
        it.row_worker.session = type("Sure", (), {"predict": lambda self, rows, numbers: [
            {**one, "text": row["text"], "spans": spans} for one, row in zip(session.predict(rows, numbers), rows, strict=True)
        ]})()  # fmt: skip
        asked(page, text=text)
        marks = page.locator(".marked mark")
        assert marks.evaluate_all(
            "marks => marks.map((mark) => [mark.firstChild.data, mark.lastChild.textContent])"
        ) == [
            ["Anna Berg", "PER"],
            ["北京市", "LOC"],
        ], "an emoji before it is one character"
        first, second = [
            marks.nth(place).evaluate("mark => getComputedStyle(mark).backgroundColor") for place in (0, 1)
        ]
        assert first != second and page.locator(".marked i").count() == 0
        assert page.inner_text("#answer > .note") == "LOC 1 · PER 1"


def test_an_answer_is_shown_in_its_text(serving: Callable[..., Any], visit: Callable[..., Any]) -> None:
    row = {"question": "Where does Anna live?", "context": "Anna lives in Oslo. Bob lives in Rome."}
    with serving("question_answering") as it:
        page = visit(it.url)
        asked(page, **row)
        told = said(it, "answer", row)
        if told["prediction"]:
            assert page.inner_text(".headline") == page.inner_text(".marked mark") == told["prediction"]
        else:
            assert page.inner_text(".headline") == "No answer in this text"


def test_a_picture_is_sent_and_a_large_one_is_made_smaller(
    serving: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    with serving("visual_reasoning") as it:
        page = visit(it.url)
        for side in (40, 1200):
            page.set_input_files("[name=image]", photo(side))
            assert page.locator(".picture").is_visible()
            asked(page, question="What colour is it?")
            assert page.inner_text(".headline") and page.locator("#problem").is_hidden()
        page.set_input_files("[name=image]", {**photo(8), "buffer": b"no picture"})
        page.click("#rows_send")
        page.wait_for_selector("#problem")


def test_texts_that_are_written_and_lists_that_are_ranked(
    serving: Callable[..., Any], visit: Callable[..., Any]
) -> None:
    with serving("translation") as it:
        page = visit(it.url)
        asked(page, source="the red house")
        assert page.locator(".headline").text_content() == said(it, "translate", "the red house")["prediction"]
    with serving("recommendation") as it:
        best = said(it, "rank", {"user": "new", "item": []})["prediction"]
        page = visit(it.url)
        asked(page, user="new", item="\n".join(item["item"] for item in best[:2]))
        shown = page.locator(".bars .name").all_inner_texts()
        assert len(shown) == 10 and not {name.split(" ")[0] for name in shown} & {item["item"] for item in best[:2]}


def test_texts_are_compared(serving: Callable[..., Any], visit: Callable[..., Any]) -> None:
    with serving("masked_lm") as it:
        page = visit(it.url)
        page.fill("#texts", "one lamp")
        page.click("#embed_send")
        page.wait_for_selector("#problem")
        page.fill("#texts", "one lamp\n退款\none lamp")
        page.click("#embed_send")
        page.wait_for_selector("#near .bars")
        assert page.locator(".bars .name").all_inner_texts() == ["one lamp", "退款"]
        assert page.inner_text(".bars .value >> nth=0") == "1.000"
