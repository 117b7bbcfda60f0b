"""Choose the context: the most tokens of an example.

For a pretrained model `data.context=auto` follows the rows: it is enough for 99 of 100 training rows, at most what the model
takes and what the memory of a step allows, and never less than the default, so that longer rows can be predicted later.
"""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Iterable
from itertools import islice
from typing import Any

import numpy as np

from llmstage import console
from llmstage.config import RunConfig
from llmstage.data.rows import Row
from llmstage.errors import ModelError
from llmstage.models.loading import max_positions
from llmstage.tasks.base import Example, RowError, Task
from llmstage.tokenization.tokenizer import Processor
from llmstage.training.machine import resolve_device, total_memory
from llmstage.training.plan import LIBRARY_BYTES, bytes_per_token

DEFAULT_CONTEXT = {"gpt": 256, "bert": 128, "t5": 256, "clip": 77, "vlm": 256}
ROWS_READ, ROWS_MEASURED = 20_000, 1000
"""Rows that are measured, a seeded sample of the first ones of the training split."""
FITTING_PERCENTILE = 99
MULTIPLE = 32
"""A measured context is a multiple of this many tokens."""
SCORING_CONTEXT = 2048
"""Tokens of an example, at most, where a model from elsewhere is scored or used: its context in training is not known."""
LONGEST = 32_768
"""Tokens of an example for a model that names no limit."""
USABLE_MEMORY = 0.7


def default_context(run: RunConfig, model_family: str, config: Any | None) -> int:
    """Return data.context as the config has it; for `auto`, the default of the model's family.

    `config`: of a model that is loaded; `auto` is then at most what it was made for. Raise ModelError.
    """
    limit = None if config is None else max_positions(config)
    if run.data.context != "auto":
        if limit and int(run.data.context) > limit:
            raise ModelError(
                f"data.context={run.data.context} is more than the {limit} positions of {run.model.path}. Set data.context={limit}."
            )
        return int(run.data.context)
    default = DEFAULT_CONTEXT[model_family]
    return min(default, limit or default)


def measured_context(
    run: RunConfig, task: Task, processor: Processor, config: Any, rows: Iterable[Row] | None, default: int
) -> int:
    """Return what data.context=auto means for a pretrained model. `rows`: those to train on; None where nothing is trained."""
    if task.model_family not in ("gpt", "bert", "t5"):  # images take most of the context of the others
        return default
    limit = position_limit(processor, config)
    if rows is None:
        return max(default, min(limit, SCORING_CONTEXT))
    needed = [
        size for example in sample_examples(task, processor, rows, limit) for size in [task.needed_context(example)]
    ]
    if not needed:
        return default
    fitting = float(np.percentile(needed, FITTING_PERCENTILE, method="higher"))
    context = max(default, MULTIPLE * math.ceil(fitting / MULTIPLE))
    memory_limit = max(default, memory_context(run, task, config))
    if context > memory_limit:
        console.warn(
            f"data.context=auto is {memory_limit:,} tokens, as many as the memory of a step allows; {FITTING_PERCENTILE} % of the "
            f"rows would need {context:,}. More at once: trainer.activation_checkpointing=on, or data.context={context}"
        )
    return min(context, limit, memory_limit)


def position_limit(processor: Processor, config: Any) -> int:
    """Return the most tokens that model and tokenizer take. Both count: RoBERTa has 514 positions, of which 512 are usable."""
    limits = [LONGEST, max_positions(config), getattr(processor.tokenizer, "model_max_length", None)]
    return min(int(limit) for limit in limits if limit)


def sample_examples(task: Task, processor: Processor, rows: Iterable[Row], context: int) -> list[Example]:
    """Return the examples of a seeded sample of the rows, encoded with the largest context."""
    measuring = copy.copy(task)  # the task itself gets its context once, when that is known
    measuring.attach_tokenizer(processor, context)
    draw = random.Random(0)
    sample: list[Row] = []
    for number, row in enumerate(islice(rows, ROWS_READ)):  # reservoir sampling (Vitter 1985, algorithm R)
        if number < ROWS_MEASURED:
            sample.append(row)
        elif (position := draw.randrange(number + 1)) < ROWS_MEASURED:
            sample[position] = row
    examples: list[Example] = []
    for row in sample:
        try:
            examples += measuring.encode_many([row])[0]
        except RowError:
            continue  # encoding the split names the row or quarantines it
    return examples


def memory_context(run: RunConfig, task: Task, config: Any) -> int:
    """Return the tokens of one row whose training step fits into the memory of the device, by the config of the model."""
    text = config.get_text_config()
    width, layers = int(text.hidden_size), int(text.num_hidden_layers)
    # Attention and MLP of a layer have about 12 * width^2 weights; then there are the embeddings.
    parameters = 12 * layers * width * width + int(text.vocab_size) * width
    bytes_per_weight = 4 if run.adapter.name != "none" else 16  # weight, gradient and two moments of AdamW, in fp32
    free = (
        USABLE_MEMORY * total_memory(resolve_device(run.trainer.device)) - LIBRARY_BYTES - bytes_per_weight * parameters
    )
    recomputed = run.trainer.activation_checkpointing == "on"
    token_bytes = bytes_per_token(config, recomputed=recomputed)
    if task.learns_text and run.trainer.head_chunk == "off":
        token_bytes += 12 * int(text.vocab_size)
    return max(0, int(free / token_bytes)) // MULTIPLE * MULTIPLE
