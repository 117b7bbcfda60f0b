"""The whole run as one tree of dataclasses. `conf/` holds the same keys with the same defaults; a test compares them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from llmstage.config import stage as stage_schemas
from llmstage.config import task as task_schemas
from llmstage.config.data import DataConfig
from llmstage.config.explore import Explore
from llmstage.config.key_conditions import ADAPTER, GENERATES, OWN_TOWER, ROOTED, SCRATCH, SEES, TRAINING, for_family
from llmstage.config.monitor import Monitor
from llmstage.config.retrieval import RetrievalConfig
from llmstage.config.stage import StageConfig
from llmstage.config.task import TaskConfig
from llmstage.config.typed import AT_LEAST_1, NOT_NEGATIVE, POSITIVE, Range, build
from llmstage.naming import load_module

Count = Annotated[int, AT_LEAST_1, TRAINING]


@dataclass(slots=True)
class VisionConfig:
    """The tower that sees (ViT): an image of `size` x `size` pixels in patches of `patch` x `patch`."""

    path: Annotated[str, SEES, TRAINING] | None = None
    """Take the tower, its size and its image processor from a model trained by task=contrastive (or any CLIP): pretrain,
    then finetune."""
    size: Annotated[int, Range(8, 4096), SCRATCH, SEES, OWN_TOWER] = 64
    """Pixels of a side, as the model sees an image."""
    patch: Annotated[int, Range(1, 512), SCRATCH, SEES, OWN_TOWER] = 8
    """Pixels of a side of one patch; must divide size."""
    num_hidden_layers: Annotated[int, AT_LEAST_1, SCRATCH, SEES, OWN_TOWER] = 4
    """Transformer blocks of the tower."""
    hidden_size: Annotated[int, Range(8, 65536), SCRATCH, SEES, OWN_TOWER] = 128
    """Hidden size of the tower."""
    num_attention_heads: Annotated[int, AT_LEAST_1, SCRATCH, SEES, OWN_TOWER] = 4
    """Attention heads of the tower; must divide its width."""
    intermediate_size: Annotated[int, AT_LEAST_1, SCRATCH, SEES, OWN_TOWER] = 512
    """Inner size of the tower's MLP."""
    fit: Annotated[Literal["squash", "crop"], SCRATCH, SEES, OWN_TOWER] = "squash"
    """How an image that is not square becomes square: the whole of it, its sides scaled apart; or its middle, as CLIP."""
    layer: Annotated[int, Range(-100, -1), SCRATCH, for_family("vlm")] = -1
    """vlm: the layer whose patches the decoder reads, from the end; LLaVA takes -2 of a pretrained tower."""


@dataclass(slots=True)
class ModelConfig:
    """A preset from scratch, or a model by path."""

    name: str = ""
    """The option of conf/model that was chosen."""
    family: Literal["gpt", "bert", "t5", "clip", "vlm"] = "gpt"
    """Family: gpt is a decoder (Llama), bert an encoder (ModernBERT), t5 an encoder with a decoder (T5), clip two towers
    for image and text (CLIP), vlm a decoder that sees (LLaVA)."""
    path: str | None = None
    """A Hugging Face directory, a run folder, or a hub id; the preset is then not used."""
    vocab_size: Annotated[int, Range(300, 1_000_000), SCRATCH] = 2048
    """Entries of the byte-level BPE that is trained on the training split."""
    num_hidden_layers: Annotated[int, AT_LEAST_1, SCRATCH] = 4
    """Transformer blocks."""
    hidden_size: Annotated[int, Range(8, 65536), SCRATCH] = 128
    """Hidden size."""
    num_attention_heads: Annotated[int, AT_LEAST_1, SCRATCH] = 4
    """Attention heads; must divide width."""
    intermediate_size: Annotated[int, AT_LEAST_1, SCRATCH] = 344
    """Inner size of the gated MLP."""
    dropout: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.0
    """Dropout of attention, and of MLP and head where the family has it; 0 suits training from scratch."""
    projection: Annotated[int, Range(8, 65536), SCRATCH, for_family("clip")] = 128
    """clip: size of the space in which images and texts are compared."""
    freeze: Annotated[list[Literal["vision", "text"]], TRAINING, SEES] = field(default_factory=list)
    """Towers that training leaves as they are: model.freeze=[vision]."""
    vision: VisionConfig = field(default_factory=VisionConfig)
    """The tower that sees, of clip and vlm models."""


