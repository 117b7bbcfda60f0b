"""The `task` group. A task with keys of its own has a dataclass here, named after it in CamelCase; any other task is a
plain `TaskConfig`. A task outside the package has its dataclass as `Config` in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.config.key_conditions import FILES, SCRATCH, TRAINING, ReadBy, RunFacts, TaskFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range


@dataclass(slots=True)
class TaskConfig:
    """The facts and keys that every task has; read before torch is imported."""

    name: str = ""
    """A file in llmstage/tasks, or a dotted path from the command line."""
    stages: list[str] = field(default_factory=list)
    """Training stages that support this task: pretrain, finetune."""
    model_families: list[str] = field(default_factory=list)
    """Model families that this task supports: gpt, bert, …"""
    generates: bool = False
    """Whether scoring generates text, so that the `generation` group is used."""
    select: str = "loss"
    """Validation metric that selects the best checkpoint; whether higher or lower is better belongs to the metric."""

    reads_images = False  # whether its rows hold pictures; said by the class, no key
    reads_items = False  # whether the task joins its rows with data.items; said by the class, no key
    reads_conversations = False  # whether its rows are conversations; said by the class, no key

    def takes(self) -> list[str]:
        """Return the supported model families under the current keys; a task whose keys decide it overrides this."""
        return self.model_families

    def writes(self) -> bool:
        """Return whether text is generated under the current keys."""
        return self.generates


@dataclass(slots=True)
class Dialogue(TaskConfig):
    """Keys of task=dialogue."""

    reads_conversations = True

    system: str | None = None
    """A system message for conversations that have none."""
    generate_rows: Annotated[int, AT_LEAST_1] = 100
    """Conversations of a split for which replies are generated; perplexity and token accuracy are on the whole split."""


TargetType = Literal["label", "multilabel", "ordinal", "number"]


def types_of_targets(task: TaskFacts) -> set[str]:
    """Return the target types of a classification; a task that builds on it may have fewer keys."""
    named = getattr(task, "targets", None)
    return set(named.values()) if named else {getattr(task, "target", "label")}


def for_target_types(*target_types: str) -> ReadBy:
    """Return the condition that one of the targets has one of these types."""

    def unread(run: RunFacts) -> str | None:
        present = types_of_targets(run.task)
        if present & set(target_types):
            return None
        return f"no target is {' or '.join(target_types)} (task.target={', '.join(sorted(present))})"

    return ReadBy(unread)


def _alone(run: RunFacts) -> str | None:
    return "task.targets names the targets and their types" if getattr(run.task, "targets", None) else None


def _several(run: RunFacts) -> str | None:
    return (
        None if getattr(run.task, "targets", None) else "there is one target; task.targets.<name>=<type> names several"
    )


@dataclass(slots=True)
class FeatureConfig:
    """Inputs of a model beside the text."""

    numbers: list[str] = field(default_factory=list)
    """Number columns of the file, standardised on the training split: task.features.numbers=[price,volume]. A missing
    value (empty, NA, NaN) becomes the mean and a flag. With features, text is optional."""
    categories: list[str] = field(default_factory=list)
    """Category columns of the file; a value that is not in the training split counts as `other`."""
    ngrams: bool = False
    """Add a linear model on hashed token n-grams (fastText) to the logits. It learns single phrases much faster than a
    transformer from scratch."""


@dataclass(slots=True)
class TextToText(TaskConfig):
    """Keys of the tasks that generate a text from a text: translation and summarization."""

    prefix: str = ""
    """Text in front of every source, as pretrained T5 models expect it: 'translate English to German: '."""
    target_share: Annotated[float, Range(0.05, 0.95)] = 0.5
    """Share of data.context for the target; the rest is for the source, whose end is truncated where it is longer (the
    ledger counts it). A longer target counts towards data.max_lost."""
    label_smoothing: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.0
    """Share of the target probability that is spread over the vocabulary in the training loss."""
    generate_rows: Annotated[int, AT_LEAST_1] | None = None
    """Rows of a split for which text is generated, null: all; perplexity and token accuracy are on the whole split."""


@dataclass(slots=True)
class Translation(TextToText):
    """Keys of task=translation."""

    tokenize: Literal["auto", "13a", "intl", "zh", "char", "none"] = "auto"
    """sacreBLEU's tokenizer for BLEU; auto: zh where the references are Chinese, char where they are Japanese, else
    13a. TER is computed on characters where BLEU is."""


@dataclass(slots=True)
class Summarization(TextToText):
    """Keys of task=summarization."""

    target_share: Annotated[float, Range(0.05, 0.95)] = 0.25
    """Share of data.context for the summary; the rest is for the document, whose end is truncated where it is longer
    (the ledger counts it). A longer summary counts towards data.max_lost."""


@dataclass(slots=True)
class Classification(TaskConfig):
    """Keys of task=classification."""

    select: str = "auto"
    """Validation metric that selects the best checkpoint; auto: macro_f1 (label), micro_f1 (multilabel), qwk
    (ordinal), mae (number), mean_score (several targets)."""
    target: Annotated[TargetType, ReadBy(_alone)] = "label"
    """label: one of several classes; multilabel: any number of labels; ordinal: one of several ordered classes;
    number: a value."""
    targets: dict[str, TargetType] = field(default_factory=dict)
    """Several targets of one model, name to type: task.targets.topic=label task.targets.stars=ordinal. The column has
    the name of the target, or data.columns.<name>= names it."""
    weights: Annotated[dict[str, Annotated[float, POSITIVE]], TRAINING, ReadBy(_several)] = field(default_factory=dict)
    """Weight of a target in the loss: task.weights.stars=0.5; 1 for targets without a weight."""
    class_weights: Annotated[
        Literal["none", "balanced"], TRAINING, for_target_types("label", "ordinal", "multilabel")
    ] = "none"
    """balanced: the weight of a class in the loss is n / (classes * its rows), as with scikit-learn's class_weight;
    multilabel: the weight of a positive label is (rows without it) / (rows with it), from 1 to 20."""
    label_smoothing: Annotated[
        float, Range(0, 1, open_high=True), TRAINING, for_target_types("label", "ordinal", "multilabel")
    ] = 0.0
    """Share of the target probability that is spread evenly over all classes; predictions become less certain, and
    often better calibrated."""
    separator: Annotated[str, for_target_types("multilabel")] = ","
    """Separator of labels where a multilabel column is text instead of a list: 'task.separator=" "'."""
    min_count: Annotated[int, AT_LEAST_1, TRAINING, for_target_types("multilabel")] = 1
    """multilabel: labels with fewer training rows are dropped, and the report names them."""
    order: Annotated[list[str], TRAINING, for_target_types("ordinal")] = field(default_factory=list)
    """ordinal: the levels from lowest to highest, where they are not numbers: task.order=[low,medium,high]."""
    positive: Annotated[str, TRAINING, for_target_types("label")] | None = None
    """The positive one of two labels (for average precision, ROC and threshold); null: the rarer one in training."""
    threshold: Annotated[Literal["tuned"] | float, Range(0, 1), TRAINING, for_target_types("label", "multilabel")] = 0.5
    """Probability from which on the positive label of two, or a label of a multilabel, is predicted; tuned: the best
    F1 on the validation split."""
    temperature: Annotated[Literal["none", "scaled"], TRAINING, for_target_types("label", "ordinal", "multilabel")] = (
        "none"
    )
    """scaled: divide the logits by a temperature fitted on the validation split (Guo 2017); probabilities are better
    calibrated, and the predicted label is the same."""
    number_text: Literal["error", "convert"] = "error"
    """What to do where the text is a number (a JSON number, or a column of mostly plain numbers). error: stop;
    convert: read its digits as text."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Number and category columns as inputs beside the text."""


