"""Answers and articles: read, cut, indexed, searched, and what is wrong with them. Only words and files here, no model."""

from __future__ import annotations

import gzip
import json
import xml.etree.ElementTree as ElementTree
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmstage.config.retrieval import RetrievalConfig
from llmstage.errors import DataError, UserError
from llmstage.inference.retrieval.bm25_terms import count_words, terms_of
from llmstage.inference.retrieval.index import Index, top_indices
from llmstage.inference.retrieval.passages import Passage, find_files, read_passages, split_text
from llmstage.inference.retrieval.retriever import Retriever

ARTICLE = """# Returns

You can send back anything within 30 days.

## Refunds

A refund reaches your card within five working days.

```
# no heading
```
"""
FAQ = [
    {
        "id": "zh-1",
        "question": ["退款要等多久？", "什么时候能收到退款"],
        "answer": "退款会在五个工作日内退回到您的银行卡。",
    },
    {"Title": "Invoice", "Text": "Invoices are on the page of your order."},
]


def written(folder: Path, rows: list[Any] | None = None) -> RetrievalConfig:
    (folder / "more").mkdir(parents=True, exist_ok=True)
    (folder / "returns.md").write_text(ARTICLE, encoding="utf-8")
    (folder / "hours.txt").write_text("Our shop in Oslo is open from nine to five.\n", encoding="utf-8")
    lines = [json.dumps(row, ensure_ascii=False) for row in (FAQ if rows is None else rows)]
    (folder / "more" / "faq.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return RetrievalConfig(path=str(folder))


def passages(cfg: RetrievalConfig) -> list[Passage]:
    return list(read_passages(find_files(cfg), cfg))


def index_of(*texts: str) -> Index:
    return Index.build([Passage(str(number), "", text, "a.txt") for number, text in enumerate(texts)], None)


def test_words_are_stems_and_chinese_characters_with_their_pairs() -> None:
    assert terms_of("Refunds, REFUNDED!") == ["refund", "refund"]
    assert terms_of("退款要iPhone１5") == ["退", "款", "要", "退款", "款要", "iphone15"]
    assert terms_of("<|assistant|> 。!") == ["assist"]
    assert count_words("two words 和三个字") == 6


def test_a_folder_is_read_with_its_subfolders_sections_and_rows(tmp_path: Path) -> None:
    found = {passage.id: passage for passage in passages(written(tmp_path))}
    assert list(found) == ["hours.txt:1", "zh-1", "more/faq.jsonl:2", "returns.md:3", "returns.md:7"]
    assert found["returns.md:7"].title == "Returns › Refunds" and "# no heading" in found["returns.md:7"].text
    assert found["zh-1"].title == "退款要等多久？" and "什么时候" in found["zh-1"].searchable_text()
    assert found["more/faq.jsonl:2"].title == "Invoice" and found["more/faq.jsonl:2"].path == "more/faq.jsonl"
    only = replace(written(tmp_path), path=str(tmp_path / "more" / "faq.jsonl"))
    assert [passage.id for passage in passages(only)] == ["zh-1", "faq.jsonl:2"]


def test_tables_documents_and_packed_files_are_read_as_well(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('Question,Answer\n"Is it far, by bus?","Two\nhours."\n', encoding="utf-8")
    (tmp_path / "b.json").write_text('[{"标题": "发票", "内容": "在订单页面。"}]', encoding="utf-8")
    (tmp_path / "c.txt.gz").write_bytes(gzip.compress(b"Packed."))
    found = [(passage.title, passage.text) for passage in passages(RetrievalConfig(path=str(tmp_path)))]
    assert found == [("Is it far, by bus?", "Two\nhours."), ("发票", "在订单页面。"), ("c", "Packed.")]


def test_more_is_found_on_medquad_than_by_bm25s_own_words() -> None:
    """A short form of benchmarks/retrieval.py: a question -> the answer that stands beside it, whole."""
    import bm25s

    folder = Path(__file__).resolve().parents[3] / "shared" / "data" / "medquad"
    if not folder.is_dir():
        pytest.skip("shared/data/medquad is not here")
    pairs = [
        (pair.findtext("Question") or "", pair.findtext("Answer") or "")
        for path in sorted(folder.glob("*/*.xml"))
        for pair in ElementTree.parse(path).getroot().iter("QAPair")
    ]
    pairs = [(question.strip(), answer) for question, answer in pairs if answer.strip()]
    index, plain = index_of(*(answer for _, answer in pairs)), bm25s.BM25()
    plain.index(bm25s.tokenize([answer for _, answer in pairs], show_progress=False), show_progress=False)
    asked = bm25s.tokenize([question for question, _ in pairs], show_progress=False)
    tops = plain.retrieve(asked, k=5, show_progress=False).documents
    theirs = sum(at in top for at, top in enumerate(tops)) / len(pairs)
    ours = sum(at in [hit for hit, _ in index.search(question, "bm25", 5)] for at, (question, _) in enumerate(pairs))
    assert 0.55 < theirs < 0.65 and ours / len(pairs) > theirs + 0.05


@pytest.mark.parametrize("most", [8, 20, 1000])
def test_pieces_hold_all_the_text_and_are_no_longer_than_told(most: int) -> None:
    text = (
        "One short sentence. " * 9
        + "\n\n"
        + "你好，退款要等多久？我等了很久。" * 5
        + "\n\n"
        + "unbroken" * 3
        + " end " * 30
    )
    pieces = list(split_text(text, most))
    assert "".join("".join(piece for _, piece in pieces).split()) == "".join(text.split())
    assert all(count_words(piece) <= most for _, piece in pieces)
    assert all(text[begin:].startswith(piece) for begin, piece in pieces)
    assert len(pieces) == 1 or most < 1000


def test_passage_words_cuts_rows_and_articles(tmp_path: Path) -> None:
    long = [{"id": "a", "title": "T", "text": "Some words that go on. " * 20}]
    cfg = written(tmp_path, long)
    whole, pieces = passages(cfg), passages(replace(cfg, passage_words=10))
    assert [passage.id for passage in whole if passage.title == "T"] == ["a"]
    own = [passage for passage in pieces if passage.title == "T"]
    assert [passage.id for passage in own][:3] == ["a", "a#2", "a#3"] and len(own) == 10


def test_a_score_is_lucenes_bm25_over_the_most_that_a_passage_could_score() -> None:
    """Lucene's BM25 written down anew from Robertson & Zaragoza (2009), without bm25s."""
    texts = ["the cat sat on the mat", "a dog and a cat", "birds sing", "the dog barks at the mat all day"]
    asked = "cat mat unicorn the"
    docs = [terms_of(text) for text in texts]
    mean = np.mean([len(doc) for doc in docs])
    held = (("cat", 2, 1.0), ("mat", 2, 1.0), ("unicorn", 1, 1.0), ("the", 2, 0.5))  # in so many texts, weighed by
    idf = {w: weight * np.log(1 + (4 - n + 0.5) / (n + 0.5)) for w, n, weight in held}
    wanted = [
        sum(idf[w] * doc.count(w) / (doc.count(w) + 1.5 * (0.25 + 0.75 * len(doc) / mean)) for w in idf)
        / sum(idf.values())
        for doc in docs
    ]
    assert index_of(*texts).bm25_scores(asked) == pytest.approx(wanted, rel=1e-5)
    assert index_of(*texts).search(asked, "bm25", 4)[0][0] == 0 and len(index_of(*texts).search(asked, "bm25", 4)) == 3


def test_ranks_are_those_that_bm25s_gives_itself() -> None:
    rng = np.random.default_rng(0)
    words = [f"w{number}" for number in range(40)]
    index = index_of(*(" ".join(rng.choice(words, rng.integers(5, 30))) for _ in range(60)))
    for _ in range(10):
        asked = list(rng.choice(words, 4, replace=False))
        wanted, scores = index.bm25.retrieve([[str(word) for word in asked]], k=10, show_progress=False)
        assert len(set(scores[0].tolist())) == 10, "no ties, whose order would be anyone's"
        assert [at for at, _ in index.search(" ".join(asked), "bm25", 10)] == wanted[0].tolist()


def test_function_words_that_no_passage_holds_do_not_count_against_one() -> None:
    index = index_of("refund time", "opening hours", "parcels")
    plain, wordy = (index.search(asked, "bm25", 1)[0][1] for asked in ("refund", "what about the refund 我"))
    assert plain == pytest.approx(wordy)
    assert index.search("purple refund", "bm25", 1)[0][1] < 0.6 * plain, "an unknown word does count"


def test_best_is_a_stable_sort_cut_off() -> None:
    scores = np.array([0.1, 0.5, 0.5, 0.2, 0.5, 0.0], np.float32)
    for top in range(1, 9):
        assert top_indices(scores, top) == list(np.argsort(-scores, kind="stable")[:top])


@pytest.mark.parametrize("asked", ["", "?!。", "<|assistant|><|end|>", "zzz 丂", "\x00", "a" * 10_000, "退" * 10_000])
def test_any_question_is_plain_text(asked: str) -> None:
    index = index_of("refund of an order", "退货说明", "!!!")
    assert all(0 < score <= 1 for _, score in index.search(asked, "bm25", 3))


def test_an_index_is_kept_by_content_mapped_and_built_anew_where_it_cannot_be_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cfg, cache = written(tmp_path / "kb"), tmp_path / "cache"
    first = Retriever(cfg, cache, offline=True)
    assert "built" in first.description and isinstance(first.index.bm25.scores["data"], np.memmap)
    again = Retriever(cfg, cache, offline=True)
    assert "from the cache" in again.description and again.search("refund") == first.search("refund")
    memory = Retriever(cfg, None, offline=True)
    assert memory.search("退款多久") == first.search("退款多久") and not isinstance(
        memory.index.bm25.scores["data"], np.memmap
    )
    (folder,) = (cache / "retrieval").iterdir()

    def broken(change: str) -> None:
        if change == "version":
            (folder / "index.json").write_text('{"format": 0}')
        elif change == "missing":
            (folder / "vocab.index.json").unlink()
        elif change == "torn":
            (folder / "passages.jsonl").write_bytes((folder / "passages.jsonl").read_bytes()[:-9])
        else:
            (folder / "index.json").write_text("[]")

    for change in ("version", "missing", "torn", "nonsense"):
        broken(change)
        capsys.readouterr()
        assert "built" in Retriever(cfg, cache, offline=True).description
        assert "built again" in capsys.readouterr().err
        assert "from the cache" in Retriever(cfg, cache, offline=True).description
    assert Retriever(replace(cfg, passage_words=9), cache, offline=True).key != first.key


def test_what_is_renewed_is_asked_and_what_cannot_be_read_changes_nothing(tmp_path: Path) -> None:
    cfg = written(tmp_path / "kb")
    retriever = Retriever(cfg, tmp_path / "cache", offline=True)
    assert retriever.reload()["changed"] is False and retriever.search("gift vouchers") == []
    written(
        tmp_path / "kb", [*FAQ, {"question": "Are there gift vouchers?", "answer": "Yes, gift vouchers of any value."}]
    )
    reply = retriever.reload()
    assert reply["changed"] and reply["passages"] == 6
    assert retriever.search("gift vouchers")[0].title == "Are there gift vouchers?"
    written(tmp_path / "kb", [{"question": "no answer"}])
    with pytest.raises(DataError, match=r"faq\.jsonl:1: a row without a text"):
        retriever.reload()
    assert retriever.search("gift vouchers")[0].title == "Are there gift vouchers?"


def test_files_that_change_while_they_are_read_are_not_indexed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from llmstage.inference.retrieval import retriever as module

    cfg = written(tmp_path)

    def changing(*given: Any) -> list[Passage]:
        found = list(read_passages(*given))
        (tmp_path / "hours.txt").write_text("We are closed.")
        return found

    monkeypatch.setattr(module, "read_passages", changing)
    with pytest.raises(DataError, match="changed while it was read"):
        Retriever(cfg, None, offline=True)


BAD: list[tuple[str, bytes, str]] = [
    (
        "a.jsonl",
        b'{"text": "fine"}\n{"question": "q", "label": 3}\n',
        r"a\.jsonl:2: a row without a text.*question, label",
    ),
    ("a.jsonl", b'{"text": "fine"}\n{"answer": " "}\n', r"a\.jsonl:2: its 'answer' is empty"),
    ("a.jsonl", b'{"text": 3}\n', r"a\.jsonl:1: its 'text' is neither a text nor a list"),
    ("a.jsonl", b'{"text": "fine"}\n{"text": "a\\ud800b"}\n', r"a\.jsonl:2: a lone surrogate \(U\+D800\) in 'text'"),
    (
        "a.jsonl",
        b'{"text": "t", "questions": ["\\udc00"]}\n',
        r"a\.jsonl:1: a lone surrogate \(U\+DC00\) in 'questions'",
    ),
    ("a.jsonl", b'{"text": "t", "id": "\\udc00"}\n', r"a\.jsonl:1: a lone surrogate \(U\+DC00\) in 'id'"),
    ("a.jsonl", b'{"text": "x"}\n{"text": \n', r"a\.jsonl:2: not JSON"),
    ("a.jsonl", b'["a"]\n', r"a\.jsonl:1: a JSON array"),
    ("a.txt", "退款说明：的是不了".encode("gb18030"), r"a\.txt:1: .*retrieval\.encoding=gb18030"),
    ("a.md", b"# Only a heading\n", "no text in its 1 files"),
    ("a.txt", b"", "no text in its 1 files"),
    ("a.txt", b"a\x00b", r"a\.txt:1: a NUL byte"),
    ("a.pdf", b"%PDF", r"has no answers or articles \(a\.pdf\).*\.md"),
    (".hidden.md", b"text", "it is empty"),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: case[2][:30])
def test_what_cannot_be_read_is_named_by_file_and_line(tmp_path: Path, case: tuple[str, bytes, str]) -> None:
    name, content, reply = case
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=reply):
        Retriever(RetrievalConfig(path=str(tmp_path)), None, offline=True)


def test_encodings_and_paths_are_told_by_their_keys(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes("退款说明".encode("gb18030"))
    good = Retriever(RetrievalConfig(path=str(tmp_path), encoding="gb18030"), None, offline=True)
    assert good.search("退款")[0].text == "退款说明"
    with pytest.raises(UserError, match=r"retrieval\.encoding=utf8000 is no text encoding"):
        Retriever(RetrievalConfig(path=str(tmp_path), encoding="utf8000"), None, offline=True)
    with pytest.raises(DataError, match=r"retrieval\.path=.*none\.jsonl: there is no such file"):
        Retriever(RetrievalConfig(path=str(tmp_path / "none.jsonl")), None, offline=True)
    with pytest.raises(DataError, match=r"File names must end in|file names must end in"):
        (tmp_path / "a.pdf").write_text("x")
        Retriever(RetrievalConfig(path=str(tmp_path / "a.pdf")), None, offline=True)


def test_a_missing_package_is_named_with_the_command_that_mends_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "bm25s", None)
    with pytest.raises(UserError, match=r"pip install 'llmstage\[retrieval\]'"):
        Retriever(written(tmp_path), None, offline=True)
