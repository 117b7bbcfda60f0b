"""Ladders: checkpoints read from runs, the choice of the axis, verdicts of families, a ladder that is trained here."""

from __future__ import annotations

import json
import math
import re
from dataclasses import replace

import numpy as np
import pytest

from llmstage.config.explore import Explore
from llmstage.config.explore_ladder import Ladder, ToyWorlds, check_ladder
from llmstage.errors import UserError
from llmstage.explore.items import Item
from llmstage.explore.probed_model import ProbedModel
from llmstage.research.checkpoints import Checkpoint, HeldOut, checkpoints_of_runs, choose_axis, measure_checkpoint
from llmstage.research.ladder import (
    FamilyScores,
    ScoredLadder,
    judge_all_curves,
    ladder_sentences,
    scores_by_family,
    small_families,
)
from llmstage.research.product_law import product_cells, product_law
from llmstage.research.trained_ladder import draw_items, steps_to_save, training_text, write_corpus
from llmstage.research.verdicts import Rules


def test_steps_are_evenly_spaced_in_their_logarithm_and_end_at_the_end():
    assert steps_to_save(1000, 4) == [50, 136, 368, 1000]
    assert steps_to_save(3, 12) == [1, 2, 3]


def checkpoint(number: int, **changes: object) -> Checkpoint:
    values = Checkpoint(
        f"r{number}", f"r{number}", 1000, 100 * number, number, 0, 4.0 / number, 1.0 / number, "a", "xs"
    )
    return replace(values, **changes)


def test_axis_and_what_it_means():
    assert choose_axis([checkpoint(1), checkpoint(2)], "lm_loss") == ("lm_loss", [])
    axis, limits = choose_axis([checkpoint(1), checkpoint(2, tokenizer="b")], "lm_loss")
    assert axis == "lm_loss_per_byte" and "different tokenizers" in limits[0]
    axis, limits = choose_axis([checkpoint(1, lm_loss=None), checkpoint(2)], "lm_loss")
    assert axis == "tokens" and "No held-out loss" in limits[0]
    assert (
        choose_axis([checkpoint(1), checkpoint(2)], "flops") == ("flops", [])
        and checkpoint(2).axis_value("flops") == 6 * 1000 * 200
    )
    with pytest.raises(UserError, match="r2 have no such value"):
        choose_axis([checkpoint(1), checkpoint(2, tokens=None)], "tokens")


def test_a_pattern_that_names_nothing_says_so(workplace):
    with pytest.raises(UserError, match="matches nothing"):
        checkpoints_of_runs("runs/*/checkpoints/step_*")
    (workplace / "empty").mkdir()
    with pytest.raises(UserError, match="neither a checkpoint nor a run folder"):
        checkpoints_of_runs("empty")


def test_exact_match_that_only_the_metric_makes_jump_is_a_metric_artefact():
    """Per-token probability rises smoothly with falling loss; exact match is its tenth power: never a break."""
    checkpoints = [checkpoint(n, lm_loss=3 - 0.2 * n) for n in range(1, 15)]
    share = [0.3 + 0.05 * n for n in range(1, 15)]
    family_scores = [
        {"copy": FamilyScores(p**10, max(0.002, math.sqrt(p**10 * (1 - p**10) / 900)), math.log(p), 0.01, 900, 10, p)}
        for p in share
    ]
    em, logp = judge_all_curves(ScoredLadder(checkpoints, family_scores), "lm_loss", Rules())
    assert em.verdict.name == "metric_artefact" and "L = 10" in em.verdict.text
    assert logp.verdict.name != "break"
    row = em.as_dict()
    assert row["curve"] == "training" and row["n"] == 14 and row["metric"] == "copy_em"
    assert row["x"] == sorted(row["x"], reverse=True)
    json.dumps(row)


def test_seeds_of_a_step_become_one_point_and_sizes_a_curve_over_scale():
    checkpoints = [
        checkpoint(step, seed=seed, group=size, params=count, lm_loss=3 - 0.1 * step - 0.2 * index)
        for index, (size, count) in enumerate((("xs", 10), ("s", 100)))
        for seed in (0, 1)
        for step in range(1, 6)
    ]
    rng = np.random.default_rng(0)
    family_scores = [
        {"copy": FamilyScores(0.5, 0.02, -1 + 0.1 * (entry.step or 0) + rng.normal(0, 0.01), 0.01, 100, 3, 0.8)}
        for entry in checkpoints
    ]
    judged = judge_all_curves(ScoredLadder(checkpoints, family_scores), "params", Rules())
    scale = [entry for entry in judged if entry.scale]
    assert {len(entry.curve.y) for entry in judged if not entry.scale} == {5} and {
        len(entry.curve.y) for entry in scale
    } == {2}
    assert all(entry.curve.seed_sd is not None and len(entry.curve.finals) == 2 for entry in judged)
    assert all("too few points" in entry.verdict.text for entry in judged)


