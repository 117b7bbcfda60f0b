"""Results in lm-evaluation-harness's form, against a file that lm_eval 0.4.13 wrote (lm_eval.json: a small decoder of ours on two
tasks made of three local rows)."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from llmstage.report.lm_eval import Z, command, results, write_results

THEIRS = json.loads((Path(__file__).parent / "lm_eval.json").read_text(encoding="utf-8"))
TOKENIZER = SimpleNamespace(
    **{f"{kind}_token{end}": value for kind in ("pad", "eos", "bos") for end, value in (("", f"<{kind}>"), ("_id", 1))}
)


def report(auto_class: str = "AutoModelForCausalLM") -> dict[str, Any]:
    scores = {
        "accuracy": {"value": 0.8, "low": 0.7, "high": 0.9, "count": 50, "higher_is_better": True},
        "loss": {"value": 1.5, "low": None, "high": None, "count": 50, "higher_is_better": False},
    }
    return {
        "task": "some_task", "seed": 3, "scores": {"test": scores}, "seconds": 12.5, "started": "2026-01-02T03:04:05+00:00",
        "model": {"parameters": 1000, "context": 64, "auto_class": auto_class}, "model_dir": "runs/a b/model", "device": "cpu",
        "data": {"splits": {"test": {"rows": 40}}}, "versions": {"llmstage": "1", "transformers": "5"},
    }  # fmt: skip


def kinds(value: Any) -> str:
    return {"int": "number", "float": "number", "NoneType": "nothing"}.get(type(value).__name__, type(value).__name__)


def test_all_keys_are_those_that_lm_eval_writes_and_so_are_their_types():
    ours = json.loads(json.dumps(results(report(), TOKENIZER, {"beams": 1})))
    assert ours.keys() == THEIRS.keys()
    free = {"lm_eval_version", "upper_git_hash", "git_hash"}  # of their program
    assert {key: kinds(value) for key, value in ours.items() if key not in free} == {
        key: kinds(value) for key, value in THEIRS.items() if key not in free
    }
    assert ours["config"].keys() == THEIRS["config"].keys()
    assert set(THEIRS["results"]["mini_lm"]) & set(ours["results"]["llmstage_some_task_test"]) == {
        "name",
        "alias",
        "sample_len",
    }
    for block in ("results", "configs", "versions", "n-shot", "higher_is_better", "n-samples"):
        assert set(ours[block]) == {"llmstage_some_task_test"}
    assert ours["n-samples"]["llmstage_some_task_test"].keys() == THEIRS["n-samples"]["mini_lm"].keys()


def test_metrics_have_their_names_filters_and_standard_errors():
    ours = results(report(), TOKENIZER, {})["results"]["llmstage_some_task_test"]
    theirs = THEIRS["results"]["mini_choice"]
    assert set(theirs) <= set(ours)  # acc,none and acc_stderr,none among them
    assert ours["acc,none"] == 0.8
    assert ours["acc_stderr,none"] == pytest.approx(0.2 / (2 * Z))
    assert ours["loss_stderr,none"] == THEIRS["results"]["mini_lm"]["bits_per_byte_stderr,none"] == "N/A"
    assert ours["sample_len"] == 40
    assert results(report(), TOKENIZER, {})["higher_is_better"]["llmstage_some_task_test"] == {
        "acc": True,
        "loss": False,
    }


def test_the_file_is_named_as_theirs(tmp_path):
    path = write_results(tmp_path, report(), TOKENIZER, {})
    assert path.name.startswith("results_20") and path.suffix == ".json" and ":" not in path.name
    assert json.loads(path.read_text())["model_source"] == "hf"


def test_the_command_names_the_model_as_a_shell_takes_it():
    words = shlex.split(command(report()))
    args = dict(pair.split("=") for pair in words[words.index("--model_args") + 1].split(","))
    assert args == {"pretrained": "runs/a b/model", "dtype": "float32", "max_length": "64"}
    assert "backend=seq2seq" in command(report("AutoModelForSeq2SeqLM"))
    assert not command(report("AutoModelForSequenceClassification")).startswith("lm_eval ")