@dataclass(slots=True)
class MaskedLm(TaskConfig):
    """Keys of task=masked_lm."""

    mask_share: Annotated[float, Range(0, 1, open_low=True)] = 0.15
    """Share of the tokens of a window to predict, at least one token; 80 % of them are replaced by the mask token, 10
    % by a random token, and 10 % stay."""
    whole_word: bool = False
    """Mask whole words: text between white space, and each Chinese or Japanese character."""
    mask_seed: Annotated[int, NOT_NEGATIVE] = 0
    """Seed of the masks in scoring; independent of `seed`, so that a sweep over seeds is scored on the same masks."""


@dataclass(slots=True)
class TokenClassification(TaskConfig):
    """Keys of task=token_classification."""

    scheme: Annotated[Literal["auto", "iob1", "iob2", "iobes", "bmes"], FILES] = "auto"
    """Tag scheme of the data; auto: detected on the training split, or taken from the model."""
    repair: Annotated[bool, FILES] = False
    """Correct tag sequences that are illegal in their scheme and count them, instead of refusing their rows."""
    names: Annotated[list[str], FILES] = field(default_factory=list)
    """Where tags in the data are numbers: the tag of each number, in order, e.g. [O,B-PER,I-PER]."""
    decode: Literal["viterbi", "argmax"] = "viterbi"
    """viterbi: the most likely legal sequence of tags; argmax: the most likely tag of each token separately."""


