"""Probe one checkpoint: score items, build the capability map, and report what is above chance and what is undecided."""

from __future__ import annotations

import csv
import gzip
import io
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.explore.capability_map import Cell, measure_cells
from llmstage.explore.findings import Findings
from llmstage.explore.items import Item
from llmstage.explore.loaders import load_phenomena
from llmstage.explore.probed_model import ProbedModel, load_probed_model, untrained
from llmstage.explore.probes import generate, select_cells
from llmstage.explore.prompts import ItemEncoder
from llmstage.explore.score import NUMBERS, score_items
from llmstage.explore.score_cache import ScoreCache
from llmstage.explore.stats import below_resolution, too_few_items
from llmstage.explore.wording import headings, named, sentence
from llmstage.models.build import count_parameters
from llmstage.paths import cache_dir
from llmstage.training.machine import Machine, scoring_precision

UNTRAINED_SEED = 1
Scores = dict[str, Any]


def gather(probes: Sequence[str], phenomena: Sequence[str], per_cell: int, seed: int) -> list[Item]:
    """Generate the items of the named probe families (splits discover and confirm), and load those of the files."""
    items = [
        item
        for probe_family, cells in select_cells(probes).items()
        for item in generate(probe_family, per_cell, seed, cells=cells, splits=("discover", "confirm"))
    ]
    return items + (load_phenomena(phenomena) if phenomena else [])


def probe(run: RunConfig, out_dir: Path, machine: Machine) -> Findings:
    """Score the checkpoint of model.path on probe items, write scores.csv.gz, and return the findings."""
    stage = run.stage
    assert isinstance(stage, Explore) and run.model.path
    items = gather(stage.probes, stage.phenomena, stage.items_per_cell, run.seed)
    probed = load_probed_model(run.model.path, offline=run.offline, device=machine.device, form=stage.scoring.form)
    cache = ScoreCache(cache_dir(run.data.cache))
    console.note(f"probes: {len(items):,} items in {len({item.probe_family for item in items})} families")
    scores = score(stage, probed, items, run, machine, cache)
    hits = cache.hits
    # The same architecture with random weights is one of the estimates of chance.
    fresh = score(stage, untrained(probed, UNTRAINED_SEED), items, run, machine, cache)
    cells = measure_cells(
        items, scores, fresh, unigram_of(probed, items, stage.scoring.end),
        permutations=stage.scoring.permutations, seed=run.seed, fdr=stage.scoring.fdr,
    )  # fmt: skip
    write_scores(out_dir / "scores.csv.gz", probed.name, items, scores)
    return findings(probed, items, scores, cells, hits)


def score(
    stage: Explore, probed: ProbedModel, items: Sequence[Item], run: RunConfig, machine: Machine, cache: ScoreCache
) -> list[Scores]:
    """Score items with the options of stage.scoring."""
    return score_items(
        probed, items, end=stage.scoring.end, generate=stage.scoring.generate,
        max_new_tokens=stage.scoring.max_new_tokens, batch_tokens=run.trainer.eval_batch_tokens,
        precision=partial(machine.autocast, scoring_precision(run.trainer)), cache=cache,
    )  # fmt: skip


def unigram_of(probed: ProbedModel, items: Sequence[Item], end: str) -> list[float | None]:
    """Return for each free answer its log p per token under the token frequencies of its family; None for choices."""
    from llmstage.explore.chance import unigram_log_probs

    encoded = ItemEncoder(probed, end).encode(items)
    by_family: dict[str, list[int]] = {}
    for index, item in enumerate(items):
        if not item.choices and encoded[index].unscored is None:
            by_family.setdefault(item.probe_family, []).append(index)
    log_probs: list[float | None] = [None] * len(items)
    for indices in by_family.values():
        values = unigram_log_probs([encoded[index].answers[0] for index in indices])
        for index, value in zip(indices, values, strict=True):
            log_probs[index] = value
    return log_probs


