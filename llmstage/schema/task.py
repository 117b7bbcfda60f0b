"""The `task` group. A task with knobs of its own has a dataclass here, named after it in CamelCase; any other task is a
plain `TaskConfig`. A task outside the package keeps its dataclass as `Config` in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Literal

from llmstage.schema.marks import FILES, TRAINING, ReadBy
from llmstage.schema.typed import AT_LEAST_1, NOT_NEGATIVE, Range

if TYPE_CHECKING:
    from llmstage.schema.run import RunConfig


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

    def takes(self) -> list[str]:
        """The families among `kinds` that fit the other keys as they are set; a task whose keys decide overrides it."""
        return self.kinds

    def writes(self) -> bool:
        """Whether text is generated under the other keys as they are set."""
        return self.generates


@dataclass(slots=True)
class Dialogue(TaskConfig):
    """Knobs of task=dialogue."""

    system: str | None = None
    """A system message put in front of conversations that have none."""
    generate_rows: Annotated[int, AT_LEAST_1] = 100
    """Conversations of a split whose replies are generated; perplexity and token accuracy are on the whole split."""


@dataclass(slots=True)
class Classification(TaskConfig):
    """Knobs of task=classification."""

    class_weights: Annotated[Literal["none", "balanced"], TRAINING] = "none"
    """balanced: each class weighs n / (classes * its rows) in the loss, as scikit-learn's class_weight does."""


@dataclass(slots=True)
class MaskedLm(TaskConfig):
    """Knobs of task=masked_lm."""

    mask_share: Annotated[float, Range(0, 1, open_low=True)] = 0.15
    """Share of a window's tokens that is hidden, one token at least; of these 80 % are shown as the mask token, 10 % as a
    random one, 10 % as they are."""
    whole_word: bool = False
    """Hide whole words: what stands between white space, and each Chinese or Japanese character."""
    mask_seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the masks that scoring uses; apart from `seed`, so that a sweep over seeds is scored on the same masks."""


@dataclass(slots=True)
class TokenClassification(TaskConfig):
    """Knobs of task=token_classification."""

    scheme: Annotated[Literal["auto", "iob1", "iob2", "iobes", "bmes"], FILES] = "auto"
    """How the data's tags mark entities; auto: read off the training split, or taken from the model."""
    repair: Annotated[bool, FILES] = False
    """Read tag sequences that are illegal in their scheme kindly, and count them, instead of refusing their rows."""
    names: Annotated[list[str], FILES] = field(default_factory=list)
    """Where the data holds tags as numbers: what each number stands for, in order, e.g. [O,B-PER,I-PER]."""
    decode: Literal["viterbi", "argmax"] = "viterbi"
    """viterbi: the likeliest sequence of tags that is legal; argmax: the likeliest tag of each token by itself."""


def _extracts(run: RunConfig) -> str | None:
    written = getattr(run.task, "style", "extract") == "generate"
    return "task.style=generate writes its answers instead of pointing at them" if written else None


EXTRACT = ReadBy(_extracts)


@dataclass(slots=True)
class QuestionAnswering(TaskConfig):
    """Knobs of task=question_answering."""

    style: Literal["extract", "generate"] = "extract"
    """extract: an encoder points at the answer in the context; generate: the answer is written, by any other family."""
    stride: Annotated[int, AT_LEAST_1, EXTRACT] = 64
    """extract: tokens of the context that two neighbouring windows share; at most half of a window's room is used."""
    max_answer_tokens: Annotated[int, AT_LEAST_1, EXTRACT] = 32
    """extract: longest span that may be an answer."""
    n_best: Annotated[int, AT_LEAST_1, EXTRACT] = 5
    """extract: spans kept of each window, and shown in predictions.jsonl."""
    unanswerable: Literal["auto"] | bool = "auto"
    """Whether "no answer" may be the answer; auto: if the training rows have such questions."""
    match_features: Annotated[bool, EXTRACT] = False
    """extract: tell the model which words of the context stand in the question, and how densely (DrQA's exact match).
    Helps models from scratch on few rows; the features are weights of ours beside the transformers model."""

    def takes(self) -> list[str]:
        """Spans are pointed at by encoders and written by all others."""
        return [kind for kind in self.kinds if (kind == "bert") is (self.style == "extract")]

    def writes(self) -> bool:
        return self.style == "generate"
