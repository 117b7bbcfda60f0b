"""Builds the report of a monitor for report.json, report.html and the terminal, in English or Chinese."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, tzinfo
from typing import Any

from llmstage.config.monitor import DAY, seconds
from llmstage.report.formatting import language

MAX_TOPICS = 8
"""Topics with a chart: those with the most alerts, then those with the most items."""
MAX_POINTS = 1500
"""Windows of a chart, the newest."""

TEXTS = {
    "en": {
        "alert": "{topic}: {share:.0%} of the items from {begin} on were negative ({negative} of {items} in that window); its past predicts {expected:.0%} (p = {p_value:.2g}).",
        "none": "No surge of the negative share in the {windows:,} windows that were tested.",
        "unjudged": "No window could be tested yet: each needs {least} items of its topic and a past that is long enough.",
        "counted": "{items:,} items counted in {topics} topics, {negative:.1%} of them negative.",
        "late": "{late:,} items came after their window was closed and are not counted; a window waits stage.late={setting} for late items.",
        "bad": "{bad:,} bad rows were left out; quarantine.jsonl lists them.",
        "short": "{judged:,} of {windows:,} windows were tested; the others had fewer than {least} items or too short a past.",
        "rate": "The probability of any false alert in a month is at most {alpha:g}, over all topics and windows together.",
        "undelivered": "{count} alerts could not be delivered; alerts.jsonl lists them.",
        "alerts": "Alerts", "topics": "Topics", "days": "days since {begin}", "share": "negative share", "running": "of the last {span}", "window": "of a window",
        "expected": "expected", "above": "above", "columns": ["window", "topic", "share", "expected", "p", "items", "delivery"],
        "of_topics": ["topic", "items", "negative share", "windows tested", "windows above", "alerts"],
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


def monitor_summary(series: Mapping[str, Any]) -> dict[str, Any]:
    """Return alerts and the totals of each topic, for report.json."""
    topics = []
    for name, windows in series["topics"].items():
        items = sum(window["items"] for window in windows)
        topics.append(
            {
                "topic": name, "items": items, "share": sum(window["negative"] for window in windows) / items,
                "judged": sum(window["p_value"] is not None for window in windows), "above": sum(window["above"] for window in windows),
                "alerts": sum(alert["topic"] == name for alert in series["alerts"]), "windows": len(windows),
            }
        )  # fmt: skip
    topics.sort(key=lambda topic: (-topic["alerts"], -topic["items"], topic["topic"]))
    return {"alerts": series["alerts"], "topics": topics}


def monitor_report(
    series: Mapping[str, Any],
    numbers: Mapping[str, Any],
    settings: Mapping[str, Any],
    zone: tzinfo,
    requested_language: str,
) -> dict[str, Any]:
    """Return the sentences, limits, tables and charts of the report. `numbers`: items, late, bad, undelivered."""
    summary = monitor_summary(series)
    alerts, topics = summary["alerts"], summary["topics"]
    report_language = requested_language
    if requested_language == "auto":
        report_language = "zh" if language("".join(topic["topic"] for topic in topics)) == "zh" else "en"
    texts: Any = TEXTS[report_language]
    # Sentences: the latest alerts, or that there was none, and the totals.
    num_tested = sum(topic["judged"] for topic in topics)
    num_items = sum(topic["items"] for topic in topics)
    negative = sum(topic["share"] * topic["items"] for topic in topics) / max(1, num_items)
    sentences = [texts["alert"].format(begin=alert["window"].partition("/")[0], **alert) for alert in alerts[-20:]]
    if not alerts:
        no_alert = texts["none" if num_tested else "unjudged"]
        sentences.append(no_alert.format(windows=num_tested, least=settings["min_items"]))
    sentences.append(texts["counted"].format(items=numbers["items"], topics=len(topics), negative=negative))
    # Limits: the error rate, and what was not tested, counted or delivered.
    limits = [texts["rate"].format(alpha=settings["alpha"])]
    num_windows = sum(topic["windows"] for topic in topics)
    if num_tested < num_windows:
        limits.append(texts["short"].format(judged=num_tested, windows=num_windows, least=settings["min_items"]))
    limits += [texts["late"].format(setting=settings["late"], late=numbers["late"])] if numbers["late"] else []
    limits += [texts["bad"].format(bad=numbers["bad"])] if numbers["bad"] else []
    limits += [texts["undelivered"].format(count=numbers["undelivered"])] if numbers["undelivered"] else []
    # Tables and charts.
    report_items: list[dict[str, Any]] = []
    if alerts:
        rows = [
            [
                *(alert[key] for key in ("window", "topic", "share", "expected", "p_value", "items")),
                delivery_text(alert),
            ]
            for alert in alerts
        ]
        report_items.append({"kind": "table", "title": texts["alerts"], "columns": texts["columns"], "rows": rows})
    report_items += [
        topic_chart(topic["topic"], series["topics"][topic["topic"]], zone, texts, settings)
        for topic in topics[:MAX_TOPICS]
    ]
    rows = [[topic[key] for key in ("topic", "items", "share", "judged", "above", "alerts")] for topic in topics]
    report_items.append({"kind": "table", "title": texts["topics"], "columns": texts["of_topics"], "rows": rows})
    return {
        "language": report_language, "sentences": sentences, "limits": limits, "exhibits": report_items, "monitor": summary,
    }  # fmt: skip


def delivery_text(alert: Mapping[str, Any]) -> str:
    return ", ".join(f"{channel} {outcome}" for channel, outcome in (alert["delivery"] or {}).items())


def topic_chart(
    topic: str,
    windows: Sequence[Mapping[str, Any]],
    zone: tzinfo,
    texts: Mapping[str, Any],
    settings: Mapping[str, Any],
) -> dict[str, Any]:
    """Return a chart of a topic's negative share over time.

    Its curves are the share of single windows with enough items, the share of the last 24 hours (7 days where windows are days
    or longer), and the expected share. Dots mark the windows above the expected share.
    """
    width = seconds(str(settings["window"]))
    windows = windows[-MAX_POINTS:]
    begin = windows[0]["start"]
    x = [(window["start"] - begin) / DAY for window in windows]
    shares = [window["negative"] / window["items"] for window in windows]
    # A share of a few items jumps between 0 and 1 and would hide the others.
    visible_shares = [
        share if window["items"] >= settings["min_items"] else None
        for window, share in zip(windows, shares, strict=True)
    ]
    span, span_name = (7 * DAY, "7d") if width >= DAY else (DAY, "24h")
    series = [
        {"name": texts["window"], "x": x, "y": visible_shares, "faint": True, "colour": 0},
        {"name": texts["running"].format(span=span_name), "x": x, "y": running_shares(windows, span), "colour": 0},
        {"name": texts["expected"], "x": x, "y": [window["expected"] for window in windows], "colour": 2},
    ]
    # line_chart draws a single point between two gaps as a dot, and joins points without a gap.
    above = [index for index, window in enumerate(windows) if window["above"]]
    points = [(x[index], value) for index in above for value in (shares[index], None)]
    if points:
        series.append({"name": texts["above"], "x": [x for x, _ in points], "y": [y for _, y in points], "colour": 1})
    first_day = datetime.fromtimestamp(begin, UTC).astimezone(zone)
    highest = max([0.1, *(value for curve in series for value in curve["y"] if value is not None)])
    return {
        "kind": "lines", "title": topic, "series": series, "x_label": texts["days"].format(begin=first_day.isoformat(" ", "minutes")),
        "y_label": texts["share"], "y_range": [0.0, min(1.0, highest * 1.1)],
    }  # fmt: skip


def running_shares(windows: Sequence[Mapping[str, Any]], span: int) -> list[float]:
    """Return, for each window, the negative share of all items in the last `span` seconds."""
    shares, first, items, negative = [], 0, 0, 0
    for window in windows:
        items, negative = items + window["items"], negative + window["negative"]
        while windows[first]["start"] <= window["start"] - span:
            items, negative = items - windows[first]["items"], negative - windows[first]["negative"]
            first += 1
        shares.append(negative / items)
    return shares
