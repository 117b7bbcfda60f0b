"""End a run: write report.json, report.html and the model card, update the links, print the scores."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.evaluation.scoring import Scored
from llmstage.report.console_table import baseline_lines, finding_lines, score_table
from llmstage.report.files import write_json
from llmstage.report.html import write_html
from llmstage.report.model_card import write_card
from llmstage.report.thumbnails import without_pixels
from llmstage.training.checkpoint import TrainState
from llmstage.training.components import RunComponents
from llmstage.training.machine import environment
from llmstage.training.reading_notes import reading_notes


def finish(
    run: RunConfig, out_dir: Path, report: dict[str, Any], seconds: float, *, updates_latest: bool = True
) -> None:
    """Write the report of a completed run. `updates_latest`: print its scores too, and let outputs/latest name it."""
    full_report = {
        "status": "completed",
        "stage": run.stage.name,
        "task": run.task.name,
        "seed": run.seed,
        "seconds": seconds,
        "run_dir": str(out_dir.resolve()),
        **environment(),
        **report,
    }
    write_json(out_dir / "report.json", without_pixels(full_report))
    page = write_html(out_dir, full_report)
    if (out_dir / "model").is_dir():
        write_card(out_dir / "model", full_report)
    if not updates_latest:
        console.note(f"done in {console.duration(seconds)}; its own report: {page}")
        return
    link_latest(out_dir, run.stage.name)
    if "sentences" in full_report:
        console.result(*finding_lines(full_report))
    if full_report.get("scores") or "sentences" not in full_report:
        console.result(score_table(full_report))
        console.result(*baseline_lines(full_report))
    verdict = (full_report.get("baselines") or {}).get("verdict")  # the lines of the baselines end with it
    for line in full_report.get("warnings", []):
        if line != verdict:
            console.warn(line)
    console.result(f"report: {page}", *([f"model:  {out_dir / 'model'}"] if (out_dir / "model").is_dir() else []))
    console.note(f"done in {console.duration(seconds)}")


def link_latest(out_dir: Path, stage: str) -> None:
    """Let outputs/latest and outputs/<stage>/latest name this run. Where links cannot be written, there are none."""
    root = Path("outputs")
    for link in (root / "latest", root / stage / "latest"):
        with contextlib.suppress(OSError):
            link.parent.mkdir(parents=True, exist_ok=True)
            draft = link.with_name(f".latest-{os.getpid()}")
            draft.unlink(missing_ok=True)
            draft.symlink_to(os.path.relpath(out_dir.resolve(), link.parent.resolve()), target_is_directory=True)
            draft.replace(link)


def warnings(
    components: RunComponents, state: TrainState, comparison: dict[str, Any] | None, scored: dict[str, Scored]
) -> list[str]:
    """Return what a reader of the report must know. `comparison`: of baselines()."""
    lines = [comparison["verdict"]] if comparison and not comparison["beaten"] else []
    lines += components.leaks.warnings
    lines += dict.fromkeys(note for source in components.sources.values() for note in source.notes)
    lines += reading_notes(components)
    if state.skipped:
        lines.append(f"{state.skipped} of {state.step} steps were skipped: loss or gradient not finite, or a spike.")
    for split, store in components.stores.items():
        if store.ledger.lost_targets:
            lines.append(
                f"{split}: {store.ledger.lost_targets} target tokens ({store.ledger.lost_target_share:.2%}) were cut, {store.ledger.lost_ends} answers lost their end."
            )
    for split, result in scored.items():
        lines += [f"{split}: {line}" for line in components.task.warnings(result.predictions, result.refs)]
    return lines
