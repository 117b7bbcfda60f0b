"""The `task` group. A task with knobs of its own has a dataclass here, named after it in CamelCase; any other task is a
plain `TaskConfig`. A task outside the package keeps its dataclass as `Config` in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.schema.marks import TRAINING
from llmstage.schema.typed import AT_LEAST_1, Range


@dataclass(slots=True)
class TaskConfig:
    """What every task says of itself; read before torch is imported."""

    name: str = ""
    """File in llmstage/tasks (or a dotted path typed on the command line)."""
    stages: list[str] = field(default_factory=list)
    """Training stages that this task can go through: pretrain, finetune."""
    kinds: list[str] = field(default_factory=list)
    """Model families that it takes: gpt, bert."""
    generates: bool = False
    """Whether scoring generates text, so that the `generation` group is read."""
    select: str = "loss"
    """Validation metric that picks the best checkpoint; the metric knows its own direction."""


@dataclass(slots=True)
class Dialogue(TaskConfig):
    """Knobs of task=dialogue."""

    system: str | None = None
    """A system message put in front of conversations that have none."""
    generate_rows: Annotated[int, AT_LEAST_1] = 100
    """Conversations of a split whose replies are generated; perplexity and token accuracy are on the whole split."""


@dataclass(slots=True)
class TextToText(TaskConfig):
    """Knobs of the tasks that write a text from a text: translation and summarization."""

    prefix: str = ""
    """Put in front of every source, as pretrained T5 models want it: 'translate English to German: '."""
    target_share: Annotated[float, Range(0.05, 0.95)] = 0.5
    """Share of data.context that is kept for the target; the rest is for the source, whose end is cut where it is longer
    (counted in the ledger). A target that is longer counts against data.max_lost."""
    label_smoothing: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.0
    """Share of the target's probability that is spread over the vocabulary in the training loss."""
    generate_rows: Annotated[int, AT_LEAST_1] | None = None
    """Rows of a split for which text is generated, null: all; perplexity and token accuracy are on the whole split."""


@dataclass(slots=True)
class Translation(TextToText):
    """Knobs of task=translation."""

    tokenize: Literal["auto", "13a", "intl", "zh", "char", "none"] = "auto"
    """sacreBLEU's tokenizer for BLEU; auto: zh where the references are Chinese, char where Japanese, else 13a. TER is
    by character where BLEU is."""


@dataclass(slots=True)
class Summarization(TextToText):
    """Knobs of task=summarization."""

    target_share: Annotated[float, Range(0.05, 0.95)] = 0.25
    """Share of data.context that is kept for the summary; the rest is for the document, whose end is cut where it is
    longer (counted in the ledger). A summary that is longer counts against data.max_lost."""


@dataclass(slots=True)
class Classification(TaskConfig):
    """Knobs of task=classification."""

    class_weights: Annotated[Literal["none", "balanced"], TRAINING] = "none"
    """balanced: each class weighs n / (classes * its rows) in the loss, as scikit-learn's class_weight does."""
