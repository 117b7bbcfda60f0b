"""Scores of generated text: chrF by sacreBLEU, ROUGE by rouge-score, exact match, length ratio, diversity."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from llmstage.evaluation.metrics.score import Score, bootstrap_score, mean, proportion, ratio, resampled_sums

# Each Chinese character and Japanese kana is a word; any other run of letters and digits is a word.
CJK = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"
WORD = re.compile(rf"[{CJK}]|[^\W_{CJK}]+")


def split_words(text: str) -> list[str]:
    """Return lower-cased words without punctuation, CJK by character. For ASCII text this equals rouge-score's tokenizer."""
    return WORD.findall(text.lower())


class WordTokenizer:
    """A tokenizer for `RougeScorer(tokenizer=...)`. The default one keeps only `[a-z0-9]`, so Chinese text scores 0."""

    def tokenize(self, text: str) -> list[str]:
        return split_words(text)


References = Sequence[str | Sequence[str]]
"""One reference for each row, or a list of them."""


def references_of(ref: str | Sequence[str]) -> list[str]:
    """Return the references of a row as a list."""
    return [ref] if isinstance(ref, str) else list(ref)


def reference_streams_of(refs: References) -> list[list[Any]]:
    """Return the references as sacreBLEU takes them: the first one of every row, the second one of every row, …; None for a
    row that has fewer."""
    lists = [references_of(ref) for ref in refs]
    return [
        [ref[number] if number < len(ref) else None for ref in lists]
        for number in range(max(map(len, lists), default=0))
    ]


def chrf(hyps: Sequence[str], refs: References) -> Score:
    """Return the corpus chrF2 (0 to 100; Popović 2015) of sacreBLEU, with its signature in `method`.

    For several references of a row, the one with the best score counts. The interval is the percentile bootstrap over rows
    on the n-gram counts of sacreBLEU. The bootstrap of sacreBLEU 2.6 is not used: `n_bootstrap` raises TypeError if one
    resample scores 0 (float among float32), and it keeps all resamples in memory at once.
    """
    check_pairs(hyps, refs)
    if not hyps:
        return Score(math.nan)
    import numpy as np
    from sacrebleu.metrics.chrf import CHRF

    metric, reference_streams = CHRF(), reference_streams_of(refs)
    value = float(metric.corpus_score(list(hyps), reference_streams).score)
    signature = f"chrF2|{metric.get_signature()}"
    if len(hyps) == 1:
        return Score(value, None, None, 1, signature)
    counts = np.asarray(metric._extract_corpus_statistics(list(hyps), reference_streams), dtype=np.float64)  # [N, 18]
    resampled = np.array([metric._compute_f_score(sums) for sums in resampled_sums(counts)])
    score = bootstrap_score(value, resampled, len(hyps))
    return replace(score, method=f"{score.method}, {signature}" if score.method else signature)


def rouge_l(hyps: Sequence[str], refs: Sequence[str]) -> Score:
    """Return the mean ROUGE-L F measure (0 to 1; Lin 2004) of rouge-score, without stemming, over words and Chinese characters."""
    check_pairs(hyps, refs)
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"], tokenizer=WordTokenizer())
    return mean([scorer.score(ref, hyp)["rougeL"].fmeasure for hyp, ref in zip(hyps, refs, strict=True)])


def rouge_rows(hyps: Sequence[str], refs: References) -> dict[str, list[float]]:
    """Return the F measures of ROUGE-1, ROUGE-2 and ROUGE-L of each row, by rouge-score; each with its best reference."""
    check_pairs(hyps, refs)
    from rouge_score.rouge_scorer import RougeScorer

    rouge_names = {"rouge_1": "rouge1", "rouge_2": "rouge2", "rouge_l": "rougeL"}
    scorer = RougeScorer(list(rouge_names.values()), tokenizer=WordTokenizer())
    row_scores = [scorer.score_multi(references_of(ref), hyp) for hyp, ref in zip(hyps, refs, strict=True)]
    return {name: [float(row[rouge_name].fmeasure) for row in row_scores] for name, rouge_name in rouge_names.items()}


def rouge(hyps: Sequence[str], refs: References) -> dict[str, Score]:
    """Return `rouge_1`, `rouge_2` and `rouge_l` (0 to 1; Lin 2004): means over rows, without stemming, over words and
    Chinese characters."""
    return {name: mean(values) for name, values in rouge_rows(hyps, refs).items()}


def length_ratio(hyps: Sequence[str], refs: References) -> Score:
    """Return the number of words (Chinese: characters) of all texts divided by that of their first references."""
    check_pairs(hyps, refs)
    reference_lengths = [len(split_words(references_of(ref)[0])) for ref in refs]
    return ratio([len(split_words(hyp)) for hyp in hyps], reference_lengths, count=len(hyps))


def exact_match(hyps: Sequence[str], refs: References) -> Score:
    """Return the share of texts that equal one of their references, both without surrounding white space."""
    check_pairs(hyps, refs)
    return proportion(
        [hyp.strip() in {known.strip() for known in references_of(ref)} for hyp, ref in zip(hyps, refs, strict=True)]
    )


def distinct_n(hyps: Sequence[str], n: int) -> Score:
    """Return the number of distinct n-grams divided by that of all n-grams (Li et al. 2016, NAACL).

    n-grams are over words and Chinese characters. The paper divides by tokens; most later code divides by n-grams, so that
    the maximum is 1 for every n. The value falls with the amount of text, so compare only equal amounts. There is no
    interval, because a resample repeats rows and lowers the value.
    """
    grams = [gram for hyp in hyps for gram in zip(*(split_words(hyp)[start:] for start in range(n)), strict=False)]
    return Score(len(set(grams)) / len(grams) if grams else math.nan, None, None, len(grams))


def most_frequent_reply(train_replies: Sequence[str], refs: Sequence[str]) -> dict[str, Score]:
    """Return the scores of answering each row with the most frequent one of the training replies."""
    hyps = [Counter(text.strip() for text in train_replies).most_common(1)[0][0]] * len(refs)
    return {"chrf": chrf(hyps, refs), "rouge_l": rouge_l(hyps, refs), "exact_match": exact_match(hyps, refs)}


def check_pairs(hyps: Sequence[str], refs: References) -> None:
    """Raise ValueError if the numbers of texts and references differ, which is a bug of the caller."""
    if len(hyps) != len(refs):
        raise ValueError(f"{len(hyps)} texts against {len(refs)} references")