def _extracts(run: RunFacts) -> str | None:
    written = getattr(run.task, "style", "extract") == "generate"
    return "task.style=generate generates its answers" if written else None


EXTRACT = ReadBy(_extracts)


@dataclass(slots=True)
class QuestionAnswering(TaskConfig):
    """Keys of task=question_answering."""

    style: Literal["extract", "generate"] = "extract"
    """extract: an encoder predicts the answer as a span of the context; generate: a model of any other family
    generates the answer."""
    stride: Annotated[int, AT_LEAST_1, EXTRACT] = 64
    """extract: tokens of the context that two neighbouring windows share; at most half of the context tokens of a
    window."""
    max_answer_tokens: Annotated[int, AT_LEAST_1, EXTRACT] = 32
    """extract: longest span that can be an answer."""
    n_best: Annotated[int, AT_LEAST_1, EXTRACT] = 5
    """extract: best spans of each window to keep and to write to predictions.jsonl."""
    unanswerable: Literal["auto"] | bool = "auto"
    """Whether "no answer" is a possible answer; auto: if the training rows have such questions."""
    match_features: Annotated[bool, EXTRACT] = False
    """extract: mark the words of the context that occur in the question, and their density (exact match features of
    DrQA). It helps models from scratch on few rows; the weights for these features are not part of the transformers
    model."""

    def takes(self) -> list[str]:
        """Return the families for the current style: encoders extract, all others generate."""
        return [name for name in self.model_families if (name == "bert") is (self.style == "extract")]

    def writes(self) -> bool:
        return self.style == "generate"


@dataclass(slots=True)
class Recommendation(TaskConfig):
    """Keys of task=recommendation."""

    split: Literal["leave_last_out", "time"] = "leave_last_out"
    """Which interactions are held out where no split is given. leave_last_out: of each user the last click (test) and
    the one before it (validation); time: all from a point in time on, with the shares of data.split."""
    positive_rating: float | None = None
    """Lowest rating that counts as a click; null: every rating."""
    history: Annotated[int, AT_LEAST_1] = 20
    """Items of a user's history that the model sees, the newest first."""
    aggregate: Literal["attention", "mean"] = "attention"
    """How the history becomes a user vector: weighted by content and age, or with equal weights."""
    start: Annotated[Literal["co_clicks", "random"], TRAINING] = "co_clicks"
    """Initial item vectors: near each other for items clicked close together in time, or random."""
    exclude_seen: bool = True
    """Leave out of the ranking the items that the user already had; a repeated interaction then counts once."""
    negatives: Annotated[int, Range(2, 100_000), TRAINING] = 256
    """Negative items drawn for each micro-batch; half uniformly, half by popularity."""
    click_negatives: Annotated[int, AT_LEAST_1] = 4
    """Negative items per click for learning and scoring click probability, where the training rows have no candidates
    that were not clicked."""
    click_weight: Annotated[float, NOT_NEGATIVE, TRAINING] = 0.2
    """Weight of the log-loss of clicks, added to the ranking loss."""
    id_dropout: Annotated[float, Range(0, 1), TRAINING] = 0.1
    """Share of items that are represented by their text alone in a training step, as new items are; 1: learn from text
    only."""
    item_numbers: list[str] = field(default_factory=list)
    """Number columns of data.items, e.g. [price]."""
    item_categories: list[str] = field(default_factory=list)
    """Category columns of data.items, several values with | between them, e.g. [brand]."""
    user_numbers: list[str] = field(default_factory=list)
    """Number columns of the interactions that are known when an item is shown, e.g. [age]."""
    user_categories: list[str] = field(default_factory=list)
    """Category columns of the interactions, e.g. [country,device]."""

    reads_items = True


