"""`report.html`: one file that opens anywhere, without network and without scripts."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstage.report import formatting
from llmstage.report.charts import bar_chart, interval_bar, line_chart
from llmstage.report.curves import finite, loss_chart, metric_charts, train_charts
from llmstage.report.files import plain, read_lines, write_text
from llmstage.report.heatmap import heat_map
from llmstage.report.page_labels import page_words
from llmstage.report.thumbnails import picture, picture_grid

if TYPE_CHECKING:
    from jinja2 import Environment

NUM_TILES = 4
NUM_OPEN_SAMPLES = 8
NUM_OPEN_CHARTS = 6
SAMPLE_WORDS = ("id", "split", "prompt", "prediction", "reference", "correct", "picture")

LEDGER = {
    "rows": "rows", "features": "features", "tokens": "tokens", "target_tokens": "target tokens",
    "masked_tokens": "masked tokens", "cut_tokens": "cut tokens", "lost_targets": "lost targets",
    "lost_target_share": "lost target share", "lost_ends": "lost ends", "quarantined": "quarantined",
    "overlap_with_train": "overlap with train", "real_share": "real (unpadded) share",
}  # fmt: skip
"""Token ledger: key in `data.splits.<split>` to the name of its row."""
SHARES = ("lost_target_share", "real_share", "overlap_with_train")


def write_html(run_dir: Path, report: Mapping[str, Any]) -> Path:
    """Write `run_dir/report.html` from the report and, where it exists, `run_dir/metrics.jsonl`; returns its path.

    Any section whose part of the report is missing is left out. Raises DiskError.
    """
    path = Path(run_dir) / "report.html"
    write_text(path, page(Path(run_dir), report))
    return path


def page(run_dir: Path, report: Mapping[str, Any]) -> str:
    """The whole page as text."""
    report = plain(report)
    metrics = run_dir / "metrics.jsonl"
    lines = read_lines(metrics) if metrics.is_file() else []
    selected = (report.get("train") or {}).get("selected_step")
    loss = loss_chart(lines, selected)
    env = environment()
    draw = {
        "line": line_chart, "bars": bar_chart, "matrix": heat_map, "interval_bar": interval_bar, "pictures": picture_grid,
    }  # fmt: skip
    samples = report.get("samples") or []
    first = (report.get("baselines") or {}).get("metric")
    return env.get_template("report.html.j2").render(
        report=report,
        tiles=list(tiles(report)),
        score_tables=list(score_tables(report)),
        intervals=interval_methods(report),
        beside=baseline_table(report),
        loss=loss,
        metric_charts=sorted(metric_charts(lines, selected), key=lambda chart: chart["title"] != first),
        open_charts=NUM_OPEN_CHARTS,
        train_charts=train_charts(lines),
        facts=list(facts(report)),
        ledger=ledger(report),
        plan_rows=list(plan_rows(report)),
        samples=[sample(one) for one in samples],
        open_samples=NUM_OPEN_SAMPLES,
        num_wrong=sum(one.get("correct") is False for one in samples),
        num_judged=sum(one.get("correct") is not None for one in samples),
        run_dir=report.get("run_dir") or str(run_dir),
        draw=draw,
        say=page_words(report.get("language")),
    )


@cache
def environment(*, escape: bool = True) -> Environment:
    """Templates of this package, everything escaped unless it was drawn here. They are compiled once a process."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    env = Environment(
        loader=PackageLoader("llmstage.report", "templates"),
        autoescape=escape, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined,
    )  # fmt: skip
    for name in ("number", "short", "interval", "seconds", "memory", "share", "label", "moment", "text", "language"):
        env.filters[name] = getattr(formatting, name)
    env.tests["numeric"] = lambda value: finite(value) is not None
    return env


def main_split(report: Mapping[str, Any]) -> str | None:
    """The split a reader asks for first: test, else validation, else the first there is."""
    splits = [split for split, scores in (report.get("scores") or {}).items() if scores]
    return next((split for split in ("test", "validation") if split in splits), splits[0] if splits else None)


