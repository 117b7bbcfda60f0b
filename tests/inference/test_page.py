"""The page of the server, driven in a real browser: what is typed, what is seen, what is asked for."""

from __future__ import annotations

import json
import re
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from llmstage.inference.server.app import PAGE_DIR, page_files
from llmstage.inference.server.chat_routes import CompletionHandler, server_sent_event

SOURCE = {
    "id": "returns",
    "title": "Returns & <b>refunds</b>",
    "text": "A refund takes five days. 退款需要五天。",
    "score": 0.83,
    "path": "kb/returns.md",
}


@pytest.fixture(scope="module")
def talking(serving: Callable[..., Any]) -> Iterator[Any]:
    with serving("dialogue", slots=2, queue=2, max_tokens=40) as it:
        step, it.generation_worker.pause = it.generation_worker.step, 0.0

        def paced(shared: Any) -> None:
            time.sleep(it.generation_worker.pause)  # so slowly that growth can be seen
            it.generation_worker.eos_token_ids = set() if it.generation_worker.pause else ends
            step(shared)

        ends = it.generation_worker.eos_token_ids
        it.generation_worker.step = paced
        yield it


def say(page: Any, text: str) -> None:
    page.fill("#message", text)
    page.press("#message", "Enter")


def until(true: Callable[[], Any], seconds: float = 15) -> None:
    """Wait. (The page's policy lets the driver run no expression of its own in it.)"""
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def last(page: Any) -> str:
    return str(page.locator("article.assistant .text").last.inner_text())


