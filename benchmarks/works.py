"""What can be raced: one record a work, and the rows it trains on. `train.py` knows works by these fields, none by name."""

from __future__ import annotations

import json
import math
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pictures import logo_files, scene_files

REPOSITORY = Path(__file__).resolve().parents[1]
SETS = REPOSITORY.parent / "shared" / "data"
"""Where real data sets lie; without them each work takes rows of its demo world."""
DOCUMENT = 4000
"""Characters of a document: about those of a block under llmstage's default data.text_rows=block."""
STRIDE = 128
"""Tokens that neighbouring windows of a context share, on both sides: run_qa.py's default."""

REVIEWS = 1200
"""Long texts made for a race."""
DRAWN = 3000
"""Pictures drawn for a race."""

Row = dict[str, Any]
Rows = tuple[list[Row], str]
"""(rows, where they come from)"""


@dataclass(slots=True, frozen=True)
class Work:
    """One training workload, as both sides know it."""

    model_family: str
    """Model family of the preset that both train: conf/model/<model_family>_<size>.yaml."""
    unit: str
    """What a rate counts: tokens/s, where both sides fill the rows of a batch; else rows/s or images/s."""
    peer: str
    """The peer's script: in benchmarks/peers, or where --peers says."""
    rows: Callable[[], Rows]
    length: int
    """Default tokens of a row."""
    lr: float = 1e-4
    padding: tuple[str, ...] = ()
    """Ways in which the peer can pad its rows; the first is the default. max: to --length; dynamic: to the batch's longest."""
    peer_ids: Callable[[Any, Row, int], list[list[int]]] | None = None
    """(tokenizer, row, length) -> ids of the rows that the peer makes of one; they must be llmstage's. None: running text."""
    prepare: Callable[[Any], None] = lambda tokenizer: None
    """What must be changed in the tokenizer so that both sides see the same ids."""
    options: Callable[[list[Row]], dict[str, Any]] = lambda rows: {}
    """Words under `task.` on llmstage's side."""
    peer_words: tuple[str, ...] = ()
    """The same for the peer's command line."""
    task: str = ""
    """llmstage's task, where the work is not called so."""
    batch: int = 16
    """Default rows of a step."""
    words: tuple[str, ...] = ()
    """Further words of llmstage's command line."""

    @property
    def is_text(self) -> bool:
        """Rows are running text, one document a line; others are JSON."""
        return self.peer_ids is None

    @property
    def counts_tokens(self) -> bool:
        """Rows of the batch are full of tokens on both sides: text in blocks, or dialogues packed by both."""
        return self.unit == "tokens/s"

    @property
    def stage(self) -> str:
        return "pretrain" if self.is_text else "finetune"


# rows


def text_documents() -> Rows:
    """Documents of about DOCUMENT characters, one a line: real text where it is at hand, else the prose world.

    Sentences are shuffled, so that batches are alike and the losses of two orders can be compared after few steps.
    """
    files = [SETS / "wikitext2" / f"{name}.txt" for name in ("test", "valid")]
    if files[0].is_file():
        lines = (line for file in files for line in file.read_text("utf-8").splitlines())
        paragraphs = [paragraph.strip() for line in lines for paragraph in line.split(" . ")]
        source = "WikiText-2 (test and validation files)"
    else:
        from llmstage.demo.prose import prose_rows

        paragraphs, source = [row["text"] for row in prose_rows(8000, 0)], "the prose demo world"
    documents, parts, size = [], [], 0
    random.Random(0).shuffle(paragraphs)
    for paragraph in filter(None, paragraphs):
        parts.append(paragraph)
        size += len(paragraph)
        if size >= DOCUMENT:
            documents.append({"text": " . ".join(parts)})
            parts, size = [], 0
    return documents, source


def labelled_rows() -> Rows:
    """Sentences of two classes: SST-2 where it is at hand, else the demo world cut to two labels."""
    path = SETS / "sst2" / "train.tsv"
    if path.is_file():
        lines = (line.rstrip("\n").rpartition("\t") for line in path.open(encoding="utf-8"))
        return [{"text": text, "label": int(label)} for text, _, label in lines], "SST-2"
    from llmstage.demo.classification import classification_rows

    rows = classification_rows(6000, 0)
    names = sorted({row["label"] for row in rows})
    return [{"text": row["text"], "label": names.index(row["label"]) % 2} for row in rows], "the demo world"