def test_a_point_of_several_seeds_has_the_interval_of_its_seeds():
    """Two seeds far apart, each certain of its own score: the items say little about the next seed."""
    checkpoints = [checkpoint(step, seed=seed, lm_loss=3 - 0.1 * step) for seed in (0, 1) for step in (1, 2)]
    draw = np.random.default_rng(0)

    def probe_family(share: float) -> FamilyScores:
        right = (draw.random(400) < share).astype(float)
        return FamilyScores(right.mean(), 0.02, -1.0, 0.01, 400, 3, 0.8, right, -draw.random(400))

    family_scores = [{"copy": probe_family(0.2 + 0.6 * entry.seed)} for entry in checkpoints]
    row = judge_all_curves(ScoredLadder(checkpoints, family_scores), "steps", Rules(trials=400))[0].as_dict()
    assert all(low < 0.25 and high > 0.75 for low, high in zip(row["low"], row["high"], strict=True))
    alone = judge_all_curves(ScoredLadder(checkpoints[:2], family_scores[:2]), "steps", Rules(trials=400))[0].as_dict()
    assert all(0.05 < high - low < 0.1 for low, high in zip(alone["low"], alone["high"], strict=True))
    assert all(low < y < high for low, y, high in zip(alone["low"], alone["y"], alone["high"], strict=True))


def test_product_law_counts_cells():
    items = [Item(f"i{n}", "copy", "p", answer="a") for n in range(40)]
    scores = [
        {
            "unscored": None,
            "em": float(n % 2),
            "tok": 1.0 if n % 2 else 0.5,
            "num_tokens": 2,
            "right": [n % 2, 1],
            "acc": None,
        }
        for n in range(40)
    ]
    [cell] = product_cells(checkpoint(1), items, scores)
    assert (cell["em"], cell["predicted"], cell["predicted_by_place"]) == (0.5, 0.75**2, 0.5)
    assert cell["places"] == [0.5, 1.0]
    law = product_law([cell])
    assert (law["within_05"], law["telling"], law["telling_within_05"]) == (0.0, 1, 0.0)
    assert (law["within_05_by_place"], law["telling_within_05_by_place"]) == (1.0, 1.0)
    unequal, apart = ladder_sentences(
        [], law
    )  # the end is always right, the letter half the time: unequal, and independent
    assert "equal tokens do not everywhere explain it" in unequal and "independent tokens explain it" in apart
    for same in (0.0, 1.0):
        alike = {"em": same, "predicted": same, "predicted_by_place": same, "gap": 0.0, "gap_by_place": 0.0}
        nothing = product_law([{**cell, **alike}])
        assert nothing["within_05"] == 1.0 and ladder_sentences([], nothing) == []  # zero against zero explains nothing


def test_what_cannot_be_read_is_told_before_anything_starts(compose_run):
    run = compose_run(["stage=explore", "task=causal_lm"])
    message = check_ladder(
        Ladder(kind="auto", models=["a"], sizes=["xs", "xs"], steps=3),
        ToyWorlds(modulus=54, kind="induction", grow=True),
        [],
        run,
    )
    for words in (
        "no prime",
        "stage.toy_worlds.layers=1",
        "Next prime: 59",
        "a ladder of its own",
        "a size twice",
        "more than stage.ladder.steps=3",
        "stage.probes",
    ):
        assert any(words in line for line in message), words
    assert check_ladder(Ladder(), ToyWorlds(), [], run) == []


