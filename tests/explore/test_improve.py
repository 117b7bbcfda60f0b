"""Improvement of a planted weakness by commands: what is promoted, what is refused, what each key changes."""

from __future__ import annotations

import json
import os

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file
from scipy.stats import binomtest

from llmstage.cli.command import main
from llmstage.data.split_keys import row_hash
from llmstage.explore import improve as improve_module
from llmstage.explore.guard import Scores
from llmstage.explore.improve_report import mcnemar_p

IDENTITY = ("text", "text_pair")
"""The columns that identify a row of a classifier, for the hash that sets half of the rows aside."""
QUICK = (
    "stage.improve.steps=1",
    "stage.improve.target_share=[0.5]",
    "stage.improve.control=false",
    "stage.improve.guard.fallback=[]",
)
"""One variant of one step: enough to see what a key changes."""


def before_after(planted, out):
    return json.loads((planted.folder / out / "before_after.json").read_text(encoding="utf-8"))


def variant(planted, out, name="targeted"):
    folder = planted.folder / out / "improve" / name
    return json.loads((folder / "arm.json").read_text("utf-8")), yaml.safe_load(
        (folder / "run.yaml").read_text("utf-8")
    )


def explore(planted, out, *words):
    """Run it and return the exit status; whether one step improves anything is not tested."""
    status = main(planted.words(out, *words))
    assert status in (0, 9)
    return status


@pytest.fixture(scope="module")
def improved(planted):
    new = planted.folder / "new.jsonl"
    words = planted.words(
        "improved", f"stage.improve.data={new}", "stage.improve.target_share=[0.5]", "stage.improve.lr=5e-3"
    )
    assert main(words) == 0
    return planted


def test_a_planted_weakness_is_fixed_and_nothing_else_is_lost(improved):
    result = before_after(improved, "improved")
    assert result["promoted"] and result["reason"].startswith("improved: targeted")
    row = result["slices"][0]
    assert row["slice"] == {"style": "slang"} and row["n"] > 50
    assert row["after"] > 0.9 > 0.7 > row["before"]
    assert row["gain"]["low"] > 0 and row["gain_over_more_of_same"]["low"] > 0
    assert row["after"] - row["before"] == pytest.approx(row["gain"]["value"])
    assert row["mcnemar_p"] < 1e-6 and result["weak"]["mcnemar_p"] == row["mcnemar_p"]
    group = result["guard"]["families"][0]
    assert group["passed"] and group["change"] > -0.01 and group["n"] > 300


def test_the_report_shows_before_and_after_with_control_and_guard(improved):
    report = json.loads((improved.folder / "improved" / "report.json").read_text(encoding="utf-8"))
    assert report["explore"]["improvement"]["promoted"]
    assert any("as many steps on the old mix gave" in line for line in report["sentences"])
    assert any("McNemar p = " in line for line in report["sentences"])
    assert any(line.startswith("Nothing else was lost") for line in report["sentences"])
    titles = [exhibit["title"] for exhibit in report["exhibits"]]
    assert titles == ["Before and after (accuracy)", "Guard", "What was tried"]


def test_the_promoted_model_reloads_and_repeats_its_numbers(improved):
    folder = improved.folder / "improved" / "improved"
    test = improved.folder / "test.jsonl"
    words = [
        "stage=evaluate",
        f"model.path={folder}",
        f"data.test={test}",
        "trainer.threads=1",
        "trainer.baselines=false",
    ]
    assert main([*words, f"hydra.run.dir={improved.folder / 'again'}"]) == 0
    lines = [json.loads(line) for line in (improved.folder / "again" / "predictions.jsonl").open(encoding="utf-8")]
    rows = [json.loads(line) for line in test.open(encoding="utf-8")]
    right = [
        line["prediction"] == line["reference"]
        for line, row in zip(lines, rows, strict=True)
        if row["style"] == "slang" and row_hash(row, IDENTITY, 1) % 2 == 0
    ]
    result = before_after(improved, "improved")["weak"]
    assert len(right) == result["n"] and sum(right) / len(right) == pytest.approx(result["after"], abs=1e-9)


