"""The `task` group. A task with knobs of its own has a dataclass here, named after it in CamelCase; any other task is a
plain `TaskConfig`. A task outside the package keeps its dataclass as `Config` in its own module."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from llmstage.config.key_conditions import FILES, SCRATCH, TRAINING, ReadBy, RunFacts, TaskFacts
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, SHARE, Range


@dataclass(slots=True)
class TaskConfig:
    """What every task says of itself; read before torch is imported."""

    name: str = ""
    """File in llmstage/tasks (or a dotted path typed on the command line)."""
    stages: list[str] = field(default_factory=list)
    """Training stages that this task can go through: pretrain, finetune."""
    model_families: list[str] = field(default_factory=list)
    """Model families that it takes: gpt, bert."""
    generates: bool = False
    """Whether scoring generates text, so that the `generation` group is read."""
    select: str = "loss"
    """Validation metric that picks the best checkpoint; the metric knows its own direction."""

    reads_images = False  # whether its rows hold pictures; said by the class, no key
    reads_items = False  # whether the task joins its rows with data.items; said by the class, no key

    def takes(self) -> list[str]:
        """The families among `kinds` that fit the other keys as they are set; a task whose keys decide overrides it."""
        return self.model_families

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


Kind = Literal["label", "multilabel", "ordinal", "number"]


def target_kinds(task: TaskFacts) -> set[str]:
    """The kinds of target that a classification has; a task built on it may know fewer keys."""
    named = getattr(task, "targets", None)
    return set(named.values()) if named else {getattr(task, "target", "label")}


def for_kinds(*kinds: str) -> ReadBy:
    """Read only where one of the targets is of such a kind."""

    def unread(run: RunFacts) -> str | None:
        here = target_kinds(run.task)
        return (
            None if here & set(kinds) else f"no target is {' or '.join(kinds)} (task.target={', '.join(sorted(here))})"
        )

    return ReadBy(unread)


def _alone(run: RunFacts) -> str | None:
    return "task.targets names the targets and their kinds" if getattr(run.task, "targets", None) else None


def _several(run: RunFacts) -> str | None:
    return (
        None if getattr(run.task, "targets", None) else "there is one target; task.targets.<name>=<kind> names several"
    )


@dataclass(slots=True)
class FeatureConfig:
    """What a model sees beside the text."""

    numbers: list[str] = field(default_factory=list)
    """Number columns of the file, standardised by the training split: task.features.numbers=[price,volume]. A missing
    value (empty, NA, NaN) becomes the mean and a flag. With features, text is optional."""
    categories: list[str] = field(default_factory=list)
    """Category columns of the file; one that training did not see counts as `other`."""
    ngrams: bool = False
    """Add a bag of hashed token n-grams (fastText) to the logits: learns single phrases much faster than a transformer
    from scratch."""


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

    select: str = "auto"
    """Validation metric that picks the best checkpoint; auto: macro_f1 (label), micro_f1 (multilabel), qwk (ordinal),
    mae (number), mean_score (several targets)."""
    target: Annotated[Kind, ReadBy(_alone)] = "label"
    """label: one of several; multilabel: any number of them; ordinal: ordered classes; number: a value."""
    targets: dict[str, Kind] = field(default_factory=dict)
    """Several targets from one model, name to kind: task.targets.topic=label task.targets.stars=ordinal. The column has
    the target's name, or data.columns.<name>= says it."""
    weights: Annotated[dict[str, Annotated[float, POSITIVE]], TRAINING, ReadBy(_several)] = field(default_factory=dict)
    """Share of a target in the loss: task.weights.stars=0.5; 1 where it is not named."""
    class_weights: Annotated[Literal["none", "balanced"], TRAINING, for_kinds("label", "ordinal", "multilabel")] = (
        "none"
    )
    """balanced: each class weighs n / (classes * its rows) in the loss, as scikit-learn's class_weight does; multilabel:
    a label that is there weighs (rows without it) / (rows with it), from 1 to 20."""
    label_smoothing: Annotated[
        float, Range(0, 1, open_high=True), TRAINING, for_kinds("label", "ordinal", "multilabel")
    ] = 0.0
    """Share of the target spread evenly over all classes: less certain, often better calibrated."""
    separator: Annotated[str, for_kinds("multilabel")] = ","
    """Between labels where a multilabel column is text and not a list: 'task.separator=" "'."""
    min_count: Annotated[int, AT_LEAST_1, TRAINING, for_kinds("multilabel")] = 1
    """Multilabel: labels of fewer training rows are dropped, and told."""
    order: Annotated[list[str], TRAINING, for_kinds("ordinal")] = field(default_factory=list)
    """Ordinal: the levels from lowest to highest, where they are not numbers: task.order=[low,medium,high]."""
    positive: Annotated[str, TRAINING, for_kinds("label")] | None = None
    """Of two labels the one that is looked for (average precision, ROC, threshold); null: the rarer one in training."""
    threshold: Annotated[Literal["tuned"] | float, Range(0, 1), TRAINING, for_kinds("label", "multilabel")] = 0.5
    """Probability from which on the positive label of two, or each label of a multilabel, is said; tuned: for the best F1
    on the validation split."""
    temperature: Annotated[Literal["none", "scaled"], TRAINING, for_kinds("label", "ordinal", "multilabel")] = "none"
    """scaled: divide the logits by a temperature fitted on the validation split (Guo 2017): better calibrated, and the
    likeliest label stays."""
    number_text: Literal["error", "convert"] = "error"
    """What to do where the text is a number (a JSON number, or a column that is mostly bare numbers): stop, or read its
    digits as text."""
    features: FeatureConfig = field(default_factory=FeatureConfig)
    """Number and category columns beside the text."""


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


