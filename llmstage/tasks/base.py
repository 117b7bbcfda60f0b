"""What a task is: rows to features, features to a batch, the loss, the predictions, the scores.

The engine knows tasks by the methods below and none by name. A new task is one file here and one YAML in `conf/task/`
(and a dataclass in `schema/task.py` if it has knobs of its own).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import torch
from torch import Tensor, nn

from llmstage.config import GenerationConfig, TaskConfig
from llmstage.config.data import AugmentConfig, DataConfig
from llmstage.data.row_source import RowSource
from llmstage.data.rows import Columns, Row
from llmstage.evaluation.metrics.score import Score
from llmstage.models.pooling import text_vectors
from llmstage.tasks.base_errors import Errors, errors_by_record
from llmstage.tokenization.tokenizer import Processor

if TYPE_CHECKING:
    from llmstage.data.image_store import ImageStore

IGNORE_INDEX = -100
"""Label of a position that is no target; the value cross-entropy skips by default."""

UNSCORED = "unscored"
"""The `ref` of a feature that is learned from and never scored: a second way of saying what its row says."""

ReportItem = dict[str, Any]
"""Something the report shows beside the scores: {"kind": "text|table|matrix|lines|bars|images", "title": ..., ...}."""


class RowError(ValueError):
    """A row that cannot be encoded; the loader adds `file:line` and applies `data.on_bad_row`."""


@dataclass(slots=True)
class Example:
    """One encoded example: what the model sees of a row, or of a window of it. No padding."""

    arrays: dict[str, list[Any]]
    """`input_ids` [T] always; other sequences [T], or [1] for a label of the whole. Whole numbers, or floats throughout
    (kept as float32; an array that is ever float must be float in every feature). Arrays where a task makes very many."""
    ref: Any = None
    """What score() compares with; JSON data. UNSCORED: scoring passes the feature over."""
    cut: int = 0
    """Tokens of the row that stand in none of its features."""
    cut_targets: int = 0
    """Target tokens among them."""
    lost_end: bool = False
    """The token that ends a target was cut away."""
    row: int = -1
    """Index of the row in its split; the loader sets it."""
    draw: tuple[int, ...] | None = None
    """In training, (seed, epoch, index): a task whose collate() draws at random seeds itself with it, and draws anew each
    time the feature is seen, also in a resumed run. None in scoring."""

    @property
    def input_ids(self) -> list[int]:
        ids: list[int] = self.arrays["input_ids"]
        return ids


@dataclass(slots=True)
class Batch:
    """One micro-batch."""

    inputs: dict[str, Tensor]
    """`model(**inputs)`; e.g. input_ids [B, T]."""
    labels: Tensor | None = None
    """[B, T] or [B]; IGNORE_INDEX where a position does not count."""
    refs: list[Any] = field(default_factory=list)
    """One per feature, in order: what score() compares with."""
    segments: Tensor | None = None
    """[B, T] index of the feature that each position belongs to, -1 on padding."""
    num_tokens: int = 0
    """Real input tokens."""

    def to(self, device: torch.device) -> Self:
        if device.type == "cpu":
            return self
        self.inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        self.labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        self.segments = None if self.segments is None else self.segments.to(device, non_blocking=True)
        return self

    def pin_memory(self) -> Self:
        """In memory that a GPU copies from while the host goes on."""
        self.inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        self.labels = None if self.labels is None else self.labels.pin_memory()
        self.segments = None if self.segments is None else self.segments.pin_memory()
        return self


@dataclass(slots=True)
class LossSum:
    """A loss as a sum and a count, so that micro-batches and ranks add up exactly."""

    total: Tensor
    """Scalar, summed over items, carries the gradient."""
    count: float
    """Items: target tokens, rows; their total weight where items are weighted."""
    logs: dict[str, float] = field(default_factory=dict)
    """Shown, never trained on."""


@dataclass(slots=True, frozen=True)
class Control:
    """A run to be set beside the one that is asked for."""

    name: str
    keys: dict[str, Any]
    """Keys of the task in which it differs."""
    about: str
    """What it is, for the reader: `the same model without the image`."""


class Task(ABC):
    """One thing a model can learn. Subclasses set the class variables and fill in the methods."""

    columns: Columns
    """Of the class, or of the instance where options of the task add words."""
    auto_model: str
    """The transformers class that holds model and head, e.g. AutoModelForCausalLM."""
    pipeline_tag: ClassVar[str] = "text-generation"
    """What the model card says the model is for."""
    packs: bool = False
    """Features may share a row behind a block-diagonal mask."""
    additive_loss: ClassVar[bool] = True
    """False: other rows of the batch are part of the objective; embed() and pair_loss() then say what loss() does."""
    by_length: ClassVar[bool] = True
    """Rows of like length share a training batch. False: batches are drawn evenly, where the batch is the objective."""
    lr_share: ClassVar[float] = 1.0
    """Share of the learning rate that optim.lr=auto takes for the model's width."""
    by_character: bool = False
    """A tokenizer trained for it has no entry of several Chinese characters: for tasks that point at parts of a text."""
    target_columns: tuple[str, ...] = ()
    """Words of a row that hold what is to be predicted. A row that is only predicted need not have them."""
    reference_columns: ClassVar[tuple[str, ...]] = ("reference", "correct")
    """Keys of records() that say something of the reference."""
    route: ClassVar[str] = ""
    """The route under which stage=serve answers rows: /v1/<route>; empty: none."""
    embeds: ClassVar[bool] = False
    """Whether text_vectors() gives vectors that mean something."""
    demo_size: ClassVar[int] = 1000
    """Training rows of data=demo where data.demo_rows does not say."""

    kind: str = "gpt"
    """Family of the model: gpt, bert, t5."""
    processor: Processor
    context: int

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        self.cfg = cfg
        self.generation = generation

    def set_model_family(self, kind: str) -> None:
        """Called once, first: the family of the model. A task that takes several may set auto_model and packs by it."""
        self.kind = kind

    @abstractmethod
    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        """Learnable rows, offline and seeded: data=demo and the contract test. (Static where no option matters.)"""

    def demo_test_rows(self, num_rows: int, seed: int) -> list[Row]:
        """Rows of the demo world's test split; other than demo_rows() where it holds what training never shows."""
        return self.demo_rows(num_rows, seed)

    def images(self, row: Row) -> list[str]:
        """Places of the row's pictures (data/images.py); they are read once, before encode()."""
        return []

    augment: AugmentConfig | None = None
    """Changes of images in training; None where the run does not train."""
    pictures: ImageStore | None = None
    """The pictures of all splits; set before attach_tokenizer() where the model sees."""

    def check_row(self, row: Row) -> str | None:
        """The reason why a row cannot be used, or None. Called for every row of every split."""
        return None

    tables: dict[str, Columns] = {}  # noqa: RUF012 - replaced, never changed
    """Side tables by the `data` key that names them, e.g. {"items": Columns(...)}; build_splits() gets their rows."""
    custom_splits: ClassVar[bool] = False
    """Whether build_splits() cuts the splits that are missing; they are then not cut by content, and data.limit is its own."""

    def check_table_row(self, table: str, row: Row) -> str | None:
        """The same for a row of a side table."""
        return None

    def build_splits(
        self, sources: dict[str, RowSource], tables: dict[str, RowSource], data: DataConfig
    ) -> dict[str, RowSource]:
        """The splits as encode() takes them, called first of all: rows grouped or joined, splits cut the task's own way.
        What the new rows depend on, tables included, belongs into their digest(): caches and resume rely on it."""
        return sources

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """The texts of a row, for training a tokenizer."""

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Take from the training rows what the task must know before encoding, e.g. its labels."""

    def load_config(self, config: Any) -> None:
        """Take the same from the config of a trained model."""

    def model_options(self) -> dict[str, Any]:
        """Keys for the model's config, e.g. num_labels, id2label. What only we read goes under the one key `llmstage`
        (JSON data): it is kept in config.json and comes back through load_config()."""
        return {}

    def extra_module(self, config: Any) -> nn.Module | None:
        """Weights beside those of the transformers class, e.g. for number columns; the model's `extra`, called by loss()
        and predict(). They are saved with the model as `extra.*`; transformers loads the rest without them."""
        return None

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        """Called once before encode: the tokenizer, and the most tokens a feature may have."""
        self.processor, self.context = processor, context

    def cache_key(self) -> dict[str, Any]:
        """Every option of the task that reaches encode(); part of the key of the encoded-data cache."""
        return {}

    @abstractmethod
    def encode(self, row: Row) -> list[Example]:
        """A row as features: pure, without padding; raises RowError where the row cannot be encoded."""

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        """encode() for several rows at once; a task may override it to tokenise in one call. Same result."""
        return [self.encode(row) for row in rows]

    def num_targets(self, features: Example) -> int:
        """Items of the loss in one feature."""
        return 1

    @abstractmethod
    def collate(self, rows: list[list[Example]]) -> Batch:
        """Features as tensors: one inner list a row of the batch (several only where the task packs)."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """The training loss of one micro-batch."""

    def embed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Where additive_loss is False: what pair_loss() needs of the rows of one micro-batch, each [B, ...]. A row's own
        must not depend on its neighbours."""
        raise NotImplementedError

    def pair_loss(self, model: nn.Module, embeddings: tuple[Tensor, ...], batches: Sequence[Batch]) -> LossSum:
        """Where additive_loss is False: the loss over the rows of all micro-batches, [N, ...] in their order."""
        raise NotImplementedError

    def chance_loss(self, num_rows: int) -> float | None:
        """The loss of a model that knows nothing, in a batch of so many rows; None where it says little."""
        return None

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """One prediction per feature, as JSON data. `generate`: text is wanted as well, where the task generates."""

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        """Features of one row brought together, where a long row has several (windows); `rows` [N] is the row of each,
        in rising order. Everything below sees what this returns."""
        return predictions, refs, rows

    tunes: ClassVar[bool] = False
    """Whether tune() does something, so that the validation split is scored for it."""

    def tune(self, predictions: list[Any], refs: list[Any]) -> None:
        """Fit on the validation split, after training, what is not learned by gradients: thresholds, a temperature. What
        it finds belongs into model_options(), so that a saved model decides the same."""

    @abstractmethod
    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        """Plain Python in, numbers out."""

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Scores of simple methods on the rows behind `refs`, by name, e.g. {"majority class": {"accuracy": ...}}. They
        learn from `train` alone, and use the names of score(), so that the report can set them beside the model."""
        return {}

    def warnings(self, predictions: list[Any], refs: list[Any]) -> list[str]:
        """What a reader of the scores must be told, a sentence each."""
        return []

    def controls(self) -> list[Control]:
        """Runs that show what an input is worth, e.g. the same model without the image. Each is trained after the run itself,
        on the same batches, in a folder of its name."""
        return []

    def contrast(
        self, name: str, predictions: list[Any], controls: list[Any], refs: list[Any]
    ) -> tuple[dict[str, Score], list[ReportItem]]:
        """What this model has above the control `name`, whose predictions for the same rows are `controls`: scores, and
        exhibits that take the place of those of the same title."""
        return {}, []

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Tables and charts beside the scores, for the report."""
        return []

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        """Lines of predictions.jsonl for one feature: at least `prediction` and `reference`."""
        return [{"prediction": prediction, "reference": ref}]

    def errors(self, predictions: list[Any], refs: list[Any]) -> Errors:
        """How wrong each prediction is, for stage=explore: right or wrong, where a task has nothing finer."""
        return errors_by_record([self.records(*pair)[0] for pair in zip(predictions, refs, strict=True)])

    def prepare_inference(self, source: RowSource, tables: dict[str, RowSource], data: DataConfig) -> RowSource:
        """Rows that are only predicted, as encode_unlabeled() takes them: what build_splits() is to rows that have answers. Called first."""
        return source

    def dummy_target(self, row: Row) -> Row:
        """A row without `target_columns`, with something in their place that check_row() and encode() take. It must not reach the
        prediction; what it does to `ref` is left out by to_response()."""
        return row

    def encode_unlabeled(self, rows: list[Row]) -> list[list[Example]]:
        """encode_many() for rows that are only predicted."""
        return self.encode_many([self.dummy_target(row) for row in rows])

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """What is said of one row, whose features these are, to someone who has no reference."""
        predictions, refs, _ = self.merge(predictions, refs, [0] * len(refs))
        record = self.records(predictions[0], refs[0])[-1]
        return {key: value for key, value in record.items() if key not in self.reference_columns}

    def text_vectors(self, model: nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
        """[N, D] a vector for each text, given as ids."""
        return text_vectors(model.base_model, texts, self.processor.pad_id)  # type: ignore[arg-type]

    def picture(self, features: Example) -> int | None:
        """The number of the picture that a feature shows, so that the report can set it beside the prediction."""
        return None

    def after_step(self, model: nn.Module) -> None:
        """Called after each optimizer step, e.g. to clamp a temperature."""

    @property
    def select(self) -> str:
        """The validation metric that picks the best checkpoint; a task may have a default that depends on its options."""
        return self.cfg.select

    @property
    def generate_rows(self) -> int:
        """Rows of a split for which text is generated; 0 where the task generates none."""
        return 0
