"""Compare retrieval with plain BM25: recall@5 on questions from public data sets, with 95 % intervals, and the share refused.

pip install rank_bm25 jieba
python benchmarks/retrieval.py --data-root ../shared/data [--encoder outputs/recipes/banking77] [--questions 1000]

Plain BM25 is rank_bm25 (Okapi, words split at spaces; for Chinese, characters) and bm25s with its own words and stop words (for
Chinese, jieba's words). Ours is llmstage's index with the defaults of retrieval.*. The difference is ours minus the better of the
two, paired by question, with a bootstrap interval. `--encoder` names a run on banking77; the script also compares its vectors, on
the data set it was trained on.
"""

from __future__ import annotations

import argparse
import csv
import json
import random
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # import llmstage from this checkout, whether it is installed or not

from llmstage.config.retrieval import RetrievalConfig  # noqa: E402
from llmstage.evaluation.metrics.score import (  # noqa: E402
    Score,
    mean,
    proportion,
)
from llmstage.inference.retrieval.encoder import Encoder  # noqa: E402
from llmstage.inference.retrieval.index import Index, Method  # noqa: E402
from llmstage.inference.retrieval.passages import Passage, row_passages  # noqa: E402

Search = Callable[[str], list[int]]
"""A question -> the rows of the retrieved passages, best first."""
CUT = 5


@dataclass(slots=True)
class Asked:
    """Texts, and questions with the index of their text. `titles`: for each text, its title and other phrasings of the question."""

    about: str
    texts: list[str]
    questions: list[tuple[str, int]]
    chinese: bool = False
    titles: list[list[str]] | None = None

    def searchable_text(self) -> list[str]:
        titles = self.titles or [[] for _ in self.texts]
        return ["\n".join([*title, text]) for title, text in zip(titles, self.texts, strict=True)]


def sets(root: Path, most: int) -> Iterator[tuple[str, Asked]]:
    rows = list(csv.DictReader((root / "banking77" / "train.csv").open(encoding="utf-8")))
    names = sorted({row["category"] for row in rows})
    ways = [[row["text"] for row in rows if row["category"] == name][:20] for name in names]
    tested = list(csv.DictReader((root / "banking77" / "test.csv").open(encoding="utf-8")))
    asked = [(row["text"], names.index(row["category"])) for row in tested]
    yield (
        "banking77",
        Asked(
            "a customer's question -> its article of 77",
            [name.replace("_", " ") for name in names],
            some(asked, most),
            titles=ways,
        ),
    )
    texts, asked = [], []
    for path in sorted((root / "medquad").glob("*/*.xml")):
        for pair in ElementTree.parse(path).getroot().iter("QAPair"):
            question, answer = pair.findtext("Question"), pair.findtext("Answer")
            if question and answer and answer.strip():
                asked.append((question.strip(), len(texts)))
                texts.append(" ".join(answer.split()))
    yield "medquad", Asked("a question -> its answer", texts, some(asked, most))
    for language in ("en", "zh"):
        texts, asked = [], []
        document = json.loads((root / "xquad" / f"xquad.{language}.json").read_text(encoding="utf-8"))
        for paragraph in (paragraph for article in document["data"] for paragraph in article["paragraphs"]):
            asked += [(item["question"], len(texts)) for item in paragraph["qas"]]
            texts.append(paragraph["context"])
        yield (
            f"xquad {language}",
            Asked("a question -> its paragraph", texts, some(asked, most), chinese=language == "zh"),
        )
    lines = [
        line.split("\t")
        for name in ("dev", "test")
        for line in (root / "csl_title_zh" / f"{name}.tsv").open(encoding="utf-8")
    ]
    asked = [(title.strip(), at) for at, (_, _, title) in enumerate(lines)]
    yield "csl_title_zh", Asked("a title -> its abstract", [line[1] for line in lines], some(asked, most), chinese=True)
    (path,) = [path for path in (root / "medical_dialogue_zh").glob("*.csv") if not path.name.startswith("sample")]
    rows = list(csv.DictReader(path.open(encoding="utf-8")))
    asked = [(row["ask"], at) for at, row in enumerate(rows)]
    yield (
        "medical_dialogue_zh",
        Asked("a patient's question -> its answer", [row["answer"] for row in rows], some(asked, most), chinese=True),
    )


def some(asked: list[tuple[str, int]], most: int) -> list[tuple[str, int]]:
    """Return at most `most` of the questions, sampled with a fixed seed."""
    return asked if len(asked) <= most else random.Random(0).sample(asked, most)


def rank_bm25(asked: Asked) -> Search:
    from rank_bm25 import BM25Okapi

    def words(text: str) -> list[str]:
        return [char for char in text if not char.isspace()] if asked.chinese else text.lower().split()

    bm25 = BM25Okapi([words(text) for text in asked.searchable_text()])
    return lambda question: np.argsort(-bm25.get_scores(words(question)), kind="stable").tolist()