def _extracts(run: RunFacts) -> str | None:
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
        return [kind for kind in self.model_families if (kind == "bert") is (self.style == "extract")]

    def writes(self) -> bool:
        return self.style == "generate"


@dataclass(slots=True)
class Recommendation(TaskConfig):
    """Knobs of task=recommendation."""

    split: Literal["leave_last_out", "time"] = "leave_last_out"
    """What is held out where no file is given: of each user the last click (test) and the one before (validation), or
    everything from a point in time on, with the shares of data.split."""
    positive_rating: float | None = None
    """A rating counts as a click from here on; null: any rating does."""
    history: Annotated[int, AT_LEAST_1] = 20
    """Items of a user's past that the model sees, the newest first."""
    aggregate: Literal["attention", "mean"] = "attention"
    """How the past becomes the user: weighted by content and age, or equally."""
    start: Annotated[Literal["co_clicks", "random"], TRAINING] = "co_clicks"
    """Where the items' own vectors begin: where items that were clicked close together in time lie close together, or
    anywhere."""
    exclude_seen: bool = True
    """Leave out of the ranking what the user already had; a repeated interaction then counts once."""
    negatives: Annotated[int, Range(2, 100_000), TRAINING] = 256
    """Items drawn anew in each micro-batch to stand against the clicked ones; half evenly, half by popularity."""
    click_negatives: Annotated[int, AT_LEAST_1] = 4
    """Other items per click against which the chance of a click is learned and scored, where the training rows hold no
    candidate that was not clicked."""
    click_weight: Annotated[float, NOT_NEGATIVE, TRAINING] = 0.2
    """Weight of the log-loss of clicks beside the ranking loss."""
    id_dropout: Annotated[float, Range(0, 1), TRAINING] = 0.1
    """Share of items that stand for their text alone in a training step, as cold items do; 1 learns from text only."""
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
    """Knobs of task=captioning."""

    prompt: str = "Describe the picture."
    """What the model is asked for a picture whose row has no `prompt` of its own."""
    learn: Annotated[Literal["first", "all"], TRAINING] = "first"
    """Of several references of a picture: learn the first, or each of them. All are scored against, and perplexity is that of
    the first, either way."""
    generate_rows: Annotated[int, AT_LEAST_1] | None = None
    """Pictures of a split for which a caption is written, null: all; perplexity and token accuracy are on the whole split."""

    reads_images = True


@dataclass(slots=True)
class Contrastive(TaskConfig):
    """Knobs of task=contrastive."""

    loss: Annotated[Literal["infonce", "sigmoid"], TRAINING] = "infonce"
    """infonce: each image must find its text among the batch's, and each text its image (CLIP); sigmoid: each image and
    text are judged by themselves, with a learned bias (SigLIP)."""
    repeats: Annotated[Literal["mask", "keep"], TRAINING] = "mask"
    """Pairs of a batch with the same image or the same caption: mask: not each other's negatives; keep: negatives like any
    other, as in CLIP."""
    temperature: Annotated[Literal["auto"] | float, POSITIVE, SCRATCH] = "auto"
    """Where the learned temperature starts; auto: 0.07 for infonce, 0.1 for sigmoid."""
    min_temperature: Annotated[float, POSITIVE, TRAINING] = 0.01
    """The temperature never falls below it, so that one hard pair cannot blow up the gradient."""
    pool: Annotated[int, Range(2, 1_000_000)] | None = 64
    """Images among which one is looked for when scoring, with pairwise different captions; null: the whole split."""
    templates: list[str] = field(default_factory=lambda: ["a picture of {}"])
    """Sentences around a class name, `{}` being its place: zero-shot classification compares an image with the mean of them,
    and a row with a label alone is trained with the first. For Chinese names: ["一张{}的图片"]."""

    reads_images = True


def _sighted(run: RunFacts) -> str | None:
    return "task.blind=true is the control itself" if getattr(run.task, "blind", False) else None


@dataclass(slots=True)
class VisualReasoning(TaskConfig):
    """Knobs of task=visual_reasoning."""

    answer: Annotated[Literal["auto", "choose", "truth", "generate"], TRAINING] = "auto"
    """choose: the likeliest of the training answers, each as a whole; truth: true or false, however they are spelled;
    generate: free text. auto: truth where all training answers are truth values, choose where they are at most
    task.max_answers, else generate."""
    max_answers: Annotated[int, AT_LEAST_1, TRAINING] = 200
    """Answers to choose from; of more, task.answer=choose keeps the most frequent, and auto generates."""
    blind: Annotated[bool, TRAINING] = False
    """Read the question without the picture: what the words alone give away."""
    describe: Annotated[float, SHARE, TRAINING] = 0.25
    """Of training rows that have a `caption`, learn to write that of so large a share as well: each of its words says
    something of the picture, while an answer is one word, and a model from scratch learns to see from captions first. Never
    scored; 0: none."""
    prompt: Annotated[str, TRAINING] = "Describe the picture."
    """What asks for the caption in rows that have no `prompt` of their own."""
    control: Annotated[Literal["train", "off"], ReadBy(_sighted)] = "train"
    """train: train the same model without the picture as well (same steps, seed and rows; in blind/ of the run folder), and
    set it beside this one. At stage=evaluate: score it if the run has one."""

    reads_images = True
