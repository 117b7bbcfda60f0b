"""Write the report of a study of published scores: sentences, limits, capability map, and curves with their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.config.explore import Explore
from llmstage.explore.findings import Findings
from llmstage.explore.stats import FEWEST_ITEMS
from llmstage.report.files import write_json
from llmstage.research.curves import Curve, first_tenth
from llmstage.research.metric_names import group_of, is_lower_better, is_sharp, twin_of
from llmstage.research.published import JudgedCurve, Study, study_scores
from llmstage.research.wording import current_language, figure, meaning, sentence, verdict_name

ORDER = (
    "break", "explained_by_parts", "metric_artefact", "seed_lottery", "undecided", "smooth", "no_change", "below_resolution",
)  # fmt: skip
"""Verdicts in the order in which the report lists them."""
NUM_CHARTS = 12
NUM_SERIES = 8
NUM_SENTENCES = 4
LABELS = {
    "en": {
        "map": "Capability map", "score": "score", "verdict": "verdict", "scale": "over scale", "training": "over training",
        "best": "best", "chance": "chance", "follows": "R² against loss / compute / size", "why": "in words",
        "note": "One line a score; a suite of many subjects is one line. Verdicts over training leave out the first 0.5 % of the steps.",
        "null": "Subjects above a fixed chance", "model": "model", "raw": "p < .05", "bh": "after BH", "bonf": "after Bonferroni",
        "of": "subjects", "fit": "fit", "data": "scores", "held": "held out", "subjects": "{group} ({num} subjects)",
        "read": "How to read the verdicts", "means": "what it means", "parameter": "parameter", "value": "value",
    },
    "zh": {
        "map": "能力地图", "score": "得分", "verdict": "判定", "scale": "随规模", "training": "随训练", "best": "最好", "chance": "随机水平",
        "follows": "对损失／计算量／规模的 R²", "why": "说明", "note": "每个得分一行；含多个科目的测验合为一行。训练曲线的判定不含最初 0.5 % 的步数。",
        "null": "高于固定随机水平的科目数", "model": "模型", "raw": "p < .05", "bh": "BH 校正后", "bonf": "Bonferroni 校正后", "of": "科目",
        "fit": "拟合", "data": "得分", "held": "留出", "subjects": "{group}（{num} 个科目）",
        "read": "如何理解各判定", "means": "含义", "parameter": "参数", "value": "值",
    },
}  # fmt: skip


def explore_curves(cfg: Explore, out_dir: Path, seed: int) -> Findings:
    """Judge the table that stage.curves names. Writes curves.json and, where a law was fitted, fits.json."""
    assert cfg.curves
    study = study_scores(cfg, seed)
    write_json(out_dir / "curves.json", [item.as_dict() for item in study.judged])
    if study.fits:
        write_json(out_dir / "fits.json", study.fits)
    return findings(study)


def findings(study: Study) -> Findings:
    return Findings("curves", block(study), list(sentences(study)), list(limits(study)), list(report_items(study)))


def block(study: Study) -> dict[str, Any]:
    """Return the numbers of the study for report.json; the curves themselves are in curves.json."""
    comparison_rows = {row["metric"]: row for row in study.axis_comparison.rows}
    families: dict[str, Any] = {}
    for metric in study.table.metrics:
        curves = [item for item in study.judged if item.curve.metric == metric]
        if curves:
            representative = representative_curve(curves)
            families[metric] = {
                "verdict": representative.verdict.name, "verdict_text": representative.verdict.text, "chance": study.chance[metric],
                "evidence": representative.verdict.evidence, "curves": dict(Counter(item.verdict.name for item in curves)),
                "follows": {key: comparison_rows[metric][key] for key in comparison_rows[metric] if key != "metric"} if metric in comparison_rows else None,
            }  # fmt: skip
    return {
        "file": study.table.path, "rows": len(study.table), "columns": study.table.columns,
        "verdicts": dict(Counter(item.verdict.name for item in study.judged)), "families": families,
        "preferred_axis": study.axis_comparison.preferred, "loss": study.loss.label if study.loss else None, "loss_lens": study.axis_comparison.rows,
        "null_audit": [as_dict(item) for item in study.null_audits], "forecasts": [as_dict(item) for item in study.forecasts],
        "fits": study.fits, "language": current_language(),
    }  # fmt: skip


def as_dict(record: Any) -> dict[str, Any]:
    return {name: getattr(record, name) for name in record.__slots__}


def representative_curve(curves: list[JudgedCurve]) -> JudgedCurve:
    """Return the curve that stands for a score: among its training curves one with the most frequent verdict, else its
    curve over scale."""
    over_training = [item for item in curves if item.table_curve.curve_type == "training"] or curves
    count = Counter(item.verdict.name for item in over_training)
    name = max(count, key=lambda verdict: (count[verdict], -ORDER.index(verdict)))
    return [item for item in over_training if item.verdict.name == name][-1]


def sentences(study: Study) -> Iterator[str]:
    count = Counter(item.verdict.name for item in study.judged)
    if study.judged:
        verdict_counts = sentence("comma").join(f"{count[name]} {verdict_name(name)}" for name in ORDER if count[name])
        broken = list(dict.fromkeys(item.curve.metric for item in study.judged if item.verdict.name == "break"))
        names = ", ".join(broken[:NUM_SENTENCES]) + (", …" if len(broken) > NUM_SENTENCES else "")
        conclusive = set(count) - {"undecided", "below_resolution"}
        yield sentence(
            "some_break" if broken else "none_breaks" if conclusive else "no_verdict", num=len(broken), names=names
        )
        yield sentence("counted", num=len(study.judged), counts=verdict_counts)
    yield from law_sentences(study)
    yield from notable_verdicts(study)
    yield from axis_sentence(study)
    yield from precursors(study)
    for forecast in study.forecasts[:NUM_SENTENCES]:
        words = {"metric": forecast.metric, "axis": forecast.axis, "error": figure(forecast.error)}
        left = f"{forecast.axis} {figure(forecast.left_out)}"
        yield sentence("forecast", **words, model=left, said=figure(forecast.predicted), was=figure(forecast.actual))
        yield sentence("forecast_next", **words, at=figure(forecast.next_x), said=figure(forecast.next_predicted))
    for audit in first_and_last(sorted(study.null_audits, key=lambda item: item.raw)):
        words = {"model": audit.model, "group": audit.group, "num": audit.num, "chance": figure(audit.chance)}
        yield sentence("null", **words, raw=audit.raw, bh=audit.bh, bonferroni=audit.bonferroni)


def notable_verdicts(study: Study) -> Iterator[str]:
    """Yield the verdicts other than `smooth`, one sentence for all models of a score with the same verdict."""
    groups: dict[tuple[int, str, str], list[JudgedCurve]] = {}
    for item in study.judged:
        name, evidence = item.verdict.name, item.verdict.evidence
        open_for_good = name == "undecided" and (
            "open" in evidence or evidence.get("points", 0) < study.rules.min_points
        )
        if name in ORDER[:5] and not open_for_good:
            groups.setdefault((ORDER.index(name), item.curve.metric, item.table_curve.curve_type), []).append(item)
    for _, members in sorted(groups.items(), key=lambda item: item[0][0])[: 2 * NUM_SENTENCES]:
        item = members[-1]
        models = [candidate for candidate in study.judged if candidate.curve.metric == item.curve.metric and candidate.table_curve.curve_type == item.table_curve.curve_type]  # fmt: skip
        if len(models) > 1:
            values = {"metric": item.curve.metric, "same": len(members), "num": len(models), "text": item.verdict.text}
            yield sentence("among", model=item.curve.model if item.curve.model != "*" else item.table_curve.model_family, **values)  # fmt: skip
        else:
            yield sentence("named", name=curve_name(item), text=item.verdict.text)


def first_and_last(items: list[Any]) -> list[Any]:
    return items if len(items) < 3 else [items[0], items[-1]]


def curve_name(item: JudgedCurve) -> str:
    """Name a curve by its score and its model or model family."""
    owner = item.curve.model if item.table_curve.curve_type == "training" else item.table_curve.model_family
    return f"{item.curve.metric}, {owner}" if owner and owner != "*" else item.curve.metric


def law_sentences(study: Study) -> Iterator[str]:
    law = study.fits.get("chinchilla")
    if law:
        low, high = law["intervals"]["size_exponent"]
        yield sentence(
            "chinchilla", E=f"{law['E']:.4f}", A=f"{law['A']:.2f}", B=f"{law['B']:.1f}", alpha=f"{law['alpha']:.4f}",
            beta=f"{law['beta']:.4f}", num=law["num"], objective=f"{law['objective']:.7f}", exponent=f"{law['size_exponent']:.3f}",
            low=f"{low:.3f}", high=f"{high:.3f}",
        )  # fmt: skip
    for fit in study.fits.get("broken", [])[:NUM_SENTENCES]:
        yield sentence("broken_law", metric=fit["metric"], axis=fit["x"], at=figure(fit["d1"]), num=fit["num"], rmsle=figure(fit["rmsle"]), power=figure(fit["power_rmsle"]))  # fmt: skip
        if fit["held_out"]:
            yield sentence("broken_held_out", held=fit["held_out"], error=figure(fit["rmsle_held_out"]), power=figure(fit["power_rmsle_held_out"]))  # fmt: skip


def axis_sentence(study: Study) -> Iterator[str]:
    """Yield which axis orders the scores best, with the three clearest examples."""
    if study.loss is None or study.axis_comparison.preferred != "loss":
        return
    rows = [row for row in study.axis_comparison.rows if row["R2_loss"] is not None]
    clearest = sorted(rows, key=lambda row: -row["R2_loss"])[:3]
    others = [key for key in ("R2_compute", "R2_params") if rows and rows[0][key] is not None]
    if not others:
        return
    names = {"en": {"R2_compute": "compute", "R2_params": "size"}, "zh": {"R2_compute": "计算量", "R2_params": "规模"}}
    joint = " and " if current_language() == "en" else "与"
    examples = ", ".join(
        f"{row['metric']} R² {'/'.join(f'{row[key]:.3f}' for key in ('R2_loss', *others))}" for row in clearest
    )
    yield sentence("lens", loss=study.loss.label, others=joint.join(names[current_language()][key] for key in others), examples=examples)  # fmt: skip


def precursors(study: Study) -> Iterator[str]:
    """Yield, for each right-or-wrong score, the model in which it lags farthest behind the continuous score of its
    task."""
    curves_by_key = {
        (item.curve.model, item.curve.metric): item.curve
        for item in study.judged
        if item.table_curve.curve_type == "training"
    }
    for metric in study.table.metrics:
        twin = twin_of(metric, study.table.metrics) if is_sharp(metric) else None
        best: tuple[float, str] | None = None
        for (model, name), curve in curves_by_key.items():
            twin_curve = curves_by_key.get((model, twin or ""))
            if name != metric or twin_curve is None or len(twin_curve.y) != len(curve.y):
                continue
            log_score = np.log(twin_curve.y) if (twin_curve.y > 0).all() else twin_curve.y
            at = first_tenth(log_score)
            change, late_index = log_score[-1] - log_score[0], first_tenth(curve.y)
            share = (log_score[late_index - 1] - log_score[0]) / change if late_index > at and change else 0.0
            if late_index > at and (best is None or share > best[0]):
                words = {"model": model, "axis": curve.axis, "at": figure(curve.x[late_index - 1]), "metric": metric}
                text = sentence("precursor", **words, continuous=twin, share=f"{share * 100:.0f} %", score=figure(curve.y[late_index - 1]))  # fmt: skip
                best = (share, text)
        if best:
            yield best[1]


def limits(study: Study) -> Iterator[str]:
    """Yield what could not be concluded, and what would be needed."""
    rules, table = study.rules, study.table
    yield from table.notes
    # Curves that are too short or have no continuous score, and scores below resolution.
    short = [item for item in study.judged if len(item.curve.y) < rules.min_points]
    if short:
        yield sentence("short_ladder", num=len(short), least=rules.min_points)
        fewest = min(short, key=lambda item: len(item.curve.y))
        num = len(fewest.curve.y)
        yield sentence("named", name=curve_name(fewest), text=sentence("too_few_points", num=num, least=rules.min_points, more=rules.min_points - num))  # fmt: skip
    jumping = [item for item in study.judged if item.verdict.evidence.get("open") == "no_continuous"]
    if jumping:
        yield sentence("no_twin", num=len(jumping))
    low = [item for item in study.judged if item.verdict.name == "below_resolution"]
    if low:
        examples = sentence("semicolon").join(
            sentence("named", name=curve_name(item), text=item.verdict.text.rstrip(".。")) for item in low[:2]
        )
        yield sentence("below_counted", num=len(low), told=examples)
    if study.judged and len(set(table.labels.get("model", ["*"]))) == 1 and "step" in table.axes:
        yield sentence("one_model")
    families = dict.fromkeys(item.table_curve.model_family for item in study.judged if item.table_curve.model_family)
    if len(families) > 1:
        yield sentence("mixed_loss", families=", ".join([str(name) for name in families][:6]) + (", …" if len(families) > 6 else ""))  # fmt: skip
    if study.loss is None or study.axis_comparison.preferred != "loss":
        if any(item.table_curve.curve_type == "training" for item in study.judged):
            yield sentence("no_lens", axis=table.columns.get("step", ""))
    elif any(item.verdict.evidence.get("axis") == study.loss.label for item in study.judged):
        yield sentence("model_tokens_lens", loss=study.loss.label)
    # Scores whose errors are unknown or rest on few items, and the chance levels that were assumed.
    few = {
        item.curve.metric: item.curve.items
        for item in study.judged
        if item.curve.items and item.curve.items < FEWEST_ITEMS
    }
    if few:
        yield sentence("few_items", names=", ".join(list(few)[:4]), num=min(few.values()), least=FEWEST_ITEMS)
    bare = [metric for metric in table.metrics if not np.isfinite(table.errors[metric]).any()]
    if bare and study.judged:
        yield sentence("no_errors", num=len(bare))
    if study.judged and all(item.curve.seed_sd is None for item in study.judged):
        yield sentence("no_seeds")
    levels = sorted({level for level in study.chance.values() if level is not None})
    if levels and study.judged:
        yield sentence("chance_assumed", levels=", ".join(figure(level) for level in levels))


def report_items(study: Study) -> Iterator[dict[str, Any]]:
    labels = LABELS[current_language()]
    if study.judged:
        yield capability_map(study, labels)
        verdict_names = dict.fromkeys(name for name in ORDER if any(item.verdict.name == name for item in study.judged))
        rows = [[verdict_name(name), meaning(name)] for name in verdict_names]
        yield {"kind": "table", "title": labels["read"], "columns": [labels["verdict"], labels["means"]], "rows": rows}
    yield from charts(study, labels)
    yield from fit_report_items(study, labels)
    if study.null_audits:
        counted = [[item.model, item.group, item.num, item.raw, item.bh, item.bonferroni] for item in study.null_audits]
        columns = [labels["model"], labels["score"], labels["of"], labels["raw"], labels["bh"], labels["bonf"]]
        yield {"kind": "table", "title": labels["null"], "columns": columns, "rows": counted}


def capability_map(study: Study, labels: dict[str, str]) -> dict[str, Any]:
    """Return a table with a row for each score or suite: its verdicts, best value, the axes it follows, and the
    sentence."""
    comparison_rows = {row["metric"]: row for row in study.axis_comparison.rows}
    rows = []
    groups: dict[str, list[str]] = {}
    for metric in study.table.metrics:
        groups.setdefault(group_of(metric) or metric, []).append(metric)
    for group, metrics in groups.items():
        curves = [item for item in study.judged if item.curve.metric in metrics]
        if not curves:
            continue
        representative = representative_curve(curves)
        by_type = [
            Counter(item.verdict.name for item in curves if item.table_curve.curve_type == curve_type)
            for curve_type in ("training", "scale")
        ]
        cells = [", ".join(f"{verdict_name(name)} {count[name]}" for name in ORDER if count[name]) or "–" for count in by_type]  # fmt: skip
        values = np.concatenate([item.curve.y for item in curves])
        best = float(values.min() if is_lower_better(metrics[0]) else values.max())
        follows = [comparison_rows[metric] for metric in metrics if metric in comparison_rows]
        r2_values = " / ".join(median_r2(follows, key) for key in ("R2_loss", "R2_compute", "R2_params"))
        name = group if len(metrics) == 1 else labels["subjects"].format(group=group, num=len(metrics))
        level = study.chance[metrics[0]]
        rows.append(
            [ORDER.index(representative.verdict.name), name, verdict_name(representative.verdict.name), *cells, best, "–" if level is None else level, r2_values, representative.verdict.text]
        )  # fmt: skip
    rows.sort(key=lambda row: row[0])
    columns = [labels[key] for key in ("score", "verdict", "training", "scale", "best", "chance", "follows", "why")]
    return {"kind": "table", "title": labels["map"], "columns": columns, "rows": [row[1:] for row in rows], "note": labels["note"]}  # fmt: skip


def median_r2(rows: list[dict[str, Any]], key: str) -> str:
    known = [row[key] for row in rows if row[key] is not None]
    return f"{float(np.median(known)):.3f}" if known else "–"


def charts(study: Study, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield a chart for each score in the order of the verdicts; of a suite, after the single tasks."""
    ranked = []
    for metric in study.table.metrics:
        curves = [item for item in study.judged if item.curve.metric == metric]
        if curves:
            representative = representative_curve(curves)
            ranked.append(
                (group_of(metric) is not None, ORDER.index(representative.verdict.name), metric, curves, representative)
            )
    ranked.sort(key=lambda item: item[:2])
    for _, _, metric, curves, representative in ranked[:NUM_CHARTS]:
        drawn = [item for item in curves if item.table_curve.curve_type == representative.table_curve.curve_type][
            :NUM_SERIES
        ]
        series = [series_of(item, labels) for item in drawn]
        break_at = representative.verdict.evidence.get("break_at") if representative.verdict.name == "break" else None
        drawn_on = representative.curve.axis == representative.verdict.evidence.get("axis")
        yield {
            "kind": "lines", "title": f"{metric} · {verdict_name(representative.verdict.name)}",
            "x_label": representative.curve.axis, "y_label": metric, "series": series, "log_x": representative.curve.axis_kind != "plain",
            "note": sentence("named", name=curve_name(representative), text=representative.verdict.text), "mark": break_at if drawn_on else None, "mark_label": representative.curve.axis,
        }  # fmt: skip


