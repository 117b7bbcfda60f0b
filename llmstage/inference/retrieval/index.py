"""Passages that can be searched: by words (BM25, the library bm25s), by vectors, or by both ranks fused.

Scores do not depend on how large or of what kind the collection is, so that one threshold can be told:

- bm25: the share of the question that the passage holds, from 0 to 1: its BM25 score over the most that any passage could
  score, which is the sum of the weights (idf) of the question's words. A word that stands in no passage counts like one that
  stands in one, a function word (the, how, 什么) that stands in none does not count, and one that stands in some counts half:
  in a small collection, where such words are rare, they would else outweigh what the question is about.
- dense: the cosine of the angle between question and passage, after the mean of all passages is taken off, since vectors of
  language models share a large common part (Mu & Viswanath 2018, All-but-the-Top, ICLR).
- hybrid: ordered by reciprocal rank fusion, the sum of 1 / (60 + rank) (Cormack, Clarke & Büttcher 2009, SIGIR); as a rank
  says nothing of how well a passage fits, the score is the mean of the two above.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from llmstage.inference.retrieval.bm25_terms import stem, words_of
from llmstage.inference.retrieval.encoder import Encoder, Floats
from llmstage.inference.retrieval.passages import Passage

FORMAT = 1
"""Raised when the files below, words_of() or the cutting of passages change their meaning."""
K1, B = 1.5, 0.75
LIGHT = 0.5
"""Weight of function words. Of 0, 1/4, 1/2 and 1 it found most over the sets of benchmarks/retrieval.py: without them intents that
hang on `why` and `how` are lost, with all of them answers to `what is …`."""
FUSED, FUSED_FROM = 60, 100
"""The constant of the fusion, and how many of each rank are fused."""
Kind = Literal["bm25", "dense", "hybrid"]


class Kept(Sequence[dict[str, str]]):
    """Passages of a folder, each read where it is asked for. bm25s's own reader of them moves a place in the file, so that two
    threads would get each other's passages."""

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

    def __getitem__(self, at: Any) -> Any:
        start = int(self.ends[at - 1]) if at else 0
        return json.loads(self.bytes[start : int(self.ends[at])].tobytes())