def write_scores(path: Path, checkpoint: str, items: Sequence[Item], scores: Sequence[Scores]) -> None:
    """Write one row for each item and metric. The same scores give the same bytes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["checkpoint", "item", "family", "split", "metric", "value"])
    for item, result in zip(items, scores, strict=True):
        for name in NUMBERS:
            if result.get(name) is not None:
                table.writerow([checkpoint, item.id, item.probe_family, item.split, name, repr(result[name])])
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(text.getvalue().encode())


def findings(
    probed: ProbedModel, items: Sequence[Item], scores: Sequence[Scores], cells: Sequence[Cell], hits: int
) -> Findings:
    """Build the block of report.json, the sentences and the tables from the scored cells."""
    top_level = [cell for cell in cells if not cell.part]
    unscored = Counter(str(result["unscored"]) for result in scores if result["unscored"] is not None)
    block = {
        "checkpoint": probed.name,
        "parameters": count_parameters(probed.model),
        "form": "chat" if probed.chat else "plain",
        "items": len(items),
        "from_cache": hits,
        "unscored": dict(unscored.most_common(20)),
        "cells": [cell.as_dict() for cell in cells],
        "composition": composition(items, scores),
    }
    result = Findings("probes", block, sentences(top_level), limits(probed, items, scores, top_level, unscored))
    if top_level:
        result.report_items = [map_item(top_level), table_of(sentence("probes_title"), top_level)]
    parts = [cell for cell in cells if cell.part]
    if parts:
        result.report_items.append(table_of(sentence("parts_title"), parts))
    measurable = [cell for cell in top_level if cell.above or (cell.informed is not None and cell.informed < 0.05)]
    if not measurable:
        why = sentence("all_at_chance", num=len(top_level)) if top_level else sentence("no_item_scored")
        result.unmeasured = sentence("nothing_measured", name=probed.name, why=why)
    return result


def name_of(cell: Cell) -> str:
    """Return `family (axes)`."""
    return f"{cell.probe_family} ({cell.axes})" if cell.axes else cell.probe_family


def share(cell: Cell) -> str:
    """Return the score as a percentage."""
    return f"{cell.score.value:.0%}"


def sentences(cells: Sequence[Cell]) -> list[str]:
    """Return the main results, the most important first."""
    if not cells:
        return []
    above = sorted((cell for cell in cells if cell.above), key=lambda cell: -cell.normalised)
    lines = [
        sentence(
            "above_chance_in", above=len(above), num=len(cells), families=len({cell.probe_family for cell in cells})
        )
    ]
    if above:
        best = [
            sentence("best_cell", cell=name_of(cell), share=share(cell), chance=cell.chance.value) for cell in above[:3]
        ]
        lines.append(sentence("best_cells", cells=sentence("comma").join(best)))
    # Where a family is above chance up to some difficulty and not beyond, report the border.
    for probe_family in dict.fromkeys(cell.probe_family for cell in cells):
        levels = [cell for cell in cells if cell.probe_family == probe_family]
        last = max((index for index, cell in enumerate(levels) if cell.above), default=-1)
        if 0 <= last < len(levels) - 1 and len(levels) > 1:
            lines.append(sentence("up_to", family=probe_family, last=levels[last].axes, next=levels[last + 1].axes))
    return lines


def limits(
    probed: ProbedModel, items: Sequence[Item], scores: Sequence[Scores], cells: Sequence[Cell], unscored: Counter[str]
) -> list[str]:
    """Return what the scores do not show: cells at zero, cells with few items, items that were not scored."""
    lines = [sentence("no_ladder")]
    for cell in cells:
        if cell.score.value == 0 and cell.metric == "em":
            known = cell.informed is not None and cell.informed < 0.05
            seen, more = below_resolution(0, cell.score.count), sentence("but_informed") if known else ""
            lines.append(sentence("cell_below", cell=name_of(cell), seen=seen, more=more))
    few = [cell for cell in cells if too_few_items(cell.score.count)]
    lines += [named(name_of(cell), too_few_items(cell.score.count) or "") for cell in few[:5]]
    for reason, count in unscored.most_common(5):
        lines.append(sentence("not_scored", count=count, reason=reason))
    if len(unscored) > 5:
        lines.append(sentence("not_scored_many", num=sum(unscored.values()), items=len(items), reasons=len(unscored)))
    ends = sum(bool(result.get("right_but_end")) for result in scores)
    if ends:
        lines.append(sentence("right_but_end", num=ends))
    if probed.model_family == "bert":
        lines.append(sentence("masked_scores"))
    if probed.model_family == "clip":
        lines.append(sentence("tower_scores"))
    return lines


def composition(items: Sequence[Item], scores: Sequence[Scores]) -> dict[str, Any]:
    """Return by family how often the full question is wrong though every part is right, and how often the parts are right."""
    index_of = {item.id: number for number, item in enumerate(items)}

    def right(number: int) -> bool:
        result = scores[number]
        return bool(result.get("acc") if items[number].choices else result.get("em"))

    by_family: dict[str, list[tuple[bool, list[bool]]]] = {}
    for number, item in enumerate(items):
        parts = [index_of[part] for part in item.parts if part in index_of]
        if parts and all(scores[index]["unscored"] is None for index in (number, *parts)):
            by_family.setdefault(item.probe_family, []).append((right(number), [right(index) for index in parts]))
    block = {}
    for probe_family, pairs in by_family.items():
        with_all_parts = [is_right for is_right, parts in pairs if all(parts)]
        block[probe_family] = {
            "items": len(pairs),
            "whole": sum(is_right for is_right, _ in pairs) / len(pairs),
            "all_parts": len(with_all_parts) / len(pairs),
            "gap": sum(not is_right for is_right in with_all_parts) / len(with_all_parts) if with_all_parts else None,
        }
    return block


def map_item(cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the matrix of report.html, families by difficulty: 0 is chance, 1 is all right."""
    names = list(dict.fromkeys(cell.probe_family for cell in cells))
    rows = [[cell for cell in cells if cell.probe_family == name] for name in names]
    most = max(map(len, rows))
    return {
        "kind": "matrix",
        "title": sentence("probes_map"),
        "row_labels": names,
        "column_labels": [sentence("probes_level", number=number + 1) for number in range(most)],
        "values": [
            [max(0.0, round(cell.normalised, 3)) if cell.above else 0.0 for cell in row] + [None] * (most - len(row))
            for row in rows
        ],
        "note": sentence("probes_note"),
    }


def table_of(title: str, cells: Sequence[Cell]) -> dict[str, Any]:
    """Return the table of cells for report.html."""
    rows = [
        [
            cell.probe_family, cell.axes, cell.score.count, cell.metric, round(cell.score.value, 3),
            sentence("low_to_high", low=cell.score.low, high=cell.score.high), round(cell.chance.value, 3), sentence(f"by_{cell.chance.how.replace(' ', '_')}"),
            round(cell.logp_per_token.value, 2), sentence("yes" if cell.above else "no"),
        ]
        for cell in cells
    ]  # fmt: skip
    return {"kind": "table", "title": title, "columns": headings("probes_columns"), "rows": rows}