def fit_report_items(study: Study, labels: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Yield the parameters of a law with their intervals, and a broken law drawn with the points it was fitted to."""
    law = study.fits.get("chinchilla")
    if law:
        rows = [[name, law[name], *first_and_last] for name, first_and_last in law["intervals"].items()]
        columns = [labels["parameter"], labels["value"], "2.5 %", "97.5 %"]
        yield {"kind": "table", "title": "L(N, D) = E + A/N^alpha + B/D^beta", "columns": columns, "rows": rows}
    for fit in study.fits.get("broken", []):
        curve = next(item.curve for item in study.judged if item.curve.metric == fit["metric"] and item.curve.model == fit["model"])  # fmt: skip
        x = np.geomspace(curve.x[curve.x > 0].min(), curve.x.max(), 120)
        bend = np.logaddexp(0.0, (np.log(x) - np.log(fit["d1"])) / fit["f1"])
        y = fit["a"] + fit["b"] * x ** -fit["c0"] * np.exp(-fit["c1"] * fit["f1"] * bend)
        seen = len(curve.x) - fit["held_out"]
        series = [
            {"name": labels["data"], "x": curve.x[:seen].tolist(), "y": curve.y[:seen].tolist()},
            {"name": labels["fit"], "x": x.tolist(), "y": y.tolist()},
            {"name": labels["held"], "x": curve.x[seen:].tolist(), "y": curve.y[seen:].tolist()},
        ][: 3 if fit["held_out"] else 2]  # fmt: skip
        yield {
            "kind": "lines", "title": f"{fit['metric']} · {labels['fit']}", "x_label": fit["x"], "y_label": fit["metric"],
            "series": series, "log_x": True, "mark": fit["d1"], "mark_label": fit["x"],
        }  # fmt: skip


def series_of(item: JudgedCurve, labels: dict[str, str]) -> dict[str, Any]:
    curve: Curve = item.curve
    name = curve.model if curve.model != "*" else (item.table_curve.model_family or labels["data"])
    half = 1.96 * np.where(np.isfinite(curve.error), curve.error, np.nan)
    return {"name": name, "x": curve.x.tolist(), "y": curve.y.tolist(), "low": (curve.y - half).tolist(), "high": (curve.y + half).tolist()}  # fmt: skip
