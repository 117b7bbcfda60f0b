"""Train a ladder of models for stage.ladder=auto: sizes x seeds x checkpoints, on the items of probe families.

Every run is an ordinary pretraining in a folder of its own under <run>/ladder. Runs that are finished are not trained
again.
"""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import yaml

from llmstage import console
from llmstage.config import DataConfig, RunConfig, StageConfig, task_config
from llmstage.config.explore import Explore
from llmstage.errors import UserError
from llmstage.explore.items import Item, as_text
from llmstage.explore.probes import generate, select_cells
from llmstage.paths import conf_dir
from llmstage.research.checkpoints import Checkpoint, HeldOut, checkpoints_of_runs
from llmstage.training.checkpoint import find_checkpoint, list_checkpoints, read_state
from llmstage.training.components import Variant
from llmstage.training.fit import fit
from llmstage.training.run_folder import check_same_run

SIZES = {"xs": (1, 32, 2, 64), "s": (2, 64, 4, 128), "m": (4, 128, 4, 344), "l": (6, 256, 8, 688)}
"""layers, width, heads, inner width"""
VOCABULARY = 340
"""Size of the tokenizer. It is small, so that answers are spelled letter by letter.

Each letter of `copying`, English or Chinese, must be one token: with 300, some letters were two tokens. The first of
such a pair is partly known, so a product of token accuracies is no prediction. Two letters must not be one token
either: the few Chinese rows with such tokens were copied wrong as a whole (`copying:copy`: exact match .92 where .51 is
predicted).
"""
NUM_HELD_OUT = 300
"""Texts of the held-out corpus, at most."""
TRAIN_ITEMS_RATIO = 40
"""Training items for each scored item of a cell, at most as many as exist."""


def steps_to_save(last: int, num: int) -> list[int]:
    """Return `num` steps from the end of the warm-up, a twentieth of the run, to `last`, evenly spaced in log step.
    Equal steps count once."""
    return sorted({round(float(step)) for step in np.geomspace(max(1, last // 20), last, num)} | {last})


def train_ladder(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> tuple[list[Checkpoint], list[HeldOut]]:
    """Return the trained checkpoints, and the held-out texts of their common corpus: answers that are scored after
    their prompts.

    The loss covers the answers only. Prompts are random and soon predicted as well as possible, so a loss over whole
    texts would hardly change while answers are learned.
    """
    assert isinstance(cfg.stage, Explore)
    ladder = cfg.stage.ladder
    folder = out_dir / "ladder"
    train, held_out = write_corpus(cfg.stage, folder, cfg.seed)
    saved_steps = steps_to_save(ladder.steps, ladder.checkpoints)
    checkpoints = []
    variant = Variant(save_at=frozenset(saved_steps), by_character=True, updates_latest=False)
    for size in ladder.sizes:
        for seed in range(cfg.seed, cfg.seed + ladder.seeds):
            run, run_dir = checkpoint_run(cfg, size, seed, train, held_out), folder / f"{size}-seed{seed}"
            if is_finished(run, run_dir):
                console.note(f"ladder: {run_dir.name} is trained already")
            else:
                console.note(f"ladder: training {run_dir.name}, {ladder.steps} steps")
                fit(run, run_dir, about, variant)
            # The group of a checkpoint is its size: its training steps and seeds form one curve.
            run_checkpoints = [
                checkpoint for checkpoint in checkpoints_of_runs(str(run_dir)) if checkpoint.step in saved_steps
            ]
            for checkpoint in run_checkpoints:
                checkpoint.group = size
            checkpoints += run_checkpoints
    return checkpoints, [
        HeldOut(row["answer"], row["prompt"]) for row in map(json.loads, held_out.open(encoding="utf-8"))
    ]


def is_finished(run: RunConfig, run_dir: Path) -> bool:
    """Whether a run of the same config was trained to its end in this folder."""
    checkpoint = find_checkpoint(run_dir, "auto") if list_checkpoints(run_dir / "checkpoints") else None
    if checkpoint is None:
        return False
    state, saved = read_state(checkpoint)
    check_same_run(run, saved["config"], checkpoint)
    assert isinstance(run.trainer.max_steps, int)  # checkpoint_run() sets it
    return state.step >= run.trainer.max_steps and (run_dir / "report.json").is_file()


def checkpoint_run(cfg: RunConfig, size: str, seed: int, train: Path, held_out: Path) -> RunConfig:
    """Return the config of one run of the ladder: size and seed."""
    layers, width, heads, inner = SIZES[size]
    assert isinstance(cfg.stage, Explore)
    keys = yaml.safe_load((conf_dir() / "task" / "causal_lm.yaml").read_text(encoding="utf-8"))
    return replace(
        cfg,
        stage=StageConfig(name="pretrain"),
        task=task_config("causal_lm")(**keys),
        model=replace(
            cfg.model, name=f"ladder_{size}", family="gpt", path=None, vocab_size=VOCABULARY, num_hidden_layers=layers,
            hidden_size=width, num_attention_heads=heads, intermediate_size=inner,
        ),
        data=DataConfig(name="ladder", train=str(train), validation=str(held_out), split=replace(DataConfig().split, test=0.0)),
        trainer=replace(
            cfg.trainer, max_steps=cfg.stage.ladder.steps, epochs=None, max_tokens=None, save_total_limit=1_000_000, save_every=0,
            eval_every=0, baselines=False, train_rows_scored=0, resume="auto", log_every=max(1, cfg.stage.ladder.steps // 5),
        ),
        seed=seed,
    )  # fmt: skip


def write_corpus(stage: Explore, folder: Path, seed: int) -> tuple[Path, Path]:
    """Write one text per item, its prompt and its answer, and return (training file, held-out file).

    The two files share no text, and neither has a text that is scored later: their parameters come from different
    splits. A text that is a part of one item and an item by itself (`3 + 4 =`) may be in two splits; it is left out.
    """
    known = {training_text(item) for item in draw_items(stage, stage.items_per_cell, seed, ("discover",))}
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, split, num, most in (
        (paths[1], "confirm", 1, NUM_HELD_OUT),
        (paths[0], "train", TRAIN_ITEMS_RATIO, None),
    ):
        items = draw_items(stage, stage.items_per_cell * num, seed, (split,))
        new = [item for item in items if training_text(item) not in known][:most]
        if not new:
            raise UserError(
                f"stage.probes={stage.probes}: these families leave no items to train on. Name others, e.g. [addition]."
            )
        known.update(map(training_text, new))
        rows = [{"text": training_text(item), "prompt": as_text(item), "answer": item.right} for item in new]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if not path.is_file() or path.read_text(encoding="utf-8") != lines:  # a resumed run finds its data unchanged
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(lines, encoding="utf-8")
    return paths


def training_text(item: Item) -> str:
    """Return the text that is trained on: the prompt and the right answer."""
    return as_text(item) + item.right


def draw_items(stage: Explore, per_cell: int, seed: int, splits: tuple[str, ...]) -> list[Item]:
    """Generate the items of the named families in these splits, in a fixed random order. Parts of items are of these
    splits too."""
    items = [
        item
        for probe_family, cells in select_cells(stage.probes).items()
        for item in generate(probe_family, per_cell, seed, cells=cells, splits=splits)
        if item.split in splits and item.image is None
    ]
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[index] for index in order]