def tiles(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The first metrics of the main split, that of the comparison with simple methods before all, and what they were before."""
    split = main_split(report)
    if split is None:
        return
    before = (report.get("before") or {}).get(split) or {}
    scores, first = report["scores"][split], (report.get("baselines") or {}).get("metric")
    for name, score in sorted(scores.items(), key=lambda item: item[0] != first)[:NUM_TILES]:
        step, verdict = formatting.change(before.get(name), score)
        was = before.get(name)
        yield {"name": name, "split": split, "score": score, "before": was, "step": step, "verdict": verdict}


def score_tables(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """A table for each split, the main one first: metric, before, after, change, interval, count."""
    scores, before = report.get("scores") or {}, report.get("before") or {}
    first = main_split(report)
    for split in sorted(scores, key=lambda name: name != first):
        rows = []
        for name, score in scores[split].items():
            was = (before.get(split) or {}).get(name)
            step, verdict = formatting.change(was, score)
            shown = {"before": was, "step": step, "verdict": verdict, "bounds": scale_of(score, was)}
            rows.append({"name": name, "score": score, **shown})
        yield {"split": split, "rows": rows, "compared": any(row["before"] for row in rows)}


def interval_methods(report: Mapping[str, Any]) -> str:
    """How the intervals of the scores were made, as a part of a sentence."""
    made = {score.get("method") for scores in (report.get("scores") or {}).values() for score in scores.values()}
    gaps = ", Newcombe's method 10 for their differences" if "newcombe" in made else ""
    return f"Wilson for shares{gaps}, bootstrap over rows for the rest"


def baseline_table(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The model and the simple methods, a row each, with the metrics that they share."""
    beside = report.get("baselines")
    if not beside:
        return None
    ours = report["scores"][beside["split"]]
    metrics = [name for name in ours if any(name in scores for scores in beside["methods"].values())]
    metrics.sort(key=lambda name: name != beside["metric"])
    methods = {"this model": ours, **beside["methods"]}
    rows = [{"name": name, "scores": [scores.get(metric) for metric in metrics]} for name, scores in methods.items()]
    return {**beside, "metrics": metrics, "rows": rows}


def scale_of(score: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """The ends of a score's scale where it has one: 0 to 1, or 0 to 100 for scores that sacreBLEU gives."""
    known = [finite(one.get(part)) for one in (score, before or {}) for part in ("value", "low", "high")]
    values = [value for value in known if value is not None]
    if not score.get("higher_is_better", True) or not values or min(values) < 0:
        return None
    return (0.0, 1.0) if max(values) <= 1 else (0.0, 100.0) if max(values) <= 100 else None


def facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """What the training was, in pairs of a word and a value."""
    train = report.get("train") or {}
    shown = {
        "steps": formatting.number, "epochs": formatting.number, "tokens": formatting.short, "tokens_per_second": formatting.short,
        "mfu": formatting.share, "peak_memory_bytes": formatting.memory, "real_share": formatting.share, "seconds": formatting.seconds,
    }  # fmt: skip
    names = {"tokens_per_second": "tokens per second", "mfu": "MFU", "peak_memory_bytes": "peak memory",
             "real_share": "real (unpadded) share"}  # fmt: skip
    for name, value in train.items():
        if name == "loss" and isinstance(value, dict):
            for part, loss in value.items():
                yield f"loss, {formatting.label(part)}", formatting.number(loss)
        elif value is not None and not isinstance(value, (dict, list)):
            yield names.get(name, name.replace("_", " ")), shown.get(name, formatting.text)(value)


def ledger(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """The token ledger: a column for each split, a row for each thing that was counted in any."""
    splits = (report.get("data") or {}).get("splits") or {}
    keys = [key for key in LEDGER if any(counts.get(key) is not None for counts in splits.values())]
    keys += [key for of in splits.values() for key in of if key not in LEDGER and finite(of[key]) is not None]
    keys = list(dict.fromkeys(keys))
    if not keys:
        return None

    def cell(key: str, value: Any) -> str:
        is_share = key in SHARES and isinstance(value, float)
        return formatting.share(value) if is_share else formatting.number(value)

    rows = [
        {"name": LEDGER.get(key, key.replace("_", " ")), "cells": [cell(key, of.get(key)) for of in splits.values()]}
        for key in keys
    ]
    return {"splits": list(splits), "rows": rows}


def plan_rows(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """What was predicted against what was measured, with the ratio."""
    predicted, train = report.get("predicted") or {}, report.get("train") or {}
    took = train.get("seconds", report.get("seconds"))
    pairs = (
        ("optimizer steps", predicted.get("steps"), train.get("steps"), formatting.number),
        ("tokens", predicted.get("tokens"), train.get("tokens"), formatting.short),
        ("time", predicted.get("seconds"), took, formatting.seconds),
        ("peak memory", predicted.get("memory_bytes"), train.get("peak_memory_bytes"), formatting.memory),
    )
    for name, plan, measured, shown in pairs:
        if plan is not None:
            times = f"{measured / plan:.2f} ×" if plan and measured is not None else formatting.NOTHING
            yield {"name": name, "plan": shown(plan), "measured": shown(measured), "ratio": times}


def sample(one: Mapping[str, Any]) -> dict[str, Any]:
    """A prediction beside its reference; a prompt of messages becomes turns, and all other words stay below."""
    prompt = one.get("prompt")
    turns = prompt if is_messages(prompt) else None
    rest = {
        name: formatting.text(value) for name, value in one.items() if name not in SAMPLE_WORDS and value is not None
    }
    kept = {name: one.get(name) for name in SAMPLE_WORDS}
    seen = picture(one.get("picture"))
    return {**kept, "picture": seen, "turns": turns, "prompt": None if turns else prompt, "rest": rest}


def is_messages(prompt: Any) -> bool:
    """True for a list of {role, content}."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, str) or not prompt:
        return False
    return all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in prompt)
