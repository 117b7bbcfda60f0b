"""CIDEr-D against the numbers of the COCO caption code."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from llmstage.evaluation.metrics.cider import cider, cider_rows
from llmstage.evaluation.metrics.generation import split_words

FIXTURE = json.loads(Path(__file__).with_name("cider.json").read_text(encoding="utf-8"))


def test_it_gives_the_numbers_of_the_published_code():
    """The fixture holds captions and what pycocoevalcap 1.2 said of them, tokenised as `split_words` does."""
    rows = cider_rows(FIXTURE["hyps"], FIXTURE["refs"])
    assert rows == pytest.approx(FIXTURE["rows"], abs=1e-9)
    assert cider(FIXTURE["hyps"], FIXTURE["refs"]).value == pytest.approx(FIXTURE["mean"], abs=1e-9)


def test_the_fixture_is_what_the_published_code_says_today():
    published = pytest.importorskip("pycocoevalcap.cider.cider")
    hyps = {number: [" ".join(split_words(text))] for number, text in enumerate(FIXTURE["hyps"])}
    refs = {number: [" ".join(split_words(text)) for text in texts] for number, texts in enumerate(FIXTURE["refs"])}
    value, rows = published.Cider().compute_score(refs, hyps)
    assert value == pytest.approx(FIXTURE["mean"], abs=1e-12)
    assert list(rows) == pytest.approx(FIXTURE["rows"], abs=1e-12)


def test_laws():
    refs = ["a red circle on the left", "two blue stars above a cross", "一个红色的圆形在左边"]
    assert cider_rows(refs, refs) == pytest.approx([10.0] * 3)  # the same words with the same weights
    assert cider_rows(["green", "", "绿"], refs) == [0.0] * 3
    halved = cider_rows(refs, [[refs[0], "ein grünes Dreieck"], *refs[1:]])
    assert halved == pytest.approx([5.0, 10.0, 10.0])  # several references are averaged
    assert cider(refs[:1], refs[:1]).value == 0.0  # one row: every word is in every reference, so none tells anything
    short, long = cider_rows(["red circle", "red circle " + "red circle " * 9], ["red circle", "a blue star"])
    assert short > long


def test_interval_and_count():
    score = cider(FIXTURE["hyps"], FIXTURE["refs"])
    assert score.low < score.value < score.high and score.count == len(FIXTURE["hyps"]) and score.higher_is_better


def test_texts_and_references_must_be_one_to_one():
    with pytest.raises(ValueError, match="1 texts against 2"):
        cider(["a"], ["a", "b"])
