"""The sentences of stage=explore in English and Chinese, a file for each part of it; numbers are put in, nothing else is
decided here.

A page speaks one language, which is known before anything is looked at. It is kept here for the time of the run, so that
what makes a sentence need not be handed the language by all that stands above it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llmstage.config.stage import spoken
from llmstage.explore.wording import curves, improve, ladder, novelty, probes, reduction, toy_worlds, weak

COMMON = {
    "named": ("{name}: {text}", "{name}：{text}"),
    "comma": (", ", "、"),
    "semicolon": ("; ", "；"),
    "low_to_high": ("{low:.3f} to {high:.3f}", "{low:.3f} 至 {high:.3f}"),
}
SENTENCES: dict[str, tuple[str, str]] = {
    **COMMON, **curves.SENTENCES, **weak.SENTENCES, **improve.SENTENCES, **probes.SENTENCES, **ladder.SENTENCES,
    **toy_worlds.SENTENCES, **reduction.SENTENCES, **novelty.SENTENCES,
}  # fmt: skip
"""Key to (English, Chinese), with places for the numbers."""
LANGUAGE: ContextVar[str] = ContextVar("language", default="en")


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """What is said inside is said in this language: en or zh."""
    before = LANGUAGE.set(language)
    try:
        yield
    finally:
        LANGUAGE.reset(before)


def current_language() -> str:
    return LANGUAGE.get()


def pick(pair: tuple[str, str]) -> str:
    """The English or the Chinese one."""
    return pair[LANGUAGE.get() == "zh"]


def say(key: str, **values: Any) -> str:
    """A sentence with its numbers."""
    return pick(SENTENCES[key]).format(**values)


def named(name: str, text: str) -> str:
    """What is said of a thing, behind its name."""
    return say("named", name=name, text=text)


def headings(key: str, **values: Any) -> list[str]:
    """The heads of a table's columns."""
    return say(key, **values).split("|")


def meaning(verdict: str) -> str:
    """What a verdict on a curve means, for a reader who knows none of the papers."""
    return pick(curves.MEANINGS[verdict])


def verdict_name(verdict: str) -> str:
    return pick(curves.NAMES[verdict])


def shape_name(shape: str) -> str:
    return pick(curves.SHAPES[shape])


def figure(value: float) -> str:
    """Three digits; sizes and steps in full or with a unit."""
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if size >= limit:
            return f"{value / limit:.3g}{unit}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def report_language(wanted: str, names: Iterable[str]) -> str:
    """auto: Chinese where the names in the data, or else the locale, are; the same files give the same on one machine."""
    if wanted == "auto" and any(re.search("[\u3400-\u9fff]", name) for name in names):
        return "zh"
    return spoken(wanted)