def test_a_ladder_trained_on_the_spot_goes_on_and_is_read_again_as_runs(workplace, speaks):
    from transformers import AutoTokenizer

    from llmstage.cli.command import main

    words = [
        "stage=explore", "stage.ladder.kind=auto", "stage.probes=[copying]", "stage.ladder.sizes=[xs]", "stage.ladder.seeds=1",
        "stage.ladder.steps=8", "stage.ladder.checkpoints=3", "stage.items_per_cell=4", "trainer.threads=1",
        "stage.stats.bootstrap=20", "hydra.run.dir=first",
    ]  # fmt: skip
    assert main(words) == 0
    checkpoints = json.loads((workplace / "first/report.json").read_text())["explore"]["ladder"]["rungs"]
    assert [entry["step"] for entry in checkpoints] == [1, 3, 8]
    assert checkpoints[0]["lm_loss"] > checkpoints[-1]["lm_loss"]
    spelled = AutoTokenizer.from_pretrained(workplace / "first/ladder/xs-seed0/model")
    assert not [token for token in range(len(spelled)) if re.search("[\u4e00-\u9fff]{2}", spelled.decode([token]))]
    before = {path: path.stat().st_mtime_ns for path in (workplace / "first/ladder").rglob("*.safetensors")}
    assert main([*words, "stage.report.language=zh"]) == 0
    speaks(json.loads((workplace / "first/report.json").read_text(encoding="utf-8")), "zh")
    assert before == {path: path.stat().st_mtime_ns for path in (workplace / "first/ladder").rglob("*.safetensors")}
    read = [
        "stage=explore",
        "stage.ladder.runs=first/ladder/*/checkpoints/step_*",
        "stage.ladder.x=tokens",
        "hydra.run.dir=second",
    ]
    assert (
        main(
            [*read, "stage.probes=[copying]", "stage.items_per_cell=4", "stage.stats.bootstrap=20", "trainer.threads=1"]
        )
        == 0
    )
    block = json.loads((workplace / "second/report.json").read_text())["explore"]["ladder"]
    speaks(json.loads((workplace / "second/report.json").read_text(encoding="utf-8")), "en")
    assert block["axis"] == "tokens"
    assert [entry["lm_loss"] for entry in block["rungs"]] == pytest.approx(
        [entry["lm_loss"] for entry in checkpoints], abs=0.5
    )
    entry = [
        "stage=explore",
        "stage.ladder.models=[first/ladder/xs-seed0/model]",
        "hydra.run.dir=third",
        "trainer.threads=1",
    ]
    assert main(entry) == 0
    limits = json.loads((workplace / "third/report.json").read_text())["limits"]
    assert any("A ladder of one: no statement about emergence" in line for line in limits)
    assert main([*entry, "stage.probes=[copying]", "stage.items_per_cell=4", "stage.report.language=zh"]) == 0
    speaks(json.loads((workplace / "third/report.json").read_text(encoding="utf-8")), "zh")
    chinese = [
        *read,
        "stage.probes=[copying]",
        "stage.items_per_cell=4",
        "stage.stats.bootstrap=20",
        "trainer.threads=1",
    ]
    assert main([*chinese, "stage.report.language=zh"]) == 0
    speaks(json.loads((workplace / "second/report.json").read_text(encoding="utf-8")), "zh")


def test_no_text_that_is_asked_is_trained_on_not_even_as_a_part_of_another(tmp_path):
    """`3 + 4 =` is an addition of one digit and a part of longer ones; as a part it may be of another split."""
    stage = Explore("explore", probes=["addition"], items_per_cell=20)
    asked = {training_text(entry) for entry in draw_items(stage, 20, 0, ("discover",))}
    parts = {training_text(entry) for entry in draw_items(stage, 800, 0, ("train",))}
    assert asked & parts  # so that there is something to leave out
    train, held_out = (
        {json.loads(line)["text"] for line in path.read_text(encoding="utf-8").splitlines()}
        for path in write_corpus(stage, tmp_path, 0)
    )
    assert not train & asked and not held_out & asked and not train & held_out


def answered(rung_number: int, share: float, *, together: bool) -> tuple[list[Item], list[dict[str, object]]]:
    """Answers of 2, 5 and 10 tokens and their end, each token right with this probability: by itself, or all of an answer
    together."""
    rng = np.random.default_rng(rung_number)
    items, scores = [], []
    for length in (2, 5, 10):
        for n in range(200):
            right = np.full(length + 1, rng.random() < share) if together else rng.random(length + 1) < share
            items.append(Item(f"{length}-{n}", "copying", "p", answer="a", meta={"len": length}))
            logp = math.log(share) + 0.1 * rng.standard_normal()
            scores.append({
                "unscored": None, "acc": None, "em": float(right.all()), "tok": float(right.mean()), "num_tokens": length + 1,
                "right": right.astype(int).tolist(),
                "logp_per_token": logp,
            })  # fmt: skip
    return items, scores


