"""What `auto` decides, and what the keys that override it change."""

from __future__ import annotations

import json
import re
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import yaml
from transformers import LlamaConfig

from llmstage.cli.command import main
from llmstage.config import TrainerConfig
from llmstage.errors import UserError
from llmstage.kernels.enable import choose_kernels
from llmstage.training.batches import searches_micro_batch_size
from llmstage.training.loop_setup import num_workers, spike_policy
from llmstage.training.machine import Machine, fast_bf16, resolve_machine
from llmstage.training.plan import resolve_micro_batch_size

CPU, GPU = Machine(torch.device("cpu"), 2, "bf16", ""), Machine(torch.device("cuda"), 2, "bf16", "")
SMALL = [
    "stage=pretrain", "task=causal_lm", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "data.demo_rows=40", "data.context=64", "trainer.max_steps=4", "trainer.batch_size=4",
    "trainer.threads=1", "trainer.train_rows_scored=0", "trainer.eval_every=2",
]  # fmt: skip


def losses(run_dir: str) -> list[float]:
    lines = [json.loads(line) for line in Path(run_dir, "metrics.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["kind"] == "train"]


def test_kernels(compose_run) -> None:
    words = ["stage=pretrain", "task=causal_lm"]
    auto, sdpa = compose_run(words), compose_run([*words, "trainer.attention=sdpa"])
    slow = Machine(torch.device("cpu"), 2, "fp32", "")

    def chosen(run, machine, fixed=None):
        return choose_kernels(SimpleNamespace(config=LlamaConfig(vocab_size=8192)), run.trainer, machine, fixed or {})

    saved = {"checkpointing": False, "float8": "off"}
    assert chosen(auto, CPU) == {
        "attention": "products",
        "compile": False,
        "lean": True,
        "head_chunk": 2048,
        **saved,
    }
    assert chosen(auto, GPU) == {
        "attention": "documents",
        "compile": True,
        "lean": False,
        "head_chunk": 16384,
        **saved,
    }
    assert chosen(auto, slow) == {
        "attention": "sdpa",
        "compile": False,
        "lean": False,
        "head_chunk": 2048,
        **saved,
    }
    assert chosen(sdpa, CPU)["attention"] == chosen(sdpa, GPU)["attention"] == "sdpa"
    assert chosen(compose_run([*words, "trainer.compile=on"]), CPU)["compile"] is True
    assert chosen(compose_run([*words, "trainer.compile=off"]), GPU)["compile"] is False
    assert chosen(compose_run([*words, "trainer.fused_blocks=off"]), CPU)["lean"] is False
    assert chosen(compose_run([*words, "trainer.head_chunk=off"]), CPU)["head_chunk"] == 0
    assert chosen(compose_run([*words, "trainer.head_chunk=5"]), CPU)["head_chunk"] == 5
    assert chosen(compose_run([*words, "trainer.activation_checkpointing=on"]), CPU)["checkpointing"] is True
    emulated = chosen(compose_run([*words, "trainer.float8=emulated"]), CPU)
    assert emulated["float8"] == "emulated" and emulated["lean"] is False, "its layers are not plain ones"
    saved = {
        "attention": "sdpa", "compile": True, "lean": False, "head_chunk": 3, "checkpointing": True, "float8": "off",
    }  # fmt: skip
    assert chosen(auto, CPU, saved) == saved, "a resumed run keeps it"


def test_machine_words() -> None:
    assert resolve_machine(TrainerConfig(precision="bf16")).precision == "bf16"
    assert resolve_machine(TrainerConfig(threads=1)).threads == 1
    assert resolve_machine(TrainerConfig(threads=1), {"threads": 7, "precision": "fp32"}).threads == 7
    with pytest.raises(UserError, match="needs a GPU"):
        resolve_machine(TrainerConfig(precision="fp16", device="cpu"))
    with pytest.raises(UserError, match="is no device"):
        resolve_machine(TrainerConfig(device="tpu9"))


def test_policies(compose_run) -> None:
    words = ["stage=pretrain", "task=causal_lm"]
    assert (
        spike_policy(compose_run(words)) == "skip"
        and spike_policy(compose_run(["stage=finetune", "task=dialogue"])) == "warn"
    )
    assert spike_policy(compose_run([*words, "trainer.spike=rollback"])) == "rollback"
    assert num_workers(compose_run(words), CPU) == 0 and num_workers(compose_run(words), GPU) == 2
    assert num_workers(compose_run([*words, "trainer.workers=3"]), CPU) == 3
    assert resolve_micro_batch_size(compose_run([*words, "trainer.micro_batch_size=3"]), CPU, 8, 256.0) == 3
    assert resolve_micro_batch_size(compose_run(words), CPU, 64, 256.0) == 16
    tries = [searches_micro_batch_size(compose_run(words), machine, {}, additive=True) for machine in (CPU, GPU)]
    assert tries == [False, True], "only a GPU is tried out"
    assert not searches_micro_batch_size(compose_run(words), GPU, {"micro_batch_size": 4}, additive=True), (
        "a resumed run keeps it"
    )
    assert not searches_micro_batch_size(compose_run([*words, "trainer.micro_batch_size=2"]), GPU, {}, additive=True)


def test_keys_change_the_run(workplace: Path) -> None:
    assert main([*SMALL, "hydra.run.dir=plain"]) == 0
    for word in (
        "trainer.attention=sdpa",
        "trainer.packing=off",
        "seed=7",
        "optim.schedule=constant",
        "data.context=48",
        "trainer.precision=fp32" if fast_bf16(torch.device("cpu")) else "trainer.precision=bf16",
    ):
        if (
            word == "trainer.attention=sdpa"
            and yaml.safe_load(Path("plain/run.yaml").read_text())["resolved"]["precision"] != "bf16"
        ):
            continue  # without fast bf16 it is sdpa anyway
        words = [item for item in SMALL if item.partition("=")[0] != word.partition("=")[0]]
        assert main([*words, word, "hydra.run.dir=other"]) == 0 or word
        assert losses("other") != losses("plain"), word
        (Path("other") / "metrics.jsonl").unlink()
        for folder in Path("other/checkpoints").iterdir():
            for file in folder.iterdir():
                file.unlink()
            folder.rmdir()


def test_a_run_folder_explains_itself(workplace: Path) -> None:
    assert main([*SMALL, "hydra.run.dir=run"]) == 0
    run = Path("run")
    names = {path.name for path in run.iterdir()}
    assert names >= {
        ".hydra",
        "run.yaml",
        "run.log",
        "metrics.jsonl",
        "environment.json",
        "checkpoints",
        "model",
        "report.json",
        "report.html",
        "predictions.jsonl",
    }
    resolved = yaml.safe_load((run / "run.yaml").read_text())["resolved"]
    assert resolved["steps"] == 4 and resolved["threads"] == 1 and resolved["context"] == 64
    report = json.loads((run / "report.json").read_text())
    assert report["status"] == "completed" and report["command"].startswith("llmstage stage=pretrain")
    assert report["data"]["splits"]["train"]["rows"] == 40
    ledger = report["data"]["splits"]["train"]
    assert ledger["tokens"] == ledger["target_tokens"] + ledger["masked_tokens"]
    assert {path.name for path in (run / "model").iterdir()} >= {
        "config.json",
        "model.safetensors",
        "tokenizer.json",
        "README.md",
    }
    assert Path("outputs/latest").resolve() == run.resolve() == Path("outputs/pretrain/latest").resolve()


def test_evaluation_rows_and_cadence(workplace: Path) -> None:
    assert (
        main(
            [
                *SMALL,
                "trainer.eval_every=1",
                "trainer.eval_rows=2",
                "trainer.save_every=4",
                "trainer.save_total_limit=2",
                "hydra.run.dir=run",
            ]
        )
        == 0
    )
    lines = [json.loads(line) for line in Path("run/metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["kind"] == "eval"] == [0, 1, 2, 3, 4]
    assert "train" not in json.loads(Path("run/report.json").read_text())["scores"]
    assert len(list(Path("run/checkpoints").iterdir())) <= 3


@pytest.mark.parametrize("rows", [0, 5])
def test_a_run_with_nothing_but_training_rows(rows: int, workplace: Path) -> None:
    Path("corpus.txt").write_text("\n\n".join(f"paragraph {number} about something or other" for number in range(2000)))
    words = [word for word in SMALL if not word.startswith(("data.demo", "trainer.train_rows"))]
    cut = ["data.split.validation=0", "data.split.test=0", "data.cache=off", f"trainer.train_rows_scored={rows}"]
    assert main([*words, "data.train=corpus.txt", *cut, "hydra.run.dir=run"]) == 0
    scores = json.loads(Path("run/report.json").read_text())["scores"]
    assert set(scores) == ({"train"} if rows else set())


def test_activations_computed_again_change_memory_and_not_the_run(
    workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also what the progress line says of the machine's use."""
    assert main([*SMALL, "hydra.run.dir=plain", "trainer.log_every=1"]) == 0
    plain = capsys.readouterr().err
    assert main([*SMALL, "hydra.run.dir=again", "trainer.activation_checkpointing=on"]) == 0
    output = capsys.readouterr().err
    assert "activations recomputed" in output and "activations recomputed" not in plain
    assert losses("plain") == losses("again")
    steps = [line for line in plain.splitlines() if line.startswith("step ") and " loss " in line]
    assert len(steps) == 4 and all(re.search(r"mfu \d+%  memory \d+\.\d GiB", line) for line in steps)
    first = json.loads(Path("plain/metrics.jsonl").read_text().splitlines()[1])
    report = json.loads(Path("plain/report.json").read_text())["train"]
    flops = report["plan"]["flops"] / report["plan"]["tokens"]
    rate = first["tokens_per_second"] * flops / first["mfu"]
    assert 1e8 < rate < 1e16 and first["peak_memory_bytes"] > 2**26
    planned = [
        json.loads(Path(name, "report.json").read_text())["predicted"]["memory_bytes"] for name in ("plain", "again")
    ]
    assert planned[1] <= planned[0]
