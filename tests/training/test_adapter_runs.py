"""Runs with adapter=lora from end to end: what they leave, that scores repeat, that resume is exact."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
import transformers
from safetensors.torch import load_file

from llmstage.cli.command import main
from llmstage.stages.prove_resume import compare, final
from llmstage.training import fault_injection

SIZE = [
    "model.num_hidden_layers=2",
    "model.hidden_size=32",
    "model.num_attention_heads=2",
    "model.intermediate_size=48",
    "model.vocab_size=320",
]
BASE = {"causal_lm": "causal_lm", "classification": "masked_lm", "masked_lm": "masked_lm"}
RUN = [
    "data.demo_rows=40", "data.context=96", "trainer.max_steps=6", "trainer.batch_size=4", "trainer.micro_batch_size=2",
    "trainer.eval_every=2", "trainer.save_every=2", "trainer.eval_rows=4", "trainer.train_rows_scored=0", "trainer.threads=1",
    "trainer.baselines=false",
]  # fmt: skip
LORA = ["adapter=lora", "adapter.rank=4", "adapter.dropout=0.1"]


@pytest.fixture(scope="module")
def base(shared_folder):
    """A pretrained model for a task."""

    def make(task: str) -> Path:
        return shared_folder(f"adapter/{BASE[task]}", lambda: pretrain(BASE[task])) / "run"

    def pretrain(task: str) -> None:
        assert main(["stage=pretrain", f"task={task}", *SIZE, *RUN, "hydra.run.dir=run"]) == 0

    return make


def words(task: str, base: Path, folder: str, *more: str) -> list[str]:
    return ["stage=finetune", f"task={task}", f"model.path={base}", *RUN, *LORA, f"hydra.run.dir={folder}", *more]


def report(folder: str) -> dict:
    return json.loads(Path(folder, "report.json").read_text(encoding="utf-8"))


def evaluated(path: str, folder: str) -> dict:
    assert main(["stage=evaluate", f"model.path={path}", "trainer.threads=1", f"hydra.run.dir={folder}"]) == 0
    return report(folder)["scores"]


@pytest.mark.parametrize("task", ["causal_lm", "classification", "masked_lm"])
def test_merged_and_unmerged_runs_repeat_their_scores(task, base, workplace, capsys):
    path = base(task)
    assert main(words(task, path, "merged")) == 0, capsys.readouterr().err
    assert " of them trained" in capsys.readouterr().err
    base_report = report("merged")
    assert 0 < base_report["train"]["plan"]["trained"] < base_report["train"]["plan"]["parameters"]
    # A frozen weight takes 4 FLOPs a token, a trained one 6; attention takes 12 * layers * width * context.
    plan, attention = base_report["train"]["plan"], 12 * 2 * 32 * 96
    per_token = 4 * plan["parameters"] + 2 * plan["trained"] + attention
    assert plan["flops"] / plan["tokens"] == pytest.approx(per_token, rel=1e-3)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {
        item.name for item in Path("merged/adapter").iterdir()
    }
    assert not any("lora" in name for name in load_file("merged/model/model.safetensors"))
    assert evaluated("merged", "again")["test"] == base_report["scores"]["test"]

    assert main(words(task, path, "apart", "adapter.merge=false")) == 0, capsys.readouterr().err
    assert not Path("apart/model").exists()
    assert load_file("apart/adapter/adapter_model.safetensors").keys() == load_file("merged/adapter/adapter_model.safetensors").keys()  # fmt: skip
    assert evaluated("apart", "again_apart")["test"] == report("apart")["scores"]["test"]
    merged_loss, separate_loss = (report(folder)["scores"]["test"]["loss"]["value"] for folder in ("merged", "apart"))
    assert merged_loss == pytest.approx(separate_loss, rel=1e-4)
    # a checkpoint is an adapter too, and a merge=false run is a base for the next one
    assert evaluated(str(final(Path("apart"))), "of_checkpoint")
    assert main(words(task, Path("apart"), "next", "trainer.max_steps=1")) == 0, capsys.readouterr().err


def test_peft_loads_the_adapter_of_a_run_on_its_base(base, workplace):
    from peft import AutoPeftModelForCausalLM

    assert main(words("causal_lm", base("causal_lm"), "run")) == 0
    theirs = AutoPeftModelForCausalLM.from_pretrained("run/adapter").eval()
    merged = transformers.AutoModelForCausalLM.from_pretrained("run/model").eval()
    ids = torch.arange(8, 40)[None]
    with torch.no_grad():
        torch.testing.assert_close(theirs(input_ids=ids).logits, merged(input_ids=ids).logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("task", ["causal_lm", "classification"])
def test_a_killed_run_ends_as_the_undisturbed_one(task, base, workplace, monkeypatch):
    monkeypatch.setenv("LLMSTAGE_ALLOW_FAULTS", "1")
    path = base(task)
    assert main(words(task, path, "whole")) == 0
    monkeypatch.setenv("LLMSTAGE_FAULT", "step:3:die")
    fault_injection.reset_faults()
    with pytest.raises(fault_injection.Killed):
        main(words(task, path, "killed"))
    monkeypatch.delenv("LLMSTAGE_FAULT")
    fault_injection.reset_faults()
    assert main(words(task, path, "killed")) == 0
    assert compare(final(Path("whole")), final(Path("killed"))) is None
    assert not any(".base_layer." in name for name in load_file(final(Path("whole")) / "model.safetensors"))


def test_what_cannot_be_is_refused_with_its_mend(base, workplace, capsys):
    assert main(["stage=finetune", "task=classification", "adapter=lora"]) == 2
    assert "random weights are not worth keeping. Give model.path=" in capsys.readouterr().err
    assert main(["stage=evaluate", "task=causal_lm", f"model.path={base('causal_lm')}", "adapter=lora"]) == 2
    assert "model.path=<run> brings its own adapter" in capsys.readouterr().err
    assert main(["stage=finetune", "task=causal_lm", f"model.path={base('causal_lm')}", "adapter.rank=4"]) == 2
    assert "adapter.rank is not read here: adapter=none trains all weights" in capsys.readouterr().err
    assert main(words("causal_lm", base("causal_lm"), "bits", "adapter.quantize=8bit", "trainer.device=cpu")) == 2
    assert "adapter.quantize=8bit needs a GPU" in capsys.readouterr().err
