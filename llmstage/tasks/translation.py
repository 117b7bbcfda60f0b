"""Translation: chrF, BLEU and TER. Splits are by source, so that no source sentence is in two splits."""

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

MAX_MEMORY = 100_000
"""Upper bound of the training rows in the translation memory."""
BATCH_SIZE = 256


class Translation(TextToText):
    """A source sentence and its translation, or a list of translations."""

    # Only the source identifies a row: all translations of a sentence are in the same split.
    columns = Columns(required=("source", "target"), content=("source",))
    pipeline_tag = "translation"
    route = "translate"
    demo_size = 4000
    source, target = "source", "target"
    row_metric = "chrf"

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
        most_frequent = Counter(target for _, target in train).most_common(1)[0][0]
        return {
            "copy of the source": list(sources),
            "most frequent target": [most_frequent] * len(sources),
            "translation of the most similar training source": translation_memory(train[:MAX_MEMORY], sources),
        }


def translation_memory(train: list[tuple[str, str]], sources: list[str]) -> list[str]:
    """Return the target of the training source with the largest TF-IDF cosine, over character 1- to 4-grams in words."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    vectorizer = TfidfVectorizer(analyzer="char_wb", ngram_range=(1, 4), sublinear_tf=True)
    train_matrix = vectorizer.fit_transform([source for source, _ in train])
    source_matrix = vectorizer.transform(sources)
    targets: list[str] = []
    for start in range(0, len(sources), BATCH_SIZE):  # in blocks, because the matrix of cosines is dense
        cosines = (source_matrix[start : start + BATCH_SIZE] @ train_matrix.T).toarray()
        targets += [train[int(index)][1] for index in cosines.argmax(axis=1)]
    return targets


TASK = Translation
