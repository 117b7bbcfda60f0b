"""What a monitor found, for report.json, report.html and the terminal, in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from llmstage.config.monitor import seconds
from llmstage.report.formatting import language

DAY = 86400
MOST_TOPICS = 8
"""Topics with a chart of their own: those with alerts, then those with most items."""
MOST_POINTS = 1500
"""Windows of a chart, the newest."""

WORDS = {
    "en": {
        "alert": "{topic}: {share:.0%} of the items from {begin} on were negative ({negative} of {items} in that window), where its past leads one to expect {expected:.0%} (p = {p_value:.2g}).",
        "none": "No surge of the negative share in {windows:,} windows that were judged.",
        "unjudged": "No window could be judged yet: each needs {least} items of its topic and a past that is long enough.",
        "counted": "{items:,} items counted in {topics} topics, {negative:.1%} of them negative.",
        "late": "{late:,} items came after their window was closed and are not counted; stage.late={setting} says how long a window waits.",
        "bad": "{bad:,} bad rows were left out; they stand in quarantine.jsonl.",
        "short": "{judged:,} of {windows:,} windows were judged; the others had fewer than {least} items or too short a past.",
        "rate": "The chance of any false alert is at most {alpha:g} in a month, over all topics and windows together.",
        "undelivered": "{count} alerts could not be delivered; they stand in alerts.jsonl.",
        "alerts": "Alerts", "topics": "Topics", "days": "days since {begin}", "share": "negative share", "running": "of the last {span}", "window": "of a window",
        "expected": "expected", "above": "above", "columns": ["window", "topic", "share", "expected", "p", "items", "delivery"],
        "of_topics": ["topic", "items", "negative share", "windows judged", "windows above", "alerts"],
    },
    "zh": {
        "alert": "{topic}：自 {begin} 起 {share:.0%} 的条目为负面（{items} 条中 {negative} 条），按其以往应为 {expected:.0%}（p = {p_value:.2g}）。",
        "none": "在检验过的 {windows:,} 个窗口中，负面占比没有激增。",
        "unjudged": "尚无窗口可检验：每个窗口需有该主题的 {least} 条，以及足够长的以往数据。",
        "counted": "共计 {items:,} 条，{topics} 个主题，其中 {negative:.1%} 为负面。",
        "late": "{late:,} 条在其窗口关闭之后才到，未计入；窗口等待多久由 stage.late={setting} 决定。",
        "bad": "{bad:,} 行有误，未计入；见 quarantine.jsonl。",
        "short": "{windows:,} 个窗口中检验了 {judged:,} 个；其余不足 {least} 条，或以往太短。",
        "rate": "一个月内出现任何误报的概率至多为 {alpha:g}，所有主题与窗口合计。",
        "undelivered": "{count} 条警报未能送达；见 alerts.jsonl。",
        "alerts": "警报", "topics": "主题", "days": "自 {begin} 起的天数", "share": "负面占比", "running": "此前 {span}", "window": "单个窗口", "expected": "预期", "above": "超出",
        "columns": ["窗口", "主题", "占比", "预期", "p", "条数", "送达"],
        "of_topics": ["主题", "条数", "负面占比", "检验窗口", "超出窗口", "警报"],
    },
}  # fmt: skip


def block_of(series: Mapping[str, Any]) -> dict[str, Any]:
    """Numbers of the whole, for report.json."""
    topics = []
    for name, rows in series["topics"].items():
        items = sum(row["items"] for row in rows)
        topics.append(
            {
                "topic": name, "items": items, "share": sum(row["negative"] for row in rows) / items,
                "judged": sum(row["p_value"] is not None for row in rows), "above": sum(row["above"] for row in rows),
                "alerts": sum(alert["topic"] == name for alert in series["alerts"]), "windows": len(rows),
            }
        )  # fmt: skip
    topics.sort(key=lambda one: (-one["alerts"], -one["items"], one["topic"]))
    return {"alerts": series["alerts"], "topics": topics}


def page_of(
    series: Mapping[str, Any], numbers: Mapping[str, Any], settings: Mapping[str, Any], zone: tzinfo, asked: str
) -> dict[str, Any]:
    """Sentences, limits and exhibits. `numbers`: items, late, bad, undelivered."""
    block = block_of(series)
    names = "".join(one["topic"] for one in block["topics"])
    tongue = asked if asked != "auto" else "zh" if language(names) == "zh" else "en"
    say: Any = WORDS[tongue]
    alerts, topics = block["alerts"], block["topics"]
    judged = sum(one["judged"] for one in topics)
    negative = sum(one["share"] * one["items"] for one in topics) / max(1, sum(one["items"] for one in topics))
    sentences = [say["alert"].format(begin=alert["window"].partition("/")[0], **alert) for alert in alerts[-20:]]
    if not alerts:
        nothing = say["none" if judged else "unjudged"]
        sentences.append(nothing.format(windows=judged, least=settings["min_items"]))
    sentences.append(say["counted"].format(items=numbers["items"], topics=len(topics), negative=negative))
    limits = [say["rate"].format(alpha=settings["alpha"])]
    windows = sum(one["windows"] for one in topics)
    if judged < windows:
        limits.append(say["short"].format(judged=judged, windows=windows, least=settings["min_items"]))
    limits += [say["late"].format(setting=settings["late"], late=numbers["late"])] if numbers["late"] else []
    limits += [say["bad"].format(bad=numbers["bad"])] if numbers["bad"] else []
    limits += [say["undelivered"].format(count=numbers["undelivered"])] if numbers["undelivered"] else []
    report_items: list[dict[str, Any]] = []
    if alerts:
        rows = [
            [*(alert[key] for key in ("window", "topic", "share", "expected", "p_value", "items")), told(alert)]
            for alert in alerts
        ]
        report_items.append({"kind": "table", "title": say["alerts"], "columns": say["columns"], "rows": rows})
    report_items += [
        chart(one["topic"], series["topics"][one["topic"]], zone, say, settings) for one in topics[:MOST_TOPICS]
    ]
    rows = [[one[key] for key in ("topic", "items", "share", "judged", "above", "alerts")] for one in topics]
    report_items.append({"kind": "table", "title": say["topics"], "columns": say["of_topics"], "rows": rows})
    return {"language": tongue, "sentences": sentences, "limits": limits, "exhibits": report_items, "monitor": block}


def told(alert: Mapping[str, Any]) -> str:
    return ", ".join(f"{way} {said}" for way, said in (alert["delivery"] or {}).items())


def chart(
    topic: str, rows: Sequence[Mapping[str, Any]], zone: tzinfo, say: Mapping[str, Any], settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The share of a running day (of a week, for windows of days), that of windows which are large enough to tell something,
    what was expected of them, and dots for those above."""
    width = seconds(str(settings["window"]))
    rows = rows[-MOST_POINTS:]
    begin = rows[0]["start"]
    x = [(row["start"] - begin) / DAY for row in rows]
    shares = [row["negative"] / row["items"] for row in rows]
    large = [share if row["items"] >= settings["min_items"] else None for row, share in zip(rows, shares, strict=True)]
    span, name = (7 * DAY, "7d") if width >= DAY else (DAY, "24h")
    series = [
        {"name": say["window"], "x": x, "y": large, "faint": True, "colour": 0},
        {"name": say["running"].format(span=name), "x": x, "y": running(rows, span), "colour": 0},
        {"name": say["expected"], "x": x, "y": [row["expected"] for row in rows], "colour": 2},
    ]
    dots = [place for place, row in enumerate(rows) if row["above"]]
    # Each dot is a stretch of one point: the chart draws those as dots, and joins what is not parted by a gap.
    apart = [(x[place], value) for place in dots for value in (shares[place], None)]
    if apart:
        series.append({"name": say["above"], "x": [at for at, _ in apart], "y": [y for _, y in apart], "colour": 1})
    day = datetime.fromtimestamp(begin, UTC).astimezone(zone)
    highest = max([0.1, *(value for one in series for value in one["y"] if value is not None)])
    return {
        "kind": "lines", "title": topic, "series": series, "x_label": say["days"].format(begin=day.isoformat(" ", "minutes")),
        "y_label": say["share"], "y_range": [0.0, min(1.0, highest * 1.1)],
    }  # fmt: skip


def running(rows: Sequence[Mapping[str, Any]], span: int) -> list[float]:
    """The share of all items of the last `span` seconds, at each window."""
    out, first, items, negative = [], 0, 0, 0
    for row in rows:
        items, negative = items + row["items"], negative + row["negative"]
        while rows[first]["start"] <= row["start"] - span:
            items, negative, first = items - rows[first]["items"], negative - rows[first]["negative"], first + 1
        out.append(negative / items)
    return out
