"""BLEU and TER by sacreBLEU, with its signature and a bootstrap over its own statistics."""

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

from llmstage.evaluation.metrics.generation import References, check_pairs, references_of, streams
from llmstage.evaluation.metrics.intervals import bootstrap_score, ratio, resampled_sums
from llmstage.evaluation.metrics.score import Score

HAN = re.compile("[\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff]")
KANA = re.compile("[\u3040-\u30ff]")
LETTER = re.compile(r"[^\W\d_]")


def choose_tokenizer(refs: References) -> str:
    """zh where a third of the letters are Chinese characters, char where a tenth are kana, else 13a."""
    text = "".join(known for ref in refs for known in references_of(ref))
    letters = max(1, len(LETTER.findall(text)))
    if len(KANA.findall(text)) > letters / 10:
        return "char"
    return "zh" if len(HAN.findall(text)) > letters / 3 else "13a"


def bleu(hyps: Sequence[str], refs: References, tokenize: str = "auto") -> Score:
    """Corpus BLEU (0 to 100; Papineni 2002; Post 2018) over one or several references a row."""
    metric = BLEU(tokenize=choose_tokenizer(refs) if tokenize == "auto" else tokenize)

    def resampled(counts: Any) -> Any:
        # Rounded, because compute_bleu takes counts; sums of groups of rows are whole numbers anyway.
        rows = resampled_sums(counts)
        return np.array([metric._compute_score_from_stats(row.round().astype(int).tolist()).score for row in rows])

    return corpus_score(metric, "BLEU", hyps, refs, resampled)


def ter(hyps: Sequence[str], refs: References, tokenize: str = "auto") -> Score:
    """Translation edit rate (0 is best, may pass 100; Snover 2006): edits and shifts per word of the references; per
    character where text has no spaces."""
    by_character = (choose_tokenizer(refs) if tokenize == "auto" else tokenize) in ("zh", "char")
    metric = TER(normalized=by_character, asian_support=by_character)
    check_pairs(hyps, refs)
    if not hyps:
        return Score(math.nan, higher_is_better=False)
    counts = np.asarray(metric._extract_corpus_statistics(list(hyps), streams(refs)), dtype=np.float64)  # [N, 2]
    score = ratio(counts[:, 0], counts[:, 1], lambda share: 100 * share, higher_is_better=False)
    return signed(score, f"TER|{metric.get_signature()}")


def corpus_score(
    metric: Any, name: str, hyps: Sequence[str], refs: References, resampled: Callable[[Any], Any]
) -> Score:
    """A sacreBLEU score of a corpus, between the ends of its bootstrap over rows."""
    check_pairs(hyps, refs)
    if not hyps:
        return Score(math.nan)
    told = streams(refs)
    value = float(metric.corpus_score(list(hyps), told).score)
    score = Score(value, None, None, 1)
    if len(hyps) > 1:
        counts = np.asarray(metric._extract_corpus_statistics(list(hyps), told), dtype=np.float64)
        score = bootstrap_score(value, resampled(counts), len(hyps))
    return signed(score, f"{name}|{metric.get_signature()}")


def signed(score: Score, signature: str) -> Score:
    return replace(score, method=f"{score.method}, {signature}" if score.method else signature)


def chrf_rows(hyps: Sequence[str], refs: References) -> list[float]:
    """chrF2 of each row by itself (0 to 100), for slices and for finding the worst."""
    metric = CHRF()
    return [float(metric.sentence_score(hyp, references_of(ref)).score) for hyp, ref in zip(hyps, refs, strict=True)]