def test_a_killed_run_resumes_and_ends_in_the_same_weights(improved, start_command):
    """Killed in the second variant, between two of its checkpoints."""
    new = improved.folder / "new.jsonl"
    words = improved.words(
        "killed", f"stage.improve.data={new}", "stage.improve.target_share=[0.5]", "stage.improve.lr=5e-3"
    )
    environment = {**os.environ, "LLMSTAGE_FAULT": "step:36:kill", "LLMSTAGE_ALLOW_FAULTS": "1"}
    ended = start_command(words, env=environment)
    assert ended.wait() == -9
    variants = improved.folder / "killed" / "improve"
    assert (variants / "more_of_same" / "model").is_dir() and not (variants / "more_of_same_again" / "model").is_dir()
    before = (variants / "more_of_same" / "report.json").stat().st_mtime_ns
    assert main(words) == 0
    after = (variants / "more_of_same" / "report.json").stat().st_mtime_ns
    assert after == before  # a finished variant is not trained again
    resumed, uninterrupted = (
        load_file(improved.folder / out / "improved" / "model.safetensors") for out in ("killed", "improved")
    )
    assert all((resumed[name] == uninterrupted[name]).all() for name in uninterrupted)


@pytest.fixture(scope="module")
def refused(planted):
    """New examples of one label, and no replay: everything becomes that label."""
    lines = [
        line for line in (planted.folder / "new.jsonl").read_text(encoding="utf-8").splitlines() if '"good"' in line
    ]
    one_sided = planted.folder / "one_sided.jsonl"
    one_sided.write_text("\n".join(lines) + "\n", encoding="utf-8")
    words = planted.words(
        "refused", f"stage.improve.data={one_sided}", "stage.improve.target_share=[1.0]", "stage.improve.lr=2e-2",
        "stage.improve.guard.fallback=[]", "stage.improve.control=false",
    )  # fmt: skip
    assert main(words) == 9
    return planted


def test_a_model_that_loses_elsewhere_is_refused_and_the_old_one_stays(refused):
    result = before_after(refused, "refused")
    assert not result["promoted"] and "not improved: guard refused" in result["reason"]
    assert not (refused.folder / "refused" / "improved").exists()
    report = json.loads((refused.folder / "refused" / "report.json").read_text(encoding="utf-8"))
    assert any(
        line.startswith("Not improved: guard refused") and "The old model stays." in line
        for line in report["sentences"]
    )
    assert any("no control" in line for line in report["limits"])


def test_fallbacks_are_tried_in_order_with_the_same_test(refused):
    one_sided = refused.folder / "one_sided.jsonl"
    words = [
        f"stage.improve.data={one_sided}",
        "stage.improve.lr=2e-2",
        "stage.improve.control=false",
        "stage.improve.target_share=[1.0]",
    ]
    explore(refused, "fallback", *words)
    result = before_after(refused, "fallback")
    names = [candidate["name"] for candidate in result["candidates"]]
    assert names[:2] == ["targeted", "wise_ft 0.75"]
    passed = [candidate["guard_passed"] for candidate in result["candidates"]]
    assert not any(passed[:-1]) and (passed[-1] or names[-1] == "wise_ft 0.25")
    assert (refused.folder / "fallback" / "improve" / "wise_ft_75" / "model" / "config.json").is_file()


def test_more_replay_halves_the_odds_of_the_weak_rows(refused):
    one_sided = refused.folder / "one_sided.jsonl"
    words = [
        f"stage.improve.data={one_sided}", "stage.improve.lr=2e-2", "stage.improve.control=false",
        "stage.improve.target_share=[0.9]", "stage.improve.guard.fallback=[more_replay]", "stage.improve.guard.delta=1e-6",
    ]  # fmt: skip
    explore(refused, "replay", *words)
    shares = {candidate["name"]: candidate["share"] for candidate in before_after(refused, "replay")["candidates"]}
    assert shares == {"targeted": 0.9, "more_replay": pytest.approx(0.9 / 1.1)}


def test_pilots_choose_the_share_on_rows_that_the_final_comparison_does_not_use(planted):
    new = planted.folder / "new.jsonl"
    words = [
        f"stage.improve.data={new}",
        "stage.improve.lr=5e-3",
        "stage.improve.steps=12",
        "stage.improve.control=false",
    ]
    explore(planted, "pilots", *words, "stage.improve.target_share=[0.1,0.6]")
    result = before_after(planted, "pilots")
    assert [pilot["share"] for pilot in result["pilots"]] == [0.1, 0.6]
    best = max((pilot for pilot in result["pilots"] if pilot["admissible"]), key=lambda pilot: pilot["gain"])
    assert best["chosen"] and result["candidates"][0]["share"] == best["share"]
    assert result["pilots"][0]["n_weak"] + result["weak"]["n"] == sum(
        '"slang"' in line for line in (planted.folder / "test.jsonl").open()
    )
    assert variant(planted, "pilots", "pilot_10")[1]["trainer"]["max_steps"] == 4


