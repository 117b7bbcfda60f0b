"""The interface of a task: rows to encoded examples, examples to a batch, loss, predictions, scores, report items.

Training, evaluation and inference call the methods of `Task` and know no task by its name. A new task is one file here and
one YAML in `conf/task/`, and a dataclass in `config/task.py` if it has options.

Order of the calls
------------------
tests/tasks/test_contract.py checks this order with a task that records its calls. "Once" is once for each run.

Setup (training/setup.py); every stage that uses a task:

| method              | when                                 | how often       | available to it                                |
|---------------------|--------------------------------------|-----------------|------------------------------------------------|
| `set_model_family`  | first                                | once            | `cfg`, `generation`                            |
| `check_row`         | while rows are read                  | each row        | `cfg`; not yet the labels                      |
| `check_table_row`   | while side tables are read           | each table row  | `cfg`                                          |
| `build_splits`      | after the rows are opened            | once            | the rows, each checked when it is read         |
| `prepare_inference` | instead of it, for rows without      | once            | the rows, each checked when it is read         |
|                     | targets                              |                 |                                                |
| `fit_labels`        | for a new model                      | once            | the training rows                              |
| `load_config`       | instead of it, for a trained model   | once            | the config of the model                        |
| `texts`             | only if a tokenizer is trained       | training rows   | labels                                         |
| `images`            | only if the task reads images        | each row        | labels; afterwards `image_store` is set        |
| `attach_tokenizer`  | last step of the setup               | once            | labels, `image_store`                          |

Encoding and the model:

| method              | when                                 | how often       | available to it                                |
|---------------------|--------------------------------------|-----------------|------------------------------------------------|
| `cache_key`         | before a split is encoded            | each split      | labels, `processor`, `context`                 |
| `encode_many`       | before the model is built; in        | each chunk of   | labels, `processor`, `context`                 |
|                     | threads, so without side effects     | rows            |                                                |
| `num_targets`       | after `encode_many`                  | each example    | the same                                       |
| `model_options`     | before the model is built            | once            | labels, `processor`                            |
| `extra_module`      | while the model is built             | once            | the config with `model_options`                |

Training (training/loop.py):

| method              | when                                 | how often       | available to it                                |
|---------------------|--------------------------------------|-----------------|------------------------------------------------|
| `collate`           | possibly in a worker process         | each micro-batch| the examples; `Example.draw` is set            |
| `loss`              | if `additive_loss`                   | each micro-batch| the model in training mode                     |
| `embed`,            | if not: `embed` for each micro-batch | each step       | the model in training mode                     |
| `pair_loss`         | (twice), `pair_loss` over all of them|                 |                                                |
| `after_step`        | after the optimizer                  | each step       | the updated model                              |
| `tune`              | after training, if `needs_tuning`;   | once            | predictions of the validation split            |
|                     | `model_options` is then read again   |                 |                                                |

Scoring (evaluation/scoring.py):

| method              | when                                 | how often       | available to it                                |
|---------------------|--------------------------------------|-----------------|------------------------------------------------|
| `collate`, `predict`| without gradients                    | each batch      | the model in evaluation mode; `draw` is None   |
| `merge`             | after all batches                    | each split      | predictions and refs in the order of the split |
| `report_items`      | only for the final scores            | each split      | what `merge` returns                           |
| `score`             | after that                           | each split      | what `merge` returns                           |
| `records`           | for predictions.jsonl                | each prediction | what `merge` returns                           |
| `baselines`         | if the run has training rows         | once            | training rows, refs of the split in the        |
|                     |                                      |                 | report, `validation_rows`                      |
| `warnings`          | only for the final scores            | each split      | what `merge` returns                           |

Inference (inference/inference_session.py), for rows without targets:

| method              | when                                 | how often       | available to it                                |
|---------------------|--------------------------------------|-----------------|------------------------------------------------|
| `dummy_target`,     | while rows are read, after the model | each row        | `load_config`, `attach_tokenizer` are done     |
| `check_row`         | is built; `check_row` gets the row   |                 |                                                |
|                     | with the placeholder target          |                 |                                                |
| `encode_unlabeled`  | calls `dummy_target`, `encode_many`  | each chunk      | the same                                       |
| `collate`, `predict`| with `generate=True`                 | each batch      | the model in evaluation mode                   |
| `to_response`       | calls `merge`, `records`             | each row        | predictions and refs of the row's examples     |
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
from llmstage.tasks.base_errors import ExampleErrors, errors_by_record
from llmstage.tokenization.tokenizer import Processor

if TYPE_CHECKING:
    from llmstage.data.image_store import ImageStore

IGNORE_INDEX = -100
"""Label of a position without a target; cross-entropy ignores this value by default."""

UNSCORED = "unscored"
"""The `ref` of an example for training only, such as a second caption of an image; scoring skips it."""

ReportItem = dict[str, Any]
"""A table, chart or text of the report: {"kind": "text|table|matrix|lines|bars|images", "title": ..., ...}."""


class RowError(ValueError):
    """A row cannot be encoded. The loader adds `file:line` and applies `data.on_bad_row`."""


@dataclass(slots=True)
class Example:
    """One encoded example: a row, or one window of a long row. No padding."""

    arrays: dict[str, list[Any]]
    """`input_ids` [T], and other arrays of the task: [T] for one value per token, [1] for a label of the row.

    Values are integers or floats (stored as float32). An array that is float in one example must be float in all. A task with
    very many examples may use numpy arrays.
    """
    ref: Any = None
    """The reference for score(); JSON data. UNSCORED: scoring skips the example."""
    cut: int = 0
    """Number of tokens of the row that no example contains."""
    cut_targets: int = 0
    """Number of target tokens among these."""
    lost_end: bool = False
    """Whether the end token of a target was cut off."""
    rewritten: bool = False
    """Whether this is a turn of a conversation by itself, because the chat template writes it differently once more turns
    follow."""
    row: int = -1
    """Index of the row in its split; the loader sets it."""
    draw: tuple[int, ...] | None = None
    """In training, (seed, epoch, index): the seed of random choices in collate(). Each epoch has other choices, and a resumed
    run has the same ones. None in scoring."""

    @property
    def input_ids(self) -> list[int]:
        ids: list[int] = self.arrays["input_ids"]
        return ids


@dataclass(slots=True)
class Batch:
    """One micro-batch."""

    inputs: dict[str, Tensor]
    """Keyword arguments of the model, e.g. input_ids [B, T].

    The first axis of every tensor has one entry for each row of the batch, in order. Only where a row is packed from several
    examples, image tensors have one entry for each example, in reading order. Nothing else in `inputs` may have another first
    axis: callers select rows of a batch by it.
    """
    labels: Tensor | None = None
    """[B, T] or [B]; IGNORE_INDEX at positions without a target."""
    refs: list[Any] = field(default_factory=list)
    """`ref` of each example, in order."""
    segments: Tensor | None = None
    """[B, T] index of the example of each position; -1 for padding."""
    num_tokens: int = 0
    """Number of input tokens without padding."""

    def to(self, device: torch.device) -> Self:
        """Move the tensors to a device, in place."""
        if device.type == "cpu":
            return self
        self.inputs = {name: value.to(device, non_blocking=True) for name, value in self.inputs.items()}
        self.labels = None if self.labels is None else self.labels.to(device, non_blocking=True)
        self.segments = None if self.segments is None else self.segments.to(device, non_blocking=True)
        return self

    def pin_memory(self) -> Self:
        """Copy the tensors to pinned memory, from which a GPU copies asynchronously."""
        self.inputs = {name: value.pin_memory() for name, value in self.inputs.items()}
        self.labels = None if self.labels is None else self.labels.pin_memory()
        self.segments = None if self.segments is None else self.segments.pin_memory()
        return self


@dataclass(slots=True)
class LossSum:
    """A loss as a sum and a count, so that the losses of micro-batches can be added exactly."""

    total: Tensor
    """Scalar with gradient: the sum over items."""
    count: float
    """Number of items (target tokens or rows), or their total weight if items are weighted."""
    logs: dict[str, float] = field(default_factory=dict)
    """Values to display; training does not use them."""


@dataclass(slots=True, frozen=True)
class Control:
    """An additional run for comparison, such as the same model without the image."""

    name: str
    keys: dict[str, Any]
    """Task options that differ from those of the main run."""
    description: str
    """Description for the report, e.g. `the same model without the image`."""


class Task(ABC):
    """Base class of a task. Subclasses set the class variables and implement the abstract methods."""

    columns: Columns
    """Columns of the rows; an instance may add the columns that its options name."""
    auto_model: str
    """The transformers class of the model with its head, e.g. AutoModelForCausalLM."""
    pipeline_tag: ClassVar[str] = "text-generation"
    """`pipeline_tag` of the model card."""
    packs: bool = False
    """Whether several examples may be packed into one row with a block-diagonal attention mask."""
    reads_padding: bool = False
    """Whether padding changes what the model computes of a text, so that a batch has rows of one length; training/packing.py sets it."""
    additive_loss: ClassVar[bool] = True
    """False: the other rows of a batch are part of the objective, and training uses embed() and pair_loss()."""
    by_length: ClassVar[bool] = True
    """Whether training batches have rows of similar length. False: rows are drawn uniformly."""
    lr_share: ClassVar[float] = 1.0
    """Factor of the learning rate that optim.lr=auto computes from the width of a model that is trained from scratch."""
    learns_text: ClassVar[bool] = False
    """Whether every token of a text is a target, as in language models: the default batch then counts tokens, not rows."""
    validation_rows: Iterable[Row] = ()
    """Rows of the validation split, set before baselines() is called; none where that split itself is scored."""
    by_character: bool = False
    """Whether a new tokenizer has no entry of several Chinese characters. For tasks that predict parts of a text."""
    target_columns: tuple[str, ...] = ()
    """Columns with the target. Rows for inference may lack them."""
    reference_columns: ClassVar[tuple[str, ...]] = ("reference", "correct")
    """Keys of records() that depend on the reference; to_response() removes them."""
    route: ClassVar[str] = ""
    """HTTP route of stage=serve for rows: /v1/<route>; empty: none."""
    embeds: ClassVar[bool] = False
    """Whether text_vectors() gives useful embeddings."""
    demo_size: ClassVar[int] = 1000
    """Number of training rows of data=demo if data.demo_rows is not set."""

    model_family: str = "gpt"
    """gpt, bert, t5, clip or vlm."""
    processor: Processor
    context: int

    def __init__(self, cfg: TaskConfig, generation: GenerationConfig) -> None:
        self.cfg = cfg
        self.generation = generation

    def set_model_family(self, model_family: str) -> None:
        """Set the family of the model. A task for several families may set auto_model and packs here."""
        self.model_family = model_family

    @abstractmethod
    def demo_rows(self, num_rows: int, seed: int) -> list[Row]:
        """Return learnable rows for data=demo and the contract test; seeded, without network access."""

    def demo_test_rows(self, num_rows: int, seed: int) -> list[Row]:
        """Return rows of the test split of data=demo, which may contain cases that training never has."""
        return self.demo_rows(num_rows, seed)

    def images(self, row: Row) -> list[str]:
        """Return the paths of the images of a row (data/images.py). They are read once, before encode()."""
        return []

    augment: AugmentConfig | None = None
    """Augmentation of images in training; None if the run does not train."""
    image_store: ImageStore | None = None
    """The images of all splits; set before attach_tokenizer() if the task reads images."""

    def check_row(self, row: Row) -> str | None:
        """Return the reason why a row cannot be used, or None."""
        return None

    tables: dict[str, Columns] = {}  # noqa: RUF012 - replaced, never changed
    """Side tables by their `data` key, e.g. {"items": Columns(...)}; build_splits() receives their rows."""
    custom_splits: ClassVar[bool] = False
    """Whether build_splits() creates missing splits and applies data.limit, instead of the loader."""

    def check_table_row(self, table: str, row: Row) -> str | None:
        """Return the reason why a row of a side table cannot be used, or None."""
        return None

    def build_splits(
        self, sources: dict[str, RowSource], tables: dict[str, RowSource], data: DataConfig
    ) -> dict[str, RowSource]:
        """Return the splits with the rows that encode() takes, e.g. grouped by user or joined with a table.

        digest() of a returned source must depend on everything that its rows depend on, tables included: caches and resume
        rely on it.
        """
        return sources

    @abstractmethod
    def texts(self, row: Row) -> list[str]:
        """Return the texts of a row on which a tokenizer is trained."""

    def fit_labels(self, rows: Iterable[Row]) -> None:
        """Fit what encode() needs, e.g. the labels, to the training rows."""

    def load_config(self, config: Any) -> None:
        """Load what fit_labels() would fit from the config of a trained model."""

    def model_options(self) -> dict[str, Any]:
        """Return keys of the model config, e.g. num_labels, id2label.

        JSON data of the task itself goes under the key `llmstage`. It is saved in config.json, where load_config() reads it.
        """
        return {}

    def extra_module(self, config: Any) -> nn.Module | None:
        """Return a module with additional weights, e.g. for number columns, or None.

        It becomes `model.extra`; loss() and predict() call it. Its weights are saved as `extra.*`; transformers loads the model
        without them.
        """
        return None

    def attach_tokenizer(self, processor: Processor, context: int) -> None:
        """Set the tokenizer and the maximum number of tokens of an example."""
        self.processor, self.context = processor, context

    def needed_context(self, example: Example) -> int:
        """Return the context that encode() needs to cut nothing of this example: data.context=auto follows it."""
        return len(example.arrays["input_ids"])

    def cache_key(self) -> dict[str, Any]:
        """Return all options that encode() depends on, as a part of the key of the encoded-data cache."""
        return {}

    @abstractmethod
    def encode(self, row: Row) -> list[Example]:
        """Return the examples of a row. Raise RowError if the row cannot be encoded. A pure function, without padding."""

    def encode_many(self, rows: list[Row]) -> list[list[Example]]:
        """Return encode() of several rows. A task may override it to tokenize all rows in one call, with the same result."""
        return [self.encode(row) for row in rows]

    def num_targets(self, example: Example) -> int:
        """Return the number of loss items of an example."""
        return 1

    @abstractmethod
    def collate(self, rows: list[list[Example]]) -> Batch:
        """Return a batch of examples. `rows`: one list for each row of the batch; several examples each only if the task packs."""

    @abstractmethod
    def loss(self, model: nn.Module, batch: Batch) -> LossSum:
        """Return the training loss of one micro-batch."""

    def embed(self, model: nn.Module, batch: Batch) -> tuple[Tensor, ...]:
        """Return the embeddings [B, ...] of one micro-batch for pair_loss(), if additive_loss is False.

        The embedding of a row must not depend on the other rows.
        """
        raise NotImplementedError

    def pair_loss(self, model: nn.Module, embeddings: tuple[Tensor, ...], batches: Sequence[Batch]) -> LossSum:
        """Return the loss over the embeddings [N, ...] of all micro-batches, in order, if additive_loss is False."""
        raise NotImplementedError

    def chance_loss(self, num_rows: int) -> float | None:
        """Return the loss of guessing in a batch of `num_rows` rows, or None if it is not informative."""
        return None

    @abstractmethod
    def predict(self, model: nn.Module, batch: Batch, *, generate: bool) -> list[Any]:
        """Return a prediction for each example, as JSON data. `generate`: also generate text, if the task generates."""

    def merge(self, predictions: list[Any], refs: list[Any], rows: list[int]) -> tuple[list[Any], list[Any], list[int]]:
        """Merge the windows of a long row. Return (predictions, refs, rows), the input of the methods below.

        `rows` [N]: the row of each prediction, in ascending order.
        """
        return predictions, refs, rows

    needs_tuning: ClassVar[bool] = False
    """Whether tune() does anything, so that the validation split is scored for it."""

    def tune(self, predictions: list[Any], refs: list[Any]) -> None:
        """Fit thresholds or a temperature on the predictions of the validation split, after training.

        model_options() must contain the result, so that the saved model has it.
        """

    @abstractmethod
    def score(self, predictions: list[Any], refs: list[Any]) -> dict[str, Score]:
        """Return the scores by name."""

    def baselines(self, train: Iterable[Row], refs: list[Any]) -> dict[str, dict[str, Score]]:
        """Return scores of simple methods on the rows of `refs`, e.g. {"majority class": {"accuracy": ...}}.

        The methods are fitted to `train`; those that have settings choose them on `self.validation_rows`. They use the score
        names of score(), so that the report can compare.
        """
        return {}

    def warnings(self, predictions: list[Any], refs: list[Any]) -> list[str]:
        """Return warnings for the reader of the scores, one sentence each."""
        return []

    def controls(self) -> list[Control]:
        """Return control runs, e.g. the same model without the image, to measure the effect of an input.

        Each is trained after the main run, on the same batches, in a folder of its name.
        """
        return []

    def compare_with_control(
        self, name: str, predictions: list[Any], control_predictions: list[Any], refs: list[Any]
    ) -> tuple[dict[str, Score], list[ReportItem]]:
        """Return the gain over the control run `name` as scores, and report items that replace those of the same title.

        `control_predictions`: its predictions for the same rows.
        """
        return {}, []

    def report_items(self, predictions: list[Any], refs: list[Any]) -> list[ReportItem]:
        """Return tables and charts for the report."""
        return []

    def records(self, prediction: Any, ref: Any) -> list[dict[str, Any]]:
        """Return the lines of predictions.jsonl of one prediction, with at least `prediction` and `reference`."""
        return [{"prediction": prediction, "reference": ref}]

    def errors(self, predictions: list[Any], refs: list[Any]) -> ExampleErrors:
        """Return the error of each prediction, for stage=explore; by default 0 for correct and 1 for wrong."""
        return errors_by_record([self.records(*pair)[0] for pair in zip(predictions, refs, strict=True)])

    def prepare_inference(self, source: RowSource, tables: dict[str, RowSource], data: DataConfig) -> RowSource:
        """Return rows without targets in the form that encode_unlabeled() takes, as build_splits() does for rows with targets."""
        return source

    def dummy_target(self, row: Row) -> Row:
        """Return a row with placeholder values in `target_columns`, which check_row() and encode() accept.

        The prediction must not depend on them. to_response() removes the keys that depend on the reference.
        """
        return row

    def encode_unlabeled(self, rows: list[Row]) -> list[list[Example]]:
        """Return the examples of rows without targets."""
        return self.encode_many([self.dummy_target(row) for row in rows])

    def to_response(self, predictions: list[Any], refs: list[Any]) -> dict[str, Any]:
        """Return the response for one row without a reference, from the predictions of its examples."""
        predictions, refs, _ = self.merge(predictions, refs, [0] * len(refs))
        record = self.records(predictions[0], refs[0])[-1]
        return {key: value for key, value in record.items() if key not in self.reference_columns}

    def text_vectors(self, model: nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
        """Return an embedding [N, D] of each text, given as token ids."""
        return text_vectors(model.base_model, texts, self.processor.pad_id)  # type: ignore[arg-type]

    def image_index(self, example: Example) -> int | None:
        """Return the index of the image of an example in the image store, so that the report can show it."""
        return None

    def after_step(self, model: nn.Module) -> None:
        """Update the model after an optimizer step, e.g. clamp a temperature."""

    @property
    def select(self) -> str:
        """The validation metric that selects the best checkpoint."""
        return self.cfg.select

    @property
    def generate_rows(self) -> int:
        """Number of rows of a split for which text is generated; 0 if the task generates none."""
        return 0
