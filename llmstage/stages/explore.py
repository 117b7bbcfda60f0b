"""stage=explore: each part looks at what it was given and hands its findings to one report."""

from __future__ import annotations

import time
from pathlib import Path

from llmstage import console
from llmstage.engine.machine import environment
from llmstage.engine.outcome import finish
from llmstage.engine.session import run_lock
from llmstage.errors import NotImproved
from llmstage.explore.findings import Findings
from llmstage.explore.improve import improve
from llmstage.report.files import write_json
from llmstage.schema import RunConfig
from llmstage.schema.explore import Explore


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Everything the command line asks to look at, in the order curves, ladder, slices, improvement."""
    assert isinstance(cfg.stage, Explore)
    clock = time.perf_counter()
    with run_lock(out_dir), console.logged(out_dir / "run.log"):
        write_json(out_dir / "environment.json", environment())
        parts: list[Findings] = []
        if cfg.stage.improve.enabled:
            found = improve(cfg, out_dir, about)
            parts += [found] if found else []
        report = {
            **about,
            "explore": {part.name: part.block for part in parts},
            "sentences": [line for part in parts for line in part.sentences],
            "limits": [line for part in parts for line in part.limits],
            "exhibits": [exhibit for part in parts for exhibit in part.exhibits],
        }
        finish(cfg, out_dir, report, time.perf_counter() - clock)
    refused = [part.refused for part in parts if part.refused]
    if refused:
        raise NotImproved(refused[0])
    return None
