"""What a study of published scores says to a reader: sentences, limits, the capability map, curves with their verdicts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from llmstage.config.explore import Explore
from llmstage.explore.findings import Findings
from llmstage.explore.stats import FEWEST_ITEMS
from llmstage.explore.wording import current_language, figure, meaning, say, verdict_name
from llmstage.report.files import write_json
from llmstage.research.curves import Curve, first_tenth
from llmstage.research.metric_names import group_of, is_lower_better, is_sharp, twin_of
from llmstage.research.published import Judged, Study, study_scores

ORDER = (
    "break", "explained_by_parts", "metric_artefact", "seed_lottery", "undecided", "smooth", "no_change", "below_resolution",
)  # fmt: skip
"""What a reader wants to hear of first."""
NUM_CHARTS = 12
NUM_SERIES = 8
NUM_TOLD = 4
WORDS = {
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
    """Judge the table that stage.curves names; writes curves.json and, where a law was fitted, fits.json."""
    assert cfg.curves
    study = study_scores(cfg, seed)
    write_json(out_dir / "curves.json", [one.row() for one in study.judged])
    if study.fits:
        write_json(out_dir / "fits.json", study.fits)
    return findings(study)


def findings(study: Study) -> Findings:
    return Findings("curves", block(study), list(sentences(study)), list(limits(study)), list(report_items(study)))


def block(study: Study) -> dict[str, Any]:
    """Plain numbers for report.json; the curves themselves are in curves.json."""
    lens = {row["metric"]: row for row in study.lens.rows}
    families: dict[str, Any] = {}
    for metric in study.table.metrics:
        own = [one for one in study.judged if one.curve.metric == metric]
        if own:
            main = leading(own)
            families[metric] = {
                "verdict": main.verdict.name, "verdict_text": main.verdict.text, "chance": study.chance[metric],
                "evidence": main.verdict.evidence, "curves": dict(Counter(one.verdict.name for one in own)),
                "follows": {key: lens[metric][key] for key in lens[metric] if key != "metric"} if metric in lens else None,
            }  # fmt: skip
    return {
        "file": study.table.shown, "rows": len(study.table), "columns": study.table.columns,
        "verdicts": dict(Counter(one.verdict.name for one in study.judged)), "families": families,
        "preferred_axis": study.lens.preferred, "loss": study.loss.label if study.loss else None, "loss_lens": study.lens.rows,
        "null_audit": [vars_of(one) for one in study.audits], "forecasts": [vars_of(one) for one in study.forecasts],
        "fits": study.fits, "language": current_language(),
    }  # fmt: skip


def vars_of(one: Any) -> dict[str, Any]:
    return {name: getattr(one, name) for name in one.__slots__}


def leading(own: list[Judged]) -> Judged:
    """The curve that speaks for a score: of the verdict most of its training curves have, else its curve over scale."""
    over_training = [one for one in own if one.placed.kind == "training"] or own
    count = Counter(one.verdict.name for one in over_training)
    name = max(count, key=lambda verdict: (count[verdict], -ORDER.index(verdict)))
    return [one for one in over_training if one.verdict.name == name][-1]


def sentences(study: Study) -> Iterator[str]:
    count = Counter(one.verdict.name for one in study.judged)
    if study.judged:
        told = say("comma").join(f"{count[name]} {verdict_name(name)}" for name in ORDER if count[name])
        broken = list(dict.fromkeys(one.curve.metric for one in study.judged if one.verdict.name == "break"))
        names = ", ".join(broken[:NUM_TOLD]) + (", …" if len(broken) > NUM_TOLD else "")
        told_of = set(count) - {"undecided", "below_resolution"}
        yield say("some_break" if broken else "none_breaks" if told_of else "none_told", num=len(broken), names=names)
        yield say("counted", num=len(study.judged), counts=told)
    yield from law_sentences(study)
    yield from special(study)
    yield from lens_sentence(study)
    yield from precursors(study)
    for forecast in study.forecasts[:NUM_TOLD]:
        words = {"metric": forecast.metric, "axis": forecast.axis, "error": figure(forecast.error)}
        left = f"{forecast.axis} {figure(forecast.left_out)}"
        yield say("forecast", **words, model=left, said=figure(forecast.said), was=figure(forecast.was))
        yield say("forecast_next", **words, at=figure(forecast.next_x), said=figure(forecast.next_said))
    for audit in ends(sorted(study.audits, key=lambda one: one.raw)):
        words = {"model": audit.model, "group": audit.group, "num": audit.num, "chance": figure(audit.chance)}
        yield say("null", **words, raw=audit.raw, bh=audit.bh, bonferroni=audit.bonferroni)


def special(study: Study) -> Iterator[str]:
    """The verdicts that are no plain `smooth`, one sentence for all models of a score that share one."""
    groups: dict[tuple[int, str, str], list[Judged]] = {}
    for one in study.judged:
        name, evidence = one.verdict.name, one.verdict.evidence
        open_for_good = name == "undecided" and (
            "open" in evidence or evidence.get("points", 0) < study.rules.min_points
        )
        if name in ORDER[:5] and not open_for_good:
            groups.setdefault((ORDER.index(name), one.curve.metric, one.placed.kind), []).append(one)
    for _, own in sorted(groups.items(), key=lambda item: item[0][0])[: 2 * NUM_TOLD]:
        one = own[-1]
        models = [other for other in study.judged if other.curve.metric == one.curve.metric and other.placed.kind == one.placed.kind]  # fmt: skip
        if len(models) > 1:
            words = {"metric": one.curve.metric, "same": len(own), "num": len(models), "text": one.verdict.text}
            yield say("among", model=one.curve.model if one.curve.model != "*" else one.placed.family, **words)  # fmt: skip
        else:
            yield say("named", name=named(one), text=one.verdict.text)


def ends(items: list[Any]) -> list[Any]:
    return items if len(items) < 3 else [items[0], items[-1]]


def named(one: Judged) -> str:
    """Which curve: the score and its model or family."""
    whose = one.curve.model if one.placed.kind == "training" else one.placed.family
    return f"{one.curve.metric}, {whose}" if whose and whose != "*" else one.curve.metric


def law_sentences(study: Study) -> Iterator[str]:
    law = study.fits.get("chinchilla")
    if law:
        low, high = law["intervals"]["size_exponent"]
        yield say(
            "chinchilla", E=f"{law['E']:.4f}", A=f"{law['A']:.2f}", B=f"{law['B']:.1f}", alpha=f"{law['alpha']:.4f}",
            beta=f"{law['beta']:.4f}", num=law["num"], objective=f"{law['objective']:.7f}", exponent=f"{law['size_exponent']:.3f}",
            low=f"{low:.3f}", high=f"{high:.3f}",
        )  # fmt: skip
    for fit in study.fits.get("broken", [])[:NUM_TOLD]:
        yield say("broken_law", metric=fit["metric"], axis=fit["x"], at=figure(fit["d1"]), num=fit["num"], rmsle=figure(fit["rmsle"]), power=figure(fit["power_rmsle"]))  # fmt: skip
        if fit["held_out"]:
            yield say("broken_held_out", held=fit["held_out"], error=figure(fit["rmsle_held_out"]), power=figure(fit["power_rmsle_held_out"]))  # fmt: skip


def lens_sentence(study: Study) -> Iterator[str]:
    """Which axis orders the scores best, with its three clearest examples."""
    if study.loss is None or study.lens.preferred != "loss":
        return
    rows = [row for row in study.lens.rows if row["R2_loss"] is not None]
    clear = sorted(rows, key=lambda row: -row["R2_loss"])[:3]
    others = [key for key in ("R2_compute", "R2_params") if rows and rows[0][key] is not None]
    if not others:
        return
    names = {"en": {"R2_compute": "compute", "R2_params": "size"}, "zh": {"R2_compute": "计算量", "R2_params": "规模"}}
    joint = " and " if current_language() == "en" else "与"
    told = ", ".join(
        f"{row['metric']} R² {'/'.join(f'{row[key]:.3f}' for key in ('R2_loss', *others))}" for row in clear
    )
    yield say("lens", loss=study.loss.label, others=joint.join(names[current_language()][key] for key in others), examples=told)  # fmt: skip


def precursors(study: Study) -> Iterator[str]:
    """The model in which a right-or-wrong score lags farthest behind the continuous score of its task."""
    by_place = {(one.curve.model, one.curve.metric): one.curve for one in study.judged if one.placed.kind == "training"}
    for metric in study.table.metrics:
        twin = twin_of(metric, study.table.metrics) if is_sharp(metric) else None
        best: tuple[float, str] | None = None
        for (model, name), curve in by_place.items():
            other = by_place.get((model, twin or ""))
            if name != metric or other is None or len(other.y) != len(curve.y):
                continue
            soft = np.log(other.y) if (other.y > 0).all() else other.y
            at = first_tenth(soft)
            whole, late = soft[-1] - soft[0], first_tenth(curve.y)
            share = (soft[late - 1] - soft[0]) / whole if late > at and whole else 0.0
            if late > at and (best is None or share > best[0]):
                words = {"model": model, "axis": curve.axis, "at": figure(curve.x[late - 1]), "metric": metric}
                told = say("precursor", **words, continuous=twin, share=f"{share * 100:.0f} %", score=figure(curve.y[late - 1]))  # fmt: skip
                best = (share, told)
        if best:
            yield best[1]


def limits(study: Study) -> Iterator[str]:
    """What could not be concluded, and what it would take."""
    rules, table = study.rules, study.table
    yield from table.notes
    short = [one for one in study.judged if len(one.curve.y) < rules.min_points]
    if short:
        yield say("short_ladder", num=len(short), least=rules.min_points)
        fewest = min(short, key=lambda one: len(one.curve.y))
        num = len(fewest.curve.y)
        yield say("named", name=named(fewest), text=say("too_few_points", num=num, least=rules.min_points, more=rules.min_points - num))  # fmt: skip
    jumping = [one for one in study.judged if one.verdict.evidence.get("open") == "no_continuous"]
    if jumping:
        yield say("no_twin", num=len(jumping))
    low = [one for one in study.judged if one.verdict.name == "below_resolution"]
    if low:
        told = say("semicolon").join(
            say("named", name=named(one), text=one.verdict.text.rstrip(".。")) for one in low[:2]
        )
        yield say("below_counted", num=len(low), told=told)
    if study.judged and len(set(table.words.get("model", ["*"]))) == 1 and "step" in table.axes:
        yield say("one_model")
    families = dict.fromkeys(one.placed.family for one in study.judged if one.placed.family)
    if len(families) > 1:
        yield say("mixed_loss", families=", ".join([str(name) for name in families][:6]) + (", …" if len(families) > 6 else ""))  # fmt: skip
    if study.loss is None or study.lens.preferred != "loss":
        if any(one.placed.kind == "training" for one in study.judged):
            yield say("no_lens", axis=table.columns.get("step", ""))
    elif any(one.verdict.evidence.get("axis") == study.loss.label for one in study.judged):
        yield say("own_tokens_lens", loss=study.loss.label)
    few = {
        one.curve.metric: one.curve.items for one in study.judged if one.curve.items and one.curve.items < FEWEST_ITEMS
    }
    if few:
        yield say("few_items", names=", ".join(list(few)[:4]), num=min(few.values()), least=FEWEST_ITEMS)
    bare = [metric for metric in table.metrics if not np.isfinite(table.errors[metric]).any()]
    if bare and study.judged:
        yield say("no_errors", num=len(bare))
    if study.judged and all(one.curve.seed_sd is None for one in study.judged):
        yield say("no_seeds")
    levels = sorted({level for level in study.chance.values() if level is not None})
    if levels and study.judged:
        yield say("chance_assumed", levels=", ".join(figure(level) for level in levels))


def report_items(study: Study) -> Iterator[dict[str, Any]]:
    words = WORDS[current_language()]
    if study.judged:
        yield capability_map(study, words)
        said = dict.fromkeys(name for name in ORDER if any(one.verdict.name == name for one in study.judged))
        rows = [[verdict_name(name), meaning(name)] for name in said]
        yield {"kind": "table", "title": words["read"], "columns": [words["verdict"], words["means"]], "rows": rows}
    yield from charts(study, words)
    yield from fit_exhibits(study, words)
    if study.audits:
        counted = [[one.model, one.group, one.num, one.raw, one.bh, one.bonferroni] for one in study.audits]
        columns = [words["model"], words["score"], words["of"], words["raw"], words["bh"], words["bonf"]]
        yield {"kind": "table", "title": words["null"], "columns": columns, "rows": counted}


def capability_map(study: Study, words: dict[str, str]) -> dict[str, Any]:
    """A line for each score or suite: its verdicts, its best value, what it follows, and the sentence."""
    lens = {row["metric"]: row for row in study.lens.rows}
    rows = []
    groups: dict[str, list[str]] = {}
    for metric in study.table.metrics:
        groups.setdefault(group_of(metric) or metric, []).append(metric)
    for group, metrics in groups.items():
        own = [one for one in study.judged if one.curve.metric in metrics]
        if not own:
            continue
        main = leading(own)
        by_kind = [
            Counter(one.verdict.name for one in own if one.placed.kind == kind) for kind in ("training", "scale")
        ]
        cells = [", ".join(f"{verdict_name(name)} {count[name]}" for name in ORDER if count[name]) or "–" for count in by_kind]  # fmt: skip
        values = np.concatenate([one.curve.y for one in own])
        best = float(values.min() if is_lower_better(metrics[0]) else values.max())
        follows = [lens[metric] for metric in metrics if metric in lens]
        told = " / ".join(middle(follows, key) for key in ("R2_loss", "R2_compute", "R2_params"))
        name = group if len(metrics) == 1 else words["subjects"].format(group=group, num=len(metrics))
        level = study.chance[metrics[0]]
        rows.append(
            [ORDER.index(main.verdict.name), name, verdict_name(main.verdict.name), *cells, best, "–" if level is None else level, told, main.verdict.text]
        )  # fmt: skip
    rows.sort(key=lambda row: row[0])
    columns = [words[key] for key in ("score", "verdict", "training", "scale", "best", "chance", "follows", "why")]
    return {"kind": "table", "title": words["map"], "columns": columns, "rows": [row[1:] for row in rows], "note": words["note"]}  # fmt: skip


def middle(rows: list[dict[str, Any]], key: str) -> str:
    known = [row[key] for row in rows if row[key] is not None]
    return f"{float(np.median(known)):.3f}" if known else "–"


def charts(study: Study, words: dict[str, str]) -> Iterator[dict[str, Any]]:
    """A chart a score, the most telling verdicts first; of a suite only what is no plain `smooth`."""
    ranked = []
    for metric in study.table.metrics:
        own = [one for one in study.judged if one.curve.metric == metric]
        if own:
            main = leading(own)
            ranked.append((group_of(metric) is not None, ORDER.index(main.verdict.name), metric, own, main))
    ranked.sort(key=lambda item: item[:2])
    for _, _, metric, own, main in ranked[:NUM_CHARTS]:
        shown = [one for one in own if one.placed.kind == main.placed.kind][:NUM_SERIES]
        series = [series_of(one, words) for one in shown]
        bent = main.verdict.evidence.get("break_at") if main.verdict.name == "break" else None
        drawn_on = main.curve.axis == main.verdict.evidence.get("axis")
        yield {
            "kind": "lines", "title": f"{metric} · {verdict_name(main.verdict.name)}",
            "x_label": main.curve.axis, "y_label": metric, "series": series, "log_x": main.curve.axis_kind != "plain",
            "note": say("named", name=named(main), text=main.verdict.text), "mark": bent if drawn_on else None, "mark_label": main.curve.axis,
        }  # fmt: skip


def fit_exhibits(study: Study, words: dict[str, str]) -> Iterator[dict[str, Any]]:
    """Parameters of a law with their intervals, and a broken law beside the points it was fitted to."""
    law = study.fits.get("chinchilla")
    if law:
        rows = [[name, law[name], *ends] for name, ends in law["intervals"].items()]
        columns = [words["parameter"], words["value"], "2.5 %", "97.5 %"]
        yield {"kind": "table", "title": "L(N, D) = E + A/N^alpha + B/D^beta", "columns": columns, "rows": rows}
    for fit in study.fits.get("broken", []):
        curve = next(one.curve for one in study.judged if one.curve.metric == fit["metric"] and one.curve.model == fit["model"])  # fmt: skip
        x = np.geomspace(curve.x[curve.x > 0].min(), curve.x.max(), 120)
        bend = np.logaddexp(0.0, (np.log(x) - np.log(fit["d1"])) / fit["f1"])
        y = fit["a"] + fit["b"] * x ** -fit["c0"] * np.exp(-fit["c1"] * fit["f1"] * bend)
        seen = len(curve.x) - fit["held_out"]
        series = [
            {"name": words["data"], "x": curve.x[:seen].tolist(), "y": curve.y[:seen].tolist()},
            {"name": words["fit"], "x": x.tolist(), "y": y.tolist()},
            {"name": words["held"], "x": curve.x[seen:].tolist(), "y": curve.y[seen:].tolist()},
        ][: 3 if fit["held_out"] else 2]  # fmt: skip
        yield {
            "kind": "lines", "title": f"{fit['metric']} · {words['fit']}", "x_label": fit["x"], "y_label": fit["metric"],
            "series": series, "log_x": True, "mark": fit["d1"], "mark_label": fit["x"],
        }  # fmt: skip


def series_of(one: Judged, words: dict[str, str]) -> dict[str, Any]:
    curve: Curve = one.curve
    name = curve.model if curve.model != "*" else (one.placed.family or words["data"])
    half = 1.96 * np.where(np.isfinite(curve.error), curve.error, np.nan)
    return {"name": name, "x": curve.x.tolist(), "y": curve.y.tolist(), "low": (curve.y - half).tolist(), "high": (curve.y + half).tolist()}  # fmt: skip