@dataclass(slots=True)
class TrainerConfig:
    """Budget, batches, machine, checkpoints."""

    max_steps: Count | None = 900
    """Optimizer steps. Exactly one of max_steps, epochs and max_tokens holds; typing one switches the default off."""
    epochs: Annotated[float, POSITIVE, TRAINING] | None = None
    """Passes over the training split."""
    max_tokens: Count | None = None
    """Real (unpadded) input tokens."""
    batch_size: Count | None = None
    """Rows per optimizer step as the model sees them: packed rows of data.context where packing is on."""
    batch_tokens: Count | None = 2048
    """About this many tokens per optimizer step. Exactly one of batch_size and batch_tokens holds."""
    micro_batch_size: Annotated[Literal["auto"] | int, AT_LEAST_1, TRAINING] = "auto"
    """Rows computed at once; the step's gradient is the same for every value."""
    precision: Annotated[Literal["auto", "fp32", "bf16", "fp16"], TRAINING] = "auto"
    """auto: bf16 autocast where the hardware is fast at it (CPUs with AMX or AVX512-bf16 included), fp16 with loss
    scaling on GPUs without bf16, else fp32. Weights are fp32 in every case."""
    eval_precision: Literal["auto", "fp32", "bf16"] = "auto"
    """Arithmetic of scoring and of answers. auto: fp32, which gives the same number on every machine; stage=serve answers in bf16
    where the processor is fast at it, but for models that write."""
    eval_batch_tokens: Annotated[int, AT_LEAST_1] = 4096
    """Tokens in one batch when scoring; bounds memory."""
    device: str = "auto"
    """auto, cpu, cuda, cuda:1, …"""
    threads: Literal["auto"] | Annotated[int, AT_LEAST_1] = "auto"
    """CPU threads; auto: what the affinity mask and the cgroup quota allow."""
    workers: Literal["auto"] | Annotated[int, NOT_NEGATIVE, TRAINING] = "auto"
    """Processes that prepare batches; auto: 0 on a CPU, 2 beside a GPU."""
    compile: Annotated[Literal["auto", "on", "off"], TRAINING] = "auto"
    """torch.compile of the training step; auto: on a GPU only."""
    allocator: Annotated[Literal["auto", "off"], TRAINING] = "auto"
    """auto: start again once with tcmalloc or jemalloc preloaded where one is installed, else with glibc tuned, and with
    OpenMP threads that spin only briefly (unless OMP_WAIT_POLICY or GOMP_SPINCOUNT is set)."""
    packing: Literal["auto", "on", "off"] = "auto"
    """Several features in one row behind a block-diagonal mask; auto: where the task allows it."""
    eval_every: Annotated[Literal["auto"] | int, NOT_NEGATIVE, TRAINING] = "auto"
    """Steps between validation passes; 0: only at the end; auto: ten times in a run."""
    eval_rows: Annotated[int, AT_LEAST_1, TRAINING] | None = 500
    """Validation rows used while training; the final scores are on all of them."""
    train_rows_scored: Annotated[int, NOT_NEGATIVE, TRAINING] = 200
    """Training rows scored at the end, to show the gap to validation; 0: none."""
    baselines: bool = True
    """Score simple methods (majority class, TF-IDF with logistic regression, popularity, …) on the same split; a model
    that does not beat them says so."""
    save_every: Annotated[Literal["auto"] | int, NOT_NEGATIVE, TRAINING] = "auto"
    """Steps between checkpoints; 0: only at the end; auto: as often as eval_every."""
    save_total_limit: Annotated[int, Range(2, 1_000_000), TRAINING] = 3
    """Newest checkpoints kept beside the best; 1 is refused, because the last may be the one that is torn."""
    patience: Annotated[int, AT_LEAST_1, TRAINING] | None = None
    """Stop after this many validation passes without a better selection metric; null: never."""
    resume: Annotated[str, TRAINING] = "auto"
    """auto: go on from the newest valid checkpoint of hydra.run.dir; never; or the path of a checkpoint."""
    spike: Annotated[Literal["auto", "off", "warn", "skip", "rollback"], TRAINING] = "auto"
    """What to do when loss or gradient norm exceeds mean + 6 sigma of 128 steps; auto: skip in pretrain, else warn."""
    log_every: Count = 10
    """Steps between printed lines; metrics.jsonl holds every step."""
    attention: Annotated[Literal["auto", "sdpa"], TRAINING] = "auto"
    """auto: batched products when training in bf16 on a CPU with rows of up to 1,024 tokens, which is faster there; flash
    attention by document in packed rows on a GPU in bf16 or fp16; else sdpa, torch's own kernel."""
    fused_blocks: Annotated[Literal["auto", "off"], TRAINING] = "auto"
    """auto: when training a Llama in bf16 on a CPU, blocks whose gradient is written out, with fewer passes over memory."""
    head_chunk: Annotated[Literal["auto", "off"] | int, AT_LEAST_1, TRAINING] = "auto"
    """Tokens whose logits stand in memory at once in training; the gradient is computed with them, so none are kept. auto:
    as many as fit in 64 MiB (GPU: 512); off: all, through torch's own loss. Sum and gradient are the same."""
    float8: Annotated[Literal["off", "on", "emulated"], TRAINING] = "off"
    """on: the body's matrix products in eight bits while training, by torchao (pip install 'llmstage[float8]'), on GPUs that
    have them (compute capability 8.9); emulated: rounded alike on any machine, slowly, to see what it does to the loss."""
    activation_checkpointing: Annotated[Literal["off", "on"], TRAINING] = "off"
    """on: layers keep only their inputs and are computed again for the gradient, which is the same: far less memory, about a
    third more arithmetic."""
    deterministic: Annotated[bool, TRAINING] = True
    """Only deterministic kernels, so that a resumed run is bit-identical."""


