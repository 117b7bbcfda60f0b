"""stage=explore on one checkpoint: the capability map, what each key changes, and what is said where nothing is measured."""

from __future__ import annotations

import csv
import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.command import main


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small model, and questions whose answers are what it writes: it knows them all, and nothing else."""
    import torch

    from llmstage.config import ModelConfig
    from llmstage.explore.items import Item
    from llmstage.explore.probed_model import ProbedModel
    from llmstage.explore.score import score_items
    from llmstage.models.build import build_model, save_model
    from llmstage.tokenization.tokenizer import train_processor

    folder = tmp_path_factory.mktemp("taught")
    torch.manual_seed(0)
    prompts = [f"{a} and {b} make" for a in "abcdefgh" for b in "klmnopqr"]
    processor = train_processor(prompts * 4, 400, "gpt", 512)
    cfg = ModelConfig(num_hidden_layers=2, hidden_size=32, num_attention_heads=2, intermediate_size=64)
    trained_model = build_model(cfg, "AutoModelForCausalLM", processor, 512, {}, None, offline=True)
    with torch.no_grad():
        for parameter in trained_model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(4)  # sharp enough for the likeliest token to depend on the prompt
        for token in range(len(processor)):  # what it writes is to be text that can be written again
            if (
                not processor.tokenizer.decode([token]).strip().isalnum()
                or not processor.tokenizer.decode([token]).isascii()
            ):
                trained_model.get_output_embeddings().weight[token] *= 0.01
    save_model(trained_model, processor, folder / "run")
    asked = [Item(f"q{n}", "taught", prompt, answer="x") for n, prompt in enumerate(prompts)]
    of = ProbedModel("taught", trained_model, processor, "gpt", 512, False)
    written = score_items(of, asked, end="none", generate="all", max_new_tokens=3)
    lines = [
        {
            "id": item.id,
            "family": "taught",
            "prompt": item.prompt,
            "answer": f" {entry['text']}",
            "answers": [entry["text"]],
        }
        for item, entry in zip(asked, written, strict=True)
        if entry["text"].strip()
    ]
    seen: Counter[str] = Counter()
    saved = []
    for line in lines:  # no answer so frequent that always giving it would do
        seen[line["answer"]] += 1
        saved += [line] if seen[line["answer"]] <= 3 else []
    (folder / "taught.jsonl").write_text("\n".join(map(json.dumps, saved)), encoding="utf-8")
    return folder


def explore(folder: Path, *words: str, out: str = "looked") -> int:
    return main(["stage=explore", f"model.path={folder / 'run'}", "trainer.threads=1", f"hydra.run.dir={out}", *words])


def report(out: str = "looked") -> dict[str, Any]:
    reductions: dict[str, Any] = json.loads(Path(out, "report.json").read_text(encoding="utf-8"))
    return reductions


def test_a_checkpoint_gets_its_map_scores_and_limits(model: Path, workplace: Path) -> None:
    words = [
        "stage.probes=[copying,negation]",
        f"stage.phenomena=[{model / 'taught.jsonl'}]",
        "stage.items_per_cell=12",
    ]
    assert explore(model, *words, "stage.scoring.end=none") == 0
    output = report()
    block = output["explore"]["probes"]
    taught = next(cell for cell in block["cells"] if cell["family"] == "taught")
    assert taught["metric"] == "em" and taught["above_chance"] and taught["low"] < taught["value"] <= taught["high"]
    assert "no ladder: no statement about emergence" in output["limits"]
    assert any("below resolution (0/12" in line for line in output["limits"])
    assert any("Above chance in" in line for line in output["sentences"])
    assert {"copying", "negation", "taught"} <= {cell["family"] for cell in block["cells"]}
    assert 0 <= block["composition"]["negation"]["all_parts"] <= 1
    page = Path("looked/report.html").read_text(encoding="utf-8")
    assert "Capability map" in page and "op=copy,len=2" in page
    with gzip.open("looked/scores.csv.gz", "rt", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    hits = [float(row["value"]) for row in rows if row["family"] == "taught" and row["metric"] == "em"]
    assert len(hits) == taught["count"] and sum(hits) / len(hits) == taught["value"]
    first = Path("looked/scores.csv.gz").read_bytes()
    assert explore(model, *words, "stage.scoring.end=none", out="again") == 0
    assert report("again")["explore"]["probes"]["from_cache"] == block["items"]
    assert Path("again/scores.csv.gz").read_bytes() == first


def test_every_scoring_key_changes_what_it_says(model: Path, workplace: Path) -> None:
    file = f"stage.phenomena=[{model / 'taught.jsonl'}]"
    no_looks = [
        "stage.reduce.heads=off",
        "stage.reduce.lens=false",
        "stage.reduce.additive=false",
        "stage.reduce.skills=false",
    ]

    def run(out: str, *words: str) -> dict[str, Any]:
        explore(model, file, *no_looks, *words, out=out)
        reductions: dict[str, Any] = report(out)["explore"]["probes"]
        return reductions

    usual = run("usual", "stage.scoring.end=none")
    cell = usual["cells"][0]
    assert usual["form"] == "plain" and run("chat", "stage.scoring.form=chat")["form"] == "chat"
    assert run("eos", "stage.scoring.end=eos")["cells"][0]["logp_per_token"]["value"] != cell["logp_per_token"]["value"]
    written = run("all", "stage.scoring.end=none", "stage.scoring.generate=all", "stage.scoring.max_new_tokens=1")
    with gzip.open("all/scores.csv.gz", "rt") as lines:
        assert any(",ted," in line for line in lines)
    with gzip.open("usual/scores.csv.gz", "rt") as lines:
        assert not any(",ted," in line for line in lines)
    assert written["cells"][0]["value"] == cell["value"]
    longer = run("longer", "stage.scoring.end=none", "stage.scoring.generate=all", "stage.scoring.max_new_tokens=16")
    assert longer["cells"][0]["value"] == cell["value"]
    similar = {}
    for out in ("all", "longer"):
        with gzip.open(f"{out}/scores.csv.gz", "rt") as lines:
            similar[out] = [float(row["value"]) for row in csv.DictReader(lines) if row["metric"] == "ted"]
    assert sum(similar["longer"]) < sum(similar["all"])  # one token is not the whole answer, sixteen are far beyond it
    dealt = run("dealt", "stage.scoring.end=none", "stage.scoring.generate=all", "stage.scoring.permutations=50")
    undealt = run("undealt", "stage.scoring.end=none", "stage.scoring.generate=all", "stage.scoring.permutations=0")
    assert set(dealt["cells"][0]["chance"]["ways"]) - set(undealt["cells"][0]["chance"]["ways"]) == {"permuted answers"}
    few = model / "few.jsonl"  # of a cell so small even all right is no certainty
    few.write_text("".join((model / "taught.jsonl").read_text("utf-8").splitlines(keepends=True)[:4]), "utf-8")
    file = f"stage.phenomena=[{few}]"
    loose, strict = (
        run(name, "stage.scoring.end=none", f"stage.scoring.fdr={fdr}")
        for name, fdr in (("loose", 0.99), ("strict", 1e-30))
    )
    assert loose["cells"][0]["p"] > 1e-30
    assert loose["cells"][0]["above_chance"] and not strict["cells"][0]["above_chance"]
    file = f"stage.phenomena=[{model / 'taught.jsonl'}]"
    more = run("more", "stage.probes=[modular]", "stage.items_per_cell=5")
    assert sum(entry["count"] for entry in more["cells"] if entry["family"] == "modular") == 20


def with_parts(folder: Path) -> Path:
    """Each of the taught questions as a whole whose parts are two of them again: all are right, so parts explain the whole."""
    lines = [json.loads(line) for line in (folder / "taught.jsonl").read_text(encoding="utf-8").splitlines()]
    asked = [{**line, "id": f"p{n}", "family": "taught.part"} for n, line in enumerate(lines)]
    asked += [{**line, "parts": [f"p{n}", f"p{(n + 1) % len(lines)}"]} for n, line in enumerate(lines)]
    path = folder / "parts.jsonl"
    path.write_text("\n".join(map(json.dumps, asked)), encoding="utf-8")
    return path


def test_each_reduction_is_told_where_its_key_asks_for_it(
    model: Path, workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from llmstage.research.reduction import model_reduction

    file = f"stage.phenomena=[{with_parts(model)}]"

    def run(out: str, *words: str) -> dict[str, Any]:
        assert explore(model, file, "stage.scoring.end=none", *words, out=out) == 0
        reductions: dict[str, Any] = report(out)["explore"]["reduction"]
        return reductions

    usual = run("usual")
    assert usual["skills"]["taught"]["text"].startswith("explained by parts: 1.000") and "information" not in usual
    assert set(usual["layers"]["taught"]) == {"lens", "additive"} and len(usual["heads"]["prefix_matching"]) == 2
    output = run("no_lens", "stage.reduce.info=true", "stage.reduce.lens=false")
    assert "information" in output and set(output["layers"]["taught"]) == {"additive"} and "skills" in output
    output = run("no_sums", "stage.reduce.skills=false", "stage.reduce.additive=false")
    assert "skills" not in output and set(output["layers"]["taught"]) == {"lens"}
    output = run("neither", "stage.reduce.lens=false", "stage.reduce.additive=false", "stage.reduce.heads=off")
    assert "layers" not in output and "heads" not in output
    monkeypatch.setattr(model_reduction, "MAX_PARAMETERS", 10)  # a model that is not looked at unless it is asked for
    assert "heads" not in run("auto") and any("stage.reduce.heads=on" in line for line in report("auto")["limits"])
    assert "heads" in run("on", "stage.reduce.heads=on")


@pytest.mark.parametrize("language", ["zh", "en"])
def test_probes_and_reductions_speak_one_language(model: Path, workplace: Path, speaks: Any, language: str) -> None:
    words = [f"stage.phenomena=[{with_parts(model)}]", "stage.probes=[copying,negation]", "stage.items_per_cell=12"]
    words += ["stage.scoring.end=none", "stage.reduce.info=true", f"stage.report.language={language}"]
    assert explore(model, *words) == 0
    speaks(report(), language)
    assert {"probes", "reduction"} == set(report()["explore"]) and report()["explore"]["reduction"]["information"]
    assert ("能力地图" in Path("looked/report.html").read_text(encoding="utf-8")) is (language == "zh")


def test_why_an_item_is_not_asked_is_told_in_the_language_of_the_report(model: Path, workplace: Path) -> None:
    """Also where the scores of the others were kept from an earlier run in another language."""
    lines = (model / "taught.jsonl").read_text(encoding="utf-8") + "\n"
    lines += json.dumps({"id": "long", "family": "taught", "prompt": "a and b " * 600, "answer": " x"})
    (model / "long.jsonl").write_text(lines, encoding="utf-8")
    for language, output in (
        ("en", "more than the model's 1024"),
        ("zh", "超过模型的 1024 个"),
        ("en", "more than the model's 1024"),
    ):
        explore(
            model,
            f"stage.phenomena=[{model / 'long.jsonl'}]",
            "stage.scoring.end=none",
            f"stage.report.language={language}",
        )
        assert any(output in line for line in report()["limits"])


def test_nothing_measurable_ends_with_status_3_and_a_report(
    model: Path, workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert explore(model, "stage.probes=[induction]", "stage.items_per_cell=10") == 3
    assert "No probe distinguishes" in capsys.readouterr().err
    assert "below resolution (0/10" in str(report()["limits"])


def test_what_is_missing_or_wrong_is_told_before_anything_runs(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["stage=explore", "stage.probes=[copyng]"]) == 2
    output = capsys.readouterr().err
    assert "Unknown probe family 'copyng'. Did you mean 'copying'?" in output and "give model.path=" in output
    assert main(["stage=explore"]) == 2
    assert "needs something to look at" in capsys.readouterr().err


def test_a_model_without_a_language_head_is_refused(workplace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = [
        "model.num_hidden_layers=1",
        "model.hidden_size=32",
        "model.num_attention_heads=2",
        "model.intermediate_size=48",
        "model.vocab_size=320",
    ]
    trained_model = ["stage=finetune", "task=classification", *small, "data.demo_rows=40", "trainer.max_steps=2"]
    assert (
        main([*trained_model, "trainer.batch_size=4", "trainer.threads=1", "hydra.run.dir=run", "data.max_lost=1"]) == 0
    )
    words = ["stage=explore", "model.path=run", "stage.probes=[copying]", "trainer.threads=1", "hydra.run.dir=looked"]
    assert main(words) == 4
    assert "no trained language-model head" in capsys.readouterr().err