def review_rows() -> Rows:
    """Texts as long as IMDb's reviews: sentences of one label joined until a length is reached that is drawn from a
    log-normal distribution with that set's median and mean, 174 and 234 words (Maas 2011). No reviews are at hand."""
    sentences, source = labelled_rows()
    rng = random.Random(0)
    texts = {label: [row["text"] for row in sentences if row["label"] == label] for label in (0, 1)}
    rows = []
    for number in range(REVIEWS):
        label, words = number % 2, rng.lognormvariate(math.log(174), math.sqrt(2 * math.log(234 / 174)))
        parts: list[str] = []
        while sum(part.count(" ") + 1 for part in parts) < words:
            parts.append(rng.choice(texts[label]))
        rows.append({"text": " ".join(parts), "label": label})
    return rows, f"{source}, joined to IMDb's lengths"


def dialogue_rows() -> Rows:
    """Conversations in several turns, shuffled: the Schema-Guided Dialogues where they are at hand, else the demo world."""
    files = sorted((SETS / "sgd").glob("*/dialogues_*.json"))
    if files:
        all_turns = [record["turns"] for file in files for record in json.loads(file.read_text("utf-8"))]
        names = {"USER": "user", "SYSTEM": "assistant"}
        turns = [
            [{"role": names[turn["speaker"]], "content": turn["utterance"].strip()} for turn in record]
            for record in all_turns
        ]
        rows, source = [{"messages": record} for record in turns], "Schema-Guided Dialogues"
    else:
        from llmstage.demo import dialogue

        rows = [{"messages": row["messages"]} for row in dialogue.dialogue_rows(600, 0)]
        source = "the demo world"
    random.Random(0).shuffle(rows)
    return rows, source


def tagged_rows() -> Rows:
    """Sentences with tags as numbers, which `tag_names` explains: WNUT-17 where it is at hand, else the demo world."""
    path = SETS / "wnut17" / "wnut17train.conll"
    if path.is_file():
        blocks = [[line.split("\t") for line in block.splitlines()] for block in path.read_text("utf-8").split("\n\n")]
        rows = [{"tokens": [word for word, _ in block], "tags": [tag for _, tag in block]} for block in blocks if block]
        source = "WNUT-17"
    else:
        from llmstage.demo.token_classification import entity_rows

        rows, source = entity_rows(3000, 0), "the demo world"
    random.Random(0).shuffle(rows)
    # llmstage's order of labels (O, then by type): with another one the two sides' seeded heads would differ.
    names = sorted({tag for row in rows for tag in row["tags"]}, key=lambda tag: (tag != "O", tag[2:], tag))
    for row in rows:
        row["tags"] = [names.index(tag) for tag in row["tags"]]
        row["names"] = names
    # The peer counts labels by the highest tag in its file, of which this may be the beginning.
    rows.insert(0, rows.pop(next(at for at, row in enumerate(rows) if len(names) - 1 in row["tags"])))
    return rows, source


def question_rows() -> Rows:
    """Questions with one answer in a context, shuffled: XQuAD (en) where it is at hand, else the demo world."""
    path = SETS / "xquad" / "xquad.en.json"
    if path.is_file():
        articles = json.loads(path.read_text("utf-8"))["data"]
        parts = [part for article in articles for part in article["paragraphs"]]
        asked = [(question, part["context"]) for part in parts for question in part["qas"]]
        rows = [
            {"question": question["question"].strip(), "context": text, "answers": question["answers"]}
            for question, text in asked
        ]
        source = "XQuAD (en)"
    else:
        from llmstage.demo import questions

        rows, source = questions.question_rows(2000, 0), "the demo world"
    random.Random(0).shuffle(rows)
    return rows, source


def drawn_rows() -> Rows:
    """Captions of scenes, with 256 x 256 files."""
    return scene_files(DRAWN), "drawn scenes, 256 x 256 files"


