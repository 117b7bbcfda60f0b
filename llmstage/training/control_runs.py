"""Control runs: the same model without one of its inputs, trained after the run and compared with it on the same rows.

A control is an ordinary run in a folder inside that of the main run: it has checkpoints, is resumed and can be evaluated.
It starts when the main run is trained and saved, so that nothing of the main run depends on whether it has controls.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from llmstage import console
from llmstage.config import RunConfig
from llmstage.evaluation.metrics.score import Score
from llmstage.evaluation.scoring import Scored, score
from llmstage.training.components import RunComponents
from llmstage.training.machine import Machine
from llmstage.training.setup import setup_run

Train = Callable[[RunConfig, Path], dict[str, Scored]]
ControlScores = dict[str, dict[str, Score]]
"""The scores of each control by the name under which the report shows them."""


def train_controls(
    run: RunConfig,
    components: RunComponents,
    out_dir: Path,
    steps: int,
    scored: dict[str, Scored],
    split: str | None,
    train: Train,
) -> ControlScores:
    """Train the controls of the task for `steps` steps; return their scores on `split`.

    What the comparison adds, such as the gain by an input, goes into `scored[split]`.
    """
    controls: ControlScores = {}
    for control in components.task.controls():
        folder = out_dir / control.name
        console.note(f"control {control.name}: {control.description}, on the same batches, in {folder}")
        resume = "never" if run.trainer.resume == "never" else "auto"
        # Steps, not epochs or tokens: a row without its image has fewer tokens, so that more rows would fit the budget.
        trainer = replace(run.trainer, resume=resume, baselines=False, max_steps=steps, epochs=None, max_tokens=None)
        control_run = replace(run, task=replace(run.task, **control.keys), trainer=trainer)
        results = train(control_run, folder)
        if split in results:
            title = f"{control.name}: {control.description}"
            controls[title] = compare_with_control(components, control.name, scored[split], results[split])
    return controls


def score_controls(
    run: RunConfig, components: RunComponents, machine: Machine, out_dir: Path, scored: Scored, split: str
) -> ControlScores:
    """Score the controls that were trained with the model, on the rows of this evaluation; as train_controls() otherwise."""
    controls: ControlScores = {}
    run_dir = components.model_source.run_dir if components.model_source else None
    for control in components.task.controls():
        folder = run_dir / control.name / "model" if run_dir else None
        if folder is None or not (folder / "config.json").is_file():
            continue
        control_run = replace(run, task=replace(run.task, **control.keys), model=replace(run.model, path=str(folder)))
        control_components = setup_run(control_run, out_dir / control.name, training=False)
        model = control_components.build(control_run, machine.device, training=False)
        result = score(control_run, control_components, model, machine, split)
        controls[f"{control.name}: {control.description}"] = compare_with_control(
            components, control.name, scored, result
        )
    return controls


def compare_with_control(components: RunComponents, name: str, main: Scored, control: Scored) -> dict[str, Score]:
    """Add to `main` the scores and report items of its comparison with a control; return the scores of the control."""
    control_predictions = dict(zip(control.rows, control.predictions, strict=True))
    shared = [index for index, row in enumerate(main.rows) if row in control_predictions]
    gains, report_items = components.task.compare_with_control(
        name,
        [main.predictions[index] for index in shared],
        [control_predictions[main.rows[index]] for index in shared],
        [main.refs[index] for index in shared],
    )
    select = components.task.select
    main.scores = {
        select: main.scores[select],
        **gains,
        **main.scores,
    }  # the gains directly after what they are gains of
    # An item replaces the one of its title in its position, so that the report has one layout with and without controls.
    new_items = {item["title"]: item for item in report_items}
    items = [new_items.pop(item["title"], item) for item in main.report_items]
    main.report_items[:] = [*items, *new_items.values()]
    return control.scores
