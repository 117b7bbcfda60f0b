"""A ladder trained on the spot: sizes x seeds x checkpoints on the items of probe families, by the pretraining of this
program. Each run has a folder of its own under <run>/ladder; those that are done are not trained again."""

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
from llmstage.explore.probes import chosen, generate
from llmstage.paths import conf_dir
from llmstage.research.checkpoints import HeldOut, Rung, rungs_of_runs
from llmstage.training.checkpoint import find_checkpoint, list_checkpoints, read_state
from llmstage.training.fit import fit_one
from llmstage.training.run_folder import check_same_run

SIZES = {"xs": (1, 32, 2, 64), "s": (2, 64, 4, 128), "m": (4, 128, 4, 344), "l": (6, 256, 8, 688)}
"""layers, width, heads, inner width"""
VOCABULARY = 340
"""Small, so that answers are spelled and not single tokens; enough that each letter of `copying`, English or Chinese, is one token:
with 300 some were two, of which the first is half known, and a product of token accuracies is then no prediction. Nor are two letters one
token: the few Chinese rows in which that was so were copied wrong as a whole (`copying:copy`: exact match .92 where .51 is foretold)."""
HELD_OUT = 300
TRAIN_SHARE = 40
"""Training items for each item asked of a cell, at most as many as there are."""


def steps_to_save(last: int, num: int) -> list[int]:
    """`num` steps from the end of the warm-up, a twentieth of the run, to `last`, evenly spaced in their logarithm; fewer where two
    would be the same step."""
    return sorted({round(float(step)) for step in np.geomspace(max(1, last // 20), last, num)} | {last})


def train_ladder(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> tuple[list[Rung], list[HeldOut]]:
    """The rungs, and the held-out texts of their common corpus: answers, read behind their prompts. Prompts are drawn at random
    and soon as well foretold as can be, and a loss that is mostly theirs stands still while answers are learned."""
    assert isinstance(cfg.stage, Explore)
    ladder = cfg.stage.ladder
    folder = out_dir / "ladder"
    train, held_out = write_corpus(cfg.stage, folder, cfg.seed)
    saved = steps_to_save(ladder.steps, ladder.checkpoints)
    rungs = []
    for size in ladder.sizes:
        for seed in range(cfg.seed, cfg.seed + ladder.seeds):
            run, place = run_of(cfg, size, seed, train, held_out), folder / f"{size}-seed{seed}"
            if finished(run, place):
                console.note(f"ladder: {place.name} is there already")
            else:
                console.note(f"ladder: training {place.name}, {ladder.steps} steps")
                fit_one(run, place, about, save_at=frozenset(saved), main=False, by_character=True)
            own = [rung for rung in rungs_of_runs(str(place)) if rung.step in saved]
            for rung in own:
                rung.group = size
            rungs += own
    return rungs, [HeldOut(one["answer"], one["prompt"]) for one in map(json.loads, held_out.open(encoding="utf-8"))]


def finished(run: RunConfig, place: Path) -> bool:
    """Whether a run of this very config was trained to its end here."""
    found = find_checkpoint(place, "auto") if list_checkpoints(place / "checkpoints") else None
    if found is None:
        return False
    state, saved = read_state(found)
    check_same_run(run, saved["config"], found)
    return state.step >= (run.trainer.max_steps or 0) and (place / "report.json").is_file()


def run_of(cfg: RunConfig, size: str, seed: int, train: Path, held_out: Path) -> RunConfig:
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
    """(training file, held-out file): each item as one text, its prompt and its answer. No text of the first is in the
    second, and none of either is asked later: their parameters are of other splits, and a text that is a part of one item
    and another item by itself (`3 + 4 =`), whose splits may differ, is left out."""
    known = {text_of(one) for one in items_of(stage, stage.items_per_cell, seed, ("discover",))}
    paths = folder / "train.jsonl", folder / "held_out.jsonl"
    for path, split, num, most in ((paths[1], "confirm", 1, HELD_OUT), (paths[0], "train", TRAIN_SHARE, None)):
        items = items_of(stage, stage.items_per_cell * num, seed, (split,))
        new = [one for one in items if text_of(one) not in known][:most]
        if not new:
            raise UserError(
                f"stage.probes={stage.probes}: these families leave no items to train on. Name others, e.g. [addition]."
            )
        known.update(map(text_of, new))
        rows = [{"text": text_of(one), "prompt": as_text(one), "answer": one.right} for one in new]
        lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        if not path.is_file() or path.read_text(encoding="utf-8") != lines:  # a resumed run finds its data unchanged
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(lines, encoding="utf-8")
    return paths


def text_of(item: Item) -> str:
    """What is trained on: the prompt and the right answer."""
    return as_text(item) + item.right


def items_of(stage: Explore, per_cell: int, seed: int, splits: tuple[str, ...]) -> list[Item]:
    """Items of the named families in these splits, in a fixed random order; of their parts, those in these splits."""
    items = [
        item
        for family, cells in chosen(stage.probes).items()
        for item in generate(family, per_cell, seed, cells=cells, splits=splits)
        if item.split in splits and item.image is None
    ]
    order = np.random.default_rng(seed).permutation(len(items))
    return [items[place] for place in order]
