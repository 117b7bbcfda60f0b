"""Rows 4 to 9 and 11 of the fault matrix: damage is seen, named, and passed over; nothing whole is lost."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from llmstage.errors import DiskError, ModelError
from llmstage.training import fault_injection
from llmstage.training.checkpoint import (
    REQUIRED,
    Checkpoints,
    TrainState,
    find_checkpoint,
    list_checkpoints,
    load_tensors,
    read_state,
    why_invalid,
)


@pytest.fixture
def training_parts(tmp_path: Path) -> tuple[Checkpoints, torch.nn.Module, torch.optim.Optimizer]:
    from safetensors.torch import save_file

    model = torch.nn.Linear(4, 4)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)

    def save_model(folder: Path) -> None:
        save_file(
            {name: value.contiguous() for name, value in model.state_dict().items()}, folder / "model.safetensors"
        )

    return Checkpoints(tmp_path, 2, save_model, {"config": {}, "resolved": {}}), model, optimizer


def save_steps(
    training_parts: tuple[Checkpoints, torch.nn.Module, torch.optim.Optimizer], steps: range, best: int | None = None
) -> None:
    checkpoints, model, optimizer = training_parts
    for step in steps:
        model(torch.ones(1, 4) * step).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
        checkpoints.save(TrainState(step=step, best_step=best), optimizer, model)


def truncate(path: Path) -> None:
    os.truncate(path, path.stat().st_size // 2)


def flip_a_bit(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)


def remove(path: Path) -> None:
    path.unlink()


@pytest.mark.parametrize("damage", [truncate, flip_a_bit, remove])
@pytest.mark.parametrize("name", [*REQUIRED, "MANIFEST.json"])
def test_a_damaged_file_makes_the_older_checkpoint_the_one(
    name: str, damage: Callable[[Path], None], training_parts, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    save_steps(training_parts, range(1, 3))
    damage(tmp_path / "checkpoints" / "step_000002" / name)
    checkpoint = find_checkpoint(tmp_path, "auto")
    if name == "MANIFEST.json" and damage is flip_a_bit:  # a flipped bit of JSON white space or of a digit
        assert checkpoint is not None
        return
    assert checkpoint is not None and checkpoint.name == "step_000001"
    warnings = capsys.readouterr().err
    assert "step_000002" in warnings and name in warnings and warnings.count("warning") == 1


def test_when_all_are_damaged_nothing_is_deleted_and_each_reason_is_given(training_parts, tmp_path: Path) -> None:
    save_steps(training_parts, range(1, 3))
    for folder in list_checkpoints(tmp_path / "checkpoints"):
        remove(folder / "optimizer.safetensors")
    with pytest.raises(ModelError, match=r"step_000002: optimizer.*step_000001: optimizer"):
        find_checkpoint(tmp_path, "auto")
    assert len(list_checkpoints(tmp_path / "checkpoints")) == 2


def test_no_checkpoint_is_a_fresh_start_and_a_named_one_never_falls_back(training_parts, tmp_path: Path) -> None:
    assert find_checkpoint(tmp_path, "auto") is None
    save_steps(training_parts, range(1, 3))
    assert find_checkpoint(tmp_path, "never") is None
    newest = tmp_path / "checkpoints" / "step_000002"
    remove(newest / "rng.safetensors")
    with pytest.raises(ModelError, match=r"rng\.safetensors is missing"):
        find_checkpoint(tmp_path, str(newest))


def test_retention_keeps_newest_best_and_the_one_resumed_from(training_parts, tmp_path: Path) -> None:
    training_parts[0].resumed_from = tmp_path / "checkpoints" / "step_000003"
    save_steps(training_parts, range(1, 10), best=2)
    names = [folder.name for folder in list_checkpoints(tmp_path / "checkpoints")]
    assert names == ["step_000009", "step_000008", "step_000003", "step_000002"]
    assert all(why_invalid(tmp_path / "checkpoints" / name) is None for name in names)


def test_tensors_and_state_come_back_bit_for_bit(training_parts, tmp_path: Path) -> None:
    checkpoints, model, optimizer = training_parts
    save_steps(training_parts, range(1, 4))
    weights = {name: value.clone() for name, value in model.state_dict().items()}
    moments = [{k: v.clone() for k, v in optimizer.state[p].items()} for p in model.parameters()]
    folder = checkpoints.save(TrainState(step=4, losses=[0.1 + 0.2]), optimizer, model)
    after = torch.rand(3)
    save_steps(training_parts, range(5, 6))
    assert not torch.equal(weights["weight"], model.state_dict()["weight"])
    load_tensors(folder, model, optimizer)
    assert all(torch.equal(weights[name], value) for name, value in model.state_dict().items())
    back = [optimizer.state[p] for p in model.parameters()]
    assert all(torch.equal(a[k], b[k]) for a, b in zip(moments, back, strict=True) for k in a)
    assert torch.equal(torch.rand(3), after)
    assert read_state(folder)[0].losses == [0.1 + 0.2]


def test_drafts_of_dead_processes_go_and_of_living_ones_stay(training_parts, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoints"
    for name in (".tmp-step_000001-999999999", ".trash-step_000001-999999999", f".tmp-step_000002-{os.getppid()}"):
        (folder / name).mkdir(parents=True)
    training_parts[0].clean()
    assert [path.name for path in folder.iterdir()] == [f".tmp-step_000002-{os.getppid()}"]


def test_a_full_disk_keeps_the_old_one_goes_on_and_gives_up_at_the_third(
    training_parts, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_steps(training_parts, range(1, 2))
    monkeypatch.setenv("LLMSTAGE_ALLOW_FAULTS", "1")
    monkeypatch.setenv("LLMSTAGE_FAULT", "checkpoint_files:1-3:enospc")
    fault_injection.reset_faults()
    save_steps(training_parts, range(2, 4))
    assert "training goes on" in capsys.readouterr().err
    with pytest.raises(DiskError, match="Free space"):
        save_steps(training_parts, range(4, 5))
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step_000001"]


def test_files_are_readable_by_others_and_listed_with_their_hash(training_parts, tmp_path: Path) -> None:
    save_steps(training_parts, range(1, 2))
    folder = tmp_path / "checkpoints" / "step_000001"
    manifest = json.loads((folder / "MANIFEST.json").read_text())
    assert set(manifest["files"]) == {*REQUIRED}
    assert all((folder / name).stat().st_mode & 0o044 for name in REQUIRED)
    assert not list(folder.glob("*.pt")) and not list(folder.glob("*.pkl"))


def test_a_copied_checkpoint_is_as_good(training_parts, tmp_path: Path) -> None:
    save_steps(training_parts, range(1, 2))
    shutil.copytree(tmp_path / "checkpoints" / "step_000001", tmp_path / "elsewhere" / "step_000001")
    assert find_checkpoint(tmp_path, str(tmp_path / "elsewhere" / "step_000001")) is not None
