"""Writes `report.html`: one file without scripts that needs no network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from llmstage.report import formatting
from llmstage.report.charts import bar_chart, heat_map, interval_bar, line_chart
from llmstage.report.curves import finite, loss_chart, metric_charts, train_charts
from llmstage.report.files import plain, read_lines, write_text
from llmstage.report.thumbnails import image_grid, safe_image

if TYPE_CHECKING:
    from jinja2 import Environment

NUM_TILES = 4
NUM_OPEN_SAMPLES = 8
NUM_OPEN_CHARTS = 6
SAMPLE_KEYS = ("id", "split", "prompt", "prediction", "reference", "correct", "picture")

LEDGER = {
    "rows": "rows", "features": "features", "tokens": "tokens", "target_tokens": "target tokens",
    "masked_tokens": "masked tokens", "cut_tokens": "cut tokens", "lost_targets": "lost targets",
    "lost_target_share": "lost target share", "lost_ends": "lost ends", "rewritten": "turns apart", "quarantined": "quarantined",
    "overlap_with_train": "overlap with train", "real_share": "real (unpadded) share",
}  # fmt: skip
"""Key in `data.splits.<split>` to the name of its row in the token ledger."""
SHARES = ("lost_target_share", "real_share", "overlap_with_train")

PAGE_LABELS = {
    "en": {
        "found": "What was found", "limits": "What could not be concluded", "nothing": "Nothing was found.",
        "findings": "Figures and tables", "machine": "Model, machine, versions", "reproduce": "Reproduce", "folder": "Run folder",
        "copy": "one click selects all", "seed": "seed", "parameters": "parameters", "with": "with",
        "footer": "Written by llmstage. This file contains everything that it displays; it needs no network.",
    },
    "zh": {
        "found": "发现", "limits": "无法下结论之处", "nothing": "没有发现。", "findings": "图表", "machine": "模型、机器与版本",
        "reproduce": "复现", "folder": "运行目录", "copy": "单击全选", "seed": "种子", "parameters": "个参数", "with": "·",
        "completed": "已完成", "failed": "失败", "interrupted": "已中断",
        "footer": "由 llmstage 生成。页面所示内容全部在此文件中，无需网络。",
    },
}  # fmt: skip
"""Labels of the page by language. The stage writes the sentences and numbers."""


def page_labels(language: object) -> dict[str, str]:
    """Return the Chinese labels for `zh`, else the English ones."""
    return PAGE_LABELS["zh" if str(language or "").startswith("zh") else "en"]


def write_html(run_dir: Path, report: Mapping[str, Any]) -> Path:
    """Write `run_dir/report.html` from the report and, where it exists, `run_dir/metrics.jsonl`, and return its path.

    A section is left out where its part of the report is missing. Raises DiskError.
    """
    path = Path(run_dir) / "report.html"
    write_text(path, page(Path(run_dir), report))
    return path


def page(run_dir: Path, report: Mapping[str, Any]) -> str:
    """Return the page."""
    report = plain(report)
    metrics = run_dir / "metrics.jsonl"
    lines = read_lines(metrics) if metrics.is_file() else []
    selected = (report.get("train") or {}).get("selected_step")
    loss = loss_chart(lines, selected)
    env = environment()
    draw = {
        "line": line_chart, "bars": bar_chart, "matrix": heat_map, "interval_bar": interval_bar, "images": image_grid,
    }  # fmt: skip
    samples = report.get("samples") or []
    main_metric = (report.get("baselines") or {}).get("metric")
    return env.get_template("report.html.j2").render(
        report=report,
        tiles=list(tiles(report)),
        score_tables=list(score_tables(report)),
        intervals=interval_methods(report),
        baselines=baseline_table(report),
        loss=loss,
        metric_charts=sorted(metric_charts(lines, selected), key=lambda chart: chart["title"] != main_metric),
        open_charts=NUM_OPEN_CHARTS,
        train_charts=train_charts(lines),
        facts=list(facts(report)),
        ledger=ledger(report),
        plan_rows=list(plan_rows(report)),
        samples=[sample_card(sample) for sample in samples],
        open_samples=NUM_OPEN_SAMPLES,
        num_wrong=sum(sample.get("correct") is False for sample in samples),
        num_judged=sum(sample.get("correct") is not None for sample in samples),
        run_dir=report.get("run_dir") or str(run_dir),
        draw=draw,
        labels=page_labels(report.get("language")),
    )


@cache
def environment(*, escape: bool = True) -> Environment:
    """Return the environment of this package's templates. All values are escaped except charts; a process compiles each template once."""
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
    """Return the most important split: test, else validation, else the first one."""
    splits = [split for split, scores in (report.get("scores") or {}).items() if scores]
    return next((split for split in ("test", "validation") if split in splits), splits[0] if splits else None)


