"""Control runs: the same model without one of its inputs, trained beside the run and set beside it on the same rows.

A control is an ordinary run in a folder of its own inside the run's: it has checkpoints, is resumed and can be evaluated.
It starts when the run itself is trained and scored, so that nothing of the run depends on whether it has controls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.evaluation.eval_loop import Scored
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.scoring import score
from llmstage.training.machine import Machine
from llmstage.training.setup import RunComponents, setup_run

Train = Callable[[RunConfig, Path], dict[str, Scored]]


def train_controls(
    run: RunConfig,
    pieces: RunComponents,
    out_dir: Path,
    steps: int,
    scored: dict[str, Scored],
    split: str | None,
    train: Train,
) -> dict[str, dict[str, Score]]:
    """Train what the task names, for as many steps; what is learned from it goes into `scored[split]`. Returns the controls'
    own scores by the name under which the report shows them."""
    shown = {}
    for item in pieces.task.controls():
        console.note(f"control {item.name}: {item.about}, on the same batches, in {out_dir / item.name}")
        resume = "never" if run.trainer.resume == "never" else "auto"
        # Steps, not epochs or tokens: a row without its image has fewer tokens, and would be seen more often for them.
        trainer = replace(run.trainer, resume=resume, baselines=False, max_steps=steps, epochs=None, max_tokens=None)
        control = replace(run, task=replace(run.task, **item.keys), trainer=trainer)
        found = train(control, out_dir / item.name)
        if split in found:
            shown[f"{item.name}: {item.about}"] = compared(pieces, item.name, scored[split], found[split])
    return shown


def score_controls(
    run: RunConfig, pieces: RunComponents, machine: Machine, out_dir: Path, scored: Scored, split: str
) -> dict[str, dict[str, Score]]:
    """The same where the model was trained by a run that has controls: they are scored on the rows of this evaluation."""
    shown = {}
    for item in pieces.task.controls():
        folder = pieces.place.run_dir / item.name / "model" if pieces.place and pieces.place.run_dir else None
        if folder is None or not (folder / "config.json").is_file():
            continue
        control = replace(run, task=replace(run.task, **item.keys), model=replace(run.model, path=str(folder)))
        own = setup_run(control, out_dir / item.name, training=False, fixed={}, resume_from=None)
        model = own.build(control, machine.device, training=False)
        shown[f"{item.name}: {item.about}"] = compared(
            pieces, item.name, scored, score(control, own, model, machine, split)
        )
    return shown


def compared(pieces: RunComponents, name: str, ours: Scored, control: Scored) -> dict[str, Score]:
    """Put what the task says of the two into `ours`; the scores of the control."""
    theirs = dict(zip(control.rows, control.predictions, strict=True))
    both = [place for place, row in enumerate(ours.rows) if row in theirs]
    gains, report_items = pieces.task.contrast(
        name,
        [ours.predictions[place] for place in both],
        [theirs[ours.rows[place]] for place in both],
        [ours.refs[place] for place in both],
    )
    first = pieces.task.select
    ours.scores = {first: ours.scores[first], **gains, **ours.scores}  # beside the score that it is about
    known = {exhibit["title"]: exhibit for exhibit in report_items}
    # In their old places, so that the page reads the same with and without a control.
    kept = [known.pop(exhibit["title"], exhibit) for exhibit in ours.report_items]
    ours.report_items[:] = [*kept, *known.values()]
    return control.scores
