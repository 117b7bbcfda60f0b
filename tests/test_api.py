"""The Python interface: train, load and predict in one process, beside a Hydra program of the user's own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import llmstage
from llmstage.cli.command import main

pytestmark = pytest.mark.lowest

ROWS = [
    {"text": text, "label": label}
    for number in range(40)
    for text, label in ((f"lovely parcel 很好 {number}", "good"), (f"broken parcel 很差 {number}", "bad"))
]
SMALL = ("trainer=smoke", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2",
         "model.intermediate_size=64", "model.vocab_size=400", "trainer.threads=1", "trainer.baselines=false")  # fmt: skip


def write_rows(path: Path) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def classifier(tmp_path_factory: pytest.TempPathFactory) -> llmstage.Result:
    folder = tmp_path_factory.mktemp("python")
    train = write_rows(folder / "rows.jsonl")
    return llmstage.run(
        "stage=finetune", "task=classification", f"data.train={train}", *SMALL, f"hydra.run.dir={folder}/run"
    )


@pytest.fixture(scope="module")
def writer(tmp_path_factory: pytest.TempPathFactory) -> llmstage.Result:
    folder = tmp_path_factory.mktemp("writer")
    return llmstage.run("stage=finetune", "task=dialogue", *SMALL, f"hydra.run.dir={folder}/run")


def test_importing_llmstage_imports_neither_hydra_nor_torch() -> None:
    code = "import sys, llmstage; print(*sorted({name.split('.')[0] for name in sys.modules}))"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "llmstage" in loaded and not {"torch", "hydra", "omegaconf", "transformers"} & set(loaded)


def test_a_run_returns_what_its_folder_holds(classifier: llmstage.Result) -> None:
    report = json.loads((classifier.folder / "report.json").read_text(encoding="utf-8"))
    score = classifier.scores["test"]["macro_f1"]
    assert score.value == report["scores"]["test"]["macro_f1"]["value"] and score.count > 0
    assert classifier.objective == classifier.scores["validation"]["macro_f1"].value
    assert classifier.model_dir == classifier.folder / "model"
    assert classifier.report["status"] == "completed"


def test_a_loaded_model_predicts_as_the_command_line_does(
    classifier: llmstage.Result, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    texts = [row["text"] for row in ROWS[:6]]
    Path("new.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts), encoding="utf-8")
    words = ["stage=predict", f"model.path={classifier.folder}", "data.test=new.jsonl", "stage.output=out.jsonl"]
    assert main([*words, "hydra.run.dir=predicted"]) == 0
    lines = [json.loads(line) for line in Path("out.jsonl").read_text(encoding="utf-8").splitlines()]
    predictions = llmstage.load(classifier.folder).predict([{"text": text} for text in texts])
    for line, prediction in zip(lines, predictions, strict=True):
        assert prediction["prediction"] == line["prediction"]
        assert prediction["probability"] == pytest.approx(line["probability"], abs=1e-5)


def test_evaluate_gives_the_scores_of_the_stage(classifier: llmstage.Result, tmp_path: Path) -> None:
    path = write_rows(tmp_path / "rows.jsonl")
    words = ["stage=evaluate", f"model.path={classifier.folder}", f"data.test={path}", "data.limit=null"]
    staged = llmstage.run(*words, f"hydra.run.dir={tmp_path}/scored")
    scores = llmstage.load(classifier.folder).evaluate(ROWS)
    assert scores.keys() == staged.scores["test"].keys()
    for name, score in scores.items():
        assert score.value == pytest.approx(staged.scores["test"][name].value, rel=1e-5, abs=1e-6, nan_ok=True), name
        assert score.count == staged.scores["test"][name].count


def test_embed_equals_the_mean_of_transformers_hidden_states(classifier: llmstage.Result) -> None:
    """Computed by transformers alone from the files in model/."""
    from transformers import AutoModel, AutoTokenizer

    texts = ["lovely parcel", "broken parcel 很差 beside other words", "x"]
    vectors = llmstage.load(classifier.folder).embed(texts)
    tokenizer = AutoTokenizer.from_pretrained(classifier.model_dir)
    model = AutoModel.from_pretrained(classifier.model_dir).eval()
    for text, vector in zip(texts, vectors, strict=True):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
        np.testing.assert_allclose(vector, hidden.mean(0).numpy(), rtol=1e-4, atol=1e-5)


def test_generate_equals_transformers_greedy_search(writer: llmstage.Result) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    loaded = llmstage.load(writer.folder)
    messages = [{"role": "user", "content": "Hello, my name is Anna."}]
    replies = loaded.generate([messages, "The parcel"], max_new_tokens=6)
    assert len(replies) == 2 and all(isinstance(reply, str) for reply in replies)
    tokenizer = AutoTokenizer.from_pretrained(writer.model_dir)
    model = AutoModelForCausalLM.from_pretrained(writer.model_dir).eval()
    inputs = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
    generated = model.generate(**inputs, max_new_tokens=6, do_sample=False)[0, inputs["input_ids"].shape[1] :]
    assert replies[0] == tokenizer.decode(generated, skip_special_tokens=True)
    assert loaded.generate("The parcel", temperature=1.0, seed=3) == loaded.generate(
        "The parcel", temperature=1.0, seed=3
    )
    with pytest.raises(llmstage.UserError, match="top_p=2"):
        loaded.generate("x", top_p=2)
    with pytest.raises(llmstage.DataError, match=r"prompts\[0\] has"):
        loaded.generate("word " * 5000)


def test_mistakes_are_errors_with_the_exit_status(classifier: llmstage.Result, writer: llmstage.Result) -> None:
    with pytest.raises(llmstage.UserError, match=r"Did you mean 'optim\.lr'") as wrong:
        llmstage.run("stage=finetune", "task=classification", "optim.lrr=1")
    assert wrong.value.status == 2
    with pytest.raises(llmstage.DataError) as missing:
        llmstage.run("stage=finetune", "task=classification", "data.train=nowhere.csv")
    assert missing.value.status == 3
    with pytest.raises(llmstage.DiskError) as unwritable:
        llmstage.run("stage=finetune", "task=classification", "hydra.run.dir=/dev/null/run")
    assert unwritable.value.status == 7
    with pytest.raises(llmstage.UserError, match="one job"):
        llmstage.run("-m", "stage=finetune", "task=classification", "seed=1,2")
    with pytest.raises(llmstage.UserError, match="there is no such folder"):
        llmstage.load(classifier.folder.parent / "nothing_of_ours")
    loaded = llmstage.load(classifier.folder)
    with pytest.raises(llmstage.DataError, match=r"rows\[1\]"):
        loaded.predict([{"text": "fine"}, {"texxt": 1}])
    with pytest.raises(llmstage.UserError, match="writes no text"):
        loaded.generate("x")
    with pytest.raises(llmstage.DataError, match="no rows"):
        loaded.evaluate([])
    with pytest.raises(AttributeError):
        llmstage.nothing  # noqa: B018


def test_a_model_outside_a_run_folder_needs_its_task(classifier: llmstage.Result, tmp_path: Path) -> None:
    import shutil

    shutil.copytree(classifier.model_dir, tmp_path / "plain")
    loaded = llmstage.load(tmp_path / "plain", "task=classification")
    assert loaded.predict([{"text": "lovely parcel 很好"}]) == llmstage.load(classifier.folder).predict(
        [{"text": "lovely parcel 很好"}]
    )


def test_two_runs_in_one_process_leave_it_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    train = write_rows(tmp_path / "rows.jsonl")
    before = (
        list(sys.argv), dict(os.environ), torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist(),
        signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.getcwd(),
    )  # fmt: skip
    words = ("stage=finetune", "task=classification", f"data.train={train}", *SMALL)
    first = llmstage.run(*words, "seed=1", "hydra.run.dir=first")
    llmstage.run(*words, "seed=2", "hydra.run.dir=between")
    again = llmstage.run(*words, "seed=1", "hydra.run.dir=again")
    for split, scores in first.scores.items():
        for name, score in scores.items():
            assert again.scores[split][name].value == pytest.approx(score.value, rel=1e-6, abs=1e-6, nan_ok=True)
    kept = {name: value for name, value in os.environ.items() if name in before[1]}
    after = (
        list(sys.argv), kept, torch.get_num_threads(), torch.get_default_dtype(), torch.get_rng_state().tolist(),
        signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM), os.getcwd(),
    )  # fmt: skip
    assert after == before


HYDRA_PROGRAM = """
import hydra
from hydra import compose
from hydra.core.config_store import ConfigStore
from hydra.core.global_hydra import GlobalHydra
from hydra.core.hydra_config import HydraConfig
from omegaconf import OmegaConf

