"""stage.curves from the command line: published tables against their reference, a user's own table, and bad ones."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from llmstage.cli.command import main
from llmstage.research.curves import breakthroughness, improvement, linearity
from llmstage.research.metric_names import chance_of, is_sharp, split_metric_name, twin_of
from llmstage.research.score_curves import table_curves
from llmstage.research.scores_table import load_scores

DATA = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "emergence-curves"
QUICK = ["stage.stats.bootstrap=100", "stage.report.language=en"]


def explore(table: str, *words: str) -> int:
    return main(["stage=explore", f"stage.curves={table}", *QUICK, "hydra.run.dir=run", *words])


def written(name: str) -> Any:
    return json.loads(Path("run", name).read_text(encoding="utf-8"))


def shared(name: str) -> Path:
    path = DATA / name
    if not path.exists():
        pytest.skip(f"{path} is not on this machine")
    return path


def save(name: str, header: str, rows: list[list[Any]]) -> str:
    Path(name).write_text("\n".join([header, *(",".join(map(str, row)) for row in rows)]) + "\n", encoding="utf-8")
    return name


@pytest.mark.parametrize("name", ["pythia_v1_zero_shot", "pythia_v1_five_shot", "pythia_v0_blimp_zero_shot"])
def test_both_measures_equal_the_reference_on_every_row(name: str) -> None:
    curves = table_curves(load_scores(str(shared(f"{name}.csv")), {}))
    by_key = {
        (
            table_curve.curve_type,
            table_curve.curve.axis,
            table_curve.curve.model,
            table_curve.curve.metric,
        ): table_curve.curve.y
        for table_curve in curves
    }
    expected = reference(name)
    assert len(expected) > 50
    for row in expected:
        y = by_key[row["curve"], row["x"], row["model"], row["metric"]]
        assert len(y) == row["n"] and improvement(y) == pytest.approx(row["I"], abs=1e-9)
        assert linearity(y) == pytest.approx(row["linearity"], abs=1e-9, rel=1e-12)
        assert breakthroughness(y) == pytest.approx(float(row["breakthroughness"]), abs=1e-9, rel=1e-12)


def reference(name: str) -> list[dict[str, Any]]:
    rows = json.loads((DATA / "reference_lb.json").read_text())["rows"]
    return [row for row in rows if row["file"] == name]


def test_a_whole_run_on_pythia(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One run, read for all it must hold: the reference rows, the loss as axis, the null audit, the page."""
    assert explore(str(shared("pythia_v1_zero_shot.csv"))) == 0
    rows = {(row["curve"], row["x"], row["model"], row["metric"]): row for row in written("curves.json")}
    for expected in reference("pythia_v1_zero_shot"):
        row = rows[expected["curve"], expected["x"], expected["model"], expected["metric"]]
        assert row["n"] == expected["n"] and row["verdict"] and row["verdict_text"] and row["evidence"]
        for key in ("I", "linearity", "breakthroughness", "breakthroughness_clipped"):
            if isinstance(expected[key], str):
                assert row[key] == expected[key]
            else:
                assert row[key] == pytest.approx(expected[key], abs=1e-9, rel=1e-12)
    block = written("report.json")["explore"]["curves"]
    assert block["preferred_axis"] == "loss" and block["loss"] == "log lambada_openai.ppl"
    lens = {row["metric"]: row for row in block["loss_lens"]}
    for expected in json.loads((DATA / "reference_losslens.json").read_text())["rows"]:
        for key in ("R2_loss", "R2_compute", "R2_params"):
            assert lens[expected["metric"]][key] == pytest.approx(expected[key], abs=1e-6)
    audits = {table_curve["model"]: table_curve for table_curve in block["null_audit"]}
    for expected in json.loads((DATA / "reference_mmlu_null.json").read_text())["rows"]:
        table_curve = audits[expected["model"]]
        assert (table_curve["num"], table_curve["raw"]) == (expected["n_subjects"], expected["raw_p05"])
        assert (table_curve["bh"], table_curve["bonferroni"]) == (expected["bh_fdr05"], expected["holm_or_bonf05"])
        assert table_curve["min_p"] == pytest.approx(expected["min_p"], rel=1e-6)
    assert "break" not in block["verdicts"]
    assert block["families"]["lambada_openai.acc"]["verdict"] == "metric_artefact"
    assert block["families"]["piqa.acc"]["verdict"] == "smooth"
    message = capsys.readouterr().out
    assert "No ability appears abruptly" in message and "smooth under the continuous metric" in message
    assert "What could not be concluded" in message and "too few points (8 < 10)" in message and "split" not in message
    page = Path("run/report.html").read_text(encoding="utf-8")
    for word in ("What was found", "What could not be concluded", "Capability map", "How to read the verdicts"):
        assert word in page
    assert page.index("What was found") < page.index("Capability map") and page.count("<svg") >= 12


