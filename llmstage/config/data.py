"""The `data` group: where rows come from and how they are cut."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config.key_conditions import DEMO, FILES, ITEMS, SEES, SHUFFLED, TIMED, TRAINING
from llmstage.config.typed import AT_LEAST_1, POSITIVE, SHARE, Range

Paths = str | list[str] | None


@dataclass(slots=True)
class SplitConfig:
    """How missing splits are cut from `data.train`."""

    validation: Annotated[float, Range(0, 0.9), FILES] = 0.1
    """Share of the training rows set aside as validation where no `data.validation` is given; 0 cuts none."""
    test: Annotated[float, Range(0, 0.9), FILES] = 0.1
    """Share set aside as test where no `data.test` is given; 0 cuts none."""
    max_rows: Annotated[int, AT_LEAST_1, FILES] = 2000
    """A cut split holds at most about this many rows, so that a large corpus is not spent on scoring."""
    seed: Annotated[int, FILES, SHUFFLED] = 0
    """Seed of the content hash that cuts; apart from `seed`, so that a sweep over seeds keeps its test set."""
    by: Annotated[Literal["content", "time"], FILES] = "content"
    """`content`: by a hash of what a row says, so that equal texts share a side; `time`: the oldest rows train, later
    ones validate, the latest test, and rows of one time are never parted."""
    time: Annotated[str, FILES] | None = None
    """Column of the file that says when a row was (task words work too). Needed by data.split.by=time; beside other
    cuts and given splits the report tells each split's first and last time, and warns where they overlap."""
    time_format: Annotated[str, FILES, TIMED] | None = None
    """How that column is written, as strptime has it: `%d/%m/%Y`. null: ISO 8601, 2015/7/31, 31.7.2015, 2015年7月31日,
    dates of e-mails and tweets, or plain numbers (Unix seconds, milliseconds, 20150731), which sort as they are."""
    group: Annotated[str, FILES] | None = None
    """Column of the file (or task word) whose equal values stay on one side: articles, machines, users. Whole groups
    are dealt out by a hash of their value until the shares are met as nearly as their sizes allow."""


@dataclass(slots=True)
class AugmentConfig:
    """Changes of images in training, drawn anew each time one is seen."""

    crop: Annotated[float, Range(0, 1, open_low=True), TRAINING, SEES] = 1.0
    """Cut out a part of the image of at least this share of its area, of any place and slightly changed proportions, and
    enlarge it (Inception's random resized crop); 1: never."""
    flip: Annotated[bool, TRAINING, SEES] = False
    """Mirror half of the images; never those whose texts speak of left or right."""


@dataclass(slots=True)
class DataConfig:
    """Rows: files, a hub id, a saved `datasets` folder, or the demo world."""

    name: str = "demo"
    """The option of conf/data that was chosen."""
    path: str | None = None
    """A hub id, or a folder written by `datasets.save_to_disk`, with its own splits."""
    train: Paths = None
    """Training rows: a path, a glob, or a list of them."""
    validation: Paths = None
    """Validation rows; cut from data.train where missing."""
    test: Paths = None
    """Test rows; cut from data.train where missing."""
    items: Annotated[str | list[str] | None, FILES, ITEMS] = None
    """The item table of task=recommendation: item, title, categories and further columns, joined on `item`."""
    images: Annotated[str | None, FILES, SEES] = None
    """The folder from which the names of images start; null: that of the file that names them."""
    format: Annotated[str, FILES] = "auto"
    """`auto` (by ending and content) or a reader: text, jsonl, json, csv, tsv, parquet, chat, sgd, squad, crosswoz,
    conll, medquad, phrasebank, stocknet, movielens, image_folder, webdataset, nlvr, github_topics."""
    columns: Annotated[dict[str, str], FILES] = field(default_factory=dict)
    """Task word to column in the file: `data.columns.text=review`; without a header, columns are 0, 1, 2, …"""
    header: Annotated[Literal["auto"] | bool, FILES] = "auto"
    """CSV and TSV: whether the first line names the columns."""
    delimiter: Annotated[str, FILES] = "auto"
    """CSV and TSV: the column separator, sniffed by default."""
    encoding: Annotated[str, FILES] = "utf-8"
    """Text encoding of the files; a byte order mark is always understood."""
    text_rows: Annotated[Literal["block", "line", "file"], FILES] = "block"
    """format=text: what one row (a document) is. `block`: up to 4,096 characters, closed at a blank line if there are
    any, else at a line end; `line`; or the whole `file`."""
    context: Annotated[Literal["auto"] | int, Range(8, 1_000_000)] = "auto"
    """Tokens per row as the model sees it; auto: 256 for gpt, 128 for bert, at most what the model can."""
    on_bad_row: Annotated[Literal["error", "quarantine"], FILES] = "error"
    """A row that cannot be used: stop and name it, or write it to quarantine.jsonl and go on."""
    max_row_mb: Annotated[float, POSITIVE, FILES] = 8.0
    """A line or record larger than this many megabytes is a bad row."""
    max_lost: Annotated[float, SHARE] = 0.01
    """Stop when more than this share of a split's target tokens would be cut away."""
    limit: Annotated[int, AT_LEAST_1] | None = None
    """Use at most this many rows of each split, drawn from its first 20,000 by a hash of their content."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How missing splits are cut."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Changes of images in training."""
    cache: Annotated[Literal["auto", "off"] | str, FILES] = "auto"
    """Folder of encoded data, keyed by content; auto: $XDG_CACHE_HOME/llmstage; off: encode anew each time."""
    demo_rows: Annotated[int, Range(20, 1_000_000), DEMO] | None = None
    """Training rows that data=demo generates; null: what the task asks for."""

    @property
    def is_demo(self) -> bool:
        """Any named source switches the demo world off."""
        return not any((self.path, self.train, self.validation, self.test))

    def below(self, folder: str) -> list[str]:
        """The named paths that lie in `folder`."""
        named = [self.path, self.items, self.images, *self.sources().values()]
        every = [path for item in named for path in (item if isinstance(item, list) else [item]) if path]
        return [path for path in every if path == folder or path.startswith(folder.rstrip("/") + "/")]

    def sources(self) -> dict[str, Any]:
        """The splits that name files, in order."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: paths for split, paths in named.items() if paths}
