"""What tests of runs that are killed or poisoned share."""

from __future__ import annotations

from pathlib import Path

import pytest

from llmstage.training import fault_injection


@pytest.fixture
def fault_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An empty folder to run in, where LLMSTAGE_FAULT may name a fault and none is set yet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("LLMSTAGE_ALLOW_FAULTS", "1")
    monkeypatch.delenv("LLMSTAGE_FAULT", raising=False)
    fault_injection.reset_faults()