def test_source_says_which_rows_are_drawn(planted):
    new = planted.folder / "new.jsonl"
    explore(planted, "pool", *QUICK)
    explore(planted, "both", *QUICK, f"stage.improve.data={new}", "stage.improve.source=both")
    logs = {out: (planted.folder / out / "run.log").read_text(encoding="utf-8") for out in ("pool", "both")}
    slang = sum('"slang"' in line for line in (planted.folder / "train.jsonl").open())
    assert f"{slang} rows of the weak slices, 1500 rows of the pool" in logs["pool"]
    assert f"{slang + 200} rows of the weak slices, 1500 rows of the pool" in logs["both"]


def test_lr_kl_steps_and_batches_reach_the_variants(planted):
    explore(planted, "keys", *QUICK, "stage.improve.lr=7e-4", "stage.improve.kl=0.5")
    settings, run = variant(planted, "keys")
    assert (settings["kl"], settings["lr"], settings["share"], settings["steps"]) == (0.5, 7e-4, 0.5, 1)
    assert run["resolved"]["lr"] == 7e-4 and run["trainer"]["batch_size"] == 32  # that of the run which made the model


def test_a_test_file_is_what_the_final_comparison_uses(planted):
    test = planted.rows("own.jsonl", seed=9, num=300, slang=0.5)
    explore(planted, "own", *QUICK, f"stage.improve.test={test}")
    result = before_after(planted, "own")
    assert result["weak"]["n"] + result["guard"]["families"][0]["n"] == 300


def test_guard_families_suite_and_margin(planted):
    explore(planted, "families", *QUICK, "stage.improve.guard.by=label")
    names = {group["name"]: group["n"] for group in before_after(planted, "families")["guard"]["families"]}
    assert set(names) == {"label good", "label bad", "label late", "label lost"}
    explore(planted, "no_rest", *QUICK, "stage.improve.guard.suite=[lm_loss]")
    assert before_after(planted, "no_rest")["guard"]["families"] == []
    assert explore(planted, "strict", *QUICK, "stage.improve.guard.delta=0.0001") == 9
    assert "cannot decide at n =" in before_after(planted, "strict")["reason"]


@pytest.mark.parametrize(("how", "layers"), [("suggest", 1), ("apply", 2), ("off", 1)])
def test_structure_grows_the_model_only_when_it_is_to_be_applied(planted, how, layers):
    weak = planted.folder / "structure.jsonl"
    weak.write_text('{"slice": {"style": "slang"}, "action": "structure: depth"}\n', encoding="utf-8")
    explore(planted, how, *QUICK, f"stage.improve.structure={how}", f"stage.improve.weaknesses={weak}")
    model = planted.folder / how / "improve" / "targeted" / "model" / "config.json"
    assert json.loads(model.read_text(encoding="utf-8"))["num_hidden_layers"] == layers
    assert bool(before_after(planted, how)["structure"]) is (how != "off")


def test_changes_of_right_and_wrong_rows_are_tested_exactly_and_those_of_losses_are_not():
    before, after = np.r_[np.ones(12), np.zeros(58)], np.r_[np.zeros(12), np.ones(2), np.zeros(56)]
    rows = np.ones(70, dtype=bool)
    p = mcnemar_p(Scores(before, None), Scores(after, None), rows)
    assert p == pytest.approx(binomtest(12, 14).pvalue)
    assert mcnemar_p(Scores(before + 0.5, None), Scores(after, None), rows) is None
    assert mcnemar_p(Scores(before, None), Scores(after, None), ~rows) is None


def test_the_limit_of_the_loss_reaches_the_guard(planted, monkeypatch):
    """Its effect there: tests/explore/test_guard.py."""
    seen = []
    judge = improve_module.judge
    monkeypatch.setattr(improve_module, "judge", lambda *args, **keys: seen.append(keys) or judge(*args, **keys))
    explore(planted, "lm_loss", *QUICK, "stage.improve.guard.lm_loss=0.5")
    assert [keys["lm_loss"] for keys in seen] == [0.5] and set(seen[0]["needed"]) == {"all other rows"}


def test_rows_that_are_both_trained_and_compared_on_are_refused(planted, capsys):
    test = planted.folder / "test.jsonl"
    assert main(planted.words("leak", f"stage.improve.data={test}")) == 3
    assert "are also in stage.improve.data" in capsys.readouterr().err
    assert main(planted.words("leak2", f"data.train={test}")) == 3
    assert "are also in the training pool" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "weak.jsonl:1: not JSON"), ('{"op": 1}', "has no `slice`"),
        ('{"slice": {"stile": "slang"}}', "Did you mean 'style'"), ('{"slice": {"style": "martian"}}', "No row to compare on"),
    ],
)  # fmt: skip
def test_slices_that_cannot_be_used_are_named(planted, tmp_path, capsys, line, message):
    path = tmp_path / "weak.jsonl"
    path.write_text(line + "\n", encoding="utf-8")
    assert main(planted.words("bad", f"stage.improve.weaknesses={path}")) == 3
    assert message in capsys.readouterr().err


