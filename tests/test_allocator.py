"""The environment a training process starts again with: once, and never against what the user has set."""

from __future__ import annotations

import ctypes.util
import os
import subprocess
import sys

import pytest

from llmstage.allocator import LIBRARIES, MARK, allocator_name, preload_environment, trains

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="allocators are chosen on Linux only")
VARIABLES = (
    MARK,
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
    "MALLOC_CONF",
    "ONEDNN_PRIMITIVE_CACHE_CAPACITY",
)


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in VARIABLES:
        monkeypatch.delenv(name, raising=False)


def test_a_library_is_preloaded_where_there_is_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: "libjemalloc.so.2" if name == LIBRARIES[-1] else None)
    extra = preload_environment()
    assert extra["LD_PRELOAD"] == "libjemalloc.so.2" and extra[MARK] == "jemalloc" and "GLIBC_TUNABLES" not in extra
    assert extra["MALLOC_CONF"].startswith("dirty_decay_ms:-1")
    monkeypatch.setenv("MALLOC_CONF", "stats_print:true")
    assert "MALLOC_CONF" not in preload_environment()


def test_else_glibc_is_tuned_and_old_tunables_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ctypes.util, "find_library", lambda name: None)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.check=0")
    assert preload_environment()["GLIBC_TUNABLES"].startswith("glibc.malloc.check=0:glibc.malloc.mmap_threshold=")


def test_it_happens_once_and_respects_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    extra = preload_environment()
    assert extra["GOMP_SPINCOUNT"] == "100000" and extra["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "9")
    assert not {"GOMP_SPINCOUNT", "ONEDNN_PRIMITIVE_CACHE_CAPACITY"} & preload_environment().keys()
    monkeypatch.setenv(MARK, "jemalloc")
    assert preload_environment() == {} and allocator_name() == "jemalloc"


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("stage=finetune task=dialogue", True),
        ("-m stage=pretrain task=causal_lm seed=1,2", True),
        ("stage=inspect task=dialogue", True),
        ("stage=evaluate model.path=outputs/latest", False),
        ("stage=pretrain,evaluate task=causal_lm -m", False),
        ("stage=finetune task=dialogue trainer.allocator=off", False),
        ("stage=finetune task=dialogue plan=plan.yaml", False),  # which may turn it off
        ("stage=finetune experiment=banking77", False),
        ("stage=finetune task=dialogue --help", False),
        ("stage=finetune task=dialogue --cfg job", False),
    ],
)
def test_a_command_line_that_plainly_trains(words: str, told: bool) -> None:
    assert trains(words.split()) is told


def test_it_starts_again_before_anything_is_imported(tmp_path) -> None:
    program = """if True:
        import os, sys
        def execve(program, words, environment):
            print(words[1:], environment["LLMSTAGE_ALLOCATOR"], {"hydra", "torch"} & set(sys.modules))
            sys.exit(0)
        os.execve = execve
        sys.argv = ["llmstage", "stage=finetune", "task=dialogue"]
        from llmstage.__main__ import entry
        entry()"""
    environment = {**os.environ, "LLMSTAGE_ENTRY": "console"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.startswith("['-m', 'llmstage', 'stage=finetune', 'task=dialogue'] "), done.stderr
    assert done.stdout.endswith(" set()\n")
