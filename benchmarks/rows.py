"""Define the rows of the table: the sides of each race, and the speed that llmstage must reach. run.py runs them."""

from __future__ import annotations

from dataclasses import dataclass

from race import Side

OURS = "llmstage"
FP32 = Side("llmstage, fp32", words=("trainer.precision=fp32",))
PLAIN = Side("llmstage, plain malloc", words=("trainer.allocator=off",))


@dataclass(slots=True, frozen=True)
class Mark:
    """The required ratio of llmstage's median rate to that of another side, in one invocation."""

    against: str
    """Name of the other side."""
    least: float
    aim: float | None = None
    ours: str = OURS
    """Name of llmstage's side."""


@dataclass(slots=True, frozen=True)
class Row:
    """A work, its sides and its marks."""

    name: str
    title: str
    title_zh: str
    sides: tuple[Side, ...] = ()
    """Sides of a training race, llmstage first. Other rows have a program instead."""
    marks: tuple[Mark, ...] = ()
    work: str = ""
    """Name of the work in works.py."""
    size: str = "small"
    length: int = 0
    """0: the default of the work."""
    batch: int = 0
    """0: the default of the work."""
    steps: int = 40
    share: tuple[float, float] | None = None
    """(least, aim) share of the machine's bf16 matrix-product rate."""
    program: tuple[str, ...] = ()
    """A script of this folder with its arguments. It writes its figures to --json."""
    quick: tuple[str, ...] = ()
    """Further arguments of the program in a smoke run."""
    packages: tuple[str, ...] = ()
    """Environments that the peers of the program need."""
    most: float | None = None
    """Limit for llmstage's first run in seconds, for rows with such a mark."""


def hf(script: str, *words: str, name: str = "HF Trainer", **more: bool) -> Side:
    return Side(name, script, words, **more)


TUNED = ("--bf16", "--compile")
ROWS = (
    Row(
        "causal_lm_256", "causal LM, 14 M, context 256", "因果语言模型，1400 万参数，上下文 256",
        sides=(
            Side(OURS), FP32, PLAIN, hf("hf_clm.py"), hf("hf_clm.py", "--bf16", name="HF Trainer, bf16"),
            hf("hf_clm.py", *TUNED, name="HF Trainer, tuned by hand", allocator=True),
            Side("litgpt", "litgpt_clm.py", packages="litgpt"),
        ),
        marks=(
            Mark("HF Trainer", 3.5), Mark("HF Trainer, bf16", 1.8), Mark("litgpt", 1.35),
            Mark("HF Trainer, tuned by hand", 1.1, 1.4), Mark("HF Trainer", 1.25, ours=FP32.name),
            Mark("HF Trainer", 2.7, ours=PLAIN.name),
        ),
        work="causal_lm", length=256, share=(0.26, 0.40),
    ),
    Row(
        "causal_lm_1024", "causal LM, 14 M, context 1,024", "因果语言模型，1400 万参数，上下文 1024",
        sides=(Side(OURS), hf("hf_clm.py"), hf("hf_clm.py", "--bf16", name="HF Trainer, bf16")),
        marks=(Mark("HF Trainer", 3.0), Mark("HF Trainer, bf16", 1.5)),
        work="causal_lm", length=1024, batch=4, steps=30,
    ),
    Row(
        "causal_lm_120m", "causal LM, 110 M, context 256", "因果语言模型，1.1 亿参数，上下文 256",
        sides=(Side(OURS), hf("hf_clm.py")), marks=(Mark("HF Trainer", 3.2),),
        work="causal_lm", size="base", length=256, batch=8, steps=20, share=(0.32, 0.40),
    ),
    Row(
        "dialogue", "dialogue, 14 M, context 512", "对话，1400 万参数，上下文 512",
        sides=(
            Side(OURS), Side("TRL SFTTrainer, packed", "trl_sft.py", ("--bf16",)),
            Side("TRL SFTTrainer, packed, better allocator", "trl_sft.py", ("--bf16",), allocator=True),
        ),
        marks=(Mark("TRL SFTTrainer, packed", 5.0), Mark("TRL SFTTrainer, packed, better allocator", 3.8)),
        work="dialogue", steps=30,
    ),
    Row(
        "classification", "classification, SST-2 lengths", "分类，SST-2 的长度",
        sides=(
            Side(OURS), FP32, hf("hf_classify.py", "--padding", "max", name="HF Trainer, padded to 128"),
            hf("hf_classify.py", "--padding", "dynamic", name="HF Trainer, padded to the longest"),
        ),
        marks=(
            Mark("HF Trainer, padded to 128", 6.5), Mark("HF Trainer, padded to the longest", 3.3),
            Mark("HF Trainer, padded to 128", 3.0, ours=FP32.name),
        ),
        work="classification", batch=32, steps=94,
    ),
    Row(
        "classification_long", "classification, IMDb-like lengths", "分类，接近 IMDb 的长度",
        sides=(Side(OURS), hf("hf_classify.py", "--padding", "dynamic", name="HF Trainer, padded to the longest")),
        marks=(Mark("HF Trainer, padded to the longest", 4.0),), work="classification_long", steps=40,
    ),
    Row(
        "masked_lm", "masked LM, 12 M, context 128", "掩码语言模型，1200 万参数，上下文 128",
        sides=(Side(OURS), hf("hf_mlm.py")), marks=(Mark("HF Trainer", 2.8),), work="masked_lm",
    ),
    Row(
        "choices", "log-likelihood of four choices", "四个选项的对数似然",
        marks=(Mark("lm-evaluation-harness", 3.0, ours="llmstage, fp32"), Mark("lm-evaluation-harness", 5.0, ours="llmstage, bf16")),
        program=("choices.py",), quick=("--quick",), packages=("transformers",),
    ),
    Row(
        "tokenize", "tokenising to disk", "分词并写入磁盘",
        marks=(Mark("run_clm's map, then group", 4.0),),
        program=("tokenize_corpus.py", "--mb", "60", "--peer"), quick=("--mb", "1", "--runs", "1"), packages=("transformers",),
    ),
    Row(
        "generate", "generation, 14 M, batches of 16", "生成，1400 万参数，每批 16 条",
        marks=(Mark("generate(), fp32", 3.0, ours="llmstage, bf16"), Mark("generate(), bf16", 1.6, ours="llmstage, bf16")),
        program=("generate.py", "--family", "gpt"), quick=("--rows", "16", "--new", "4", "--steps", "4", "--size", "tiny"),
    ),
    Row(
        "startup", "start-up to the first step", "从启动到第一步",
        program=("startup.py", "--runs", "3", "--first-step"), quick=("--runs", "1"), most=8.0,
    ),
)  # fmt: skip
