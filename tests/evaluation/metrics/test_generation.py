"""Generation scores against sacreBLEU and rouge-score, and Chinese, which the latter drops by itself."""

from __future__ import annotations

import math

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.chrf import CHRF

from llmstage.evaluation.metrics.generation import chrf, distinct_n, exact_match, rouge_l, split_words

HYPS = ["the cat sat on the mat", "A dog, barking loudly!", "no", "今天天气很好"]
REFS = ["the cat lay on a mat", "a dog is barking", "yes", "今天天气不好"]


def test_chrf_is_sacrebleu_s_with_its_interval_and_signature() -> None:
    hyps, refs = [*HYPS[:2], HYPS[3]] * 20, [*REFS[:2], REFS[3]] * 20
    score, theirs = chrf(hyps, refs), CHRF().corpus_score(hyps, [refs], n_bootstrap=1000)
    assert score.value == theirs.score
    assert score.low is not None and score.high is not None
    assert score.low == pytest.approx(theirs._mean - theirs._ci, abs=0.5)
    assert score.high == pytest.approx(theirs._mean + theirs._ci, abs=0.5)
    assert "nc:6|nw:0" in score.method and score.method.startswith("bootstrap") and score.count == 60
    assert chrf(["一样"], ["一样"]).value == pytest.approx(100) and chrf(["一样"], ["一样"]).low is None
    assert math.isnan(chrf([], []).value)


def test_chrf_of_a_model_that_is_right_almost_never_has_an_interval() -> None:
    score = chrf(["no", "no", "no", "so be it"], ["yes", "yes", "yes", "be it so"])  # a third of the resamples score 0
    assert score.low == 0 and (score.high or 0) > score.value


def test_rouge_l_equals_the_default_tokenizer_on_ascii() -> None:
    scorer = RougeScorer(["rougeL"])
    expected = [scorer.score(ref, hyp)["rougeL"].fmeasure for hyp, ref in zip(HYPS[:3], REFS[:3], strict=True)]
    assert rouge_l(HYPS[:3], REFS[:3]).value == pytest.approx(sum(expected) / 3)


def test_rouge_l_sees_chinese_by_character() -> None:
    assert rouge_l(["今天天气很好"], ["今天天气不好"]).value == pytest.approx(5 / 6)
    assert RougeScorer(["rougeL"]).score("今天", "今天")["rougeL"].fmeasure == 0  # why there is a tokenizer of ours


def test_words_of_mixed_text() -> None:
    assert split_words("Hello世界, it's 2026年 Ünïcode_x カナ") == [
        "hello", "世", "界", "it", "s", "2026", "年", "ünïcode", "x", "カ", "ナ",
    ]  # fmt: skip


def test_exact_match_strips_and_does_nothing_else() -> None:
    assert exact_match([" yes\n", "Yes", "是"], ["yes", "yes", "是"]).value == pytest.approx(2 / 3)


def test_distinct_n_worked_by_hand() -> None:
    assert distinct_n(["a b a b", "a c"], 1).value == 3 / 6
    assert distinct_n(["a b a b", "a c"], 2).value == 3 / 4
    assert distinct_n(["好好学习"], 1).value == 3 / 4
    assert math.isnan(distinct_n(["one"], 2).value)


def test_texts_and_references_must_pair() -> None:
    with pytest.raises(ValueError, match="2 texts against 1"):
        exact_match(["a", "b"], ["a"])
