"""BLEU, TER and chrF of each row by sacreBLEU, with its signature and a bootstrap over its sufficient statistics."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.metrics.ter import TER

from llmstage.evaluation.metrics.generation import References, check_pairs, reference_streams_of, references_of
from llmstage.evaluation.metrics.score import Score, bootstrap_score, ratio, resampled_sums

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3040-\u30ff]")
LETTER = re.compile(r"[^\W\d_]")


def choose_tokenizer(refs: References) -> str:
    """Return the sacreBLEU tokenizer: char if a tenth of the letters are kana, zh if a third are Chinese, else 13a."""
    text = "".join(known for ref in refs for known in references_of(ref))
    letters = max(1, len(LETTER.findall(text)))
    if len(KANA.findall(text)) > letters / 10:
        return "char"
    return "zh" if len(HAN.findall(text)) > letters / 3 else "13a"


def bleu(hyps: Sequence[str], refs: References, tokenize: str = "auto") -> Score:
    """Return the corpus BLEU (0 to 100; Papineni 2002; Post 2018) with one or several references for each row."""
    metric = BLEU(tokenize=choose_tokenizer(refs) if tokenize == "auto" else tokenize)

    def resampled(counts: Any) -> Any:
        # compute_bleu takes integer counts, so the float sums are rounded.
        rows = resampled_sums(counts)
        return np.array([metric._compute_score_from_stats(row.round().astype(int).tolist()).score for row in rows])

    return corpus_score(metric, "BLEU", hyps, refs, resampled)


def ter(hyps: Sequence[str], refs: References, tokenize: str = "auto") -> Score:
    """Return the translation edit rate (0 is best, may exceed 100; Snover 2006): edits and shifts per reference word.

    Chinese and Japanese texts count per character.
    """
    by_character = (choose_tokenizer(refs) if tokenize == "auto" else tokenize) in ("zh", "char")
    metric = TER(normalized=by_character, asian_support=by_character)
    check_pairs(hyps, refs)
    if not hyps:
        return Score(math.nan, higher_is_better=False)
    counts = np.asarray(
        metric._extract_corpus_statistics(list(hyps), reference_streams_of(refs)), dtype=np.float64
    )  # [N, 2]
    score = ratio(counts[:, 0], counts[:, 1], lambda share: 100 * share, higher_is_better=False)
    return with_signature(score, f"TER|{metric.get_signature()}")


def corpus_score(
    metric: Any, name: str, hyps: Sequence[str], refs: References, resampled: Callable[[Any], Any]
) -> Score:
    """Return a corpus score of sacreBLEU with its bootstrap interval over rows."""
    check_pairs(hyps, refs)
    if not hyps:
        return Score(math.nan)
    reference_streams = reference_streams_of(refs)
    value = float(metric.corpus_score(list(hyps), reference_streams).score)
    score = Score(value, None, None, 1)
    if len(hyps) > 1:
        counts = np.asarray(metric._extract_corpus_statistics(list(hyps), reference_streams), dtype=np.float64)
        score = bootstrap_score(value, resampled(counts), len(hyps))
    return with_signature(score, f"{name}|{metric.get_signature()}")


def with_signature(score: Score, signature: str) -> Score:
    """Return the score with the sacreBLEU signature in `method`."""
    return replace(score, method=f"{score.method}, {signature}" if score.method else signature)


def chrf_rows(hyps: Sequence[str], refs: References) -> list[float]:
    """Return the sentence-level chrF2 of each row (0 to 100)."""
    metric = CHRF()
    return [float(metric.sentence_score(hyp, references_of(ref)).score) for hyp, ref in zip(hyps, refs, strict=True)]
