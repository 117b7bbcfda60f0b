"""Which reader reads a file: the one named, or by ending and content. The file name of a reader is its registration."""

from __future__ import annotations

import json
import pkgutil
import re
from pathlib import Path
from types import ModuleType

from llmstage.data import readers
from llmstage.data.files import DataFile
from llmstage.data.readers import conll, datasets, image_folder, webdataset
from llmstage.data.readers.datasets import github_topics, nlvr
from llmstage.errors import DataError, UserError
from llmstage.naming import load_module, unknown

ARRAY = re.compile(r'\s*\[\s*(\{\s*["}]|\[\s*["\d\-\[])')
PHRASE = re.compile(r".+@(negative|neutral|positive)\s*")
BY_ENDING = ("text", "jsonl", "json", "csv", "tsv", "parquet", "conll")


def reader_names() -> list[str]:
    """The files in llmstage/data/readers and llmstage/data/readers/datasets."""
    return sorted([*general_reader_names(), *dataset_reader_names()])


def general_reader_names() -> list[str]:
    """Names of the readers of general formats."""
    return [item.name for item in pkgutil.iter_modules(readers.__path__) if not item.ispkg]


def dataset_reader_names() -> list[str]:
    """Names of the readers that each know one published data set."""
    return [item.name for item in pkgutil.iter_modules(datasets.__path__)]


def load_reader(name: str, *, trusted: bool = True) -> ModuleType:
    """The reader module; UserError with the known names for another word."""
    if "." not in name and name not in reader_names():
        raise UserError(unknown("data.format", name, ["auto", *reader_names()]))
    package = "data.readers.datasets" if name in dataset_reader_names() else "data.readers"
    return load_module(package, name, trusted=trusted)


def known_endings(name: str = "auto", *, sees: bool = False) -> set[str]:
    """Endings that count as data inside a folder: those of one reader, or of all. `sees`: for a task with pictures."""
    names = [item for item in reader_names() if sees or item != "webdataset"] if name == "auto" else [name]
    return {ending for item in names for ending in load_reader(item).ENDINGS}


def find_pictures(folder: Path) -> list[Path]:
    """What a folder of pictures is read from: itself, or its table of names; nothing where it is no such folder."""
    return [folder] if github_topics.looks_like(folder) else image_folder.find_if(folder, known_endings(sees=True))


def detect(file: DataFile, *, sees: bool = False) -> str:
    """The name of the reader for this file. Raises DataError for an empty file or one that is no data. `sees`: for a task
    with pictures."""
    if file.path.is_dir():
        return "github_topics" if github_topics.looks_like(file.path) else "image_folder"
    if file.ending() in image_folder.PICTURES:
        raise DataError(
            f"{file.shown}: one image is no data set. Name its folder, or a file that names images: data.train=<folder>."
        )
    if file.ending() in webdataset.ENDINGS:
        return "webdataset"
    head = file.head()
    if not head:
        raise DataError(f"{file.shown}: the file is empty (0 bytes). Name a file with rows.")
    if head.startswith(b"PAR1"):
        return "parquet"
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8-sig", "replace")
    by_ending = {end: name for name in BY_ENDING for end in load_reader(name).ENDINGS}
    ending = by_ending.get(file.ending())
    if ending == "parquet":
        raise DataError(f"{file.shown}: named .parquet, but the content is not (it does not begin with PAR1).")
    if ending in ("text", "tsv", None) and conll.looks_like(text, whole=len(head) < 1 << 16):
        return "conll"
    if ending in ("csv", "tsv", "conll"):
        return ending
    if text.lstrip().startswith("<") and "<QAPair" in text:
        return "medquad"
    found = detect_json(text, whole=len(head) < 1 << 16)
    if sees and found == "jsonl" and nlvr.looks_like(text):
        return "nlvr"
    if found or ending in ("json", "jsonl"):
        return found or str(ending)
    if ending is None and "\0" in text:
        names = "|".join(reader_names())
        raise DataError(f"{file.shown}: this looks like a binary file. Name its reader: data.format=<{names}>.")
    if ending in (None, "text") and looks_like_phrases(text):
        return "phrasebank"
    if ending == "text":
        return "tsv" if file.ending() == ".txt" and looks_tabular(text, most=10_000, least=5) else "text"
    return ending or ("tsv" if looks_tabular(text) else "text")


def detect_json(text: str, whole: bool) -> str | None:
    """`jsonl`, `json`, `sgd`, `squad` or `crosswoz` if the beginning of a file is one of them."""
    start = text.lstrip()
    if start[:1] not in ("{", "["):
        return None
    first, _, rest = start.partition("\n")
    try:
        value = json.loads(first)
    except ValueError:
        if start[0] == "[":
            return ("sgd" if is_sgd(text) else "json") if ARRAY.match(text) else None
        found = "squad" if is_squad(text) else "crosswoz" if is_crosswoz(text) else "json"
        return found if re.match(r'\{\s*"', start) else None
    if rest.strip()[:1] in ("{", "["):
        return "jsonl"
    if isinstance(value, list):
        return ("sgd" if is_sgd(text) else "json") if ARRAY.match(text) else None
    if is_squad(text):
        return "squad"
    if is_crosswoz(text):
        return "crosswoz"
    lists = [item for item in value.values() if isinstance(item, list) and item and isinstance(item[0], dict)]
    chat = any(word in value for word in ("messages", "conversations"))
    return "json" if whole and len(lists) == 1 and not chat else "jsonl"


def is_sgd(text: str) -> bool:
    return all(word in text for word in ('"dialogue_id"', '"turns"', '"utterance"'))


def is_crosswoz(text: str) -> bool:
    return bool(re.match(r'\s*\{\s*"[^"]+"\s*:\s*\{', text)) and '"messages"' in text and '"sys-usr"' in text


def looks_tabular(text: str, most: int = 20, least: int = 2) -> bool:
    """Whether the first `most` lines (`least` or more) have the same number of tabs, one or more."""
    rows = text.splitlines()[:most]
    return len(rows) >= least and rows[0].count("\t") > 0 and len({row.count("\t") for row in rows[:-1]}) == 1


def looks_like_phrases(text: str) -> bool:
    """Whether every whole line of the beginning ends in `@` and a sentiment, as Financial PhraseBank's do."""
    rows = text.splitlines()[:-1] or [text]
    return len(rows) > 1 and all(PHRASE.fullmatch(row) for row in rows if row.strip())


def is_squad(text: str) -> bool:
    return bool(re.search(r'"paragraphs"\s*:\s*\[', text)) and '"data"' in text and '"context"' in text