def logo_rows() -> Rows:
    """Logos of GitHub's topics with what is said of them: where they are at hand; else the drawn scenes."""
    folder = SETS / "github_topics" / "topics"
    return (logo_files(folder), "GitHub topics") if folder.is_dir() else drawn_rows()


# the same ids on both sides


def text_ids(tokenizer: Any, row: Row, length: int) -> list[list[int]]:
    return [tokenizer(row["text"], truncation=True, max_length=length)["input_ids"]]


def caption_ids(tokenizer: Any, row: Row, length: int) -> list[list[int]]:
    return [tokenizer(row["caption"], truncation=True, max_length=length)["input_ids"]]


def word_ids(tokenizer: Any, row: Row, length: int) -> list[list[int]]:
    return [tokenizer(row["tokens"], is_split_into_words=True, truncation=True, max_length=length)["input_ids"]]


def chat_ids(tokenizer: Any, row: Row, length: int) -> list[list[int]]:
    return [list(tokenizer.apply_chat_template(row["messages"], return_dict=True)["input_ids"])[:length]]


def window_ids(tokenizer: Any, row: Row, length: int) -> list[list[int]]:
    cut = {"truncation": "only_second", "max_length": length, "stride": STRIDE, "return_overflowing_tokens": True}
    return list(tokenizer(row["question"], row["context"], **cut)["input_ids"])


def begin_words(tokenizer: Any) -> None:
    """One space before each word, whether it is handed over with one, as llmstage does, or without, as run_ner.py does."""
    from tokenizers import normalizers

    one_space = [normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(one_space)


def mark_answers(tokenizer: Any) -> None:
    """The same template, in which transformers can see what the assistant says: TRL learns that only, as llmstage does."""
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def all_pairs(rows: list[Row]) -> dict[str, Any]:
    """transformers' loss takes a pair with the same caption for a wrong one; llmstage leaves such pairs out by default."""
    return {"repeats": "keep"}


def tag_names(rows: list[Row]) -> dict[str, Any]:
    return {"names": rows[0]["names"]}


WORKS = {
    "causal_lm": Work("gpt", "tokens/s", "hf_clm.py", text_documents, 256, 3e-4),
    "masked_lm": Work("bert", "tokens/s", "hf_mlm.py", text_documents, 128, 3e-4),
    "classification": Work(
        "bert", "rows/s", "hf_classify.py", labelled_rows, 128, padding=("max", "dynamic"), peer_ids=text_ids
    ),
    # Sentences of one label in a row tell it so plainly that at higher rates the loss falls within a pass, and when is chance.
    "classification_long": Work(
        "bert", "rows/s", "hf_classify.py", review_rows, 512, 5e-6, padding=("dynamic", "max"), peer_ids=text_ids,
        task="classification",
    ),
    "dialogue": Work(
        "gpt", "tokens/s", "trl_sft.py", dialogue_rows, 512, 3e-4, peer_ids=chat_ids, prepare=mark_answers,
        peer_words=("--packing", "--assistant_only"), batch=8, words=("generation.max_new_tokens=1",),
    ),
    # run_ner.py keeps the Trainer's default rate; at it, the order of the data moves the loss least.
    "token_classification": Work(
        "bert", "rows/s", "hf_tag.py", tagged_rows, 128, 5e-5, padding=("dynamic",), peer_ids=word_ids, prepare=begin_words,
        options=tag_names,
    ),
    "question_answering": Work(
        "bert", "rows/s", "hf_qa.py", question_rows, 384, padding=("max",), peer_ids=window_ids,
        options=lambda rows: {"stride": STRIDE}, peer_words=("--stride", str(STRIDE)),
    ),
    "contrastive": Work(
        "clip", "images/s", "hf_clip.py", drawn_rows, 77, 3e-4, padding=("max", "dynamic"), peer_ids=caption_ids,
        options=all_pairs, batch=64,
    ),
    "contrastive_logos": Work(
        "clip", "images/s", "hf_clip.py", logo_rows, 77, 3e-4, padding=("max", "dynamic"), peer_ids=caption_ids,
        options=all_pairs, batch=32, task="contrastive",
    ),
}  # fmt: skip