@pytest.mark.parametrize("together", [False, True])
def test_the_mirage_in_short(together):
    """Tokens that are ever more often right, by themselves: exact match jumps, the product of token accuracies says how, and
    the verdict is an artefact. Tokens that are right together are not explained by the product, and that is told."""
    scored = ScoredLadder([checkpoint(n, lm_loss=-math.log(0.05 * n + 0.05)) for n in range(1, 19)])
    for entry in scored.checkpoints:
        items, scores = answered(entry.step or 0, 0.05 * (entry.step or 0) + 0.05, together=together)
        scored.family_scores.append(scores_by_family(items, scores))
        scored.cells += product_cells(entry, items, scores)
    em, logp = judge_all_curves(scored, "lm_loss", Rules(trials=300))
    assert logp.verdict.name == "smooth"
    law = product_law(scored.cells)
    assert law is not None and law["cells"] == 54 and law["telling"] >= 20
    message, by_position = ladder_sentences([], law)
    if together:
        assert law["within_05"] < 0.8 and law["within_05_by_place"] < 0.8 and em.verdict.name == "smooth"
        assert "do not everywhere explain" in message and "do not everywhere explain" in by_position
    else:
        assert law["within_05"] >= 0.95 and law["within_05_by_place"] >= 0.95
        assert "equal tokens explain it" in message and "independent tokens explain it" in by_position
        assert em.verdict.name == "metric_artefact" and "what p^L predicts" in em.verdict.text


def test_answers_of_several_lengths_are_foretold_each_by_its_own():
    items = [Item(f"i{n}", "copy", "p", answer="a") for n in range(40)]
    scores = [
        {
            "unscored": None,
            "em": 0.0,
            "tok": 0.5,
            "num_tokens": 1 + n % 2,
            "right": [0, 1][-1 - n % 2 :],
            "acc": None,
            "logp_per_token": -1.0,
        }
        for n in range(40)
    ]
    [cell] = product_cells(checkpoint(1), items, scores)
    assert cell["predicted"] == pytest.approx((0.5 + 0.25) / 2) and cell["length"] == 1.5


def test_none_right_of_many_is_no_certainty():
    items = [Item(f"i{n}", "copy", "p", answer="a") for n in range(96)]
    scores = [{"unscored": None, "em": 0.0, "tok": 0.5, "num_tokens": 2, "acc": None, "logp_per_token": -1.0}] * 96
    assert scores_by_family(items, scores)["copy"].exact_match_error == pytest.approx(math.sqrt(0.02 * 0.98 / 100))


def test_the_loss_of_a_held_out_text_is_read_behind_what_is_given(tiny_task):
    """What a model says of the answer is the same whether or not the prompt's own loss is counted."""
    values = tiny_task("causal_lm")
    probed = ProbedModel("tiny", values.model(), values.processor, "gpt", values.context, False)
    full_loss, behind, alone = checkpoint(1), checkpoint(1), checkpoint(1)
    measure_checkpoint(full_loss, probed, [HeldOut("the second parcel came")])
    measure_checkpoint(behind, probed, [HeldOut(" came", "the second parcel")])
    measure_checkpoint(alone, probed, [HeldOut("the second parcel")])
    ids = [len(values.processor.plain_ids([text])[0]) for text in ("the second parcel", " came")]
    assert full_loss.lm_loss * sum(ids) == pytest.approx(alone.lm_loss * ids[0] + behind.lm_loss * ids[1], rel=1e-4)


def test_the_first_half_percent_of_a_training_is_not_judged():
    checkpoints = [checkpoint(step, lm_loss=6 - step / 400) for step in (1, 4, 5, *range(100, 1001, 100))]
    family_scores = [
        {"copy": FamilyScores(0.5, 0.02, -(entry.lm_loss or 0), 0.01, 100, 3, 0.8)} for entry in checkpoints
    ]
    em, _ = judge_all_curves(ScoredLadder(checkpoints, family_scores), "lm_loss", Rules(trials=20))
    assert len(em.curve.y) == 11 and em.curve.axis_kind == "loss"
    em, _ = judge_all_curves(ScoredLadder(checkpoints, family_scores), "steps", Rules(trials=20))
    assert em.curve.x.min() == 5 and em.curve.axis_kind == "training"


def test_of_a_family_of_a_few_items_nothing_is_claimed():
    checkpoints = [checkpoint(n) for n in range(1, 5)]
    entry = FamilyScores(0.5, 0.02, -1.0, 0.01, 29, 3, 0.8)
    scored = ScoredLadder(checkpoints, [{"copy": entry, "sort": replace(entry, num=30)} for _ in checkpoints])
    assert {judged.probe_family for judged in judge_all_curves(scored, "lm_loss", Rules(trials=20))} == {"sort"}
    [message] = small_families(scored)
    assert message.startswith("copy: 29 items, fewer than 30")
