"""End a run: write report.json, report.html and the model card, update the links, print the scores."""

from __future__ import annotations

import contextlib
import os
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.evaluation.scoring import Scored, select
from llmstage.report.console_table import baseline_lines, finding_lines, score_table
from llmstage.report.files import write_json
from llmstage.report.html import write_html
from llmstage.report.model_card import write_card
from llmstage.report.thumbnails import without_pixels
from llmstage.training.checkpoint import TrainState
from llmstage.training.components import RunComponents
from llmstage.training.machine import environment
from llmstage.training.plan import Plan, plain_number
from llmstage.training.reading_notes import reading_notes

MIN_STEPS = 20
"""Steps of a run whose selection is judged; shorter ones are trials."""


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
    components: RunComponents,
    state: TrainState,
    comparison: dict[str, Any] | None,
    scored: dict[str, Scored],
    plan: Plan | None = None,
) -> list[str]:
    """Return what a reader of the report must know. `comparison`: of baselines(). `plan`: of a run that trained."""
    lines = [comparison["verdict"]] if comparison and not comparison["beaten"] else []
    if plan is not None and "validation" in scored:
        name, score = select(components.task, scored["validation"].scores)
        lines += selection_warnings(state, plan, name, higher_is_better=score.higher_is_better)
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


EARLY_SHARE, FALLEN_SHARE = 0.05, 0.1
"""A best checkpoint from the first twentieth of a run, or a last score that is a tenth worse than the best, is told."""


def selection_warnings(state: TrainState, plan: Plan, name: str, *, higher_is_better: bool) -> list[str]:
    """Return warnings about the checkpoint that validation selected: one from the very beginning, or long before the end.

    `name`: the selecting metric.
    """
    if state.best is None or state.best_step is None or state.last is None or state.step < MIN_STEPS:
        return []
    best = f"{name} {console.number(state.best)}"
    slower = f"a lower learning rate (now optim.lr={plan.lr:.2g})"
    if state.best_step <= EARLY_SHARE * plan.steps:
        selection = (
            "the last checkpoint is kept" if state.best_step == 0 else f"the model of step {state.best_step} is kept"
        )
        return [
            f"The best validation score, {best}, is from step {state.best_step} of {state.step}: training made it worse, and "
            f"{selection}. Try {slower}, and check that the labels fit the rows."
        ]
    fallen = (state.best - state.last) * (1 if higher_is_better else -1)
    if fallen > FALLEN_SHARE * abs(state.best):
        epochs = plan.epochs * state.best_step / plan.steps
        return [
            f"Validation {best} at step {state.best_step} became {console.number(state.last)} at the end; the model of step "
            f"{state.best_step} is kept. Try fewer passes (trainer.epochs={plain_number(epochs)}), or {slower}."
        ]
    return []
