"""The end of a run: report.json, report.html, model card, links, and the table on the terminal."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.report.console_table import baseline_lines, finding_lines, score_table
from llmstage.report.files import write_json
from llmstage.report.html import write_html
from llmstage.report.model_card import write_card
from llmstage.report.thumbnails import without_pixels
from llmstage.training.machine import environment


def finish(run: RunConfig, out_dir: Path, report: dict[str, Any], seconds: float, *, main: bool = True) -> None:
    """Write and show what came of a run that was completed. `main`: it is no control, so it is what outputs/latest names."""
    whole = {
        "status": "completed",
        "stage": run.stage.name,
        "task": run.task.name,
        "seed": run.seed,
        "seconds": seconds,
        "run_dir": str(out_dir.resolve()),
        **environment(),
        **report,
    }
    write_json(out_dir / "report.json", without_pixels(whole))
    page = write_html(out_dir, whole)
    if (out_dir / "model").is_dir():
        write_card(out_dir / "model", whole)
    if not main:
        console.note(f"done in {console.duration(seconds)}; its own report: {page}")
        return
    link_latest(out_dir, run.stage.name)
    if "sentences" in whole:
        console.result(*finding_lines(whole))
    if whole.get("scores") or "sentences" not in whole:
        console.result(score_table(whole))
        console.result(*baseline_lines(whole))
    for line in whole.get("warnings", []):
        console.warn(line)
    console.result(f"report: {page}", *([f"model:  {out_dir / 'model'}"] if (out_dir / "model").is_dir() else []))
    console.note(f"done in {console.duration(seconds)}")


def link_latest(out_dir: Path, stage: str) -> None:
    """outputs/latest and outputs/<stage>/latest point to the newest run; best effort, a link is no result."""
    root = Path("outputs")
    for link in (root / "latest", root / stage / "latest"):
        with contextlib.suppress(OSError):
            link.parent.mkdir(parents=True, exist_ok=True)
            draft = link.with_name(f".latest-{os.getpid()}")
            draft.unlink(missing_ok=True)
            draft.symlink_to(os.path.relpath(out_dir.resolve(), link.parent.resolve()), target_is_directory=True)
            draft.replace(link)
