"""The whole config of a run as one tree of dataclasses. Defaults are written here, and not again in `conf/`."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config import stage as stage_schemas
from llmstage.config import task as task_schemas
from llmstage.config.data import DataConfig
from llmstage.config.explore import Explore
from llmstage.config.key_conditions import (
    ADAPTER,
    GENERATES,
    NEW_TOWER,
    PRETRAINED,
    ROOTED,
    SCRATCH,
    SEES,
    TRAINING,
    for_family,
)
from llmstage.config.monitor import Monitor
from llmstage.config.retrieval import RetrievalConfig
from llmstage.config.stage import StageConfig
from llmstage.config.task import TaskConfig
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Range, build
from llmstage.errors import UserError
from llmstage.naming import load_module

Count = Annotated[int, AT_LEAST_1, TRAINING]


@dataclass(slots=True)
class VisionConfig:
    """The vision tower (ViT): an image of `size` x `size` pixels in patches of `patch` x `patch`."""

    path: Annotated[str, SEES, TRAINING] | None = None
    """Take the vision tower, its size and its image processor from a model trained by task=contrastive (or any CLIP
    model)."""
    size: Annotated[int, Range(8, 4096), SCRATCH, SEES, NEW_TOWER] = 64
    """Height and width of an image in pixels, as the model sees it."""
    patch: Annotated[int, Range(1, 512), SCRATCH, SEES, NEW_TOWER] = 8
    """Height and width of a patch in pixels; must divide `size`."""
    num_hidden_layers: Annotated[int, AT_LEAST_1, SCRATCH, SEES, NEW_TOWER] = 4
    """Transformer layers of the tower."""
    hidden_size: Annotated[int, Range(8, 65536), SCRATCH, SEES, NEW_TOWER] = 128
    """Hidden size of the tower."""
    num_attention_heads: Annotated[int, AT_LEAST_1, SCRATCH, SEES, NEW_TOWER] = 4
    """Attention heads of the tower; must divide its hidden size."""
    intermediate_size: Annotated[int, AT_LEAST_1, SCRATCH, SEES, NEW_TOWER] = 512
    """Inner size of the tower's MLP."""
    fit: Annotated[Literal["squash", "crop"], SCRATCH, SEES, NEW_TOWER] = "squash"
    """How an image becomes square. squash: height and width are scaled separately; crop: the centre is cut out, as in
    CLIP."""
    layer: Annotated[int, Range(-100, -1), SCRATCH, for_family("vlm")] = -1
    """vlm: the tower layer, counted from the end, whose patches the decoder reads; LLaVA uses -2 of a pretrained
    tower."""


