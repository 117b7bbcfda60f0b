"""One route for each task, against running servers, and the page's box to try it."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from PIL import Image


def post(it: Any, route: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{it.url}/v1/{route}", json=body, timeout=120)


def answers(it: Any, route: str, *rows: Any) -> list[Any]:
    """What is said of rows, which is the same for one alone and for all together."""
    whole = post(it, route, input=list(rows))
    assert whole.status_code == 200, whole.text
    data = whole.json()["data"]
    assert [item["index"] for item in data] == list(range(len(rows)))
    alone = post(it, route, input=rows[0]).json()["data"][0]
    assert alone["prediction"] == data[0]["prediction"]
    return data


def about(it: Any) -> Any:
    return httpx.get(f"{it.url}/v1/models").json()["data"][0]


def picture(colour: str = "red") -> str:
    file = io.BytesIO()
    Image.new("RGB", (40, 30), colour).save(file, "PNG")
    return base64.b64encode(file.getvalue()).decode()


def test_rows_of_unlike_length_are_not_all_padded_to_the_longest(
    serving: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    with serving("classification", **{"trainer.eval_precision": "fp32"}) as it:
        session, shapes = it.row_worker.session, []
        collate = session.task.collate

        def noted(rows: Any) -> Any:
            batch = collate(rows)
            shapes.append(tuple(batch.inputs["input_ids"].shape))
            return batch

        monkeypatch.setattr(session.task, "collate", noted)
        rows = [
            {"text": "late"},
            {"text": "where is my order " * 20},
            *({"text": f"parcel {number}"} for number in range(14)),
        ]
        said = session.predict(rows, range(len(rows)))
        longest = max(width for _, width in shapes)
        assert (
            sum(count for count, _ in shapes) == len(rows) and sum(a * b for a, b in shapes) < len(rows) * longest / 2
        )
        for row, one in zip(rows, said, strict=True):
            (alone,) = session.predict([row], [0])
            assert one["log_probabilities"] == pytest.approx(alone["log_probabilities"], abs=1e-5)


def test_tag(serving: Callable[..., Any]) -> None:
    with serving("token_classification") as it:
        assert about(it)["routes"] == ["/v1/tag"]
        text = "Anna Berg lives in 北京市 near Paris 😀 ."
        one, other = answers(it, "tag", {"text": text}, {"tokens": ["Bob", "slept"]})
        assert one["text"] == text and all(text[span["start"] : span["end"]] == span["text"] for span in one["spans"])
        assert len(other["prediction"]) == 2
        assert post(it, "tag", input={"tags": ["O"]}).status_code == 400


def test_answer(serving: Callable[..., Any]) -> None:
    with serving("question_answering") as it:
        row = {"question": "Where does Anna live?", "context": "Anna lives in Oslo. Bob lives in Rome."}
        (said,) = answers(it, "answer", row)
        if said["prediction"]:
            assert row["context"][said["start"] : said["end"]] == said["prediction"]
        assert "an object here, with question, context" in post(it, "answer", input="Where?").text
        assert "context" in post(it, "answer", input={"question": "Where?"}).text


@pytest.mark.parametrize("task, route", [("translation", "translate"), ("summarization", "summarize")])
def test_translate_and_summarize(task: str, route: str, serving: Callable[..., Any]) -> None:
    with serving(task) as it:
        one, two = answers(it, route, "the red house stands here", "三只猫 <|end|>")
        assert isinstance(one["prediction"], str) and isinstance(two["prediction"], str)


def test_rank(serving: Callable[..., Any], run_of: Callable[..., Any]) -> None:
    with serving("recommendation") as it:
        known = [item["item"] for item in answers(it, "rank", {"user": "new", "item": []})[0]["prediction"]]
        assert len(known) == 10
        one, other = answers(it, "rank", {"user": "u", "item": known[:2]}, {"user": "v", "item": known[2]})
        assert not {item["item"] for item in one["prediction"]} & set(known[:2]), "what the user has is not offered"
        assert known[2] not in [item["item"] for item in other["prediction"]]
        assert "user" in post(it, "rank", input={"item": []}).text


def test_embed(serving: Callable[..., Any]) -> None:
    with serving("masked_lm") as it:
        told = post(it, "embed", input=["a lamp", "a lamp", "退款"])
        one, same, other = [item["embedding"] for item in told.json()["data"]]
        assert one == pytest.approx(same, abs=1e-5) and one != other
        assert sum(value * value for value in one) == pytest.approx(1, abs=1e-4)
        assert post(it, "embeddings", input="a lamp").json()["data"][0]["embedding"] == pytest.approx(one, abs=1e-5)
        assert post(it, "embed", input=[]).status_code == 400


def test_caption_and_questions_about_pictures(serving: Callable[..., Any]) -> None:
    with serving("captioning") as it:
        one, other = answers(it, "caption", {"image": picture()}, {"image": f"data:image/png;base64,{picture('blue')}"})
        assert isinstance(one["prediction"], str) and isinstance(other["prediction"], str)
        for bad, told in (("/etc/passwd", "base64"), ("http://10.0.0.1/x.png", "base64"), ("aaaa", "picture")):
            refused = post(it, "caption", input={"image": bad})
            assert refused.status_code == 400 and told in refused.text, refused.text
    with serving("visual_reasoning") as it:
        (said,) = answers(it, "answer", {"image": picture(), "question": "What colour is it?"})
        assert said["prediction"]


def test_classify_pictures_by_captions(serving: Callable[..., Any]) -> None:
    with serving("contrastive") as it:
        (said,) = answers(it, "classify", {"image": picture(), "caption": ["a red square", "two dogs"]})
        assert said["prediction"] and set(said["similarities"]) == {"a red square", "two dogs"}
        assert len(post(it, "embed", input="a red square").json()["data"][0]["embedding"]) > 8