def test_a_reply_streams_and_names_its_sources(
    talking: Any, visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    stream, chat = CompletionHandler.stream, CompletionHandler.chat

    async def with_sources(self: CompletionHandler, *given: Any, **named: Any) -> AsyncIterator[str]:
        """A stand-in for a server with something to look up: sources in the last part."""
        async for part in stream(self, *given, **named):
            if part.startswith("data: [DONE]"):
                yield server_sent_event({"object": "chat.completion.chunk", "choices": [], "sources": [SOURCE]})
            yield part

    async def noted(self: CompletionHandler, body: Any, *given: Any) -> Any:
        asked.append([message.to_dict() for message in body.messages])
        return await chat(self, body, *given)

    monkeypatch.setattr(CompletionHandler, "stream", with_sources)
    monkeypatch.setattr(CompletionHandler, "chat", noted)
    page = visit(talking.url)
    assert page.title() == page.inner_text("#model") == "dialogue"
    talking.generation_worker.pause = 0.05
    page.fill("#message", "Hello <img src=x onerror=alert(1)>")
    page.press("#message", "Shift+Enter")
    page.locator("#message").press_sequentially("退款要等多久？")
    page.press("#message", "Enter")
    until(lambda: len(page.locator("article.assistant .text").text_content()) > 3)
    early = page.locator("article.assistant .text").text_content()
    assert page.locator("#stop").is_visible() and not page.locator("#send").is_visible()
    page.wait_for_selector("#send")
    whole = page.locator("article.assistant .text").text_content()
    assert whole.startswith(early) and len(whole) > len(early), "it grows while it is written"
    told = "Hello <img src=x onerror=alert(1)>\n退款要等多久？"
    assert page.locator("article.user .text").text_content() == told and page.locator("article img").count() == 0
    assert page.inner_text(".sources .title") == SOURCE["title"], "text, not HTML"
    assert page.locator(".sources b").count() == 0 and not page.locator(".sources p").first.is_visible()
    page.click(".sources summary")
    assert page.inner_text(".sources p >> nth=0") == SOURCE["text"] and "0.83" in page.inner_text(".sources summary")
    assert "40 tokens" in page.inner_text("article.assistant .note >> nth=-1")
    talking.generation_worker.pause = 0.0
    say(page, "and now?")
    page.wait_for_selector("#send")
    assert asked[0] == [{"role": "user", "content": told}]
    assert asked[1] == [*asked[0], {"role": "assistant", "content": whole}, {"role": "user", "content": "and now?"}]
    page.click("#anew")
    assert page.locator("article").count() == 0 and page.locator(".empty").is_visible()


def test_escape_and_the_button_stop_a_reply_and_its_writing(talking: Any, visit: Callable[..., Any]) -> None:
    page = visit(talking.url)
    talking.generation_worker.pause = 0.05
    try:
        for stop in (lambda: page.keyboard.press("Escape"), lambda: page.click("#stop")):
            say(page, "Hello")
            until(lambda: len(last(page)) > 1)
            stop()
            page.wait_for_selector("#send")
            assert "stopped" in page.inner_text("article.assistant .note >> nth=-1")
            until(lambda: not talking.generation_worker.running)
    finally:
        talking.generation_worker.pause = 0.0


def test_a_conversation_longer_than_the_model_reads_goes_on(
    talking: Any, visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    page = visit(talking.url)
    page.click("#chat_form summary")
    page.fill("#max_tokens", "4")

    def ask(number: int, words: int) -> None:
        say(page, f"question {number} " + "about my parcel " * words)
        page.wait_for_selector("#send")
        assert page.locator("#problem").is_hidden()

    for number in range(4):
        ask(number, 25)
    assert page.locator("article").count() == 8
    assert "no longer read" in page.inner_text(".line"), "left out before it is too long"
    monkeypatch.setattr(
        talking.generation_worker, "max_length", 150
    )  # as if the turns had more tokens than could be foreseen
    ask(4, 4)
    ask(5, 4)
    assert page.locator(".line").count() == 1 and page.locator(".line ~ article").count() == 4
    say(page, "word " * 400)
    page.wait_for_selector("#problem")
    assert "tokens" in page.inner_text("#problem") and page.input_value("#message").startswith("word"), "not lost"


def test_it_speaks_the_browsers_language_and_another_that_is_chosen(talking: Any, visit: Callable[..., Any]) -> None:
    page = visit(talking.url, locale="zh-CN")
    assert page.inner_text("#send") == "发送" and page.get_attribute("html", "lang") == "zh"
    page.select_option("#language", "en")
    assert page.inner_text("#send") == "Send" and page.get_attribute("#message", "aria-label") == "Your message"
    page.reload()
    page.wait_for_selector("#send")
    assert page.inner_text("#send") == "Send", "the choice is kept"


def test_narrow_screens_and_dark_ones(talking: Any, visit: Callable[..., Any]) -> None:
    page = visit(talking.url, viewport={"width": 320, "height": 560}, color_scheme="dark")
    say(page, "averylongword" * 30)
    page.wait_for_selector("#send")
    wide, height = page.evaluate("[document.documentElement.scrollWidth, document.documentElement.scrollHeight]")
    assert wide <= 320 and height <= 560, "nothing stands outside the screen"
    box = page.locator("#send").bounding_box()
    assert box["x"] + box["width"] <= 320 and box["y"] + box["height"] <= 560
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.emulate_media(color_scheme="light")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != dark


def test_every_control_has_a_name(talking: Any, visit: Callable[..., Any]) -> None:
    page = visit(talking.url)
    nameless = page.evaluate(
        """[...document.querySelectorAll("button, input, textarea, select, section, dialog")].filter((one) => !(
             one.getAttribute("aria-label") || one.getAttribute("aria-labelledby") || one.labels?.[0]?.textContent.trim()
             || one.textContent.trim() && one.tagName === "BUTTON")).map((one) => one.outerHTML)"""
    )
    assert nameless == []
    assert page.get_attribute("#log", "role") == "log" and page.get_attribute("#told", "role") == "status"


def test_a_token_is_asked_for_and_kept_in_the_tab(
    serving: Callable[..., Any], visit: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LLMSTAGE_API_KEY", "open sesame".replace(" ", "-"))
    with serving("dialogue", max_tokens=3) as it:
        assert httpx.get(f"{it.url}/v1/models").status_code == 401
        for address in page_files(model=True, monitor=False):
            shown = httpx.get(f"{it.url}{address}")
            assert shown.status_code == 200 and "default-src 'none'" in shown.headers["content-security-policy"]
        page = visit(it.url)
        page.fill("#token", "nonsense")
        page.press("#token", "Enter")
        page.wait_for_selector("#token_wrong")
        page.fill("#token", "open-sesame")
        page.press("#token", "Enter")
        page.wait_for_selector("#message")
        assert page.inner_text("#model") == "dialogue"
        say(page, "Hello")
        page.wait_for_selector("article.assistant .note")
        page.reload()
        page.wait_for_selector("#message")
        assert not page.locator("#token_dialog").is_visible()
        assert page.evaluate("[sessionStorage.length, JSON.stringify(localStorage).includes('sesame')]") == [1, False]
        other = visit(it.url)
        other.wait_for_selector("#token")
        other.keyboard.press("Escape")
        other.wait_for_selector("#problem")


def test_trouble_is_told_in_words(talking: Any, visit: Callable[..., Any]) -> None:
    page = visit(talking.url)
    page.route("**/v1/chat/completions", lambda route: route.abort())
    say(page, "Hello")
    page.wait_for_selector("#problem")
    assert page.inner_text("#problem") == "The server cannot be reached." and page.input_value("#message") == "Hello"
    page.unroute("**/v1/chat/completions")
    half = 'data: {"choices": [{"index": 0, "delta": {"content": "half a"}, "finish_reason": null}]}\n\n'
    page.route("**/v1/chat/completions", lambda route: route.fulfill(body=half, content_type="text/event-stream"))
    page.press("#message", "Enter")
    until(lambda: "cut off" in page.inner_text("#problem"))
    assert last(page) == "half a", "what has come stays"


def test_a_text_is_gone_on_with(talking: Any, visit: Callable[..., Any]) -> None:
    page = visit(talking.url)
    page.click("#views button >> nth=1")
    page.fill("#beginning", "Hello")
    page.press("#beginning", "Enter")
    page.wait_for_selector("#written .note")
    told = httpx.post(f"{talking.url}/v1/completions", json={"prompt": "Hello"}, timeout=60).json()
    assert page.locator("#written .text").text_content() == "Hello" + told["choices"][0]["text"]


def test_a_server_that_looks_things_up_shows_what_it_found(
    serving: Callable[..., Any], visit: Callable[..., Any], tmp_path: Path
) -> None:
    pytest.importorskip("bm25s")
    kept = {"id": "refund", "question": "How long does a refund take?", "answer": "A refund takes five days."}
    (tmp_path / "faq.jsonl").write_text(json.dumps(kept) + "\n", encoding="utf-8")
    with serving("dialogue", max_tokens=8, **{"retrieval.path": str(tmp_path / "faq.jsonl")}) as it:
        page = visit(it.url)
        say(page, "How long does a refund take?")
        page.wait_for_selector(".sources summary")
        page.click(".sources summary")
        assert "A refund takes five days." in page.inner_text(".sources details")
        assert "faq.jsonl" in page.inner_text(".sources details")


def test_every_word_of_the_pages_stands_once_in_each_language_and_is_there() -> None:
    folder = PAGE_DIR
    english, chinese = (folder / "labels.js").read_text(encoding="utf-8").split("  zh: {")
    keys = [re.findall(r'\b([a-z_]+): "', part) for part in (english, chinese.split("};")[0])]
    assert keys[0] == keys[1] and len(set(keys[0])) == len(keys[0]), "a second one would silently replace the first"
    told = "".join(path.read_text(encoding="utf-8") for path in folder.iterdir() if path.suffix in (".js", ".html"))
    asked = set(re.findall(r'\btranslate\("([a-z_]+)"\)|data-(?:text|label|hint)="([a-z_]+)"', told))
    assert {word for pair in asked for word in pair if word} <= set(keys[0])
