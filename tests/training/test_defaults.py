"""Defaults of a run whose user sets none: budget, batch, rate and threads follow the model and the data; what the plan says."""

from __future__ import annotations

import json
import math
import random
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import yaml

from llmstage.cli.command import main
from llmstage.config import DataConfig, RunConfig, TrainerConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.errors import ModelError
from llmstage.training.checkpoint import TrainState
from llmstage.training.defaults import (
    LEARNING_RATES,
    data_size,
    examples_per_step,
    finetuning_lr,
    resolve_trainer,
    warmup_steps,
)
from llmstage.training.finalize import selection_warnings
from llmstage.training.machine import auto_threads
from llmstage.training.plan import budget_warning, plain_number
from llmstage.training.run_folder import check_same_run, config_dict


def resolved(lengths: list[int], cfg: TrainerConfig | None = None, *, text=False, negatives=False, packed=None):
    size = data_size(np.array(lengths), learns_text=text, negatives_in_batch=negatives, packed_rows=packed)
    return resolve_trainer(cfg or TrainerConfig(), size, from_scratch=False), size


def test_from_scratch_the_defaults_are_as_they_were() -> None:
    size = data_size(np.full(1200, 25), learns_text=False, negatives_in_batch=False, packed_rows=128)
    trainer = resolve_trainer(TrainerConfig(), size, from_scratch=True)
    assert (trainer.max_steps, trainer.epochs, trainer.batch_size, trainer.batch_tokens) == (900, None, None, 2048)


@pytest.mark.parametrize(
    ("examples", "batch", "epochs"), [(400, 16, 20), (1200, 16, 14), (9000, 16, 3), (30_000, 32, 3)]
)
def test_small_sets_get_more_passes_and_every_set_few_rows_a_step(examples: int, batch: int, epochs: float) -> None:
    trainer, _ = resolved([30] * examples)
    assert (trainer.batch_size, trainer.batch_tokens, trainer.max_steps, trainer.epochs) == (batch, None, None, epochs)


def test_a_step_of_packed_sentences_has_about_sixteen_of_them() -> None:
    """1,200 sentences: the batch of 2,048 tokens that was the default had 73 sentences, and 3 epochs 51 steps."""
    lengths = [int(length) for length in np.random.default_rng(0).integers(10, 46, 1200)]
    trainer, size = resolved(lengths, packed=128)
    order = BatchOrder(np.array(lengths), 0, 128, True, trainer.batch_size, None)
    assert 11 < 1200 / order.count() < 22
    assert examples_per_step(trainer, size) == pytest.approx(1200 / order.count(), rel=0.3)
    assert order.count() * (trainer.epochs or 0) > 500


def test_batches_of_text_grow_with_the_data_and_rows_that_are_negatives_are_many() -> None:
    few, _ = resolved([300] * 50, text=True, packed=512)
    many, _ = resolved([300] * 20_000, text=True, packed=512)
    long, _ = resolved([6000] * 50, text=True)
    assert (few.batch_tokens, few.epochs) == (2048, 5) and (many.batch_tokens, many.epochs) == (16384, 3)
    assert long.batch_tokens is not None and long.batch_tokens >= 6000
    assert resolved([20] * 500, negatives=True)[0].batch_size == 64


@pytest.mark.parametrize("key", ["max_steps", "epochs", "max_tokens"])
def test_what_the_user_sets_stays(key: str) -> None:
    others = {"max_steps": None, "epochs": None, "max_tokens": None}
    trainer, _ = resolved([30] * 400, replace(TrainerConfig(), **{**others, key: 7}))
    assert {name: getattr(trainer, name) for name in others} == {**others, key: 7}
    trainer, _ = resolved([30] * 400, replace(TrainerConfig(), batch_tokens=512))
    assert trainer.batch_tokens == 512 and trainer.batch_size is None
    assert trainer.epochs == 20, "400 rows of 17 to a step"
    trainer, _ = resolved([30] * 4000, replace(TrainerConfig(), batch_size=4, batch_tokens=None))
    assert trainer.batch_size == 4 and trainer.batch_tokens is None and trainer.epochs == 3


def test_rates_fall_with_size_and_adapters_take_more() -> None:
    for table in LEARNING_RATES.values():
        limits, rates, adapters = zip(*table, strict=True)
        assert list(limits) == sorted(limits) and limits[-1] == math.inf
        assert sorted(rates, reverse=True) == list(rates) and sorted(adapters, reverse=True) == list(adapters)
        assert all(adapter > rate for rate, adapter in zip(rates, adapters, strict=True))
    assert finetuning_lr("bert", 22_700_000, adapter=False) == 1e-4
    assert finetuning_lr("bert", 110_000_000, adapter=False) == 5e-5
    assert finetuning_lr("gpt", 135_000_000, adapter=False) == 1e-4
    assert finetuning_lr("gpt", 7_000_000_000, adapter=False) == 1e-5
    assert finetuning_lr("gpt", 7_000_000_000, adapter=True) == 2e-4
    assert warmup_steps(1000, from_scratch=True) == 50 and warmup_steps(1000, from_scratch=False) == 100
    assert warmup_steps(1, from_scratch=False) == 1 and warmup_steps(90_000, from_scratch=False) == 200


