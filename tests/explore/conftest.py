"""A classifier with a planted weakness that trains in seconds, for the tests of improvement."""

from __future__ import annotations

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

LABELS = ("good", "bad", "late", "lost")
WORDS = {
    "plain": ("fine superb", "awful broken", "delayed tardy", "missing vanished"),
    "slang": ("ace dope", "bunk naff", "slowpoke draggy", "gone-zo poof"),
}
FILLER = [
    "the",
    "parcel",
    "was",
    "really",
    "quite",
    "in",
    "the",
    "end",
    "from",
    "this",
    "shop",
    "and",
    "we",
    "think",
    "it",
    "is",
]


def rows(seed: int, num: int, slang: float) -> list[dict[str, Any]]:
    """`slang`: share of rows whose decisive word is slang."""
    rng, lines = random.Random(seed), []
    for number in range(num):
        style = "slang" if rng.random() < slang else "plain"
        label = rng.randrange(4)
        words = [rng.choice(FILLER) for _ in range(6)] + [f"n{seed}x{number}"]
        words.insert(rng.randrange(7), rng.choice(WORDS[style][label].split()))
        lines.append({"text": " ".join(words), "label": LABELS[label], "style": style})
    return lines


def write(path: Path, lines: list[dict[str, Any]]) -> Path:
    path.write_text("".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines), encoding="utf-8")
    return path


@dataclass
class Planted:
    """Files, and the run folder of the model that was trained on them."""

    folder: Path
    run: Path

    def rows(self, name: str, seed: int, num: int, slang: float) -> Path:
        """A file of new rows."""
        return write(self.folder / name, rows(seed, num, slang))

    def words(self, out: str, *extra: str) -> list[str]:
        """A command line of stage=explore that improves on the planted slice, with slices written by hand."""
        return [
            "stage=explore", f"model.path={self.run}", f"data.test={self.folder / 'test.jsonl'}", "trainer.threads=1",
            "stage.slices.enabled=false", "stage.improve.enabled=true", f"stage.improve.weaknesses={self.folder / 'weak.jsonl'}",
            f"hydra.run.dir={self.folder / out}", *(["stage.improve.steps=24"] if not any("improve.steps" in w for w in extra) else []),
            *extra,
        ]  # fmt: skip


def train() -> None:
    from llmstage.cli.command import main

    write(Path("train.jsonl"), rows(0, 1500, 0.01))
    write(Path("test.jsonl"), rows(1, 1200, 0.2))
    write(Path("new.jsonl"), rows(2, 200, 1.0))
    write(Path("weak.jsonl"), [{"slice": {"style": "slang"}, "action": "data"}])
    status = main([
        "stage=finetune", "task=classification", "model=bert_tiny", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2",
        "model.intermediate_size=64", "model.vocab_size=400", "data.train=train.jsonl", "data.test=test.jsonl",
        "data.split.validation=0", "trainer.max_steps=60", "trainer.batch_size=32", "trainer.threads=1",
        "trainer.baselines=false", "trainer.train_rows_scored=0", "hydra.run.dir=base", "optim.lr=1e-2", "trainer.precision=fp32",
    ])  # fmt: skip
    assert status == 0


@pytest.fixture(scope="session")
def planted(shared_folder: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory) -> Planted:
    """The run of all workers, with a folder of this worker's for what tests write."""
    trained, folder = shared_folder("planted", train), tmp_path_factory.mktemp("planted")
    for path in trained.glob("*.jsonl"):
        shutil.copy(path, folder)
    return Planted(folder, trained / "base")