@dataclass(slots=True)
class ModelConfig:
    """A preset that is trained from scratch, or a model by path."""

    name: str = ""
    """The option of conf/model that was chosen."""
    family: Literal["gpt", "bert", "t5", "clip", "vlm"] = "gpt"
    """Model family: gpt is a decoder (Llama), bert an encoder (ModernBERT), t5 an encoder-decoder (T5), clip two
    towers for images and texts (CLIP), vlm a decoder with a vision tower (LLaVA)."""
    path: str | None = None
    """A Hugging Face directory, a run folder, a GGUF file, or a hub id; the preset is then not used."""
    vocab_size: Annotated[int, Range(300, 1_000_000), SCRATCH] = 2048
    """Size of the byte-level BPE vocabulary that is trained on the training split."""
    num_hidden_layers: Annotated[int, AT_LEAST_1, SCRATCH] = 4
    """Transformer layers; of an encoder-decoder as many in each half."""
    hidden_size: Annotated[int, Range(8, 65536), SCRATCH] = 128
    """Hidden size."""
    num_attention_heads: Annotated[int, AT_LEAST_1, SCRATCH] = 4
    """Attention heads; must divide the hidden size."""
    intermediate_size: Annotated[int, AT_LEAST_1, SCRATCH] = 344
    """Inner size of the gated MLP."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights in model/, and in memory of those that are not trained; auto: that of the model in model.path,
    and float32 from scratch. Trained weights are float32 until they are saved."""
    add_tokens: Annotated[str, TRAINING, PRETRAINED] | None = None
    """A text file with a token on each line that the tokenizer is to have as one token. Its row in the embeddings starts
    as the mean of the rows of its present pieces; with adapter=lora the embeddings are trained in full."""
    resize_embeddings: Annotated[bool, TRAINING, PRETRAINED] = False
    """Give entries of the tokenizer for which the model has no row in its embeddings new rows, which start as the mean of
    all rows. Without it such a model is refused, because its tokenizer may be that of another model."""
    rope_scaling: Annotated[Literal["none", "linear", "dynamic", "yarn"], TRAINING, PRETRAINED] = "none"
    """Stretch rotary positions so that the model reads texts longer than it was made for, by rope_factor."""
    rope_factor: Annotated[float, Range(1, 1024, open_low=True), TRAINING, PRETRAINED] = 2.0
    """How many times longer than the model's own the context becomes with rope_scaling."""
    dropout: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.0
    """Dropout of attention, and of MLP and head where the family has it; 0 suits training from scratch."""
    projection: Annotated[int, Range(8, 65536), SCRATCH, for_family("clip")] = 128
    """clip: dimension of the space in which images and texts are compared."""
    freeze: Annotated[list[Literal["vision", "text"]], TRAINING, SEES] = field(default_factory=list)
    """Towers that are not trained: model.freeze=[vision]."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """The vision tower of clip and vlm models."""


@dataclass(slots=True)
class TrainerConfig:
    """Budget, batches, hardware, evaluation and checkpoints."""

    max_steps: Annotated[Literal["auto"] | int, AT_LEAST_1, TRAINING] | None = "auto"
    """Optimizer steps. Exactly one of max_steps, epochs and max_tokens is set; setting one removes the default of
    another. auto: 900 from scratch; with model.path 3 epochs, and up to 20 on a small set (5 where text is learned)."""
    epochs: Annotated[float, POSITIVE, TRAINING] | None = None
    """Passes over the training split."""
    max_tokens: Count | None = None
    """Input tokens without padding."""
    batch_size: Count | None = None
    """Rows in an optimizer step, as the model sees them: packed rows of data.context tokens where packing is on."""
    batch_tokens: Annotated[Literal["auto"] | int, AT_LEAST_1, TRAINING] | None = "auto"
    """Approximate number of tokens in an optimizer step. Exactly one of batch_size and batch_tokens is set. auto: 2,048
    from scratch; with model.path 16 or 32 examples, and where text is learned 2,048 to 16,384 tokens by the size of the
    data. The plan line shows it."""
    micro_batch_size: Annotated[Literal["auto"] | int, AT_LEAST_1, TRAINING] = "auto"
    """Rows computed at once. The gradient of a step is the same for every value."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], TRAINING] = "auto"
    """auto: bf16 autocast where the hardware computes it fast (also CPUs with AMX or AVX512-bf16), fp16 with loss
    scaling on GPUs without bf16, else fp32. Weights are always fp32."""
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Precision of scoring and prediction. auto: fp32, which gives the same number on every machine; stage=serve uses
    bf16 where the processor computes it fast, except for models that generate text."""
    eval_batch_tokens: Annotated[int, AT_LEAST_1] = 4096
    """Tokens in one batch of scoring; limits memory."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, …"""
    threads: Literal["auto"] | Annotated[int, AT_LEAST_1] = "auto"
    """CPU threads; auto: as many as the affinity mask, the cgroup quota and OMP_NUM_THREADS allow."""
    workers: Literal["auto"] | Annotated[int, NOT_NEGATIVE, TRAINING] = "auto"
    """Processes that prepare batches; auto: 0 on a CPU, 2 with a GPU."""
    compile: Annotated[Literal["auto", "on", "off"], TRAINING] = "auto"
    """torch.compile of the training step; auto: only on a GPU."""
    allocator: Annotated[Literal["auto", "off"], TRAINING] = "auto"
    """auto: start the process again once with tcmalloc or jemalloc preloaded where one is installed, else with tuned
    glibc settings, and with OpenMP threads that spin only briefly (unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is
    set)."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Several examples in one row, separated by a block-diagonal attention mask; auto: where the task allows it."""
    eval_every: Annotated[Literal["auto"] | int, NOT_NEGATIVE, TRAINING] = "auto"
    """Steps between validations; 0: only at the end; auto: ten times in a run."""
    eval_rows: Annotated[int, AT_LEAST_1, TRAINING] | None = 500
    """Most validation rows to score during training; the final scores are on all rows."""
    train_rows_scored: Annotated[int, NOT_NEGATIVE, TRAINING] = 200
    """Training rows to score at the end, for the gap to validation; 0: none."""
    baselines: bool = True
    """Score simple methods (majority class, TF-IDF with logistic regression, popularity, …) on the same split. The
    report warns where the model does not beat them."""
    save_every: Annotated[Literal["auto"] | int, NOT_NEGATIVE, TRAINING] = "auto"
    """Steps between checkpoints; 0: only at the end; auto: as often as eval_every."""
    save_total_limit: Annotated[int, Range(2, 1_000_000), TRAINING] = 3
    """Newest checkpoints to keep, beside the best. 1 is refused, because the last checkpoint may be incomplete."""
    patience: Annotated[int, AT_LEAST_1, TRAINING] | None = None
    """Stop after this many validations without a better selection metric; null: never."""
    resume: Annotated[str, TRAINING] = "auto"
    """auto: resume from the newest valid checkpoint in hydra.run.dir; never; or the path of a checkpoint."""
    spike: Annotated[Literal["auto", "off", "warn", "skip", "rollback"], TRAINING] = "auto"
    """What to do when loss or gradient norm exceeds mean + 6 sigma of the last 128 steps; auto: skip in pretrain, else
    warn."""
    log_every: Count = 10
    """Steps between printed lines; metrics.jsonl has every step."""
    attention: Annotated[Literal["auto", "sdpa"], TRAINING] = "auto"
    """auto: batched matrix products when training in bf16 on a CPU with rows of up to 1,024 tokens, where they are
    faster; flash attention per document for packed rows on a GPU in bf16 or fp16; else sdpa, the kernel of torch."""
    fused_blocks: Annotated[Literal["auto", "off"], TRAINING] = "auto"
    """auto: when training a Llama in bf16 on a CPU, layers with a hand-written backward pass, which read and write
    memory less often."""
    head_chunk: Annotated[Literal["auto", "off"] | int, AT_LEAST_1, TRAINING] = "auto"
    """Tokens whose logits are in memory at once in training. The gradient is computed in the same pass, so no logits
    are kept. auto: as many as fit into 64 MiB (GPU: 512); off: all tokens, with the loss of torch. Loss and
    gradient are the same."""
    float8: Annotated[Literal["off", "on", "emulated"], TRAINING] = "off"
    """on: the linear layers of the body are trained in eight bits by torchao (pip install 'llmstage[float8]'), on GPUs
    that support it (compute capability 8.9); emulated: the same rounding on any machine, slowly, to measure its
    effect on the loss."""
    activation_checkpointing: Annotated[Literal["off", "on"], TRAINING] = "off"
    """on: layers keep only their inputs and are computed again in the backward pass. The gradient is the same; it
    takes much less memory and about a third more arithmetic."""
    deterministic: Annotated[bool, TRAINING] = True
    """Use only deterministic kernels, so that a resumed run is bit-identical."""