ConfigStore.instance().store(name="mine", node={"stage": "my own", "size": 3})

@hydra.main(version_base=None, config_path=None, config_name="mine")
def program(cfg):
    import llmstage
    before = HydraConfig.get().runtime.output_dir
    result = llmstage.run("stage=finetune", "task=classification", "data.train=ROWS", WORDS, "hydra.run.dir=inner")
    assert cfg.size == 5 and cfg.stage == "my own"
    assert HydraConfig.get().runtime.output_dir == before and GlobalHydra.instance().is_initialized()
    assert compose("mine", overrides=["size=7"]).size == 7, "the program's own Hydra still composes"
    print("prediction", llmstage.load(result.folder).predict([{"text": "lovely parcel"}])[0]["prediction"])

program()
"""


def test_it_runs_inside_a_hydra_program(tmp_path: Path) -> None:
    train = write_rows(tmp_path / "rows.jsonl")
    code = HYDRA_PROGRAM.replace("ROWS", str(train)).replace("WORDS", ", ".join(map(repr, SMALL)))
    (tmp_path / "program.py").write_text(code, encoding="utf-8")
    done = subprocess.run(
        [sys.executable, "program.py", "size=5", "hydra.run.dir=outer"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "prediction" in done.stdout and (tmp_path / "inner" / "model" / "config.json").is_file()