def test_published_losses_become_laws(workplace: Path) -> None:
    assert explore(str(shared("chinchilla_points.csv")), "stage.fit.drop_highest=5") == 0
    law = written("fits.json")["chinchilla"]
    assert law["num"] == 240 and law["dropped"] == 5 and law["objective"] <= 0.00101828 and law["resamples"] == 20
    assert "compute-optimal N grows as C^0.514" in written("report.json")["sentences"][0]
    Path("run/fits.json").unlink()
    assert explore(str(shared("bnsl_4digit_addition.csv")), "stage.fit.hold_out=3") == 0
    fit = written("fits.json")["broken"][0]
    assert fit["held_out"] == 3 and fit["rmsle"] <= 0.0007 and fit["rmsle_held_out"] <= 0.012
    assert any("breaks near train_examples 613" in line for line in written("report.json")["sentences"])
    Path("run/fits.json").unlink()
    assert explore(str(DATA / "bnsl_4digit_addition.csv"), "stage.fit.law=none") == 0
    assert not Path("run/fits.json").exists()


def test_families_are_curves_of_their_own(workplace: Path) -> None:
    assert explore(str(shared("opt_bloom_zero_shot.csv"))) == 0
    rows = written("curves.json")
    assert {row["family"] for row in rows} == {"opt", "bloom"} and {row["model"] for row in rows} == {"*"}
    assert any("need not share a tokenizer" in line for line in written("report.json")["limits"])