@dataclass(slots=True)
class Captioning(TaskConfig):
    """Keys of task=captioning."""

    prompt: str = "Describe the picture."
    """The prompt for an image whose row has no `prompt`."""
    learn: Annotated[Literal["first", "all"], TRAINING] = "first"
    """With several references of an image: train on the first, or on each. Scores use all references, and perplexity
    the first, in both cases."""
    generate_rows: Annotated[int, AT_LEAST_1] | None = None
    """Images of a split for which a caption is generated, null: all; perplexity and token accuracy are on the whole
    split."""

    reads_images = True


@dataclass(slots=True)
class Contrastive(TaskConfig):
    """Keys of task=contrastive."""

    loss: Annotated[Literal["infonce", "sigmoid"], TRAINING] = "infonce"
    """infonce: each image is classified among the texts of the batch, and each text among the images (CLIP); sigmoid:
    each image-text pair is classified separately, with a learned bias (SigLIP)."""
    repeats: Annotated[Literal["mask", "keep"], TRAINING] = "mask"
    """Pairs of a batch with the same image or the same caption. mask: they are not negatives of each other; keep: they
    are, as in CLIP."""
    temperature: Annotated[Literal["auto"] | float, POSITIVE, SCRATCH] = "auto"
    """Initial value of the learned temperature; auto: 0.07 for infonce, 0.1 for sigmoid."""
    min_temperature: Annotated[float, POSITIVE, TRAINING] = 0.01
    """Lower limit of the temperature, so that one hard pair cannot cause a very large gradient."""
    pool: Annotated[int, Range(2, 1_000_000)] | None = 64
    """Images in the candidate set of a retrieval score, with pairwise different captions; null: the whole split."""
    templates: list[str] = field(default_factory=lambda: ["a picture of {}"])
    """Sentences around a class name, with {} in its place. Zero-shot classification compares an image with their mean;
    a row with only a label is trained with the first. For Chinese names: ["一张{}的图片"]."""

    reads_images = True


def _sighted(run: RunFacts) -> str | None:
    return "task.blind=true is the control itself" if getattr(run.task, "blind", False) else None


@dataclass(slots=True)
class VisualReasoning(TaskConfig):
    """Keys of task=visual_reasoning."""

    answer: Annotated[Literal["auto", "choose", "truth", "generate"], TRAINING] = "auto"
    """choose: the most likely of the training answers, each scored in full; truth: true or false in any spelling;
    generate: free text. auto: truth where all training answers are truth values, choose where there are at most
    task.max_answers of them, else generate."""
    max_answers: Annotated[int, AT_LEAST_1, TRAINING] = 200
    """Most answers to choose from. Of more answers, task.answer=choose keeps the most frequent, and auto generates."""
    blind: Annotated[bool, TRAINING] = False
    """Hide the image: how much the question alone reveals."""
    describe: Annotated[float, SHARE, TRAINING] = 0.25
    """Share of the training rows with a `caption` that are also trained to generate it. Each word of a caption
    describes the image, while an answer is one word, and a model from scratch learns to see from captions first.
    Captions are never scored; 0: none."""
    prompt: Annotated[str, TRAINING] = "Describe the picture."
    """The prompt for the caption in rows that have no `prompt`."""
    control: Annotated[Literal["train", "off"], ReadBy(_sighted)] = "train"
    """train: also train the same model without the image (same steps, seed and rows; in blind/ of the run folder) and
    compare both. With stage=evaluate: score it where the run has one."""

    reads_images = True