@dataclass(slots=True)
class OptimConfig:
    """AdamW and its schedule."""

    name: str = "adamw"
    """The option of conf/optim that was chosen."""
    lr: Annotated[Literal["auto"] | float, POSITIVE, TRAINING] = "auto"
    """Peak learning rate; auto: by width, and lower where the model is already trained. The plan line shows it."""
    weight_decay: Annotated[float, NOT_NEGATIVE, TRAINING] = 0.1
    """Decoupled decay of matrices; vectors and embeddings are not decayed."""
    beta1: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.9
    """Decay of the gradient's mean."""
    beta2: Annotated[float, Range(0, 1, open_high=True), TRAINING] = 0.95
    """Decay of the gradient's square."""
    eps: Annotated[float, POSITIVE, TRAINING] = 1e-8
    """Added to the denominator."""
    schedule: Annotated[Literal["cosine", "linear", "wsd", "constant"], TRAINING] = "cosine"
    """Shape after the warm-up; wsd: constant, then linear down over the last fifth."""
    warmup_steps: Annotated[Literal["auto"] | int, NOT_NEGATIVE, TRAINING] = "auto"
    """Steps over which the rate climbs from 0 to its peak; auto: a twentieth of the run, at most 200."""
    min_lr_share: Annotated[float, Range(0, 1), TRAINING] = 0.1
    """The rate at the end, as a share of the peak."""
    max_grad_norm: Annotated[float, POSITIVE, TRAINING] | None = 1.0
    """Gradients are scaled down to this norm; null: never."""


@dataclass(slots=True)
class GenerationConfig:
    """How text is generated where a task generates."""

    max_new_tokens: Annotated[int, AT_LEAST_1, GENERATES] = 64
    """Longest reply."""
    num_beams: Annotated[int, AT_LEAST_1, GENERATES] = 1
    """Beam search with so many beams; 1: none."""
    temperature: Annotated[float, NOT_NEGATIVE, GENERATES] = 0.0
    """0: the likeliest token each time; above: sampling."""
    top_p: Annotated[float, Range(0, 1, open_low=True), GENERATES] = 1.0
    """Sampling from the smallest set of tokens with this much probability."""
    length_penalty: Annotated[float, GENERATES] = 1.0
    """Beam search divides a text's log-probability by its length to this power: above 1 favours longer texts, below 1
    shorter ones; read where num_beams is above 1."""


@dataclass(slots=True)
class TrackerConfig:
    """Where metrics go beside metrics.jsonl."""

    name: Annotated[Literal["none", "tensorboard"], TRAINING] = "none"
    """none or tensorboard (extra `tensorboard`; files in <run>/tb)."""