@dataclass(slots=True)
class OptimConfig:
    """The optimizer and its schedule."""

    name: str = "adamw"
    """The option of conf/optim that was chosen."""
    lr: Annotated[Literal["auto"] | float, POSITIVE, TRAINING] = "auto"
    """Peak learning rate; auto: from scratch by hidden size; with model.path by family, size and adapter. The plan line
    shows it."""
    weight_decay: Annotated[float, NOT_NEGATIVE, TRAINING] = 0.1
    """Decoupled weight decay of matrices; vectors and embeddings are not decayed."""
    beta1: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.9
    """Decay rate of the first moment."""
    beta2: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.95
    """Decay rate of the second moment."""
    eps: Annotated[float, POSITIVE, TRAINING] = 1e-8
    """Added to the denominator."""
    schedule: Annotated[Literal["cosine", "linear", "wsd", "constant"], TRAINING] = "cosine"
    """Learning rate schedule after the warm-up; wsd: constant, then linear decay over the last fifth."""
    warmup_steps: Annotated[Literal["auto"] | int, NOT_NEGATIVE, TRAINING] = "auto"
    """Steps over which the learning rate rises from 0 to its peak; auto: a twentieth of the run, with model.path a
    tenth, at most 200."""
    min_lr_share: Annotated[float, Range(0, 1), TRAINING] = 0.1
    """Final learning rate, as a share of the peak."""
    max_grad_norm: Annotated[float, POSITIVE, TRAINING] | None = 1.0
    """Gradients with a larger norm are scaled down to it; null: no clipping."""


