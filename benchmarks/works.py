"""Define the works of the races: one record for each training workload, with its rows. Other scripts use only these fields."""

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
"""Folder of the real data sets. Without them, each work uses rows of its demo world."""
DOCUMENT = 4000
"""Characters of a document, about as many as in a block with llmstage's default data.text_rows=block."""
STRIDE = 128
"""Tokens that neighbouring windows of a context share on both sides, the default of run_qa.py."""

REVIEWS = 1200
"""Number of long texts for a race."""
DRAWN = 3000
"""Number of images for a race."""

Row = dict[str, Any]
Rows = tuple[list[Row], str]
"""(rows, name of their source)"""


@dataclass(slots=True, frozen=True)
class Work:
    """One training workload."""

    model_family: str
    """Model family of the preset that both train: conf/model/<model_family>_<size>.yaml."""
    unit: str
    """Unit of the rates: tokens/s if both sides fill the rows of a batch; otherwise rows/s or images/s."""
    peer: str
    """The peer's script, in benchmarks/peers or in the folder of --peers."""
    rows: Callable[[], Rows]
    length: int
    """Default tokens of a row."""
    lr: float = 1e-4
    padding: tuple[str, ...] = ()
    """Paddings that the peer supports; the first is the default. max: to --length; dynamic: to the longest row of the batch."""
    peer_ids: Callable[[Any, Row, int], list[list[int]]] | None = None
    """(tokenizer, row, length) -> the peer's ids of a row, which must equal llmstage's. None: running text."""
    prepare: Callable[[Any], None] = lambda tokenizer: None
    """Changes the tokenizer so that both sides get the same ids."""
    options: Callable[[list[Row]], dict[str, Any]] = lambda rows: {}
    """Keys under `task.` of llmstage."""
    peer_words: tuple[str, ...] = ()
    """Further words of the peer's command line."""
    task: str = ""
    """llmstage's task, if its name is not that of the work."""
    batch: int = 16
    """Default rows of a step."""
    words: tuple[str, ...] = ()
    """Further keys of llmstage's command line."""

    @property
    def is_text(self) -> bool:
        """Whether rows are running text, one document in each line. Other rows are JSON."""
        return self.peer_ids is None

    @property
    def counts_tokens(self) -> bool:
        """Whether both sides fill the rows of the batch with tokens: text in blocks, or packed dialogues."""
        return self.unit == "tokens/s"

    @property
    def stage(self) -> str:
        return "pretrain" if self.is_text else "finetune"


# Rows


def text_documents() -> Rows:
    """Return documents of about DOCUMENT characters: real text if available, otherwise the prose demo world.

    The sentences are shuffled, so that batches are similar and the losses of two orders are comparable after few steps.
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
    """Return sentences of two classes: SST-2 if available, otherwise the demo world with two labels."""
    path = SETS / "sst2" / "train.tsv"
    if path.is_file():
        lines = (line.rstrip("\n").rpartition("\t") for line in path.open(encoding="utf-8"))
        return [{"text": text, "label": int(label)} for text, _, label in lines], "SST-2"
    from llmstage.demo.classification import classification_rows

    rows = classification_rows(6000, 0)
    names = sorted({row["label"] for row in rows})
    return [{"text": row["text"], "label": names.index(row["label"]) % 2} for row in rows], "the demo world"


def review_rows() -> Rows:
    """Return texts as long as IMDb's reviews, because no reviews are available. The function joins sentences of one label up to a
    length from a log-normal distribution with the median and mean of IMDb, 174 and 234 words (Maas 2011)."""
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
    """Return shuffled conversations of several turns: the Schema-Guided Dialogues if available, otherwise the demo world."""
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
    """Return sentences with tags as numbers (see `tag_names`): WNUT-17 if available, otherwise the demo world."""
    path = SETS / "wnut17" / "wnut17train.conll"
    if path.is_file():
        blocks = [[line.split("\t") for line in block.splitlines()] for block in path.read_text("utf-8").split("\n\n")]
        rows = [{"tokens": [word for word, _ in block], "tags": [tag for _, tag in block]} for block in blocks if block]
        source = "WNUT-17"
    else:
        from llmstage.demo.token_classification import entity_rows

        rows, source = entity_rows(3000, 0), "the demo world"
    random.Random(0).shuffle(rows)
    # llmstage's order of labels (O, then by type). With another order the seeded heads of the two sides would differ.
    names = sorted({tag for row in rows for tag in row["tags"]}, key=lambda tag: (tag != "O", tag[2:], tag))
    for row in rows:
        row["tags"] = [names.index(tag) for tag in row["tags"]]
        row["names"] = names
    # The peer derives the number of labels from the highest tag, and may read only the beginning of the file.
    rows.insert(0, rows.pop(next(at for at, row in enumerate(rows) if len(names) - 1 in row["tags"])))
    return rows, source


def question_rows() -> Rows:
    """Return shuffled questions with one answer in a context: XQuAD (en) if available, otherwise the demo world."""
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
    """Return captions of scenes with image files of 256 x 256 pixels."""
    return scene_files(DRAWN), "drawn scenes, 256 x 256 files"


def logo_rows() -> Rows:
    """Return logos of GitHub's topics with their descriptions if available, otherwise the generated scenes."""
    folder = SETS / "github_topics" / "topics"
    return (logo_files(folder), "GitHub topics") if folder.is_dir() else drawn_rows()


# The same ids on both sides


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
    """Make the tokenizer put one space before each word. llmstage passes words with a space, run_ner.py without."""
    from tokenizers import normalizers

    one_space = [normalizers.Strip(left=True, right=False), normalizers.Prepend(" ")]
    tokenizer.backend_tokenizer.normalizer = normalizers.Sequence(one_space)


def mark_answers(tokenizer: Any) -> None:
    """Set the same chat template with marks around the assistant's text, so that TRL learns only that, as llmstage does."""
    tokenizer.chat_template = (
        "{{ bos_token }}{% for message in messages %}{{ '<|' + message['role'] + '|>' }}"
        "{% if message['role'] == 'assistant' %}{% generation %}{{ message['content'] + '<|end|>' }}{% endgeneration %}"
        "{% else %}{{ message['content'] + '<|end|>' }}{% endif %}"
        "{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
    )


def all_pairs(rows: list[Row]) -> dict[str, Any]:
    """Keep pairs with the same caption as negatives, as the loss of transformers does. By default llmstage leaves them out."""
    return {"repeats": "keep"}


def tag_names(rows: list[Row]) -> dict[str, Any]:
    return {"names": rows[0]["names"]}


WORKS = {
    "causal_lm": Work("gpt", "tokens/s", "hf_clm.py", text_documents, 256, 3e-4),
    "masked_lm": Work("bert", "tokens/s", "hf_mlm.py", text_documents, 128, 3e-4),
    "classification": Work(
        "bert", "rows/s", "hf_classify.py", labelled_rows, 128, padding=("max", "dynamic"), peer_ids=text_ids
    ),
    # Joined sentences of one label are easy. At higher rates the loss falls within one pass, at a random step.
    "classification_long": Work(
        "bert", "rows/s", "hf_classify.py", review_rows, 512, 5e-6, padding=("dynamic", "max"), peer_ids=text_ids,
        task="classification",
    ),
    "dialogue": Work(
        "gpt", "tokens/s", "trl_sft.py", dialogue_rows, 512, 3e-4, peer_ids=chat_ids, prepare=mark_answers,
        peer_words=("--packing", "--assistant_only"), batch=8, words=("generation.max_new_tokens=1",),
    ),
    # run_ner.py keeps the Trainer's default rate. At this rate the order of the data changes the loss least.
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
