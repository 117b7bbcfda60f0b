"""The mirage on a ladder that is trained on the spot (EMERGENCE.md 4.3): whole answers jump, their tokens do not, and nothing is
called a break. The short form is test_the_mirage_in_short."""

from __future__ import annotations

import json

import pytest

from llmstage.cli import main


@pytest.mark.slow
def test_whole_answers_of_a_ladder_are_what_their_tokens_make_of_them(workplace):
    """The command of docs/explore-bars.md."""
    status = main([
        "stage=explore", "stage.ladder.kind=auto", "stage.probes=[copying]", "stage.ladder.sizes=[m]", "stage.ladder.seeds=1",
        "stage.ladder.steps=800", "stage.ladder.checkpoints=20", "stage.items_per_cell=100", "trainer.threads=1",
        "hydra.run.dir=mirage",
    ])  # fmt: skip
    assert status == 0
    report = json.loads((workplace / "mirage/report.json").read_text(encoding="utf-8"))
    block = report["explore"]["ladder"]
    verdicts = {row["metric"]: row["verdict"] for row in block["families"]}
    assert verdicts["copying_em"] == "metric_artefact" and "break" not in verdicts.values()
    # 95 % of cells within 0.05 is the bar; it is missed (docs/explore-bars.md says why), and the sentence says so.
    law = block["product_law"]
    assert law["telling"] >= 100 and law["median_gap"] < 0.02 and law["within_05"] > 0.7
    said = next(line for line in report["sentences"] if line.startswith("Exact match is within"))
    assert f"{law['within_05']:.1%}" in said and ("does not everywhere" in said) == (law["within_05"] < 0.95)
    assert any("copying.symbol" in line and "nothing is claimed" in line for line in report["limits"])
