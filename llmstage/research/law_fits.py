"""Which laws fit a table of scores, and where: a surface over size and tokens, or losses along one axis."""

from __future__ import annotations

from typing import Any

import numpy as np

from llmstage.config.explore_curves import CurveFit
from llmstage.errors import DataError, UserError
from llmstage.research.broken_law import FEWEST, fit_broken_law
from llmstage.research.curves import Numbers
from llmstage.research.loss_axis import find_loss
from llmstage.research.metric_names import is_lower_better, is_sharp
from llmstage.research.scaling_law import fit_scaling_law
from llmstage.research.score_curves import placed_curves
from llmstage.research.scores_table import ScoreTable

FEWEST_SURFACE = 20
SHARE_OF_RESAMPLES = 5
"""A law is fitted to this part of stage.stats.bootstrap resamples: each is an optimisation, and an end of an interval
needs hundreds, not thousands."""


def fit_table(table: ScoreTable, cfg: CurveFit, resamples: int, seed: int) -> dict[str, Any]:
    """What goes to fits.json; empty where no law was asked for or, with law=auto, none suits the table."""
    if cfg.law == "none":
        return {}
    surface = {"params", "tokens", "loss"} <= table.axes.keys()
    if cfg.law == "chinchilla" or (cfg.law == "auto" and surface and "step" not in table.axes):
        found = chinchilla(table, cfg, resamples // SHARE_OF_RESAMPLES, seed)
        return {"chinchilla": found} if found else {}
    found_broken = broken(table, cfg) if cfg.law == "broken" or "step" not in table.axes else []
    if cfg.law == "broken" and not found_broken:
        raise DataError(
            f"{table.shown}: stage.fit.law=broken needs a loss (or another positive, continuous score) at {FEWEST} places of "
            f"one axis or more."
        )
    return {"broken": found_broken} if found_broken else {}


def chinchilla(table: ScoreTable, cfg: CurveFit, resamples: int, seed: int) -> dict[str, Any] | None:
    loss = find_loss(table)
    missing = [role for role in ("params", "tokens") if role not in table.axes]
    if loss is None or missing:
        raise UserError(
            f"stage.fit.law=chinchilla needs params, tokens and loss; {table.shown} has no column for "
            f"{', '.join([*missing, *([] if loss else ['loss'])])}. Name it: stage.columns.{(missing or ['loss'])[0]}=<column>."
        )
    sizes, tokens, losses = table.axes["params"], table.axes["tokens"], loss.values
    good = np.isfinite(sizes) & np.isfinite(tokens) & np.isfinite(losses) & (sizes > 0) & (tokens > 0) & (losses > 0)
    kept = without_highest(np.flatnonzero(good), losses, cfg.drop_highest)
    if len(kept) < FEWEST_SURFACE:
        if cfg.law == "auto":
            return None
        raise DataError(f"{table.shown}: {len(kept)} points with size, tokens and loss; a scaling law of five parameters needs {FEWEST_SURFACE}.")  # fmt: skip
    law = fit_scaling_law(sizes[kept], tokens[kept], losses[kept], resamples=resamples, seed=seed)
    return {"loss": loss.label, "dropped": int(good.sum()) - len(kept), **law.as_dict()}


def without_highest(rows: Any, losses: Numbers, drop: int) -> Any:
    """The rows but those of the `drop` highest losses, in the file's order."""
    ranked = rows[np.argsort(losses[rows], kind="stable")]
    return np.sort(ranked[: len(ranked) - drop])


def broken(table: ScoreTable, cfg: CurveFit) -> list[dict[str, Any]]:
    """A broken law for each loss over scale with enough points; with law=broken, over training too."""
    found = []
    for placed in placed_curves(table):
        curve = placed.curve
        wanted = placed.kind == "scale" or cfg.law == "broken"
        if not wanted or is_sharp(curve.metric) or not is_lower_better(curve.metric):
            continue
        good = (curve.x > 0) & (curve.y > 0)
        rows = without_highest(np.flatnonzero(good), curve.y, cfg.drop_highest)
        if len(np.unique(curve.x[rows])) - cfg.hold_out < FEWEST:
            continue
        law = fit_broken_law(curve.x[rows], curve.y[rows], held_out=cfg.hold_out)
        found.append({"metric": curve.metric, "model": curve.model, "x": curve.axis, **law.as_dict()})
    return found
