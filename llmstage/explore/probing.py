"""Probes on one checkpoint: the capability map, what stands out, and what could not be concluded."""

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
from llmstage.explore.probed_model import Subject, load_subject, untrained
from llmstage.explore.probes import chosen, generate
from llmstage.explore.prompts import Writer
from llmstage.explore.score import NUMBERS, score_items
from llmstage.explore.score_cache import Kept
from llmstage.explore.stats import below_resolution, too_few_items
from llmstage.explore.wording import headings, named, say
from llmstage.models.build import count_parameters
from llmstage.paths import cache_dir
from llmstage.training.machine import Machine, scoring_precision

FRESH_SEED = 1
Scores = dict[str, Any]


def gather(probes: Sequence[str], phenomena: Sequence[str], per_cell: int, seed: int) -> list[Item]:
    """Items of the families that are named and of the files; of the families, those to discover and confirm on."""
    items = [
        item
        for family, cells in chosen(probes).items()
        for item in generate(family, per_cell, seed, cells=cells, splits=("discover", "confirm"))
    ]
    return items + (load_phenomena(phenomena) if phenomena else [])


def probe(run: RunConfig, out_dir: Path, machine: Machine) -> Findings:
    """Score the checkpoint that model.path names, and say what the scores show."""
    stage = run.stage
    assert isinstance(stage, Explore) and run.model.path
    items = gather(stage.probes, stage.phenomena, stage.items_per_cell, run.seed)
    subject = load_subject(run.model.path, offline=run.offline, device=machine.device, form=stage.scoring.form)
    kept = Kept(cache_dir(run.data.cache))
    console.note(f"probes: {len(items):,} items in {len({item.family for item in items})} families")
    scores = score(stage, subject, items, run, machine, kept)
    hits = kept.hits
    fresh = score(stage, untrained(subject, FRESH_SEED), items, run, machine, kept)
    cells = measure_cells(
        items, scores, fresh, unigram_of(subject, items, stage.scoring.end),
        permutations=stage.scoring.permutations, seed=run.seed, fdr=stage.scoring.fdr,
    )  # fmt: skip
    write_scores(out_dir / "scores.csv.gz", subject.name, items, scores)
    return findings(subject, items, scores, cells, hits)


def score(
    stage: Explore, subject: Subject, items: Sequence[Item], run: RunConfig, machine: Machine, kept: Kept
) -> list[Scores]:
    return score_items(
        subject, items, end=stage.scoring.end, generate=stage.scoring.generate,
        max_new_tokens=stage.scoring.max_new_tokens, batch_tokens=run.trainer.eval_batch_tokens,
        precision=partial(machine.autocast, scoring_precision(run.trainer)), kept=kept,
    )  # fmt: skip


def unigram_of(subject: Subject, items: Sequence[Item], end: str) -> list[float | None]:
    """For free answers, what the frequencies of tokens in the family's other answers give each; None for choices."""
    from llmstage.explore.chance import unigram_log_probs

    encoded = Writer(subject, end).write(items)
    by_family: dict[str, list[int]] = {}
    for place, item in enumerate(items):
        if not item.choices and encoded[place].unscored is None:
            by_family.setdefault(item.family, []).append(place)
    found: list[float | None] = [None] * len(items)
    for places in by_family.values():
        for place, value in zip(
            places, unigram_log_probs([encoded[place].answers[0] for place in places]), strict=True
        ):
            found[place] = value
    return found


def write_scores(path: Path, checkpoint: str, items: Sequence[Item], scores: Sequence[Scores]) -> None:
    """One row an item and metric. The same scores give the same bytes."""
    text = io.StringIO()
    table = csv.writer(text, lineterminator="\n")
    table.writerow(["checkpoint", "item", "family", "split", "metric", "value"])
    for item, one in zip(items, scores, strict=True):
        for name in NUMBERS:
            if one.get(name) is not None:
                table.writerow([checkpoint, item.id, item.family, item.split, name, repr(one[name])])
    with path.open("wb") as raw, gzip.GzipFile("", "wb", fileobj=raw, mtime=0) as file:
        file.write(text.getvalue().encode())


def findings(
    subject: Subject, items: Sequence[Item], scores: Sequence[Scores], cells: Sequence[Cell], hits: int
) -> Findings:
    whole = [cell for cell in cells if not cell.part]
    unscored = Counter(str(one["unscored"]) for one in scores if one["unscored"] is not None)
    block = {
        "checkpoint": subject.name,
        "parameters": count_parameters(subject.model),
        "form": "chat" if subject.chat else "plain",
        "items": len(items),
        "from_cache": hits,
        "unscored": dict(unscored.most_common(20)),
        "cells": [cell.as_dict() for cell in cells],
        "composition": composition(items, scores),
    }
    found = Findings("probes", block, sentences(whole), limits(subject, items, scores, whole, unscored))
    found.report_items = [capability_map(whole), table_of(say("probes_title"), whole)] if whole else []
    parts = [cell for cell in cells if cell.part]
    if parts:
        found.report_items.append(table_of(say("parts_title"), parts))
    measurable = [cell for cell in whole if cell.above or (cell.informed is not None and cell.informed < 0.05)]
    if not measurable:
        why = say("all_at_chance", num=len(whole)) if whole else say("nothing_asked")
        found.unmeasured = say("nothing_told", name=subject.name, why=why)
    return found