def test_another_command_does_not_resume_the_variants_of_this_one(planted, capsys):
    explore(planted, "other", *QUICK)
    assert main(planted.words("other", *QUICK, "stage.improve.kl=0.1")) == 4
    assert "other settings (kl)" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["stage.improve.target_share=[]"], "names no share"), (["stage.improve.source=both"], "needs new examples"),
        (["stage.improve.source=pool", "stage.improve.data=x.jsonl"], "is not read"),
        (["stage.improve.kl=1", "stage.improve.target_share=[1.0]"], "replays none"),
    ],
)  # fmt: skip
def test_keys_that_do_not_fit_together_are_refused_before_anything_starts(planted, capsys, words, message):
    assert main(planted.words("keys_that_do_not_fit", *words)) == 2
    assert message in capsys.readouterr().err


def test_no_weakness_is_no_work(planted, tmp_path):
    empty = tmp_path / "weak.jsonl"
    empty.write_text("", encoding="utf-8")
    assert main(planted.words("none", f"stage.improve.weaknesses={empty}")) == 0
    assert not (planted.folder / "none" / "before_after.json").exists()


def test_a_few_new_examples_that_are_compared_on_are_left_out_and_reported(planted):
    test = [
        line for line in (planted.folder / "test.jsonl").read_text(encoding="utf-8").splitlines() if "slang" in line
    ]
    both = planted.folder / "both.jsonl"
    both.write_text((planted.folder / "new.jsonl").read_text(encoding="utf-8") + "\n".join(test[:4]) + "\n", "utf-8")
    explore(planted, "few", *QUICK, f"stage.improve.data={both}")
    explore(planted, "none_shared", *QUICK, f"stage.improve.data={planted.folder / 'new.jsonl'}")
    report = json.loads((planted.folder / "few" / "report.json").read_text(encoding="utf-8"))
    assert any("are also in stage.improve.data and were left out" in line for line in report["limits"])
    num_weak = [before_after(planted, out)["weak"]["n"] for out in ("none_shared", "few")]
    spent = sum(row_hash(json.loads(line), IDENTITY, 1) % 2 == 0 for line in test[:4])
    assert num_weak[0] - num_weak[1] == spent


def test_slices_by_hand_may_have_other_borders(planted):
    """No row has the cell `>= 12.5 tokens`, because borders of cells are quantiles; its number of tokens decides."""
    weak = planted.folder / "long.jsonl"
    weak.write_text('{"slice": {"length": ">= 12.5 tokens"}}\n', encoding="utf-8")
    status = main(planted.words("by_hand", *QUICK, f"stage.improve.weaknesses={weak}"))
    assert status in (0, 9)
    result = before_after(planted, "by_hand")
    n = result["weak"]["n"], result["guard"]["families"][0]["n"]
    assert min(n) > 30 and sum(n) == sum(
        row_hash(row, IDENTITY, 1) % 2 == 0 for row in map(json.loads, (planted.folder / "test.jsonl").open())
    )


def test_a_row_that_cannot_be_scored_shifts_no_other_row(planted):
    """A label that training never had, in the first row of the file: it is quarantined, and the rest is as without it."""
    test = (planted.folder / "test.jsonl").read_text(encoding="utf-8")
    strange = planted.folder / "strange.jsonl"
    strange.write_text('{"text": "dope", "label": "martian", "style": "slang"}\n' + test, encoding="utf-8")
    explore(planted, "plain_rows", *QUICK)
    explore(planted, "strange_rows", *QUICK, f"data.test={strange}", "data.on_bad_row=quarantine")
    assert "martian" in next((planted.folder / "strange_rows").rglob("quarantine.jsonl")).read_text(encoding="utf-8")
    before, after = (before_after(planted, out)["weak"] for out in ("plain_rows", "strange_rows"))
    assert (before["n"], before["before"]) == (after["n"], after["before"])


def test_rows_are_opened_once_where_weaknesses_are_searched_too(planted, monkeypatch):
    def again(*args, **kwargs):
        raise AssertionError("the rows are open already")

    monkeypatch.setattr(improve_module, "setup_run", again)
    words = [word for word in planted.words("once", *QUICK) if word != "stage.slices.enabled=false"]
    assert main([*words, "stage.diagnosis.elicit=[]"]) in (0, 9)
    assert before_after(planted, "once")["weak"]["n"]
