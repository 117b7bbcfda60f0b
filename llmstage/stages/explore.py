"""stage=explore: run each part that the config asks for, and write one report of their findings."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import TYPE_CHECKING

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.config.explore_slices import asks_questions
from llmstage.errors import DataError, NotImproved
from llmstage.explore.findings import Findings
from llmstage.explore.wording import current_language, report_language, speaking
from llmstage.paths import locate_model
from llmstage.report.files import write_json
from llmstage.training.finalize import finish
from llmstage.training.machine import Machine, environment, resolve_machine, scoring_precision
from llmstage.training.run_folder import resolve_model_path, write_run_yaml
from llmstage.training.session import run_lock, session

if TYPE_CHECKING:
    from llmstage.training.components import RunComponents


def run(cfg: RunConfig, out_dir: Path, about: dict[str, str]) -> float | None:
    """Run the parts that the config asks for and write their report.

    Raises NotImproved where the guard refuses an improvement, and DataError where no part could measure anything.
    """
    clock = time.perf_counter()
    cfg = resolve_model_path(cfg)
    with run_lock(out_dir), console.logged(out_dir / "run.log"), speaking(report_language_of(cfg)):
        write_json(out_dir / "environment.json", environment())
        parts = run_parts(cfg, out_dir, about, resolve_machine(cfg.trainer))
        report = {
            **about,
            "explore": {part.name: part.block for part in parts},
            "sentences": [line for part in parts for line in part.sentences],
            "limits": [line for part in parts for line in part.limits],
            "language": current_language(),
            "heading": heading(cfg),
            "exhibits": [item for part in parts for item in part.report_items],
        }
        finish(cfg, out_dir, report, time.perf_counter() - clock)
    # The report is written in any case; the exit status says what went wrong.
    refused = [part.refused for part in parts if part.refused]
    if refused:
        raise NotImproved(refused[0])
    measured = [part for part in parts if part.name != "reduction"]  # reduction explains other measurements
    unmeasured = [part.unmeasured for part in measured if part.unmeasured]
    if unmeasured and len(unmeasured) == len(measured):
        raise DataError("\n".join(unmeasured))
    return None


def run_parts(cfg: RunConfig, out_dir: Path, about: dict[str, str], machine: Machine) -> list[Findings]:
    """Run the parts in a fixed order: curves, toy worlds, ladder, probes or rows, improvement.

    Each part is imported where it runs: a table of scores needs no transformers.
    """
    stage = cfg.stage
    assert isinstance(stage, Explore)
    parts: list[Findings] = []
    components: RunComponents | None = None
    if stage.curves:
        from llmstage.research.curve_report import explore_curves

        parts.append(explore_curves(stage, out_dir, cfg.seed))
    with session(cfg.seed, machine.threads, deterministic=cfg.trainer.deterministic):
        if stage.toy_worlds.kind != "none":
            from llmstage.research.toy_worlds import explore_toy_worlds

            parts.append(explore_toy_worlds(stage.toy_worlds, cfg.seed))
        if stage.ladder.given:
            from llmstage.research.ladder import explore_ladder

            parts.append(explore_ladder(cfg, out_dir, machine, about))
        if asks_questions(cfg) and cfg.model.path:
            parts += explore_probes(cfg, out_dir, machine)
        elif cfg.model.path and cfg.task.name:
            row_findings, components = explore_rows(cfg, out_dir, machine)
            parts += row_findings
    # Improvement trains models in sessions of their own.
    if stage.improve.enabled:
        from llmstage.explore.improve import improve

        improvement = improve(cfg, out_dir, about, components)
        parts += [improvement] if improvement else []
    return parts


def explore_probes(cfg: RunConfig, out_dir: Path, machine: Machine) -> list[Findings]:
    """Probe the model, and reduce the families in which it is above chance to their parts."""
    from llmstage.explore.probing import probe
    from llmstage.research.reduction import reduce_model

    probing = probe(cfg, out_dir, machine)
    above_chance = {cell["family"].partition(".")[0] for cell in probing.block["cells"] if cell["above_chance"]}
    return [probing, reduce_model(cfg, machine, above_chance)]


def report_language_of(cfg: RunConfig) -> str:
    """Return the language of the report, before any part runs. With auto it follows the names in the data: columns,
    classes of the model, models and scores of a table."""
    stage = cfg.stage
    assert isinstance(stage, Explore)
    language = stage.report.language
    if language != "auto":
        return language
    names = list(cfg.data.columns.values())
    if stage.curves:
        from llmstage.research.scores_table import load_scores

        table = load_scores(stage.curves, stage.columns)
        names += [*table.metrics, *table.columns.values(), *table.labels.get("model", [])]
    if cfg.model.path:
        names += classes_of(locate_model(cfg.model.path).model_dir)
    return report_language(language, names)


def classes_of(folder: Path | None) -> list[str]:
    """Return the class names in a model's config. A config that cannot be read is reported where the model is loaded."""
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8")) if folder is not None else {}
    except (OSError, ValueError):
        return []
    return [str(name) for name in (config.get("id2label") or {}).values()]


def heading(cfg: RunConfig) -> str:
    """Return the heading of the page: the table of scores, or the task of the explored model."""
    assert isinstance(cfg.stage, Explore)
    if cfg.stage.curves and not cfg.model.path:
        return Path(cfg.stage.curves).stem
    return cfg.task.name.replace("_", " ") or "explore"


def explore_rows(cfg: RunConfig, out_dir: Path, machine: Machine) -> tuple[list[Findings], RunComponents | None]:
    """Run the parts that need the rows of the task: weak slices, and new rows in logs. Returns their findings and the
    opened components."""
    assert isinstance(cfg.stage, Explore)
    if not cfg.stage.slices.enabled and not cfg.stage.novelty.logs:
        return [], None
    from llmstage.explore.novelty import find_novel_texts
    from llmstage.explore.weak_slices import weak_slices
    from llmstage.training.components import header
    from llmstage.training.setup import setup_run

    components = setup_run(cfg, out_dir, training=False)
    model = components.build(cfg, machine.device, training=False)
    resolved = {"context": components.context, "threads": machine.threads, "precision": scoring_precision(cfg.trainer)}
    write_run_yaml(out_dir, cfg, resolved)
    console.note(header(cfg, components, out_dir))
    parts = [weak_slices(cfg, components, model, machine, out_dir)] if cfg.stage.slices.enabled else []
    if cfg.stage.novelty.logs:
        parts.append(find_novel_texts(cfg, components, model, machine, out_dir))
    return parts, components