def plain_bm25s(asked: Asked) -> Search:
    import bm25s

    def words(text: str) -> list[str]:
        if asked.chinese:
            import jieba

            jieba.setLogLevel(60)
            return list(jieba.cut(text))
        return list(bm25s.tokenize([text], return_ids=False, show_progress=False)[0])

    bm25 = bm25s.BM25()
    bm25.index([words(text) for text in asked.searchable_text()], show_progress=False)

    def search(question: str) -> list[int]:
        given = words(question)
        return np.argsort(-bm25.get_scores(given), kind="stable").tolist() if given else []

    return search


def ours(asked: Asked, method: Method, encoder: Encoder | None, most: int) -> tuple[Search, Index]:
    """Index the texts with llmstage. `most`: the largest number of words of a passage."""
    passages: list[Passage] = []
    owners: list[int] = []
    for row, text in enumerate(asked.texts):
        record = {"text": text, **({"question": asked.titles[row]} if asked.titles else {})}
        parts = list(row_passages(record, "benchmark", row + 1, "benchmark", most))
        passages += parts
        owners += [row] * len(parts)
    index = Index.build(passages, encoder)
    return lambda question: [owners[at] for at, _ in index.search(question, method, CUT, encoder)], index


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data-root", type=Path, default=REPOSITORY.parent / "shared" / "data")
    parser.add_argument("--encoder", help="a run on banking77")
    parser.add_argument("--questions", type=int, default=1000, help="most questions of a data set")
    given = parser.parse_args()
    cfg = RetrievalConfig()
    indices: list[tuple[str, Index, Method, Encoder | None, Asked]] = []
    print(
        "| questions | n | texts | method | recall@5 (95 %) | ours minus plain (95 %) |\n|---|---|---|---|---|---|",
        flush=True,
    )
    for name, asked in sets(given.data_root, given.questions):
        plain = {
            "rank_bm25, characters" if asked.chinese else "rank_bm25": rank_bm25(asked),
            "bm25s, jieba" if asked.chinese else "bm25s": plain_bm25s(asked),
        }
        hits = {method: is_in_top(search, asked) for method, search in plain.items()}
        best = max(hits.values(), key=lambda values: values.mean())
        search, _ = ours(asked, "bm25", None, 1_000_000)
        indices.append((name, ours(asked, "bm25", None, cfg.passage_words)[1], "bm25", None, asked))
        hits["**llmstage bm25**"] = is_in_top(search, asked)
        if max(len(text) for text in asked.texts) > 500:
            hits[f"llmstage bm25, passages of {cfg.passage_words} words"] = is_in_top(
                ours(asked, "bm25", None, cfg.passage_words)[0], asked
            )
        if given.encoder and name == "banking77":
            encoder = Encoder(given.encoder, offline=True)
            for index_method in ("dense", "hybrid"):
                search, index = ours(asked, index_method, encoder, 1_000_000)
                hits[f"**llmstage {index_method}**"] = is_in_top(search, asked)
                indices.append((name, index, index_method, encoder, asked))
        for method, values in hits.items():
            difference = "" if method in plain else shown(mean(values.astype(float) - best), sign="+")
            print(
                f"| {name}: {asked.about} | {len(values)} | {len(asked.texts)} | {method} | {shown(proportion(values))} | {difference} |",
                flush=True,
            )
    heads = " | ".join(f"below {share:g}" for share in REFUSED)
    print(f"\n| questions | to the texts of | {heads} |\n|---|---|{'---|' * len(REFUSED)}")
    asked_of = {name: asked for name, _, _, _, asked in indices}
    for name, index, index_method, encoder, _ in indices:
        for question_set, asked in asked_of.items():
            if question_set == name or (name, question_set) in STRANGERS:
                hits_of = [index.search(question, index_method, 1, encoder) for question, _ in asked.questions[:500]]
                scores = np.array([hit[0][1] if hit else 0.0 for hit in hits_of])
                cells = " | ".join(f"{np.mean(scores < share):.3f}" for share in REFUSED)
                print(
                    f"| {question_set} | {'itself' if question_set == name else name}, {index_method} | {cells} |",
                    flush=True,
                )


REFUSED = (0.05, 0.1, 0.15, 0.2, 0.3, 0.5)
"""Thresholds. The table has the share of questions whose best passage scores less."""
STRANGERS = (
    ("banking77", "medquad"), ("banking77", "xquad en"), ("medquad", "banking77"), ("xquad en", "banking77"),
    ("xquad zh", "csl_title_zh"), ("csl_title_zh", "xquad zh"),
)  # fmt: skip
"""Pairs of (texts of, questions of) two unrelated data sets."""


def is_in_top(search: Search, asked: Asked) -> np.ndarray:
    return np.array([passage in search(question)[:CUT] for question, passage in asked.questions])


def shown(score: Score, sign: str = "") -> str:
    return f"{score.value:{sign}.3f} ({score.low:{sign}.3f} to {score.high:{sign}.3f})"


if __name__ == "__main__":
    main()