def test_a_table_without_an_order_is_refused_with_the_key_to_set(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    assert explore(str(shared("obs_emergent_capability.csv"))) == 2
    assert "stage.columns.params=<column>" in capsys.readouterr().err


# A user's own table


def user_rows(num: int = 12) -> list[list[Any]]:
    size = np.geomspace(1e6, 1e9, num)
    return [[f"m{k}", f"{size[k]:.0f}", 0.2 + 0.05 * k, 0.01] for k in range(num)]


def test_columns_are_found_by_name_or_named(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    table = save("own.csv", "model,params,quiz.logp,quiz.logp_stderr", user_rows())
    assert explore(table) == 0
    row = written("curves.json")[0]
    assert (row["curve"], row["x"], row["model"], row["metric"]) == ("scale", "params", "*", "quiz.logp")
    assert row["linearity"] == pytest.approx(11) and row["verdict"] == "smooth"
    table = save("odd.csv", "wer,breite,quiz.logp,quiz.logp_stderr", user_rows())
    assert explore(table) == 2
    assert explore(table, "stage.columns.params=breite", "stage.columns.model=wer") == 0
    assert written("curves.json")[0]["x"] == "breite"
    assert explore(table, "stage.columns.params=breit") == 2
    assert "Did you mean 'breite'" in capsys.readouterr().err
    assert explore(table, "stage.columns.width=breite") == 2
    assert "there is no such role" in capsys.readouterr().err


def test_one_score_a_row_is_the_same_table(workplace: Path) -> None:
    save("wide.csv", "model,params,quiz.logp,quiz.logp_stderr", user_rows())
    long = [[name, size, "quiz.logp", score, error] for name, size, score, error in user_rows()]
    save("long.csv", "model,params,metric,score,stderr", long)
    assert explore("wide.csv") == 0
    wide = written("curves.json")
    assert explore("long.csv") == 0
    assert written("curves.json") == wide


def test_sizes_may_be_written_with_letters_and_percent(workplace: Path) -> None:
    rows = [[f"m{k}", f"{2**k}m", f"{20 + 5 * k}%"] for k in range(11)]
    assert explore(save("own.csv", "model,size,quiz.logp", rows)) == 0
    row = written("curves.json")[0]
    assert row["n"] == 11 and row["I"] == pytest.approx(0.5)


def test_missing_scores_and_words_are_named_with_what_they_mean(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    rows = [[*row[:2], "" if k == 3 else row[2], "fine"] for k, row in enumerate(user_rows())]
    assert explore(save("own.csv", "model,params,quiz.logp,remark", rows)) == 0
    limits = " ".join(written("report.json")["limits"])
    assert "quiz.logp: 1 of 12 scores are missing (m3), the first at own.csv:5" in limits
    assert (
        "a jump where a score is missing cannot be seen" in limits
        and "Column 'remark' contains words such as 'fine'" in limits
    )
    assert "Metrics without standard errors" in limits and written("curves.json")[0]["n"] == 11
    rows[7][2] = "good"
    assert explore(save("own.csv", "model,params,quiz.logp,remark", rows)) == 3
    assert "own.csv:9: 'good' in column 'quiz.logp' is not a number" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "status", "message"),
    [("model,params,quiz.acc\n", 3, "no row of scores"), ("model,params\na,1\nb,2\n", 3, "no column of scores"),
     ("model,params,quiz.acc\na,1,0.5\na,1,0.6\n", 3, "own.csv:3: the same model and params as in line 2"),
     ("model,params,quiz.acc,quiz.acc_stderr\na,1,0.5,-1\nb,2,0.5,1\n", 3, "own.csv:2: 'quiz.acc_stderr' is negative")],
)  # fmt: skip
def test_tables_that_cannot_be_used(text: str, status: int, message: str, workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:  # fmt: skip
    Path("own.csv").write_text(text)
    assert explore("own.csv") == status
    assert message in capsys.readouterr().err
    assert explore("nothing.csv") == 3 and "no such file" in capsys.readouterr().err


def test_seeds_are_averaged_and_a_lottery_is_told(workplace: Path) -> None:
    rng = np.random.default_rng(0)
    rows = [
        [f"m{k}", 2**k * 10**6, seed, round(0.1 + 0.03 * k + (0.5 if k == 11 and seed < 2 else 0) + 0.005 * rng.standard_normal(), 4)]
        for k in range(12) for seed in range(5)
    ]  # fmt: skip
    assert explore(save("own.csv", "model,params,seed,quiz.logp", rows)) == 0
    row = written("curves.json")[0]
    assert (
        row["n"] == 12 and row["verdict"] == "seed_lottery" and "seeds disagree: 2 of 5 succeed" in row["verdict_text"]
    )


def test_chance_makes_the_difference_between_knowing_and_guessing(workplace: Path) -> None:
    rows = [[f"m{k}", 2**k * 10**6, 0.26 + 0.001 * (k % 3), 0.02] for k in range(12)]
    table = save("own.csv", "model,params,quiz.acc,quiz.acc_stderr", rows)
    assert explore(table, "stage.chance.quiz=0.25") == 0
    assert written("curves.json")[0]["verdict"] == "below_resolution"
    assert explore(table, "stage.chance.quiz=0.1") == 0
    assert written("curves.json")[0]["verdict"] == "no_change"


def test_a_broken_law_along_training_is_fitted_when_asked_for(workplace: Path) -> None:
    x = np.geomspace(10, 10_000, 14)
    y = 0.3 + 2 * x**-0.05 * (1 + (x / 300) ** 5) ** -0.3
    table = save("own.csv", "model,step,val_loss", [["a", f"{a:.3f}", f"{b:.6f}"] for a, b in zip(x, y, strict=True)])
    assert explore(table) == 0 and not Path("run/fits.json").exists()
    assert any("A ladder of one model" in line for line in written("report.json")["limits"])
    assert explore(table, "stage.fit.law=broken") == 0
    assert written("fits.json")["broken"][0]["d1"] == pytest.approx(300, rel=0.05)
    assert explore(table, "stage.fit.law=chinchilla") == 2


def test_the_page_is_chinese_where_the_names_are_or_it_is_asked_for(workplace: Path, speaks: Any) -> None:
    rows = user_rows()
    assert explore(save("own.csv", "模型,参数量,阅读.logp,阅读.logp_stderr", rows), "stage.report.language=auto") == 0
    page = Path("run/report.html").read_text(encoding="utf-8")
    assert '<html lang="zh">' in page and "无法下结论之处" in page and "能力地图" in page and "阅读.logp" in page
    speaks(written("report.json"), "zh")
    assert explore("own.csv", "stage.report.language=en") == 0
    assert "Capability map" in Path("run/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_what_is_left_out_of_a_table_is_told_in_its_language(workplace: Path, speaks: Any, language: str) -> None:
    """A column of words, an empty one, a missing score; a score without a continuous one beside it."""
    rows = [
        [f"m{k}", 2**k * 10**6, "" if k == 3 else round(0.26 + 0.5 * (k > 6), 2), 0.02, "good", ""] for k in range(12)
    ]
    table = save("own.csv", "model,params,quiz.acc,quiz.acc_stderr,remark,nothing", rows)
    assert explore(table, f"stage.report.language={language}") == 0
    speaks(written("report.json"), language)
    message = " ".join(written("report.json")["limits"])
    words = ("remark", "nothing", "quiz.acc", "(m3)")
    assert all(word in message for word in words)


def test_the_margin_of_a_break_is_set_by_its_key(workplace: Path) -> None:
    rows = [[f"m{k}", 2**k * 10**6, 0.1 + 0.5 * (k > 6) + 0.01 * (k % 2), 0.01] for k in range(14)]
    table = save("own.csv", "model,params,quiz.logp,quiz.logp_stderr", rows)
    by_key = []
    for margin in (6, 1_000_000):
        assert explore(table, f"stage.stats.delta_aicc={margin}") == 0
        by_key.append(written("curves.json")[0]["verdict"])
    assert by_key[0] == "break" != by_key[1]
    share = written("curves.json")[0]["evidence"]["departure"]
    for border, verdict in ((share - 0.01, "break"), (share + 0.01, "smooth")):
        assert explore(table, f"stage.stats.min_departure={border}") == 0
        assert written("curves.json")[0]["verdict"] == verdict


def test_what_a_metric_name_says() -> None:
    assert (
        split_metric_name("arc_easy.acc_norm") == ("arc_easy", "acc_norm")
        and is_sharp("MMLU")
        and not is_sharp("x.ppl")
    )
    assert twin_of("ipa_2_exact_match", ["ipa_2_bleu", "other_bleu"]) == "ipa_2_bleu"
    assert chance_of("mmlu_law.acc", {}) == 0.25 and chance_of("mmlu_law.acc", {"mmlu": 0.3}) == 0.3
    assert chance_of("lambada_openai.ppl", {}) is None and chance_of("quiz.acc", {}) is None
    assert math.isclose(chance_of("piqa.acc", {"piqa.acc": 0.51}) or 0, 0.51)


def test_what_a_claim_needs_is_set_by_keys_and_few_items_are_told(workplace: Path) -> None:
    rows = [[f"m{k}", 2**k * 10**6, round(0.1 + 0.1 * k, 2), 0.1] for k in range(8)]
    table = save("own.csv", "model,params,quiz.acc,quiz.acc_stderr", rows)
    assert explore(table) == 0
    assert written("curves.json")[0]["verdict"] == "undecided"
    limits = " ".join(written("report.json")["limits"])
    assert "too few points (8 < 10)" in limits and "fewer than 30; a claim on them needs more" in limits
    assert explore(table, "stage.stats.min_points=8", "stage.stats.alpha=0.01", "stage.stats.fdr=0.2") == 0
    assert written("curves.json")[0]["verdict"] == "smooth"


def test_a_table_that_allows_no_verdict_claims_none(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert (
        explore(save("own.csv", "model,params,quiz.logp", [["a", "1e6", "-3"], ["b", "1e7", "-2"], ["c", "1e8", "-1"]]))
        == 0
    )
    message = capsys.readouterr().out
    assert "no curve allows a verdict" in message and "No ability appears abruptly" not in message
