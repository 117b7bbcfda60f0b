"""Prepare a race: write the file of rows, and the model directory with config, tokenizer and seeded weights, for all sides."""

from __future__ import annotations

import itertools
import json
import math
import statistics
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from works import REPOSITORY, WORKS, Row, Work

sys.path.insert(0, str(REPOSITORY))  # measure this checkout, whether it is installed or not
PASSES = 2
"""Passes over JSON rows in a run, if there are enough rows. The last pass gives the loss."""


@dataclass(slots=True)
class Start:
    """The result of `prepare`."""

    about: str
    num_rows: int
    """Rows of the file as the model gets them: of a long context, each window."""
    row_tokens: float
    """Mean number of tokens of a row."""
    packs: bool
    """Whether llmstage packs several rows into one row of the batch."""
    options: dict[str, Any]
    """Keys under `task.`."""


def prepare(folder: Path, name: str, size: str, length: int, batch: int, steps: int) -> Start:
    """Write `folder/rows`, `folder/few` and `folder/model`."""
    import torch
    import transformers

    from llmstage.data.image_store import ImageStore
    from llmstage.models.build import preset_config
    from llmstage.tokenization.tokenizer import load_processor, train_processor
    from llmstage.tokenization.vision import preset_image_processor

    transformers.utils.logging.disable_progress_bar()
    work = WORKS[name]
    rows, source = work.rows()
    options = work.options(rows)
    task, preset, sees = task_of(work, work.task or name, size, options)
    task.fit_labels(iter(rows))
    texts = (text for row in rows for text in task.texts(row))
    processor = train_processor(texts, preset.vocab_size, work.model_family, length, by_character=task.by_character)
    work.prepare(processor.tokenizer)
    processor.images = preset_image_processor(preset.vision) if sees else None
    processor.save(folder / "model")
    processor = load_processor(str(folder / "model"), local=True, sees=sees)
    if sees:  # without a cache: in the race, llmstage must read the images itself
        task.image_store = ImageStore(processor.images)
        task.image_store.read(row["image"] for row in rows)
    task.attach_tokenizer(processor, length)

    ids = [[features.input_ids for features in task.encode(row)] for row in rows]
    if work.is_text:
        tokens = sum(min(length, len(part)) for parts in ids for part in parts)
        rows = rows * math.ceil(1.1 * steps * batch * length / tokens)
        num_rows = len(rows) // batch * batch
        rows = rows[:num_rows]
    else:
        keep = [at for at, row in enumerate(rows) if same_ids(work, processor.tokenizer, row, ids[at], length)]
        rows, ids = [rows[at] for at in keep], [ids[at] for at in keep]
        num_rows, count = whole_batches([len(parts) for parts in ids], batch, steps * batch // PASSES)
        rows, ids = rows[:count], ids[:count]
    lines = [row["text"] if work.is_text else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "rows").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    # llmstage scores a split at the end of a run. So few rows take a moment, and are not part of the timed steps.
    (folder / "few").write_text("".join(f"{line}\n" for line in lines[:batch]), encoding="utf-8")

    config = preset_config(preset, processor, length, task.model_options())
    config.get_text_config().vocab_size = max(preset.vocab_size, len(processor))
    torch.manual_seed(0)
    model = getattr(transformers, task.auto_model).from_config(config)
    model.save_pretrained(folder / "model")
    weights = sum(parameter.numel() for parameter in model.parameters())
    about = f"{work.model_family}_{size}, {weights / 1e6:.1f} M parameters, {num_rows:,} rows of {source}"
    mean = statistics.fmean(len(part) for parts in ids for part in parts)
    return Start(about, num_rows, mean, task.packs, options)


def task_of(work: Work, name: str, size: str, options: dict[str, Any]) -> tuple[Any, Any, bool]:
    """Return the task for `task=<name>` with these options, the preset, and whether the rows have images."""
    import yaml

    from llmstage.config import build_run
    from llmstage.naming import load_module
    from llmstage.paths import conf_dir

    preset = yaml.safe_load((conf_dir() / "model" / f"{work.model_family}_{size}.yaml").read_text("utf-8"))
    wrong: list[str] = []
    run = build_run({"stage": {"name": work.stage}, "task": {"name": name, **options}, "model": preset}, wrong)
    assert not wrong, wrong
    return load_module("tasks", name, trusted=True).TASK(run.task, run.generation), run.model, run.task.reads_images


def same_ids(work: Work, tokenizer: Any, row: Row, ours: list[list[int]], length: int) -> bool:
    """Return whether both sides encode a row equally. False for a row that is too long: one side cuts it, the other reads it in
    windows. Any other difference stops the benchmark, because the losses would not be comparable."""
    assert work.peer_ids is not None
    theirs = work.peer_ids(tokenizer, row, length)
    if theirs == ours:
        return True
    if len(theirs) == 1 and len(theirs[0]) == length:
        return False
    sys.exit(f"The two sides tokenise a row differently.\nrow      {row}\nllmstage {ours}\npeer     {theirs}")


def whole_batches(sizes: list[int], batch: int, most: int) -> tuple[int, int]:
    """Return (rows as the model gets them, rows of the file) for as many rows as fill whole batches, at most `most`."""
    sums = enumerate(itertools.accumulate(sizes), 1)
    return max((seen, count) for count, seen in sums if seen % batch == 0 and seen <= max(most, batch))
