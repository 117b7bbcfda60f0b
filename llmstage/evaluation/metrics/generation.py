"""Scores of generated text: chrF by sacreBLEU, ROUGE-L by rouge-score, exact match, diversity."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmstage.evaluation.metrics.intervals import bootstrap_score, mean, proportion, ratio, resampled_sums
from llmstage.evaluation.metrics.score import Score

# Chinese characters and Japanese kana stand for themselves; any other run of letters and digits is a word.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


def split_words(text: str) -> list[str]:
    """Lower-cased words without punctuation, CJK by character; for ASCII the same as rouge-score's own tokenizer."""
    return WORD.findall(text.lower())


class WordTokenizer:
    """What `RougeScorer(tokenizer=...)` asks for. Its default one keeps `[a-z0-9]` only: any Chinese text scores 0."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


References = Sequence[str | Sequence[str]]
"""One reference a row, or a list of them."""


def references_of(ref: str | Sequence[str]) -> list[str]:
    return [ref] if isinstance(ref, str) else list(ref)


def streams(refs: References) -> list[list[Any]]:
    """As sacreBLEU wants them: the first reference of every row, the second of every row…; None where a row has none."""
    lists = [references_of(ref) for ref in refs]
    return [
        [ref[number] if number < len(ref) else None for ref in lists]
        for number in range(max(map(len, lists), default=0))
    ]


def chrf(hyps: Sequence[str], refs: References) -> Score:
    """Corpus chrF2 (0 to 100; Popović 2015) by sacreBLEU; `method` carries its signature. Of several references of a
    row the one with the best score counts.

    The interval is the percentile bootstrap over rows on sacreBLEU's own n-gram counts. sacreBLEU 2.6 has a bootstrap
    too, but `n_bootstrap` raises TypeError as soon as one resample scores 0 (float among float32) and holds all
    resamples at once.
    """
    check_pairs(hyps, refs)
    if not hyps:
        return Score(math.nan)
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    metric, told = CHRF(), streams(refs)
    value = float(metric.corpus_score(list(hyps), told).score)
    signature = f"chrF2|{metric.get_signature()}"
    if len(hyps) == 1:
        return Score(value, None, None, 1, signature)
    counts = np.asarray(metric._extract_corpus_statistics(list(hyps), told), dtype=np.float64)  # [N, 18]
    resampled = np.array([metric._compute_f_score(sums) for sums in resampled_sums(counts)])
    score = bootstrap_score(value, resampled, len(hyps))
    return replace(score, method=f"{score.method}, {signature}" if score.method else signature)


def rouge_l(hyps: Sequence[str], refs: Sequence[str]) -> Score:
    """Mean ROUGE-L F measure (0 to 1; Lin 2004) by rouge-score without stemming, over words and Chinese characters."""
    check_pairs(hyps, refs)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=WordTokenizer())
    return mean([scorer.score(ref, hyp)["rougeL"].fmeasure for hyp, ref in zip(hyps, refs, strict=True)])


def rouge_rows(hyps: Sequence[str], refs: References) -> dict[str, list[float]]:
    """F measures of ROUGE-1, ROUGE-2 and ROUGE-L a row, by rouge-score; of several references each takes its best."""
    check_pairs(hyps, refs)
    from rouge_score.rouge_scorer import RougeScorer

    kinds = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(kinds.values()), tokenizer=WordTokenizer())
    found = [scorer.score_multi(references_of(ref), hyp) for hyp, ref in zip(hyps, refs, strict=True)]
    return {name: [float(row[kind].fmeasure) for row in found] for name, kind in kinds.items()}


def rouge(hyps: Sequence[str], refs: References) -> dict[str, Score]:
    """`rouge_1`, `rouge_2` and `rouge_l` (0 to 1; Lin 2004): means over rows, without stemming, over words and Chinese
    characters."""
    return {name: mean(values) for name, values in rouge_rows(hyps, refs).items()}


def length_ratio(hyps: Sequence[str], refs: References) -> Score:
    """Words (Chinese: characters) of all texts over those of their first references; 1 is the right length."""
    check_pairs(hyps, refs)
    wanted = [len(split_words(references_of(ref)[0])) for ref in refs]
    return ratio([len(split_words(hyp)) for hyp in hyps], wanted, count=len(hyps))


def exact_match(hyps: Sequence[str], refs: References) -> Score:
    """Share of rows equal to one of their references once white space around both is stripped."""
    check_pairs(hyps, refs)
    return proportion(
        [hyp.strip() in {known.strip() for known in references_of(ref)} for hyp, ref in zip(hyps, refs, strict=True)]
    )


def distinct_n(hyps: Sequence[str], n: int) -> Score:
    """Different n-grams over all n-grams of all replies (Li et al. 2016, NAACL), over words and Chinese characters.

    The paper divides by tokens; dividing by n-grams, as most later code does, makes 1 the top for every n. It falls as
    the text grows, so compare only equal amounts; there is no interval because a resample repeats rows and lowers it.
    """
    grams = [gram for hyp in hyps for gram in zip(*(split_words(hyp)[start:] for start in range(n)), strict=False)]
    return Score(len(set(grams)) / len(grams) if grams else math.nan, None, None, len(grams))


def most_frequent_reply(told: Sequence[str], refs: Sequence[str]) -> dict[str, Score]:
    """Scores of giving the likeliest of the training replies `told` as every answer."""
    hyps = [Counter(text.strip() for text in told).most_common(1)[0][0]] * len(refs)
    return {"chrf": chrf(hyps, refs), "rouge_l": rouge_l(hyps, refs), "exact_match": exact_match(hyps, refs)}


def check_pairs(hyps: Sequence[str], refs: References) -> None:
    """Raise ValueError where texts and references are not one to one: that is a bug of the caller."""
    if len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} texts against {len(refs)} references")