def test_a_checkpoint_of_the_old_defaults_goes_on_from_scratch_only() -> None:
    run = RunConfig()
    old = config_dict(run)
    old["trainer"] |= {"max_steps": 900, "batch_tokens": 2048}
    check_same_run(run, old, Path("step_000009"))
    pretrained = replace(run, model=replace(run.model, path="somewhere"))
    old["model"]["path"] = "somewhere"
    with pytest.raises(ModelError, match=r"trainer\.max_steps: 900 -> auto"):
        check_same_run(pretrained, old, Path("step_000009"))


def test_threads_obey_omp_num_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("llmstage.training.machine.available_threads", lambda: 8)
    for value, expected in (("3", 3), ("3,2", 3), ("64", 8), ("", 8), ("0", 8), ("many", 8)):
        monkeypatch.setenv("OMP_NUM_THREADS", value)
        assert auto_threads() == expected, value
    monkeypatch.delenv("OMP_NUM_THREADS")
    assert auto_threads() == 8


def test_counts_are_plain_numbers() -> None:
    assert [plain_number(value) for value in (900.0, 1234.4, 54.3, 10.0, 3.0, 2.5, 0.354)] == [
        "900", "1,234", "54", "10", "3", "2.5", "0.35",
    ]  # fmt: skip


def test_an_absurd_budget_is_warned_of_with_the_key_to_type() -> None:
    own = replace(RunConfig(), data=DataConfig(train="rows.jsonl"))
    plan = SimpleNamespace(steps=900, epochs=900.0)
    assert "trainer.epochs=3" in (budget_warning(plan, own) or "") and "900 passes" in (budget_warning(plan, own) or "")
    plan = SimpleNamespace(steps=10, epochs=0.25)
    assert "see 25% of the training rows" in (budget_warning(plan, own) or "")
    assert "trainer.epochs=1, or trainer.max_steps=40" in (budget_warning(plan, own) or "")
    assert budget_warning(SimpleNamespace(steps=90, epochs=3.0), own) is None
    assert budget_warning(SimpleNamespace(steps=900, epochs=900.0), RunConfig()) is None, "the demo world is small"


def test_a_selection_from_the_beginning_or_long_before_the_end_is_told() -> None:
    plan = SimpleNamespace(steps=100, epochs=4.0, lr=1e-3)

    def lines(**state) -> list[str]:
        return selection_warnings(TrainState(step=100, **state), plan, "f1", higher_is_better=True)

    (early,) = lines(best=0.105, best_step=4, last=0.0)
    assert "f1 0.105, is from step 4 of 100" in early and "optim.lr=0.001" in early
    (before,) = lines(best=0.3, best_step=0, last=0.2)
    assert "the last checkpoint is kept" in before
    (fallen,) = lines(best=0.6, best_step=50, last=0.4)
    assert "became 0.4 at the end" in fallen and "trainer.epochs=2" in fallen
    assert lines(best=0.6, best_step=90, last=0.58) == []
    worse = selection_warnings(
        TrainState(step=100, best=10.0, best_step=50, last=14.0), plan, "perplexity", higher_is_better=False
    )
    assert len(worse) == 1


TINY = (
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=320", "trainer.threads=1", "trainer.train_rows_scored=0", "trainer.baselines=false",
)  # fmt: skip


def test_a_pretrained_model_is_trained_by_the_size_of_the_data(tmp_path: Path, monkeypatch, capsys) -> None:
    """The plan says rows and epochs, run.yaml what was resolved, and a random head is never selected."""
    monkeypatch.chdir(tmp_path)
    draw = random.Random(0)
    words = {"good": "nice great fine", "bad": "awful broken poor"}
    lines = []
    for number in range(48):
        label = draw.choice(sorted(words))
        lines.append(f"{draw.choice(words[label].split())} thing {number},{label}")
    Path("rows.csv").write_text("text,label\n" + "\n".join(lines), encoding="utf-8")
    corpus = [" ".join(draw.choices(" ".join(lines).replace(",", " ").split(), k=30)) for _ in range(200)]
    Path("corpus.txt").write_text("\n".join(corpus), encoding="utf-8")
    pretrain = (
        "stage=pretrain",
        "task=masked_lm",
        "data.train=corpus.txt",
        "data.text_rows=line",
        "trainer.max_steps=2",
        "trainer.batch_tokens=512",
        "hydra.run.dir=base",
    )
    assert main([*pretrain, *TINY]) == 0, capsys.readouterr().err
    assert "steps see " in capsys.readouterr().err, "2 steps are less than one pass"
    finetune = ("stage=finetune", "task=classification", "data.train=rows.csv", "model.path=base/model")
    assert main([*finetune, *TINY[5:], "hydra.run.dir=run"]) == 0, capsys.readouterr().err
    err = capsys.readouterr().err
    assert "60 steps x 13 rows · 20 epochs · context 128 · lr 0.0003" in err, "39 rows are three steps of at most 16"
    steps = [line for line in Path("run/metrics.jsonl").read_text(encoding="utf-8").splitlines() if '"eval"' in line]
    report = json.loads(Path("run/report.json").read_text(encoding="utf-8"))
    assert json.loads(steps[0])["step"] == 0 and report["train"]["selected_step"] >= 6, "a tenth warms up"
    saved = yaml.safe_load(Path("run/run.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["max_steps"] == "auto" and saved["resolved"]["budget"]["epochs"] == 20
    assert saved["resolved"]["budget"]["batch_size"] == 16