def tiles(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the first metrics of the main split and their values before training; the metric of the baselines comes first."""
    split = main_split(report)
    if split is None:
        return
    before = (report.get("before") or {}).get(split) or {}
    scores, main_metric = report["scores"][split], (report.get("baselines") or {}).get("metric")
    for name, score in sorted(scores.items(), key=lambda item: item[0] != main_metric)[:NUM_TILES]:
        previous = before.get(name)
        step, verdict = formatting.change(previous, score)
        yield {"name": name, "split": split, "score": score, "before": previous, "step": step, "verdict": verdict}


def score_tables(report: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield a table for each split, the main one first: metric, before, after, change, interval, count."""
    scores, before = report.get("scores") or {}, report.get("before") or {}
    first = main_split(report)
    for split in sorted(scores, key=lambda name: name != first):
        rows = []
        for name, score in scores[split].items():
            previous = (before.get(split) or {}).get(name)
            step, verdict = formatting.change(previous, score)
            bounds = scale_of(score, previous)
            row = {"name": name, "score": score, "before": previous, "step": step, "verdict": verdict, "bounds": bounds}
            rows.append(row)
        yield {"split": split, "rows": rows, "compared": any(row["before"] for row in rows)}


def interval_methods(report: Mapping[str, Any]) -> str:
    """Return the methods of the scores' intervals, as a part of a sentence."""
    methods = {score.get("method") for scores in (report.get("scores") or {}).values() for score in scores.values()}
    gaps = ", Newcombe's method 10 for their differences" if "newcombe" in methods else ""
    return f"Wilson for shares{gaps}, bootstrap over rows for the rest"


def baseline_table(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return a table with a row for the model and for each simple method, and the metrics that they share."""
    baselines = report.get("baselines")
    if not baselines:
        return None
    model_scores = report["scores"][baselines["split"]]
    metrics = [name for name in model_scores if any(name in scores for scores in baselines["methods"].values())]
    metrics.sort(key=lambda name: name != baselines["metric"])
    methods = {"this model": model_scores, **baselines["methods"]}
    rows = [{"name": name, "scores": [scores.get(metric) for metric in metrics]} for name, scores in methods.items()]
    return {**baselines, "metrics": metrics, "rows": rows}


def scale_of(score: Mapping[str, Any], before: Mapping[str, Any] | None) -> tuple[float, float] | None:
    """Return the ends of a score's scale where it has one: 0 to 1, or 0 to 100 as in sacreBLEU."""
    known = [finite(item.get(part)) for item in (score, before or {}) for part in ("value", "low", "high")]
    values = [value for value in known if value is not None]
    if not score.get("higher_is_better", True) or not values or min(values) < 0:
        return None
    return (0.0, 1.0) if max(values) <= 1 else (0.0, 100.0) if max(values) <= 100 else None


def facts(report: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
    """Yield the numbers of the training as pairs of a name and a formatted value."""
    train = report.get("train") or {}
    formats = {
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
            yield names.get(name, name.replace("_", " ")), formats.get(name, formatting.text)(value)


def ledger(report: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the token ledger: a column for each split, a row for each count; None where nothing was counted."""
    splits = (report.get("data") or {}).get("splits") or {}
    keys = [key for key in LEDGER if any(counts.get(key) is not None for counts in splits.values())]
    keys += [
        key for counts in splits.values() for key in counts if key not in LEDGER and finite(counts[key]) is not None
    ]
    keys = list(dict.fromkeys(keys))
    if not keys:
        return None

    def cell(key: str, value: Any) -> str:
        is_share = key in SHARES and isinstance(value, float)
        return formatting.share(value) if is_share else formatting.number(value)

    rows = [
        {
            "name": LEDGER.get(key, key.replace("_", " ")),
            "cells": [cell(key, counts.get(key)) for counts in splits.values()],
        }
        for key in keys
    ]
    return {"splits": list(splits), "rows": rows}


def plan_rows(report: Mapping[str, Any]) -> Iterator[dict[str, str]]:
    """Yield predicted and measured steps, tokens, time and memory, with their ratio."""
    predicted, train = report.get("predicted") or {}, report.get("train") or {}
    duration = train.get("seconds", report.get("seconds"))
    pairs = (
        ("optimizer steps", predicted.get("steps"), train.get("steps"), formatting.number),
        ("tokens", predicted.get("tokens"), train.get("tokens"), formatting.short),
        ("time", predicted.get("seconds"), duration, formatting.seconds),
        ("peak memory", predicted.get("memory_bytes"), train.get("peak_memory_bytes"), formatting.memory),
    )
    for name, plan, measured, format_value in pairs:
        if plan is not None:
            ratio = f"{measured / plan:.2f} ×" if plan and measured is not None else formatting.NOTHING
            yield {"name": name, "plan": format_value(plan), "measured": format_value(measured), "ratio": ratio}


def sample_card(sample: Mapping[str, Any]) -> dict[str, Any]:
    """Return a prediction for the template. A prompt of messages becomes turns; `rest` has the keys without a field of their own."""
    prompt = sample.get("prompt")
    turns = prompt if is_messages(prompt) else None
    rest = {
        name: formatting.text(value) for name, value in sample.items() if name not in SAMPLE_KEYS and value is not None
    }
    known = {name: sample.get(name) for name in SAMPLE_KEYS}
    image = safe_image(sample.get("picture"))
    return {**known, "picture": image, "turns": turns, "prompt": None if turns else prompt, "rest": rest}


def is_messages(prompt: Any) -> bool:
    """Return whether a prompt is a list of {role, content}."""
    if not isinstance(prompt, Sequence) or isinstance(prompt, str) or not prompt:
        return False
    return all(isinstance(turn, Mapping) and "role" in turn and "content" in turn for turn in prompt)
