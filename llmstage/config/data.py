"""The `data` group: where rows come from, how they are read, and how missing splits are made."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config.key_conditions import CONVERSES, DEMO, FILES, ITEMS, SEES, SHUFFLED, TIMED, TRAINING
from llmstage.config.typed import AT_LEAST_1, POSITIVE, SHARE, Range

Paths = str | list[str] | None


@dataclass(slots=True)
class SplitConfig:
    """How splits that are not given are cut from `data.train`."""

    validation: Annotated[float, Range(0, 0.9), FILES] = 0.1
    """Share of the training rows used as the validation split where `data.validation` is not given; 0: no validation
    split."""
    test: Annotated[float, Range(0, 0.9), FILES] = 0.1
    """Share of the training rows used as the test split where `data.test` is not given; 0: no test split."""
    max_rows: Annotated[int, AT_LEAST_1, FILES] = 2000
    """Most rows of a split that is cut, approximately, so that little of a large corpus is spent on scoring."""
    seed: Annotated[int, FILES, SHUFFLED] = 0
    """Seed of the content hash that assigns rows to splits. It is independent of `seed`, so that a sweep over seeds
    keeps its test split."""
    by: Annotated[Literal["content", "time"], FILES] = "content"
    """content: by a hash of the row, so that rows with equal text are in one split; time: the oldest rows train, later
    rows validate, the latest rows test. Rows with the same time are never separated."""
    time: Annotated[str, FILES] | None = None
    """Column with the time of a row, by its name in the file or by its task column. data.split.by=time needs it. With
    other cuts and with given splits, the report shows the first and last time of each split, and warns where they
    overlap."""
    time_format: Annotated[str, FILES, TIMED] | None = None
    """Format of that column for strptime: `%d/%m/%Y`. null: ISO 8601, 2015/7/31, 31.7.2015, 2015年7月31日, dates of
    e-mails and tweets, or plain numbers (Unix seconds, milliseconds, 20150731), which are sorted as numbers."""
    group: Annotated[str, FILES] | None = None
    """Column (of the file, or a task column) whose equal values stay in one split: articles, machines, users. Whole
    groups are assigned by a hash of their value until the shares are met as closely as the group sizes allow."""


@dataclass(slots=True)
class AugmentConfig:
    """Random changes of training images, drawn anew each time an image is used."""

    crop: Annotated[float, Range(0, 1, open_low=True), TRAINING, SEES] = 1.0
    """Smallest share of an image's area that a random resized crop (Inception) keeps, at a random position and with
    slightly changed proportions; 1: no crop."""
    flip: Annotated[bool, TRAINING, SEES] = False
    """Mirror half of the images, except those whose texts mention left or right."""


@dataclass(slots=True)
class DataConfig:
    """Which rows a run uses: files, a hub id, a folder saved by `datasets`, or the demo data."""

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
    """The item table of task=recommendation: item, title, categories and other columns, joined on `item`."""
    images: Annotated[str | None, FILES, SEES] = None
    """The folder that image paths are relative to; null: the folder of the file that names them."""
    format: Annotated[str, FILES] = "auto"
    """`auto` (by ending and content) or a reader: text, jsonl, json, csv, tsv, parquet, chat, sgd, squad, crosswoz,
    conll, medquad, phrasebank, stocknet, movielens, image_folder, webdataset, nlvr, github_topics."""
    columns: Annotated[dict[str, str], FILES] = field(default_factory=dict)
    """Task column to column of the file: `data.columns.text=review`. Columns of a file without a header are 0, 1, 2, …"""
    rendered: Annotated[bool, FILES, CONVERSES] = False
    """task=dialogue: whether the column `text` holds conversations that the chat template of the model has rendered, with
    its special tokens. The assistant's turns, found by the template's marks, are learned."""
    header: Annotated[Literal["auto"] | bool, FILES] = "auto"
    """CSV and TSV: whether the first line has the column names."""
    delimiter: Annotated[str, FILES] = "auto"
    """CSV and TSV: the column separator; auto: detected."""
    encoding: Annotated[str, FILES] = "utf-8"
    """Text encoding of the files; a byte order mark always takes precedence."""
    text_rows: Annotated[Literal["block", "line", "file"], FILES] = "block"
    """format=text: what one row (a document) is. block: up to 4,096 characters, ended at a blank line if there is one,
    else at a line end; line; or the whole file."""
    context: Annotated[Literal["auto"] | int, Range(8, 1_000_000)] = "auto"
    """Tokens in a row of model input. auto: from scratch 256 for gpt and t5, 128 for bert; with model.path at least these,
    enough for 99 % of the training rows, at most what the model and the memory take. The plan line shows it."""
    on_bad_row: Annotated[Literal["error", "quarantine"], FILES] = "error"
    """What to do with a row that cannot be used. error: stop and name it; quarantine: write it to quarantine.jsonl and
    continue."""
    max_row_mb: Annotated[float, POSITIVE, FILES] = 8.0
    """A line or record larger than this many megabytes is a bad row."""
    max_lost: Annotated[float, SHARE] = 0.01
    """Largest share of the target tokens of a split that truncation may remove; above it the run stops."""
    limit: Annotated[int, AT_LEAST_1] | None = None
    """Most rows of each split to use, drawn from its first 20,000 rows by a hash of their content."""
    split: SplitConfig = field(default_factory=SplitConfig)
    """How splits that are not given are cut."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)
    """Random changes of training images."""
    cache: Annotated[Literal["auto", "off"] | str, FILES] = "auto"
    """Folder for encoded data, keyed by content; auto: $XDG_CACHE_HOME/llmstage; off: encode again in each run."""
    demo_rows: Annotated[int, Range(20, 1_000_000), DEMO] | None = None
    """Training rows that data=demo generates; null: the default of the task."""

    @property
    def is_demo(self) -> bool:
        """Return whether the rows are demo data: no source is named."""
        return not any((self.path, self.train, self.validation, self.test))

    def below(self, folder: str) -> list[str]:
        """Return the named paths that are inside `folder`."""
        named = [self.path, self.items, self.images, *self.sources().values()]
        every = [path for item in named for path in (item if isinstance(item, list) else [item]) if path]
        return [path for path in every if path == folder or path.startswith(folder.rstrip("/") + "/")]

    def sources(self) -> dict[str, Any]:
        """Return the files of each split that has some, in order of the splits."""
        named = {"train": self.train, "validation": self.validation, "test": self.test}
        return {split: paths for split, paths in named.items() if paths}
