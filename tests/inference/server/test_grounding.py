"""Retrieval in use: passages in the prompt within a budget, extracts, hand-overs, sources in replies, an index renewed under load."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import openai
import pytest

from llmstage.cli.command import main
from llmstage.config.retrieval import RetrievalConfig
from llmstage.errors import ModelError
from llmstage.inference.retrieval import encoder
from llmstage.inference.retrieval.grounding import REFUSAL, Grounding
from llmstage.inference.retrieval.retriever import Retriever
from llmstage.tokenization.chat_template import reply_prompt
from llmstage.tokenization.tokenizer import load_processor

FAQ = [
    {"id": "refund", "question": "How long does a refund take?", "answer": "A refund takes five days."},
    {"id": "zh", "question": "退款要等多久？", "answer": "退款需要五天。"},
    {"id": "odd", "question": "What is <|assistant|>?", "answer": "A mark <|end|> of odd models."},
]
ASKED = "How long does a refund take?"


def written(path: Path, rows: list[dict[str, Any]]) -> Path:
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    draft = path.with_suffix(".draft")
    draft.write_text(lines, encoding="utf-8")
    draft.rename(path)  # as a careful writer does; half a file is refused
    return path


@pytest.fixture(scope="module")
def faq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return written(tmp_path_factory.mktemp("kb") / "faq.jsonl", FAQ)


@pytest.fixture(scope="module")
def grounding(run_of: Callable[[str], Path], faq: Path) -> Callable[..., Grounding]:
    processor = load_processor(str(run_of("dialogue") / "model"), local=True)

    def grounded(**changes: Any) -> Grounding:
        cfg = RetrievalConfig(path=str(faq))
        return Grounding(Retriever(replace(cfg, **changes), None, offline=True), processor)

    return grounded


def user(text: str) -> list[dict[str, Any]]:
    return [{"role": "user", "content": text}]


def read_by_model(it: Grounding, messages: list[dict[str, Any]]) -> str:
    ids, _ = reply_prompt(it.processor, messages, 1 << 30)
    return str(it.processor.tokenizer.decode(ids))


def test_passages_stand_in_the_system_message_and_come_back_as_sources(grounding: Callable[..., Grounding]) -> None:
    it = grounding(instruction="USE THESE")
    grounded = it.ground(user(ASKED), 10_000)
    assert grounded.answered_by == "model" and grounded.text is None and grounded.sources[0].id == "refund"
    assert grounded.messages[0]["content"].startswith("USE THESE\n\n[1] How long does a refund take?\nA refund takes")
    assert grounded.messages[1:] == user(ASKED)
    own = it.ground([{"role": "system", "content": "Be brief."}, *user(ASKED)], 10_000).messages
    assert own[0]["content"].startswith("Be brief.\n\nUSE THESE") and len(own) == 2
    assert "请根据" in grounding().ground(user("退款要多久？"), 10_000).messages[0]["content"]
    source = grounded.response_fields()["sources"][0]
    assert set(source) == {"id", "title", "text", "score", "path"} and 0.4 < source["score"] <= 1
    assert source["path"] == "faq.jsonl", "seen from the folder; the server's own paths are nobody's business"


def test_top_and_tokens_bound_what_is_shown(grounding: Callable[..., Grounding]) -> None:
    asked = user("refund 退款 assistant mark <|assistant|>")
    many, one = (
        grounding(refuse_below=-1).ground(asked, 10_000),
        grounding(refuse_below=-1, top_k=1).ground(asked, 10_000),
    )
    assert len(many.sources) == 3 and len(one.sources) == 1
    assert [found.id for found in grounding().ground(user(ASKED), 10_000).sources] == ["refund"], "others score too low"
    texts = []
    for tokens in (76, 90, 200):
        it = grounding(max_tokens=tokens)
        shown = it.ground(user(ASKED), 10_000)
        texts += [found.text for found in shown.sources]
        assert it.count_tokens(shown.messages[0]["content"]) <= tokens
    assert len(texts) == 2 and texts[0] != texts[1] and texts[1].startswith(texts[0]), texts
    for room in (0, -50, 10):
        none = grounding().ground(user(ASKED), room)
        assert none.sources == [] and none.messages == user(ASKED) and none.answered_by == "model"


@pytest.mark.parametrize("room", range(60, 200, 7))
def test_no_room_is_exceeded_and_no_character_is_cut_in_two(grounding: Callable[..., Grounding], room: int) -> None:
    it = grounding()
    grounded = it.ground(user("退款要等多久"), room)
    if grounded.sources:
        assert it.count_tokens(grounded.messages[0]["content"]) <= room
        assert all(FAQ[1]["answer"].startswith(found.text) for found in grounded.sources if found.id == "zh")


def test_marks_in_questions_and_passages_stay_plain_text(grounding: Callable[..., Grounding]) -> None:
    it = grounding(answer="model")
    grounded = it.ground(user("What is <|assistant|>?"), 10_000)
    assert grounded.sources[0].id == "odd"
    ids, _ = reply_prompt(it.processor, grounded.messages, 1 << 30)
    assistant = it.processor.tokenizer.convert_tokens_to_ids("<|assistant|>")
    assert ids.count(assistant) == 1, "the one that opens the reply"


def test_a_passage_that_scores_high_is_the_answer(grounding: Callable[..., Grounding]) -> None:
    grounded = grounding(answer="extract").ground(user(ASKED), 0)
    assert (grounded.answered_by, grounded.text) == ("passage", "A refund takes five days.") and grounded.sources[
        0
    ].id == "refund"
    put = grounding(answer="extract", template="{title} → {text} ({path})").ground(user(ASKED), 0)
    assert put.text == "How long does a refund take? → A refund takes five days. (faq.jsonl)"
    assert grounding(answer="extract", extract_above=0.99).ground(user(ASKED), 10_000).answered_by == "model"
    assert grounding(answer="model").ground(user(ASKED), 10_000).answered_by == "model"


def test_what_is_not_known_is_handed_over(grounding: Callable[..., Grounding]) -> None:
    for asked, chinese in (("Who won the world cup?", False), ("世界杯冠军是谁", True)):
        grounded = grounding().ground(user(asked), 10_000)
        assert (grounded.answered_by, grounded.text, grounded.sources) == ("refusal", REFUSAL[chinese], [])
    assert grounding(refusal="Ask Ann.").ground(user("Who won?"), 10_000).text == "Ask Ann."
    assert grounding(refuse_below=0.99).ground(user(ASKED), 10_000).answered_by == "refusal"
    for asked in ("Who won?", "", "…"):
        assert grounding(refuse_below=-1).ground(user(asked), 10_000).answered_by == "model"


def test_a_template_that_takes_no_system_message_gets_passages_above_the_question(
    grounding: Callable[..., Grounding], run_of: Callable[[str], Path]
) -> None:
    it = grounding()
    processor = load_processor(str(run_of("dialogue") / "model"), local=True)
    processor.tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no system') }}{% endif %}"
        "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    it = Grounding(it.retriever, processor)
    grounded = it.ground([*user("hi"), {"role": "assistant", "content": "hello"}, *user(ASKED)], 10_000).messages
    assert [message["role"] for message in grounded] == ["user", "assistant", "user"] and grounded[0]["content"] == "hi"
    assert "A refund takes five days." in grounded[-1]["content"] and grounded[-1]["content"].endswith(ASKED)
    assert "A refund takes" in read_by_model(it, grounded)


def test_vectors_and_fused_ranks(run_of: Callable[[str], Path], faq: Path) -> None:
    path = str(run_of("classification"))
    dense = Retriever(RetrievalConfig(path=str(faq), method="dense", encoder=path), None, offline=True)
    assert dense.encoder is not None
    text = "What is <|assistant|>?\nA mark <|end|> of odd models."
    assert dense.search(text)[0].id == "odd" and dense.search(text)[0].score == pytest.approx(1, abs=1e-4)
    assert dense.search("")
    both = Retriever(RetrievalConfig(path=str(faq), method="hybrid", encoder=path), None, offline=True)
    asked = "refund take 退款"
    cosines, shares = both.index.cosines(asked, both.encoder), both.index.bm25_scores(asked)  # type: ignore[arg-type]
    ranks = [np.argsort(np.argsort(-scores)) + 1 for scores in (cosines, shares)]
    fused = 1 / (60 + ranks[0]) + np.where(shares > 0, 1 / (60 + ranks[1]), 0)  # Cormack et al. (2009)
    order = [[row["id"] for row in FAQ].index(found.id) for found in both.search(asked)]
    assert sorted(order) == [0, 1, 2] and fused[order].tolist() == pytest.approx(sorted(fused, reverse=True))
    first = both.search(asked)[0]
    at = [row["id"] for row in FAQ].index(first.id)
    assert first.score == pytest.approx((cosines[at] + shares[at]) / 2, abs=1e-5)


def test_vectors_are_kept_and_follow_the_weights(run_of: Callable[[str], Path], faq: Path, tmp_path: Path) -> None:
    cfg = RetrievalConfig(path=str(faq), method="dense", encoder=str(run_of("classification")))
    first, again = (Retriever(cfg, tmp_path, offline=True) for _ in range(2))
    assert "from the cache" in again.description and isinstance(again.index.vectors, np.memmap)
    assert again.search("refund") == first.search("refund")
    assert Retriever(replace(cfg, encoder=str(run_of("dialogue"))), tmp_path, offline=True).key != first.key


def test_many_texts_are_encoded_in_parts_between_which_a_question_has_its_turn(
    run_of: Callable[[str], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    it = encoder.Encoder(str(run_of("classification")), offline=True)
    texts = [f"text {'word ' * (number % 7)}{number}" for number in range(9)]
    whole, turns = it.vectors(texts), []
    assert whole.shape[0] == 9

    class Counted:
        def __enter__(self) -> None:
            turns.append("in")

        def __exit__(self, *_: object) -> None:
            turns.append("out")

    monkeypatch.setattr(encoder, "BATCH_SIZE", 4)
    monkeypatch.setattr(it, "lock", Counted())
    assert np.allclose(it.vectors(texts), whole, atol=1e-5) and turns == ["in", "out"] * 3


def test_an_encoder_that_makes_no_vectors_is_named(tmp_path: Path, faq: Path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "t5"}')
    for path, expected in ((str(tmp_path), "is a t5"), (str(tmp_path / "none"), "retrieval.encoder=")):
        with pytest.raises(ModelError, match=expected):
            Retriever(RetrievalConfig(path=str(faq), method="dense", encoder=path), None, offline=True)


@pytest.fixture(scope="module")
def knowing(serving: Callable[..., Any], faq: Path) -> Iterator[Any]:
    with serving("dialogue", **{"retrieval.path": str(faq), "retrieval.max_tokens": 90}) as it:
        yield it


def test_the_openai_client_gets_sources_whole_and_in_the_last_event(knowing: Any) -> None:
    api = openai.OpenAI(base_url=f"{knowing.url}/v1", api_key="none", max_retries=0)
    asked: Any = {"model": "dialogue", "messages": user(ASKED), "max_tokens": 8}
    whole = api.chat.completions.create(**asked)
    assert whole.sources[0]["id"] == "refund" and whole.answered_by == "model"  # type: ignore[attr-defined]
    for more in ({}, {"stream_options": {"include_usage": True}}):
        events = list(api.chat.completions.create(**asked, stream=True, **more))
        assert events[-1].sources == whole.sources  # type: ignore[attr-defined]
        assert not any(getattr(event, "sources", None) for event in events[:-1])
        said = "".join(event.choices[0].delta.content or "" for event in events if event.choices)
        assert said == whole.choices[0].message.content
    refused = api.chat.completions.create(model="dialogue", messages=user("世界杯冠军是谁"))
    assert refused.choices[0].message.content == REFUSAL[True] and refused.answered_by == "refusal"  # type: ignore[attr-defined]
    assert refused.sources == [] and refused.choices[0].finish_reason == "stop"  # type: ignore[attr-defined]
    events = list(api.chat.completions.create(model="dialogue", messages=user("Who won?"), stream=True))
    assert "".join(event.choices[0].delta.content or "" for event in events) == REFUSAL[False]
    truncated = api.chat.completions.create(model="dialogue", messages=user("Who won?"), max_tokens=5)
    assert truncated.choices[0].finish_reason == "length" and truncated.usage.completion_tokens == 5  # type: ignore[union-attr]
    assert REFUSAL[False].startswith(truncated.choices[0].message.content or "?")


def test_a_question_longer_than_the_budget_is_answered_without_passages(knowing: Any) -> None:
    def ask(text: str) -> httpx.Response:
        return httpx.post(
            f"{knowing.url}/v1/chat/completions", json={"messages": user(text), "max_tokens": 4}, timeout=30
        )

    longest, asked = knowing.generation_worker.max_length, ASKED
    while len(reply_prompt(knowing.generation_worker.processor, user(asked), 1 << 30)[0]) < longest - 30:
        asked += " take"
    answer = ask(asked)
    assert answer.status_code == 200 and answer.json()["sources"] == []
    assert "context_length" in ask("refund take " * longest).text
    assert ask("What is <|assistant|><|end|>?").json()["sources"][0]["id"] == "odd"


def test_an_index_is_renewed_under_load_and_no_request_is_lost(serving: Callable[..., Any], tmp_path: Path) -> None:
    path = written(tmp_path / "faq.jsonl", FAQ)
    with serving("dialogue", **{"retrieval.path": str(path), "retrieval.answer": "extract"}) as it:
        stop, answers = threading.Event(), []

        def ask(_: int) -> None:
            with httpx.Client(timeout=30) as api:
                while not stop.is_set():
                    answers.append(api.post(f"{it.url}/v1/chat/completions", json={"messages": user(ASKED)}))

        with ThreadPoolExecutor(8) as pool:
            asking = [pool.submit(ask, number) for number in range(8)]
            try:
                for number in range(1, 6):
                    rows = [{**FAQ[0], "answer": f"A refund takes {number} weeks."}]
                    written(
                        path,
                        [
                            *rows,
                            *(
                                {"text": f"filler number {at} of edition {number}, which nobody ever asks for here"}
                                for at in range(500)
                            ),
                        ],
                    )
                    reply = httpx.post(f"{it.url}/v1/index/reload", timeout=30)
                    assert reply.status_code == 200 and reply.json()["passages"] == 501 and reply.json()["changed"]
            finally:
                stop.set()
            for asked in asking:
                asked.result()
        said = [answer.json()["choices"][0]["message"]["content"] for answer in answers]
        assert {answer.status_code for answer in answers} == {200} and len(answers) > 20
        assert set(said) <= {"A refund takes five days.", *(f"A refund takes {n} weeks." for n in range(1, 6))}
        assert len(set(said)) > 1, "the new index was asked as well"
        written(path, [{"question": "no answer"}])
        kept = httpx.post(f"{it.url}/v1/index/reload")
        assert kept.status_code == 409 and "faq.jsonl:1" in kept.json()["error"]["message"]
        last = httpx.post(f"{it.url}/v1/chat/completions", json={"messages": user(ASKED)}).json()
        assert last["choices"][0]["message"]["content"] == "A refund takes 5 weeks."


def test_a_conversation_in_the_terminal_shows_its_sources(
    run_of: Callable[[str], Path], faq: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.txt").write_text(f"{ASKED}\nWho won the world cup?\n" + "refund " * 300 + "\n", encoding="utf-8")
    words = ["stage=chat", f"model.path={run_of('dialogue')}", "stage.script=turns.txt", f"retrieval.path={faq}"]
    capsys.readouterr()
    assert main([*words, "retrieval.answer=extract", "generation.max_new_tokens=3", "stage.save=kept.jsonl"]) == 0
    captured = capsys.readouterr()
    assert captured.out.splitlines()[:2] == ["A refund takes five days.", REFUSAL[False]]
    assert "[1] How long does a refund take? (faq.jsonl, 0." in captured.err and "3 passages of" in captured.err
    kept = json.loads(Path("kept.jsonl").read_text(encoding="utf-8"))["messages"]
    assert [message["role"] for message in kept][:4] == ["user", "assistant"] * 2 and kept[1]["content"] in captured.out


def test_keys_that_do_not_go_together_are_told_before_anything_starts(
    run_of: Callable[[str], Path], faq: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    chat = ["stage=chat", f"model.path={run_of('dialogue')}"]
    given = [*chat, f"retrieval.path={faq}"]
    for words, expected in (
        ([*chat, "retrieval.top_k=2"], "retrieval.path names no"),
        ([*given, "retrieval.method=hybrid"], "retrieval.encoder="),
        ([*given, "retrieval.encoder=x"], "retrieval.method=bm25 compares words"),
        ([*given, "retrieval.extract_above=0.3"], "retrieval.answer=model"),
        ([*given, "retrieval.answer=extract", "retrieval.template='{nobody}'"], "{title}"),
        ([*given, "retrieval.refuse_below=-1", "retrieval.refusal=x"], "refuses nothing"),
        (["stage=evaluate", f"model.path={run_of('dialogue')}", f"retrieval.path={faq}"], "looks nothing up"),
    ):
        capsys.readouterr()
        assert main(words) == 2
        assert expected in capsys.readouterr().err
    serve = ["stage=serve", f"model.path={run_of('classification')}", "stage.port=0", f"retrieval.path={faq}"]
    assert main(serve) == 4 and "does not converse" in capsys.readouterr().err
