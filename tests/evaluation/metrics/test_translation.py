"""BLEU, chrF, TER and ROUGE against sacreBLEU and rouge-score called directly, with several references and in Chinese."""

from __future__ import annotations

import math

import pytest
from rouge_score.rouge_scorer import RougeScorer
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from llmstage.evaluation.metrics.generation import chrf, exact_match, length_ratio, rouge
from llmstage.evaluation.metrics.translation import bleu, choose_tokenizer, chrf_rows, ter

HYPS = ["The cat sat on the mat.", "A dog is barking loudly, isn't it?", "We went home early today."] * 8
REFS = ["The cat lay on a mat.", "A dog barks loudly, doesn't it?", "We went home early."] * 8
MORE = ["A cat sat on the mat.", "The dog is barking very loudly.", None] * 8
LISTS = [[one] if two is None else [one, two] for one, two in zip(REFS, MORE, strict=True)]
ZH = ["今天天气很好。", "他在河边睡觉。", "我喜欢红色的花。"] * 8
ZH_REFS = ["今天天气不错。", "他在河边睡着了。", "我喜欢那朵红花。"] * 8


@pytest.mark.parametrize(("refs", "streams"), [(REFS, [REFS]), (LISTS, [REFS, MORE])], ids=["one", "several"])
def test_scores_are_sacrebleus(refs, streams):
    for ours, theirs in ((bleu, BLEU()), (chrf, CHRF()), (ter, TER())):
        score, expected = ours(HYPS, refs), theirs.corpus_score(HYPS, streams)
        assert score.value == pytest.approx(expected.score)
        assert str(theirs.get_signature()) in score.method and score.method.startswith("bootstrap")
        assert score.low < score.value < score.high
        assert score.higher_is_better is (ours is not ter)


def test_the_intervals_are_those_of_sacrebleus_own_bootstrap():
    for ours, theirs in ((bleu, BLEU()), (ter, TER())):
        expected = theirs.corpus_score(HYPS, [REFS], n_bootstrap=1000)
        score = ours(HYPS, REFS)
        assert score.low == pytest.approx(expected._mean - expected._ci, abs=1.5)
        assert score.high == pytest.approx(expected._mean + expected._ci, abs=1.5)


def test_chinese_is_scored_by_character():
    assert bleu(ZH, ZH_REFS).value == pytest.approx(BLEU(tokenize="zh").corpus_score(ZH, [ZH_REFS]).score)
    assert (
        bleu(ZH, ZH_REFS).value
        > bleu(ZH, ZH_REFS, "13a").value
        == pytest.approx(BLEU(tokenize="13a").corpus_score(ZH, [ZH_REFS]).score)
    )
    theirs = TER(normalized=True, asian_support=True)
    assert ter(ZH, ZH_REFS).value == pytest.approx(theirs.corpus_score(ZH, [ZH_REFS]).score)
    assert ter(ZH, ZH_REFS).value < ter(ZH, ZH_REFS, "13a").value  # whole sentences as words: all wrong


@pytest.mark.parametrize(
    ("refs", "name"),
    [(REFS, "13a"), (ZH_REFS, "zh"), (["日本語です。カタカナも"], "char"), (["", "123"], "13a"), ([], "13a")],
)
def test_the_tokenizer_follows_the_script_of_the_references(refs, name):
    assert choose_tokenizer(refs) == name


def test_rouge_takes_the_best_of_several_references():
    scorer = RougeScorer(["rouge1", "rouge2", "rougeL"])
    expected = [scorer.score_multi(refs, hyp) for refs, hyp in zip(LISTS, HYPS, strict=True)]
    ours = rouge(HYPS, LISTS)
    for name, rouge_name in {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}.items():
        assert ours[name].value == pytest.approx(sum(row[rouge_name].fmeasure for row in expected) / len(expected))
    assert rouge(["今天天气很好"], ["今天天气不好"])["rouge_2"].value == pytest.approx(3 / 5)


def test_exact_match_and_length_with_several_references():
    assert exact_match(["b ", "c"], [["a", "b"], ["a"]]).value == 0.5
    assert length_ratio(["one two", "天气"], [["one"], "天气很好"]).value == pytest.approx(4 / 5)


def test_one_row_and_none():
    assert bleu(["a b c d e"], ["a b c d e"]).value == pytest.approx(100) and bleu(["a"], ["a"]).low is None
    assert math.isnan(bleu([], []).value) and math.isnan(ter([], []).value)
    assert chrf_rows(["same"], [["other", "same"]]) == [pytest.approx(100)]
    with pytest.raises(ValueError, match="1 texts against 2"):
        bleu(["a"], ["a", "b"])


def test_scores_near_zero_have_an_interval():
    score = bleu(["no such thing"] * 3 + ["be it so today my friend"], ["yes"] * 3 + ["be it so today my friend"])
    assert score.low is not None and score.low < score.value <= score.high
