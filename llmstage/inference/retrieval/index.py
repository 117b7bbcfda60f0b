"""Searches passages by terms (BM25, with the library bm25s), by vectors, or by both with fused ranks.

Scores do not depend on the size of the collection, so that one threshold fits every collection:

- bm25: the share of the question that the passage contains, from 0 to 1. This is the passage's BM25 score divided by the highest
  possible score, which is the sum of the weights (idf) of the question's terms. A term that no passage contains counts like one
  that a single passage contains. A function word (the, how, 什么) that no passage contains does not count; any other function
  word counts half. In a small collection function words are rare, and with full weight they would outweigh the topic.
- dense: the cosine between question and passage, after the mean of all passages is subtracted, since vectors of language models
  share a large common component (Mu & Viswanath 2018, All-but-the-Top, ICLR).
- hybrid: ordered by reciprocal rank fusion, the sum of 1 / (60 + rank) (Cormack, Clarke & Büttcher 2009, SIGIR). A rank does not
  measure how well a passage fits, so the score is the mean of the two scores above.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmstage.inference.retrieval.bm25_terms import stem, terms_of
from llmstage.inference.retrieval.encoder import Encoder, Floats
from llmstage.inference.retrieval.passages import Passage

FORMAT = 1
"""Version of the index files. Increase it when the files, terms_of() or the splitting into passages change."""
K1, B = 1.5, 0.75
FUNCTION_WORD_WEIGHT = 0.5
"""Of 0, 1/4, 1/2 and 1 this weight gave the best results over the sets of benchmarks/retrieval.py. Without function words the search
misses intents that depend on `why` and `how`; with full weight it misses answers to `what is …`."""
FUSION_CONSTANT, FUSION_DEPTH = 60, 100
"""The constant of reciprocal rank fusion, and the number of results of each method that it fuses."""
Method = Literal["bm25", "dense", "hybrid"]


class PassageFile(Sequence[dict[str, str]]):
    """Passages in a memory-mapped JSON-lines file; each is parsed when it is accessed.

    bm25s has such a reader, which moves a shared file position: two threads would get each other's passages.
    """

    def __init__(self, folder: Path) -> None:
        self.ends = np.load(folder / "passages.npy", mmap_mode="r")
        self.bytes = np.memmap(folder / "passages.jsonl", np.uint8, mode="r")
        if len(self.bytes) != self.ends[-1]:
            raise ValueError("passages.jsonl is not as long as it was")

    @classmethod
    def save(cls, passages: Sequence[dict[str, str]], folder: Path) -> None:
        lines = [
            json.dumps(passage, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n" for passage in passages
        ]
        (folder / "passages.jsonl").write_bytes(b"".join(lines))
        np.save(folder / "passages.npy", np.cumsum([len(line) for line in lines], dtype=np.int64))

    def __len__(self) -> int:
        return len(self.ends)

    def __getitem__(self, index: Any) -> Any:
        start = int(self.ends[index - 1]) if index else 0
        return json.loads(self.bytes[start : int(self.ends[index])].tobytes())


class Index:
    """`bm25`: the index of bm25s, memory-mapped where it was opened from a folder. `vectors` [N, D]: unit vectors after `mean` [D]
    was subtracted; None without an encoder."""

    def __init__(
        self, passages: Sequence[dict[str, str]], bm25: Any, vectors: Floats | None, mean: Floats | None
    ) -> None:
        self.passages, self.bm25, self.vectors, self.mean = passages, bm25, vectors, mean

    def __len__(self) -> int:
        return len(self.passages)

    @classmethod
    def build(cls, passages: list[Passage], encoder: Encoder | None) -> Index:
        import bm25s

        bm25 = bm25s.BM25(k1=K1, b=B, method="lucene")
        bm25.index([terms_of(passage.searchable_text()) or [""] for passage in passages], show_progress=False)
        vectors = mean = None
        if encoder is not None:
            raw_vectors = encoder.vectors([passage.searchable_text() for passage in passages])
            # The mean of one passage is the passage itself: subtracting it would leave nothing.
            mean = raw_vectors.mean(0) if len(raw_vectors) > 1 else np.zeros_like(raw_vectors[0])
            vectors = normalize(raw_vectors - mean)
        return cls([passage.as_dict() for passage in passages], bm25, vectors, mean)

    def save(self, folder: Path) -> None:
        self.bm25.save(folder, show_progress=False)
        PassageFile.save(self.passages, folder)
        if self.vectors is not None and self.mean is not None:
            np.save(folder / "vectors.npy", self.vectors)
            np.save(folder / "mean.npy", self.mean)
        manifest = {"format": FORMAT, "passages": len(self), "vectors": self.vectors is not None}
        (folder / "index.json").write_text(json.dumps(manifest), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Load an index. Raises OSError, ValueError or KeyError where the folder has no index, another version, or damaged files."""
        import bm25s

        manifest = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if manifest["format"] != FORMAT:
            raise ValueError(f"it has version {manifest['format']}, and this program reads version {FORMAT}")
        bm25 = bm25s.BM25.load(folder, mmap=True, load_corpus=False, show_progress=False, verbosity=0)
        passages = PassageFile(folder)
        vectors = mean = None
        if manifest["vectors"]:
            vectors, mean = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "mean.npy")
        lengths = {len(passages), bm25.scores["num_docs"], *([len(vectors)] if vectors is not None else [])}
        if lengths != {manifest["passages"]}:
            raise ValueError("its files do not belong together")
        return cls(passages, bm25, vectors, mean)

    def bm25_scores(self, question: str) -> Floats:
        """Return the share of the question that each passage contains, [N]."""
        terms = list(dict.fromkeys(terms_of(question)))
        if not terms:
            return np.zeros(len(self), np.float32)
        known, stop_words = self.bm25.vocab_dict, function_words()
        scores, highest = np.zeros(len(self)), 0.0
        for weight, group in (
            (1.0, [term for term in terms if term not in stop_words]),
            (FUNCTION_WORD_WEIGHT, [term for term in terms if term in stop_words and term in known]),
        ):
            if group:
                scores += weight * self.bm25.get_scores(group)
                highest += weight * float(self.idf(group).sum())
        return (scores / max(highest, 1e-9)).astype(np.float32)

    def idf(self, terms: list[str]) -> NDArray[np.float64]:
        """Return the inverse document frequency of each term, as bm25s computes it for Lucene's form of BM25.

        It is log(1 + (N - n + 1/2) / (n + 1/2)) for a term that n of N passages contain; n is at least 1 here.
        """
        term_ids = [self.bm25.vocab_dict.get(term) for term in terms]
        starts = self.bm25.scores["indptr"]
        frequencies = np.array([0 if index is None else int(starts[index + 1] - starts[index]) for index in term_ids])
        frequencies = np.maximum(frequencies, 1)
        weights: NDArray[np.float64] = np.log(1 + (len(self) - frequencies + 0.5) / (frequencies + 0.5))
        return weights

    def cosines(self, question: str, encoder: Encoder) -> Floats:
        """Return the cosine between the question and each passage, [N]."""
        assert self.vectors is not None and self.mean is not None
        return np.asarray(self.vectors @ normalize(encoder.vectors([question]) - self.mean)[0], dtype=np.float32)

    def search(
        self, question: str, method: Method, top_k: int, encoder: Encoder | None = None
    ) -> list[tuple[int, float]]:
        """Return (passage number, score) of the best passages, best first, without those that share no term with the question."""
        if method == "bm25":
            bm25_scores = self.bm25_scores(question)
            return [
                (index, float(bm25_scores[index]))
                for index in top_indices(bm25_scores, top_k)
                if bm25_scores[index] > 0
            ]
        assert encoder is not None
        cosines = self.cosines(question, encoder)
        if method == "dense":
            return [(index, float(cosines[index])) for index in top_indices(cosines, top_k)]
        bm25_scores = self.bm25_scores(question)
        fused: dict[int, float] = {}
        for scores, lower_bound in ((bm25_scores, 0.0), (cosines, -2.0)):
            for rank, index in enumerate(top_indices(scores, FUSION_DEPTH), start=1):
                if scores[index] > lower_bound:
                    fused[index] = fused.get(index, 0.0) + 1 / (FUSION_CONSTANT + rank)
        order = sorted(fused, key=lambda index: (-fused[index], -bm25_scores[index], index))[:top_k]
        return [(index, float(bm25_scores[index] + cosines[index]) / 2) for index in order]


@lru_cache(maxsize=1)
def function_words() -> frozenset[str]:
    """Return the stems of bm25s's English and Chinese stop words."""
    from bm25s.stopwords import STOPWORDS_CHINESE, STOPWORDS_EN_PLUS

    return frozenset(stem(word) for word in (*STOPWORDS_EN_PLUS, *STOPWORDS_CHINESE))


def top_indices(scores: Floats, top_k: int) -> list[int]:
    """Return the indices of the highest scores, highest first; of equal scores the lower index first."""
    if top_k < len(scores):  # partition first: sorting every score would take longer
        threshold = np.partition(scores, len(scores) - top_k)[len(scores) - top_k]
        candidates = np.flatnonzero(scores >= threshold)
    else:
        candidates = np.arange(len(scores))
    order = candidates[np.argsort(-scores[candidates], kind="stable")][:top_k]
    return [int(index) for index in order]


def normalize(vectors: Floats) -> Floats:
    """Divide each row by its length."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    normalized: Floats = vectors / np.maximum(length, np.float32(1e-12))
    return normalized
