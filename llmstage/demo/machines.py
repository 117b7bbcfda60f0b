"""The workshop world: a technician's note in English or Chinese beside two sensors and the kind of machine.

One world for several targets, so that each can be learned from it: the faults named in the note (several), the main fault
(one), how urgent it is (0 to 3), the hours the repair takes (a number), and whether the machine failed, which only note and
sensors together tell.
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
"""Fault: (hours of repair, what a note says)."""
URGENCY = {
    "en": ("Whenever there is time.", "This week, please.", "Needed tomorrow.", "Stop the line now!"),
    "zh": ("有空再处理。", "请本周处理。", "明天就要用。", "马上停机！"),
}
OPENINGS = {"en": ("Order {}: ", "Note {}: ", "Machine {}: "), "zh": ("工单{}：", "记录{}：", "机器{}：")}
MACHINES = ("drill", "lathe", "press")
NUMBERS, CATEGORIES = ("temperature", "load"), ("machine",)
LIMIT = {"drill": 70.0, "lathe": 75.0, "press": 80.0}
"""Degrees from which on a machine fails."""
FACTS = {"label": "fault", "multilabel": "faults", "ordinal": "urgency", "number": "hours"}
"""What a target of each kind is taken from; a single label beside features is `failed`."""


def machine_rows(num_rows: int, seed: int) -> list[dict[str, Any]]:
    """`num_rows` distinct rows with every fact of the world. Equal arguments give equal rows, and a longer list begins with
    the shorter one; one number in fifty is missing."""
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


def rows_for(num_rows: int, seed: int, targets: dict[str, str], features: tuple[str, ...], *, alone: bool) -> list[Row]:
    """Rows with `text`, the feature columns asked for, and each target (word to kind); `alone`: the only target."""
    out: list[Row] = []
    for row in machine_rows(num_rows, seed):
        said = {
            word: row["failed" if alone and features and kind == "label" else FACTS[kind]]
            for word, kind in targets.items()
        }
        out.append({"text": row["text"], **{name: row[name] for name in features}, **said})
    return out