@dataclass(slots=True)
class GenerationConfig:
    """How text is generated, for tasks and stages that generate."""

    max_new_tokens: Annotated[int, AT_LEAST_1, GENERATES] = 64
    """Most tokens of a generated text."""
    num_beams: Annotated[int, AT_LEAST_1, GENERATES] = 1
    """Beams of beam search; 1: no beam search."""
    temperature: Annotated[float, NOT_NEGATIVE, GENERATES] = 0.0
    """0: the most likely token each time; above 0: sampling."""
    top_p: Annotated[float, Range(0, 1, open_low=True), GENERATES] = 1.0
    """Sample from the smallest set of tokens with this much probability."""
    length_penalty: Annotated[float, GENERATES] = 1.0
    """Beam search divides the log-probability of a text by its length to this power: above 1 favours longer texts,
    below 1 shorter texts. Used where num_beams is above 1."""


@dataclass(slots=True)
class TrackerConfig:
    """Where metrics are written in addition to metrics.jsonl."""

    name: Annotated[Literal["none", "tensorboard"], TRAINING] = "none"
    """none, or tensorboard (extra `tensorboard`; files in <run>/tb)."""


@dataclass(slots=True)
class AdapterConfig:
    """Small trained weights beside frozen weights (LoRA)."""

    name: Annotated[Literal["none", "lora"], TRAINING] = "none"
    """none: all weights are trained; lora: low-rank updates (extra `lora`) of the model in model.path."""
    rank: Annotated[int, AT_LEAST_1, ADAPTER] = 16
    """Rank of an update."""
    alpha: Annotated[float, POSITIVE, ADAPTER] = 32
    """Updates are scaled by alpha / rank."""
    dropout: Annotated[float, Range(0, 1, open_high=True), ADAPTER] = 0.0
    """Dropout of the input of an update."""
    targets: Annotated[Literal["auto"] | list[str], ADAPTER] = "auto"
    """Linear layers that get an update, by the ends of their names, e.g. [q_proj,v_proj]; auto: all of the body. Heads
    are trained in full."""
    modules_to_save: Annotated[list[str], ADAPTER] = field(default_factory=list)
    """Modules that are trained in full beside the updates, by the ends of their names, e.g. [embed_tokens,lm_head] where
    tokens were added. Heads of the task and weights that the model lacks always are."""
    dora: Annotated[bool, ADAPTER] = False
    """Train the length of each column of a weight apart from its direction (DoRA, Liu 2024)."""
    rslora: Annotated[bool, ADAPTER] = False
    """Scale updates by alpha / sqrt(rank), which keeps high ranks useful (rsLoRA, Kalajdzievski 2023)."""
    init: Annotated[Literal["default", "pissa"], ADAPTER] = "default"
    """default: an update starts as zero; pissa: as the principal part of its weight, which learns faster (PiSSA, Meng
    2024). The saved adapter is an update of the original weights in both cases, with twice the rank for pissa."""
    merge: Annotated[bool, ADAPTER] = True
    """true: model/ has the base weights with the updates merged; false: there is only adapter/, which loads its base
    model too."""
    quantize: Annotated[Literal["none", "8bit", "4bit"], ADAPTER] = "none"
    """Bits of the base weights in training, which needs a GPU and bitsandbytes. Scores are computed with the updates
    on the unquantized base."""


