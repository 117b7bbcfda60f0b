"""The bar of a planted weakness on real rows: five intents and the long texts of banking77, most of their training rows removed.

About a minute of one core for each model; left out of the default run. `pytest -n 0 -m slow tests/explore/test_banking77.py`
"""

from __future__ import annotations

import csv
import json
import random
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli import main

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data"
PLANTED = ("card_arrival", "exchange_rate", "lost_or_stolen_card", "pin_blocked", "verify_my_identity")
LONG = 20
"""Words from which on a text is long: an eighth of the rows."""
LEFT, LEFT_OF_LONG = 5, 0.05
SMALL = [
    "experiment=banking77", "trainer.threads=1", "trainer.baselines=false", "model.layers=1", "model.width=128",
    "model.mlp_width=256", "trainer.epochs=8", "optim.lr=0.002", "trainer.eval_every=200", "trainer.save_every=0",
    "trainer.train_rows_scored=0",
]  # fmt: skip
"""The recipe with a smaller model and budget: 0.90 accuracy instead of 0.89 macro F1 of the whole one."""

pytestmark = pytest.mark.slow


def explored(place: Path, train: list[str], seed: int) -> list[dict[str, Any]]:
    if not (DATA / "banking77").is_dir():
        pytest.skip(f"{DATA / 'banking77'} is not on this machine")
    words = [*SMALL, f"data_root={DATA}", f"seed={seed}", *train, f"hydra.run.dir={place / 'run'}"]
    assert main(words) == 0
    out = place / "explored"
    assert main(["stage=explore", f"model.path={place / 'run'}", "trainer.threads=1", f"hydra.run.dir={out}"]) == 0
    return [json.loads(line) for line in (out / "weaknesses.jsonl").read_text(encoding="utf-8").splitlines()]


def test_planted_intents_and_long_texts_are_found_with_their_action(tmp_path):
    with (DATA / "banking77/train.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    rng, taken = random.Random(0), Counter[str]()
    rng.shuffle(rows)
    kept = []
    for row in rows:
        taken[row["category"]] += row["category"] in PLANTED
        rare = taken[row["category"]] > LEFT
        if not rare and (len(row["text"].split()) < LONG or rng.random() < LEFT_OF_LONG):
            kept.append(row)
    with (tmp_path / "planted.csv").open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, ["text", "category"])
        writer.writeheader()
        writer.writerows(kept)
    found = explored(tmp_path, [f"data.train={tmp_path / 'planted.csv'}"], 0)
    labels = {line["slice"]["label"] for line in found if set(line["slice"]) == {"label"}}
    assert labels <= set(PLANTED) and len(labels) >= 4
    lengths = [line for line in found if line["slice"].get("length", "").startswith(">= ")]
    assert lengths and all(line["action"] == "data" for line in found)
    assert len(found) == len(labels) + len(lengths)


@pytest.mark.parametrize("seed", range(3))
def test_where_nothing_is_planted_there_is_no_alarm(seed, tmp_path):
    assert explored(tmp_path, [], seed) == []
