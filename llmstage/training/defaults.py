"""What a training run uses where its user sets nothing: learning rate, batch, budget and warm-up.

From scratch the defaults are constants. For a pretrained model they follow the model's size and the data's size:

| setting       | labelled rows (classes, tags, spans)                      | text (language models, dialogue)               |
|---------------|-----------------------------------------------------------|------------------------------------------------|
| batch         | 16 examples; 32 from 20,000 examples on; 64 where the     | a hundredth of the training tokens, as a power |
|               | other rows of a batch are the negatives                   | of two from 2,048 to 16,384                    |
| epochs        | 3, or as many as make 1,000 steps, at most 20             | 3, or as many as make 100 steps, at most 5     |
| warm-up       | a tenth of the steps, at most 200                         | the same                                       |
| learning rate | by LEARNING_RATES                                         | the same                                       |

Sources. Batches of 16 or 32 and 3 to 4 epochs: Devlin et al. (2019), BERT, appendix A.3; Ouyang et al. (2022) and Taori et al.
(2023) for dialogue. More epochs for small sets, with a warm-up over the first tenth: Mosbach et al. (2021), On the Stability
of Fine-tuning BERT (20 epochs), and Zhang et al. (2021), Revisiting Few-sample BERT Fine-tuning.
benchmarks/pretrained_quality.py compares these defaults with a grid of transformers' Trainer.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

import numpy as np

from llmstage.config import TrainerConfig

SCRATCH_STEPS, SCRATCH_BATCH_TOKENS = 900, 2048
"""Budget and batch of a model that is trained from scratch."""
MIN_EPOCHS = 3.0
ROWS_PER_STEP, MANY_ROWS_PER_STEP, MANY_ROWS = 16, 32, 20_000
NEGATIVES_PER_STEP = 64
"""Rows of a step where each is compared with the others of the batch: more rows are more negatives."""
TEXT_BATCH_TOKENS = (2048, 16384)

LEARNING_RATES: dict[str, tuple[tuple[float, float, float], ...]] = {
    "bert": ((15e6, 3e-4, 1e-3), (60e6, 1e-4, 1e-3), (200e6, 5e-5, 4e-4), (600e6, 2e-5, 3e-4), (math.inf, 1e-5, 1e-4)),
    "t5": ((15e6, 5e-4, 1e-3), (400e6, 3e-4, 1e-3), (math.inf, 1e-4, 5e-4)),
    "clip": ((15e6, 1e-4, 1e-3), (250e6, 2e-5, 2e-4), (math.inf, 1e-5, 1e-4)),
    "vlm": ((15e6, 1e-4, 1e-3), (250e6, 5e-5, 5e-4), (4e9, 2e-5, 2e-4), (math.inf, 1e-5, 2e-4)),
    "gpt": ((15e6, 3e-4, 1e-3), (250e6, 1e-4, 5e-4), (800e6, 5e-5, 2e-4), (4e9, 2e-5, 2e-4), (20e9, 1e-5, 2e-4), (math.inf, 1e-5, 1e-4)),
}  # fmt: skip
"""By family: (parameters up to, rate for all weights, rate for an adapter).

