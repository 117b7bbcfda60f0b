"""The environment a training process starts again with: once, and never against what the user has set."""

from __future__ import annotations

import ctypes.util
import sys

import pytest

from llmstage.allocator import LIBRARIES, MARK, allocator_name, preload_environment

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="allocators are chosen on Linux only")
VARIABLES = (
    MARK,
    "LD_PRELOAD",
    "GLIBC_TUNABLES",
    "OMP_WAIT_POLICY",
    "GOMP_SPINCOUNT",
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
