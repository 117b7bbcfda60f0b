"""Sentences into another language: BLEU, chrF and TER, cut by source so that no sentence stands on two sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from llmstage.config.task import Translation as TranslationConfig
from llmstage.data.rows import Columns, Row
from llmstage.demo.translation import translation_rows
from llmstage.evaluation.metrics.generation import chrf
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.metrics.translation import bleu, chrf_rows, ter
from llmstage.tasks.base_text_to_text import TextToText

SEARCHED = 100_000
"""Training rows that the translation memory looks through, at most."""
AT_ONCE = 256


class Translation(TextToText):
    # The source alone says what a row is: one sentence with several translations stays on one side of a cut.
    columns = Columns(required=("source", "target"), content=("source",))
    pipeline_tag = "translation"
    route = "translate"
    demo_size = 4000
    source, target = "source", "target"
    headline = "chrf"

    cfg: TranslationConfig

    @staticmethod
    def demo_rows(num_rows: int, seed: int) -> list[Row]:
        return translation_rows(num_rows, seed)

    def text_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> dict[str, Score]:
        tokenize = self.cfg.tokenize
        return {"chrf": chrf(hyps, refs), "bleu": bleu(hyps, refs, tokenize), "ter": ter(hyps, refs, tokenize)}

    def row_scores(self, hyps: Sequence[str], refs: list[list[str]]) -> list[float]:
        return chrf_rows(hyps, refs)

    def simple_methods(self, train: list[tuple[str, str]], sources: list[str]) -> dict[str, list[str]]:
        common = Counter(target for _, target in train).most_common(1)[0][0]
        return {
            "copy of the source": list(sources),
            "most frequent target": [common] * len(sources),
            "translation of the most similar training source": memory(train[:SEARCHED], sources),
        }


def memory(train: list[tuple[str, str]], sources: list[str]) -> list[str]:
    """The target of the training source with the largest cosine of TF-IDF over character 1- to 4-grams within words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectors = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    known = vectors.fit_transform([source for source, _ in train])
    found = vectors.transform(sources)
    out: list[str] = []
    for start in range(0, len(sources), AT_ONCE):  # a dense block of cosines at a time
        likeness = (found[start : start + AT_ONCE] @ known.T).toarray()
        out += [train[int(index)][1] for index in likeness.argmax(axis=1)]
    return out


TASK = Translation