@dataclass(slots=True)
class AdapterConfig:
    """Small trained weights beside frozen ones."""

    name: Annotated[Literal["none", "lora"], TRAINING] = "none"
    """none: all weights are trained; lora: low-rank updates (extra `lora`), on a model given by model.path."""
    rank: Annotated[int, AT_LEAST_1, ADAPTER] = 16
    """Width of an update: so many columns and rows make it up."""
    alpha: Annotated[float, POSITIVE, ADAPTER] = 32
    """Updates are scaled by alpha / rank."""
    dropout: Annotated[float, Range(0, 1, open_high=True), ADAPTER] = 0.0
    """Dropout of what goes into an update."""
    targets: Annotated[Literal["auto"] | list[str], ADAPTER] = "auto"
    """Linear layers that get an update, by the ends of their names, e.g. [q_proj,v_proj]; auto: all of the body. Heads
    are trained as a whole."""
    merge: Annotated[bool, ADAPTER] = True
    """true: model/ holds base and updates in one; false: there is adapter/ only, and loading it loads its base too."""
    quantize: Annotated[Literal["none", "8bit", "4bit"], ADAPTER] = "none"
    """Base weights in so many bits while training, which needs a GPU and bitsandbytes; scores are those of the updates on
    the base as it was."""


@dataclass(slots=True)
class RunConfig:
    """Everything one run is told."""

    stage: StageConfig = field(default_factory=StageConfig)
    """What happens."""
    task: TaskConfig = field(default_factory=TaskConfig)
    """What is learned and scored."""
    model: ModelConfig = field(default_factory=ModelConfig)
    """Which model."""
    data: DataConfig = field(default_factory=DataConfig)
    """Which rows."""
    trainer: TrainerConfig = field(default_factory=TrainerConfig)
    """How it is trained and on what machine."""
    optim: OptimConfig = field(default_factory=OptimConfig)
    """Optimizer and schedule."""
    adapter: AdapterConfig = field(default_factory=AdapterConfig)
    """Whether all weights are trained."""
    generation: GenerationConfig = field(default_factory=GenerationConfig)
    """How text is generated."""
    tracker: TrackerConfig = field(default_factory=TrackerConfig)
    """Where metrics go."""
    retrieval: RetrievalConfig = field(default_factory=RetrievalConfig)
    """What is looked up before a model replies."""
    seed: Annotated[int, Range(0, 2**32 - 1)] = 0
    """Weights, order of the data, demo world, bootstrap."""
    offline: bool = False
    """Open no socket; a hub is asked only when a hub id was given, and then not."""
    plan: str | None = None
    """A plan.yaml written by stage=explore: its overrides hold where nothing else is typed."""
    data_root: Annotated[str, ROOTED] = "../shared/data"
    """Folder where the relative paths of experiment= start."""


FACTS = (
    "stage.name", "task.name", "task.stages", "task.model_families", "task.generates", "model.name", "data.name", "optim.name", "adapter.name",
    "tracker.name",
)  # fmt: skip
"""Keys that an option's YAML says of itself; choosing the option sets them, nobody types them."""

GROUPS = ("stage", "task", "model", "data", "trainer", "optim", "adapter", "generation", "tracker", "retrieval")


def camel(name: str) -> str:
    return "".join(part.capitalize() for part in name.split("_"))


def stage_config(name: str) -> type[StageConfig]:
    """The dataclass of a stage: its own by name in schema/stage.py, or the plain one."""
    elsewhere = {"explore": Explore, "monitor": Monitor}
    found = elsewhere.get(name) or getattr(stage_schemas, camel(name), StageConfig)
    return found if isinstance(found, type) and issubclass(found, StageConfig) else StageConfig


def task_config(name: str, *, trusted: bool = True) -> type[TaskConfig]:
    """The dataclass of a task: its own by name in schema/task.py, `Config` of a module outside, or the plain one."""
    if "." in name:
        found = getattr(load_module("tasks", name, trusted=trusted), "Config", TaskConfig)
    else:
        found = getattr(task_schemas, camel(name), TaskConfig)
    return found if isinstance(found, type) and issubclass(found, TaskConfig) else TaskConfig


def build_run(data: dict[str, Any], wrong: list[str], *, trusted: bool = True) -> RunConfig:
    """Plain composed data as a `RunConfig`; every complaint about keys, types and ranges goes to `wrong`."""
    rest = {key: value for key, value in data.items() if key not in ("stage", "task")}
    run = build(RunConfig, rest, "", wrong)
    stage, task = data.get("stage") or {}, data.get("task") or {}
    run.stage = build(stage_config(str(stage.get("name", ""))), stage, "stage", wrong)
    run.task = build(task_config(str(task.get("name", "")), trusted=trusted), task, "task", wrong)
    return run