Encoders: Devlin et al. (2019) search 2e-5 to 5e-5 for BERT base, Liu et al. (2019) 1e-5 to 3e-5 for RoBERTa large; small
distilled encoders take more (Turc et al. 2019 search up to 3e-4). Encoder-decoders: 1e-4 to 3e-4 with AdamW (documentation of
T5 in transformers). Decoders: 2e-5 for 1 to 7 billion weights (Taori et al. 2023; Tunstall et al. 2023, Zephyr), more for
smaller ones. Adapters: 2e-4 up to 13 billion and 1e-4 beyond (Dettmers et al. 2023, QLoRA, table 9), 2e-4 to 5e-4 for RoBERTa
(Hu et al. 2022, LoRA, table 9): about ten times the rate of all weights (Schulman 2025, LoRA Without Regret).
"""


@dataclass(slots=True, frozen=True)
class DataSize:
    """What the defaults need to know of the training split."""

    examples: int
    tokens: int
    longest: int
    """Tokens of the longest example."""
    learns_text: bool
    """Whether the task predicts text, so that each token is a target (Task.learns_text)."""
    negatives_in_batch: bool = False
    packed_rows: int | None = None
    """Tokens of a packed row; None where the run does not pack."""


def data_size(lengths: np.ndarray, *, learns_text: bool, negatives_in_batch: bool, packed_rows: int | None) -> DataSize:
    """Return the size of a split whose examples have these lengths."""
    return DataSize(
        len(lengths), int(lengths.sum()), int(lengths.max(initial=0)), learns_text, negatives_in_batch, packed_rows
    )


def resolve_trainer(trainer: TrainerConfig, size: DataSize, *, from_scratch: bool) -> TrainerConfig:
    """Return the config with numbers in place of `auto`: exactly one budget and one batch size are set afterwards."""
    if from_scratch:
        steps = SCRATCH_STEPS if trainer.max_steps == "auto" else trainer.max_steps
        tokens = SCRATCH_BATCH_TOKENS if trainer.batch_tokens == "auto" else trainer.batch_tokens
        return replace(trainer, max_steps=steps, batch_tokens=tokens)
    if trainer.batch_tokens == "auto":
        batch_size, batch_tokens = auto_batch(size)
        trainer = replace(trainer, batch_size=batch_size, batch_tokens=batch_tokens)
    if trainer.max_steps == "auto":
        trainer = replace(trainer, max_steps=None, epochs=auto_epochs(size, examples_per_step(trainer, size)))
    return trainer


def auto_batch(size: DataSize) -> tuple[int | None, int | None]:
    """Return (trainer.batch_size, trainer.batch_tokens) for a pretrained model; one of them is None."""
    if size.learns_text:
        low, high = TEXT_BATCH_TOKENS
        tokens = min(high, max(low, 2 ** round(math.log2(max(1.0, size.tokens / 100)))))
        return None, max(tokens, size.packed_rows or size.longest)
    rows = NEGATIVES_PER_STEP if size.negatives_in_batch else ROWS_PER_STEP
    if size.examples >= MANY_ROWS:
        rows = max(rows, MANY_ROWS_PER_STEP)
    if size.packed_rows:  # a packed row holds several examples, so fewer of them make a step of 16 examples
        rows = max(1, round(rows * size.tokens / max(1, size.examples) / size.packed_rows))
    return rows, None


def examples_per_step(trainer: TrainerConfig, size: DataSize) -> float:
    """Return about how many examples an optimizer step has."""
    mean_tokens = max(1.0, size.tokens / max(1, size.examples))
    if trainer.batch_size is not None:
        return trainer.batch_size * (max(1.0, size.packed_rows / mean_tokens) if size.packed_rows else 1.0)
    assert isinstance(trainer.batch_tokens, int)
    return max(1.0, trainer.batch_tokens / mean_tokens)


def auto_epochs(size: DataSize, examples_a_step: float) -> float:
    """Return the passes over the data for a pretrained model: more of them over a small set."""
    least_steps, most = (100, 5.0) if size.learns_text else (1000, 20.0)
    steps_an_epoch = max(1.0, size.examples / examples_a_step)
    return float(min(most, max(MIN_EPOCHS, math.ceil(least_steps / steps_an_epoch))))


def finetuning_lr(model_family: str, parameters: int, *, adapter: bool) -> float:
    """Return the peak learning rate for a pretrained model of a family and size (LEARNING_RATES)."""
    table = LEARNING_RATES.get(model_family, LEARNING_RATES["gpt"])
    _, all_weights, low_rank = next(row for row in table if parameters <= row[0])
    return low_rank if adapter else all_weights


def warmup_steps(steps: int, *, from_scratch: bool) -> int:
    """Return the steps over which the learning rate rises: a twentieth of a run from scratch, else a tenth; at most 200."""
    return min(200, max(1, steps // (20 if from_scratch else 10)))