def name_of(cell: Cell) -> str:
    return f"{cell.family} ({cell.axes})" if cell.axes else cell.family


def share(cell: Cell) -> str:
    return f"{cell.score.value:.0%}"


def sentences(cells: Sequence[Cell]) -> list[str]:
    """What stands out, the most important first."""
    if not cells:
        return []
    above = sorted((cell for cell in cells if cell.above), key=lambda cell: -cell.normalised)
    told = [say("above_chance_in", above=len(above), num=len(cells), families=len({cell.family for cell in cells}))]
    if above:
        best = [say("best_cell", cell=name_of(cell), share=share(cell), chance=cell.chance.value) for cell in above[:3]]
        told.append(say("best_cells", cells=say("comma").join(best)))
    for family in dict.fromkeys(cell.family for cell in cells):
        own = [cell for cell in cells if cell.family == family]
        last = max((place for place, cell in enumerate(own) if cell.above), default=-1)
        if 0 <= last < len(own) - 1 and len(own) > 1:
            told.append(say("up_to", family=family, last=own[last].axes, next=own[last + 1].axes))
    return told


def limits(
    subject: Subject, items: Sequence[Item], scores: Sequence[Scores], cells: Sequence[Cell], unscored: Counter[str]
) -> list[str]:
    told = [say("no_ladder")]
    for cell in cells:
        if cell.score.value == 0 and cell.metric == "em":
            known = cell.informed is not None and cell.informed < 0.05
            seen, more = below_resolution(0, cell.score.count), say("but_informed") if known else ""
            told.append(say("cell_below", cell=name_of(cell), seen=seen, more=more))
    few = [cell for cell in cells if too_few_items(cell.score.count)]
    told += [named(name_of(cell), too_few_items(cell.score.count) or "") for cell in few[:5]]
    for reason, count in unscored.most_common(5):
        told.append(say("not_asked", count=count, reason=reason))
    if len(unscored) > 5:
        told.append(say("not_asked_many", num=sum(unscored.values()), items=len(items), reasons=len(unscored)))
    ends = sum(bool(one.get("right_but_end")) for one in scores)
    if ends:
        told.append(say("right_but_end", num=ends))
    if subject.kind == "bert":
        told.append(say("masked_scores"))
    if subject.kind == "clip":
        told.append(say("tower_scores"))
    return told


def composition(items: Sequence[Item], scores: Sequence[Scores]) -> dict[str, Any]:
    """By family: how often the whole is wrong though every part is right, and how often the parts are right."""
    place = {item.id: number for number, item in enumerate(items)}

    def right(number: int) -> bool:
        one = scores[number]
        return bool(one.get("acc") if items[number].choices else one.get("em"))

    gathered: dict[str, list[tuple[bool, list[bool]]]] = {}
    for number, item in enumerate(items):
        parts = [place[part] for part in item.parts if part in place]
        asked = [number, *parts]
        if parts and all(scores[one]["unscored"] is None for one in asked):
            gathered.setdefault(item.family, []).append((right(number), [right(one) for one in parts]))
    found = {}
    for family, pairs in gathered.items():
        ready = [whole for whole, parts in pairs if all(parts)]
        found[family] = {
            "items": len(pairs),
            "whole": sum(whole for whole, _ in pairs) / len(pairs),
            "all_parts": len(ready) / len(pairs),
            "gap": sum(not whole for whole in ready) / len(ready) if ready else None,
        }
    return found


def capability_map(cells: Sequence[Cell]) -> dict[str, Any]:
    """Families by difficulty; 0 is chance, 1 is all right."""
    rows = list(dict.fromkeys(cell.family for cell in cells))
    own = [[cell for cell in cells if cell.family == family] for family in rows]
    most = max(map(len, own))
    return {
        "kind": "matrix",
        "title": say("probes_map"),
        "row_labels": rows,
        "column_labels": [say("probes_level", number=number + 1) for number in range(most)],
        "values": [
            [max(0.0, round(cell.normalised, 3)) if cell.above else 0.0 for cell in row] + [None] * (most - len(row))
            for row in own
        ],
        "note": say("probes_note"),
    }


def table_of(title: str, cells: Sequence[Cell]) -> dict[str, Any]:
    rows = [
        [
            cell.family, cell.axes, cell.score.count, cell.metric, round(cell.score.value, 3),
            say("low_to_high", low=cell.score.low, high=cell.score.high), round(cell.chance.value, 3), say(f"by_{cell.chance.how.replace(' ', '_')}"),
            round(cell.logp_per_token.value, 2), say("yes" if cell.above else "no"),
        ]
        for cell in cells
    ]  # fmt: skip
    return {"kind": "table", "title": title, "columns": headings("probes_columns"), "rows": rows}
