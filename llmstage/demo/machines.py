"""The workshop world: the note of a technician in English or Chinese, two sensors, and the machine.

One world has several targets: the faults in the note (several), the main fault (one), the urgency (0 to 3), the hours of the
repair (a number), and whether the machine failed, which depends on note and sensors.
"""

from __future__ import annotations

import random
from typing import Any

from llmstage.data.rows import Row

FAULTS: dict[str, tuple[float, dict[str, tuple[str, ...]]]] = {
    "leak": (2.0, {"en": ("oil is leaking", "there is a leak at the hose"), "zh": ("漏油了", "软管有渗漏")}),
    "noise": (1.0, {"en": ("it squeals loudly", "a grinding noise comes from it"), "zh": ("有尖叫声", "噪声很大")}),
    "heat": (3.0, {"en": ("the bearing runs hot", "it smells burnt"), "zh": ("轴承发热", "有焦味")}),
    "wear": (4.5, {"en": ("the belt is worn", "the teeth are blunt"), "zh": ("皮带磨损了", "齿已经钝了")}),
    "power": (6.0, {"en": ("the fuse blew", "it loses power"), "zh": ("保险丝断了", "电力不足")}),
}
"""Fault to (hours of repair, sentences of a note)."""
URGENCY = {
    "en": ("Whenever there is time.", "This week, please.", "Needed tomorrow.", "Stop the line now!"),
    "zh": ("有空再处理。", "请本周处理。", "明天就要用。", "马上停机！"),
}
OPENINGS = {"en": ("Order {}: ", "Note {}: ", "Machine {}: "), "zh": ("工单{}：", "记录{}：", "机器{}：")}
MACHINES = ("drill", "lathe", "press")
NUMBERS, CATEGORIES = ("temperature", "load"), ("machine",)
LIMIT = {"drill": 70.0, "lathe": 75.0, "press": 80.0}
"""Temperature above which a machine fails, in degrees."""
FACTS = {"label": "fault", "multilabel": "faults", "ordinal": "urgency", "number": "hours"}
"""Target type to the fact that is its value; a single label with features is `failed`."""


def machine_rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """Return `num_rows` distinct rows with every fact of the world; one load in fifty is missing.

    Equal arguments give equal rows, and a longer list begins with the shorter one.
    """
    rng = random.Random(f"machines {seed}")
    rows: list[dict[str, Any]] = []
    seen: set[str] = set()
    while len(rows) < num_rows:
        language = ("en", "zh")[len(rows) % 2]
        faults = rng.sample(list(FAULTS), rng.choice((1, 1, 2, 3)))
        urgency, machine = rng.randrange(4), rng.choice(MACHINES)
        temperature, load = round(rng.gauss(60, 14), 1), round(rng.random(), 3)
        parts = [rng.choice(FAULTS[fault][1][language]) for fault in faults]
        opening = rng.choice(OPENINGS[language]).format(rng.randrange(1000, 100000))
        joined = (", " if language == "en" else "，").join(parts) + (". " if language == "en" else "。")
        text = opening + joined + URGENCY[language][urgency]
        failed = temperature > LIMIT[machine] or (load > 0.6 and "leak" in faults)
        if text not in seen:
            seen.add(text)
            rows.append(
                {
                    "text": text, "temperature": temperature, "load": load if rng.random() > 0.02 else None,
                    "machine": machine, "fault": faults[0], "faults": sorted(faults), "urgency": urgency,
                    "hours": sum(FAULTS[fault][0] for fault in faults), "failed": "yes" if failed else "no",
                }
            )  # fmt: skip
    return rows


def rows_for(
    num_rows: int, seed: int, targets: dict[str, str], features: tuple[str, ...], *, is_single_target: bool
) -> list[Row]:
    """Return rows with `text`, the feature columns, and each target (column to target type)."""
    out: list[Row] = []
    for row in machine_rows(num_rows, seed):
        values = {
            column: row["failed" if is_single_target and features and target_type == "label" else FACTS[target_type]]
            for column, target_type in targets.items()
        }
        out.append({"text": row["text"], **{name: row[name] for name in features}, **values})
    return out
