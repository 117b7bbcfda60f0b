"""Every recipe has its page, and the table of results is what the script makes of the kept reports."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

from llmstage.cli.command import main
from llmstage.paths import options

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "recipes"
RECIPES = options("experiment")


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("recipes_script", ROOT / "benchmarks" / "recipes.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def between(page: Path, script) -> str:
    _, _, rest = page.read_text("utf-8").partition(script.BEGIN)
    return rest.partition(script.END)[0].strip()


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_page_with_its_command_and_how_to_bring_own_data(name):
    text = (PAGES / f"{name}.md").read_text("utf-8")
    assert f"llmstage experiment={name}" in text
    assert "## Your own data" in text and "## Result" in text


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_has_a_result_that_was_run(name):
    results = json.loads((PAGES / "results.json").read_text("utf-8"))
    assert name in {row["experiment"] for row in results.values()}


def test_the_tables_are_generated_not_typed(script):
    results = json.loads((PAGES / "results.json").read_text("utf-8"))
    assert between(PAGES / "README.md", script) == script.render(results)
    for name in RECIPES:
        rows = {key: row for key, row in results.items() if row["experiment"] == name}
        assert between(PAGES / f"{name}.md", script) == script.render(rows)


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_runs_on_its_data(name, script, workplace, capsys):
    """A few steps from end to end: the reader, the columns and the settings fit the real files.

    All rows are read and checked; few are learned and scored, by a model of one layer.
    """
    data = ROOT.parent / "shared" / "data"
    if not data.is_dir():
        pytest.skip(f"the public data sets are not at {data}")
    small = ["trainer=smoke", "trainer.max_steps=2", "trainer.baselines=false", "trainer.threads=1", "data.max_lost=1"]
    small += ["model.num_hidden_layers=1", "data.limit=32", "trainer.eval_every=0", "trainer.train_rows_scored=0"]
    small += [f"data_root={data}"] if script.reads_data(name) else []
    status = main([f"experiment={name}", *small, "hydra.run.dir=run"])
    assert status == 0, capsys.readouterr().err
    report = json.loads(Path("run/report.json").read_text("utf-8"))
    assert report["experiment"] == name and report["status"] == "completed"


def test_a_report_becomes_a_row(script):
    score = {"value": 0.5, "low": 0.4, "high": 0.6, "count": 10, "method": "", "higher_is_better": True}
    report = {
        "experiment": "banking77",
        "task": "classification",
        "seconds": 20.0,
        "model": {"architecture": "ModernBertForSequenceClassification", "parameters": 1_000_000, "path": None},
        "data": {"splits": {"train": {"rows": 80}, "test": {"rows": 10}}},
        "scores": {"test": {"accuracy": score, "macro_f1": score}},
        "train": {"seconds": 10.0, "threads": 2},
        "machine": {"cpu": "CPU", "bf16": "AMX"},
        "baselines": {
            "split": "test", "metric": "macro_f1", "best": "majority", "beaten": True, "clearly": False,
            "methods": {"majority": {"macro_f1": {**score, "value": 0.1}}},
        },
    }  # fmt: skip
    row = script.row_of(report)
    shown = script.render({row.pop("key"): row})
    assert "**0.5000** (0.4000 to 0.6000)" in shown and "0.1000 (majority)" in shown and "80 / 10" in shown
