"""A run that is killed and started again ends as the run that was never disturbed, bit for bit; a cold start does not."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
from processes import Running

from llmstage.cli.command import main
from llmstage.errors import UserError
from llmstage.paths import options
from llmstage.stages.prove_resume import compare, final
from llmstage.training import checkpoint, fault_injection, loop
from llmstage.training.checkpoint import list_checkpoints
from llmstage.training.session import run_lock

STEPS = 9
SMALL = [
    "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=320", "model.dropout=0.1",
    "data.demo_rows=40", "data.context=96", f"trainer.max_steps={STEPS}", "trainer.batch_size=4", "trainer.micro_batch_size=2",
    "trainer.eval_every=2", "trainer.save_every=2", "trainer.eval_rows=4", "trainer.train_rows_scored=0", "trainer.threads=1",
    "optim.lr=3e-3", "data.max_lost=1", "trainer.baselines=false",
]  # fmt: skip


WRITES = ("dialogue", "translation", "summarization", "captioning")

pytestmark = pytest.mark.usefixtures("fault_dir")


def words(task: str, run_dir: str, *more: str) -> list[str]:
    stage = "pretrain" if task == "causal_lm" else "finetune"
    few = ["generation.max_new_tokens=4"] if task in WRITES else []
    return [f"stage={stage}", f"task={task}", *SMALL, *few, f"hydra.run.dir={run_dir}", *more]


def run(task: str, run_dir: str, *more: str) -> Path:
    assert main(words(task, run_dir, *more)) == 0
    return final(Path(run_dir))


def killed(monkeypatch: pytest.MonkeyPatch, task: str, run_dir: str, point: str, *more: str) -> None:
    fault_injection.reset_faults()
    monkeypatch.setenv("LLMSTAGE_FAULT", f"{point}:die")
    with pytest.raises(fault_injection.Killed):
        main(words(task, run_dir, *more))
    monkeypatch.delenv("LLMSTAGE_FAULT")
    fault_injection.reset_faults()


SAVING = ("trainer.save_total_limit=2", "trainer.save_every=1", "trainer.eval_every=0")


@pytest.fixture(scope="module")
def lm(shared_folder: Callable[..., Path]) -> Path:
    """Runs of a language model: `whole`; `killed`, after step 5; `saving`, one that saves after each step."""

    def make() -> None:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("LLMSTAGE_ALLOW_FAULTS", "1")
            run("causal_lm", "whole")
            run("causal_lm", "saving", *SAVING)
            killed(patch, "causal_lm", "killed", "step:5")

    return shared_folder("resume", make)


@pytest.mark.parametrize("task", options("task"))
def test_a_killed_run_ends_as_the_undisturbed_one(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(task, "whole")
    # Three times in one run: before its first checkpoint, after step 5, and after step 8 (each counts from where it goes on).
    for kill in (1, 5, 4):
        killed(monkeypatch, task, "killed", f"step:{kill}")
    assert compare(undisturbed, run(task, "killed")) is None


@pytest.mark.parametrize("task", ["causal_lm", "masked_lm"])
def test_workers_do_not_change_a_bit(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    undisturbed = run(task, "whole")
    assert compare(undisturbed, run(task, "with_workers", "trainer.workers=2")) is None
    killed(monkeypatch, task, "killed", "step:5", "trainer.workers=2")
    assert compare(undisturbed, run(task, "killed", "trainer.workers=0")) is None


@pytest.mark.parametrize("point", ["checkpoint_files:2", "before_rename:2", "after_rename:2", "before_delete:1"])
def test_death_while_saving_loses_nothing(point: str, lm: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    killed(monkeypatch, "causal_lm", "killed", point, *SAVING)
    assert compare(final(lm / "saving"), run("causal_lm", "killed", *SAVING)) is None
    assert not list(Path("killed/checkpoints").glob(".*")), "drafts of dead processes are removed"


def test_a_real_sigkill(lm: Path, start_command: Callable[..., Running]) -> None:
    running = start_command(words("causal_lm", "killed"), env={**os.environ, "LLMSTAGE_FAULT": "step:5:kill"})
    assert running.wait() == -signal.SIGKILL
    assert compare(final(lm / "whole"), run("causal_lm", "killed")) is None


def forget_rng(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "restore_rng", lambda states: None)


def forget_optimizer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checkpoint, "restore_optimizer", lambda *parts: None)


def forget_position(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "batch_keys", lambda order, epoch, batch, excluded: BATCH_KEYS(order, 0, 0, set()))


BATCH_KEYS = loop.batch_keys


@pytest.mark.parametrize("forget", [forget_rng, forget_optimizer, forget_position])
def test_the_comparison_sees_a_part_that_is_not_restored(
    forget: Callable[[pytest.MonkeyPatch], None], lm: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copytree(lm / "killed", "killed")
    forget(monkeypatch)
    assert compare(final(lm / "whole"), run("causal_lm", "killed")) is not None


def test_a_cold_start_gives_other_weights(lm: Path) -> None:
    undisturbed = final(lm / "whole")
    first = list_checkpoints(undisturbed.parent)[-1]
    size = [word for word in SMALL if not word.startswith(("model.", "trainer.max_steps"))]
    command = [
        "stage=pretrain",
        "task=causal_lm",
        *size,
        "model.dropout=0.1",
        f"model.path={first}",
        "hydra.run.dir=cold",
    ]
    assert main([*command, f"trainer.max_steps={STEPS - int(first.name[5:])}"]) == 0
    difference = compare(undisturbed, final(Path("cold")))
    assert difference is not None and difference.part == "model.safetensors"


def test_resume_refuses_another_config(lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copytree(lm / "killed", "killed")
    assert main(words("causal_lm", "killed", "optim.weight_decay=0.5", "seed=3")) == 4
    output = capsys.readouterr().err
    assert "optim.weight_decay: 0.1 -> 0.5" in output and "seed: 0 -> 3" in output


def test_resume_refuses_edited_data(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [f"line {number} of a small corpus, long enough to be cut into rows of tokens\n" for number in range(400)]
    Path("corpus.txt").write_text("".join(lines))
    more = ("data.train=corpus.txt", "data.cache=off")
    size = [word for word in words("causal_lm", "killed") if not word.startswith("data.demo")]
    monkeypatch.setenv("LLMSTAGE_FAULT", "step:5:die")
    with pytest.raises(fault_injection.Killed):
        main([*size, *more])
    monkeypatch.delenv("LLMSTAGE_FAULT")
    Path("corpus.txt").write_text("".join([lines[1], lines[0], *lines[2:]]))  # the same size
    assert main([*size, *more]) == 4
    assert "data has changed" in capsys.readouterr().err


def test_signal_saves_and_the_same_command_goes_on(
    lm: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("LLMSTAGE_FAULT", "step:3:term")
    fault_injection.reset_faults()
    assert main(words("causal_lm", "stopped")) == 75
    monkeypatch.delenv("LLMSTAGE_FAULT")
    assert final(Path("stopped")).name == "step_000003", (
        "saved at the step that was in progress, not at the last cadence"
    )
    assert '"interrupted"' in Path("stopped/report.json").read_text()
    assert compare(final(lm / "whole"), run("causal_lm", "stopped")) is None
    assert "resumed from step 3" in capsys.readouterr().err


def test_never_begins_again_and_keeps_the_old_checkpoints_aside(lm: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copytree(lm / "whole", "again")
    first = final(Path("again"))
    assert first == run("causal_lm", "again", "trainer.resume=never", "seed=3")
    assert "resumed from" not in capsys.readouterr().err
    assert compare(first, Path("again/checkpoints.old1") / first.name) is not None
    assert main(words("causal_lm", "again", "seed=3")) == 0, "what a later resume finds is the new run"


def test_a_run_folder_has_one_owner() -> None:
    code = "from pathlib import Path; from llmstage.training.session import run_lock; import sys\n"
    code += "with run_lock(Path('mine')): print('held', flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as owner:
        assert owner.stdout is not None and owner.stdout.readline() == b"held\n"
        with pytest.raises(UserError, match=f"in use by process {owner.pid}"), run_lock(Path("mine")):
            pass
        owner.kill()
    with run_lock(Path("mine")):
        pass  # a killed owner holds nothing
