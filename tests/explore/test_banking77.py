"""The bar of a planted weakness on real rows: five intents and the long texts of banking77, most of their training rows removed.

A few minutes of one core for each planted model; left out of the default run. `pytest -n 0 -m slow tests/explore/test_banking77.py`
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.command import main

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PLANTED = ("card_arrival", "exchange_rate", "lost_or_stolen_card", "pin_blocked", "verify_my_identity")
LONG = 20
"""Words from which on a text is long: an eighth of the rows."""
LEFT, LEFT_OF_LONG = 5, 0.05
SMALL = [
    "experiment=banking77", "trainer.threads=1", "trainer.baselines=false", "model.num_hidden_layers=1", "model.hidden_size=128",
    "model.intermediate_size=256", "trainer.epochs=8", "optim.lr=0.002", "trainer.eval_every=200", "trainer.save_every=0",
    "trainer.train_rows_scored=0",
]  # fmt: skip
"""The recipe with a smaller model and budget: 0.90 accuracy instead of 0.89 macro F1 of the full one."""

pytestmark = pytest.mark.slow
seeds = range(3)


def explored(folder: Path, seed: int, train: list[str], *words: str) -> int:
    """Train a model in folder/run, explore it in folder/explored, and return the exit status of the latter."""
    training = [*SMALL, f"data_root={DATA}", f"seed={seed}", *train, f"hydra.run.dir={folder / 'run'}"]
    assert main(training) == 0
    out = f"hydra.run.dir={folder / 'explored'}"
    return main(["stage=explore", f"model.path={folder / 'run'}", "trainer.threads=1", *words, out])


def weaknesses(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "explored" / "weaknesses.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def plant(folder: Path, seed: int) -> None:
    """Write planted.csv, and removed.csv with the rows that it lacks."""
    with (DATA / "banking77/train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rng, taken = random.Random(seed), Counter[str]()
    rng.shuffle(rows)
    parts: dict[str, list[dict[str, str]]] = {"planted": [], "removed": []}
    for row in rows:
        taken[row["category"]] += row["category"] in PLANTED
        rare = taken[row["category"]] > LEFT
        long = len(row["text"].split()) >= LONG and rng.random() >= LEFT_OF_LONG
        parts["removed" if rare or long else "planted"].append(row)
    for name, part in parts.items():
        with (folder / f"{name}.csv").open("w", encoding="utf-8", newline="") as file:
            writer = csv.DictWriter(file, ["text", "category"])
            writer.writeheader()
            writer.writerows(part)


@dataclass
class Planted:
    """A model with a planted weakness, explored and improved by one command."""

    folder: Path
    status: int


@pytest.fixture(scope="module", params=seeds)
def planted(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Planted]:
    if not (DATA / "banking77").is_dir():
        pytest.skip(f"{DATA / 'banking77'} is not on this machine")
    folder = tmp_path_factory.mktemp("planted")
    plant(folder, request.param)
    with pytest.MonkeyPatch.context() as patch:  # made before the fixtures of a single test
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("LLMSTAGE_ENTRY", "test")
        words = ["stage.improve.enabled=true", f"stage.improve.data={folder / 'removed.csv'}"]
        status = explored(folder, request.param, [f"data.train={folder / 'planted.csv'}"], *words)
    yield Planted(folder, status)


def test_planted_intents_and_long_texts_are_reported_with_their_action(planted):
    lines = weaknesses(planted.folder)
    labels = {line["slice"]["label"] for line in lines if set(line["slice"]) == {"label"}}
    assert labels == set(PLANTED)
    lengths = [line for line in lines if line["slice"].get("length", "").startswith(">= ")]
    assert lengths and all(line["action"] == "data" for line in lines)
    assert len(lines) == len(labels) + len(lengths)


def test_with_the_removed_rows_each_slice_gains_and_nothing_else_is_lost(planted):
    result = json.loads((planted.folder / "explored" / "before_after.json").read_text(encoding="utf-8"))
    assert planted.status == 0 and result["promoted"], result["reason"]
    assert result["weak"]["gain"]["low"] > 0 and result["weak"]["gain_over_more_of_same"]["low"] > 0
    assert all(line["gain"]["low"] > 0 for line in result["slices"])
    assert all(group["passed"] for group in result["guard"]["families"])
    assert (planted.folder / "explored" / "improved" / "model.safetensors").is_file()


@pytest.mark.parametrize("seed", seeds)
def test_where_nothing_is_planted_there_is_no_alarm(seed, tmp_path):
    if not (DATA / "banking77").is_dir():
        pytest.skip(f"{DATA / 'banking77'} is not on this machine")
    assert explored(tmp_path, seed, []) == 0
    assert weaknesses(tmp_path) == []