class Index:
    """`bm25`: of bm25s, its arrays memory-mapped where it was opened from a folder; `vectors` [N, D] of length 1 with `mean`
    [D] taken off, where there is an encoder."""

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
        bm25.index([words_of(passage.searched()) or [""] for passage in passages], show_progress=False)
        vectors = mean = None
        if encoder is not None:
            made = encoder.vectors([passage.searched() for passage in passages])
            mean = made.mean(0) if len(made) > 1 else np.zeros_like(made[0])
            vectors = unit(made - mean)
        return cls([passage.as_dict() for passage in passages], bm25, vectors, mean)

    def save(self, folder: Path) -> None:
        self.bm25.save(folder, show_progress=False)
        Kept.save(self.passages, folder)
        if self.vectors is not None and self.mean is not None:
            np.save(folder / "vectors.npy", self.vectors)
            np.save(folder / "mean.npy", self.mean)
        told = {"format": FORMAT, "passages": len(self), "vectors": self.vectors is not None}
        (folder / "index.json").write_text(json.dumps(told), encoding="utf-8")

    @classmethod
    def open(cls, folder: Path) -> Index:
        """Raises OSError, ValueError or KeyError where the folder is none of ours, of another version, or damaged."""
        import bm25s

        told = json.loads((folder / "index.json").read_text(encoding="utf-8"))
        if told["format"] != FORMAT:
            raise ValueError(f"it is of version {told['format']}, and this is {FORMAT}")
        bm25 = bm25s.BM25.load(folder, mmap=True, load_corpus=False, show_progress=False, verbosity=0)
        passages = Kept(folder)
        vectors = mean = None
        if told["vectors"]:
            vectors, mean = np.load(folder / "vectors.npy", mmap_mode="r"), np.load(folder / "mean.npy")
        held = {len(passages), bm25.scores["num_docs"], *([len(vectors)] if vectors is not None else [])}
        if held != {told["passages"]}:
            raise ValueError("its files do not belong together")
        return cls(passages, bm25, vectors, mean)

    def shares(self, question: str) -> Floats:
        """[N] how much of the question each passage holds."""
        words = list(dict.fromkeys(words_of(question)))
        if not words:
            return np.zeros(len(self), np.float32)
        known, light = self.bm25.vocab_dict, function_words()
        scores, most = np.zeros(len(self)), 0.0
        for share, own in (
            (1.0, [word for word in words if word not in light]),
            (LIGHT, [word for word in words if word in light and word in known]),
        ):
            if own:
                scores += share * self.bm25.get_scores(own)
                most += share * float(self.weights(own).sum())
        return (scores / max(most, 1e-9)).astype(np.float32)

    def weights(self, words: list[str]) -> NDArray[np.float64]:
        """The idf of each word, as bm25s has it for Lucene's form of BM25: log(1 + (N - n + 1/2) / (n + 1/2))
        of a word that n of N passages hold."""
        known = [self.bm25.vocab_dict.get(word) for word in words]
        starts = self.bm25.scores["indptr"]
        held = np.array([0 if word is None else int(starts[word + 1] - starts[word]) for word in known])
        held = np.maximum(held, 1)
        weights: NDArray[np.float64] = np.log(1 + (len(self) - held + 0.5) / (held + 0.5))
        return weights

    def cosines(self, question: str, encoder: Encoder) -> Floats:
        """[N] how near each passage is to the question."""
        assert self.vectors is not None and self.mean is not None
        return np.asarray(self.vectors @ unit(encoder.vectors([question]) - self.mean)[0], dtype=np.float32)

    def search(self, question: str, kind: Kind, top: int, encoder: Encoder | None = None) -> list[tuple[int, float]]:
        """(number, score) of the best passages, best first; those with nothing in common with the question are left out."""
        if kind == "bm25":
            shares = self.shares(question)
            return [(at, float(shares[at])) for at in best(shares, top) if shares[at] > 0]
        assert encoder is not None
        cosines = self.cosines(question, encoder)
        if kind == "dense":
            return [(at, float(cosines[at])) for at in best(cosines, top)]
        shares = self.shares(question)
        fused: dict[int, float] = {}
        for scores, least in ((shares, 0.0), (cosines, -2.0)):
            for rank, at in enumerate(best(scores, FUSED_FROM), start=1):
                if scores[at] > least:
                    fused[at] = fused.get(at, 0.0) + 1 / (FUSED + rank)
        order = sorted(fused, key=lambda at: (-fused[at], -shares[at], at))[:top]
        return [(at, float(shares[at] + cosines[at]) / 2) for at in order]


@lru_cache(maxsize=1)
def function_words() -> frozenset[str]:
    """Of English and Chinese, as bm25s lists them."""
    from bm25s.stopwords import STOPWORDS_CHINESE, STOPWORDS_EN_PLUS

    return frozenset(stem(word) for word in (*STOPWORDS_EN_PLUS, *STOPWORDS_CHINESE))


def best(scores: Floats, top: int) -> list[int]:
    """The places of the highest scores, highest first; of equal ones the first."""
    if top < len(scores):  # only what can be among them is sorted
        edge = np.partition(scores, len(scores) - top)[len(scores) - top]
        places = np.flatnonzero(scores >= edge)
    else:
        places = np.arange(len(scores))
    order = places[np.argsort(-scores[places], kind="stable")][:top]
    return [int(at) for at in order]


def unit(vectors: Floats) -> Floats:
    """Each row divided by its length."""
    length = np.linalg.norm(vectors, axis=-1, keepdims=True)
    made: Floats = vectors / np.maximum(length, np.float32(1e-12))
    return made
