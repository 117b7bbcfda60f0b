"""Store the figures of each row: medians, and ratios with their marks. There is one JSON file for each machine."""

from __future__ import annotations

import json
import os
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from race import Result, Run
from rows import OURS, Row

FOLDER = Path(__file__).with_name("results")
TOLERANCE = 0.02
"""Largest relative difference of the losses at which two rates are comparable."""
ROOM = 1.02
"""Peak memory counts as higher than the peer's above this ratio. Two runs of one side differ by as much."""


def side_of(runs: Sequence[Run]) -> dict[str, Any]:
    """Return the figures of one side of a race."""
    middle = {
        name: [value for run in runs if (value := getattr(run, name)) is not None]
        for name in ("peak_mb", "first_step", "flops")
    }
    return {
        "rates": [round(run.rate, 2) for run in runs],
        "loss": statistics.fmean(run.loss for run in runs),
        **{name: statistics.median(values) for name, values in middle.items() if values},
    }  # fmt: skip


def raced(row: Row, result: Result, unit: str, settings: Mapping[str, Any]) -> dict[str, Any]:
    """Return the record of a race."""
    sides = {name: side_of(runs) for name, runs in result.runs.items() if runs}
    return {
        "title": row.title, "title_zh": row.title_zh, "unit": unit, "about": result.start.about, "settings": dict(settings),
        "sides": sides, "failed": result.failed,
    }  # fmt: skip


def judged(row: Row, record: dict[str, Any], peak: float | None) -> dict[str, Any]:
    """Return the record with its marks. `peak`: FLOP/s of the machine's bf16 matrix product."""
    sides = record["sides"]
    marks = [judge(mark, sides, record["failed"]) for mark in map(asdict, row.marks)]
    record = {**record, "marks": marks}
    flops = sides.get(OURS, {}).get("flops")
    if flops and peak:
        record["share"] = {"value": flops / peak}
        if row.share:
            record["share"] |= {"least": row.share[0], "aim": row.share[1], "met": flops / peak >= row.share[0]}
    if row.most is not None and OURS in sides:
        first = sides[OURS]["rates"][0]
        record["limit"] = {"value": first, "most": row.most, "met": first <= row.most}
    return record


def judge(mark: dict[str, Any], sides: Mapping[str, Any], failed: Mapping[str, str]) -> dict[str, Any]:
    """Return the mark with ratio, range of the pairs, difference of the losses, and whether it is met; or why there is no ratio."""
    for name in (mark["ours"], mark["against"]):
        if name not in sides:
            return {**mark, "ratio": None, "why": failed.get(name, "not run"), "met": None}
    ours, theirs = sides[mark["ours"]], sides[mark["against"]]
    ratio = statistics.median(ours["rates"]) / statistics.median(theirs["rates"])
    pairs = [mine / their_rate for mine, their_rate in zip(ours["rates"], theirs["rates"], strict=False)]
    apart = ours["loss"] / theirs["loss"] - 1 if "loss" in ours and "loss" in theirs else None
    fair = apart is None or abs(apart) <= TOLERANCE
    verdict = None
    if "peak_mb" in ours and "peak_mb" in theirs:
        verdict = bool(ours["peak_mb"] <= ROOM * theirs["peak_mb"])
    return {
        **mark, "ratio": ratio, "low": min(pairs), "high": max(pairs), "loss_apart": apart, "fair": fair,
        "memory_met": verdict, "met": bool(ratio >= mark["least"]) if fair else None,
    }  # fmt: skip


def load_results(path: Path) -> dict[str, Any]:
    return dict(json.loads(path.read_text("utf-8"))) if path.is_file() else {"machine": {}, "rows": {}}


def save_results(path: Path, results: Mapping[str, Any]) -> None:
    """Write the file by rename, so that a killed run keeps the rows it has measured."""
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_suffix(".tmp")
    draft.write_text(json.dumps(results, indent=1, ensure_ascii=False) + "\n", "utf-8")
    os.replace(draft, path)