@dataclass(slots=True)
class RunConfig:
    """The config of one run."""

    stage: StageConfig = field(default_factory=StageConfig)
    """What the run does."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """What is trained and scored."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """The model."""
    data: DataConfig = field(default_factory=DataConfig)
    """The rows."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How the model is trained and on what hardware."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """The optimizer and its schedule."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Whether all weights are trained."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How text is generated."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Where metrics are written."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """What is retrieved before a model replies."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Seed of weights, data order, demo data and bootstrap."""
    offline: bool = False
    """Open no socket. Without it a hub is contacted only for a hub id."""
    plan: str | None = None
    """A plan.yaml written by stage=explore. Its overrides apply where the command line sets nothing else."""
    data_root: Annotated[str, ROOTED] = "../shared/data"
    """Folder that the relative paths of experiment= start from."""


FACTS = (
    "stage.name", "task.name", "task.stages", "task.model_families", "task.generates", "model.name", "data.name", "optim.name", "adapter.name",
    "tracker.name",
)  # fmt: skip
"""Keys that the YAML of an option sets. Choosing the option sets them, and they cannot be typed."""

GROUPS = ("stage", "task", "model", "data", "trainer", "optim", "adapter", "generation", "tracker", "retrieval")


def camel(name: str) -> str:
    """Return a snake_case name in CamelCase."""
    return "".join(part.capitalize() for part in name.split("_"))


def stage_config(name: str) -> type[StageConfig]:
    """Return the dataclass of a stage: the class with its name in CamelCase, or the plain StageConfig."""
    in_other_modules = {"explore": Explore, "monitor": Monitor}
    config = in_other_modules.get(name) or getattr(stage_schemas, camel(name), StageConfig)
    return config if isinstance(config, type) and issubclass(config, StageConfig) else StageConfig


def task_config(name: str, *, trusted: bool = True) -> type[TaskConfig]:
    """Return the dataclass of a task: the class with its name in CamelCase, `Config` of a module outside llmstage, or
    the plain TaskConfig. Raise UserError for a Config that would lose its keys."""
    if "." in name:
        config = getattr(load_module("tasks", name, trusted=trusted), "Config", TaskConfig)
        if not (isinstance(config, type) and issubclass(config, TaskConfig)):
            raise UserError(
                f"{name}.Config must be a dataclass that inherits from TaskConfig: class Config(TaskConfig)."
            )
        if "__dataclass_fields__" not in vars(config):  # else the class has the fields of TaskConfig alone
            raise UserError(f"{name}.Config is no dataclass: write @dataclass(slots=True) above it.")
    else:
        config = getattr(task_schemas, camel(name), TaskConfig)
    return config if isinstance(config, type) and issubclass(config, TaskConfig) else TaskConfig


def build_run(data: dict[str, Any], complaints: list[str], *, trusted: bool = True) -> RunConfig:
    """Return composed data as a RunConfig; add every complaint about keys, types and ranges to `complaints`."""
    rest = {key: value for key, value in data.items() if key not in ("stage", "task")}
    run = build(RunConfig, rest, "", complaints)
    stage, task = data.get("stage") or {}, data.get("task") or {}
    run.stage = build(stage_config(str(stage.get("name", ""))), stage, "stage", complaints)
    run.task = build(task_config(str(task.get("name", "")), trusted=trusted), task, "task", complaints)
    return run
