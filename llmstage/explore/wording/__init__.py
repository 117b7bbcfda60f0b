"""The sentences of stage=explore in English and Chinese, one file for each part. This package fills in numbers only.

A report has one language, which is known before the run starts. A context variable holds it for the time of the run, so
that functions that write sentences need no language argument.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

from llmstage.config.stage import resolve_language
from llmstage.explore.wording import improve, novelty, probes, weak

COMMON = {
    "named": ("{name}: {text}", "{name}：{text}"),
    "comma": (", ", "、"),
    "semicolon": ("; ", "；"),
    "low_to_high": ("{low:.3f} to {high:.3f}", "{low:.3f} 至 {high:.3f}"),
}
SENTENCES: dict[str, tuple[str, str]] = {
    **COMMON, **weak.SENTENCES, **improve.SENTENCES, **probes.SENTENCES, **novelty.SENTENCES,
}  # fmt: skip
"""Key to (English, Chinese), with fields for the numbers."""
LANGUAGE: ContextVar[str] = ContextVar("language", default="en")


@contextmanager
def speaking(language: str) -> Iterator[None]:
    """Write all sentences inside the block in this language: en or zh."""
    before = LANGUAGE.set(language)
    try:
        yield
    finally:
        LANGUAGE.reset(before)


def current_language() -> str:
    """Return en or zh."""
    return LANGUAGE.get()


def add_sentences(sentences: Mapping[str, tuple[str, str]]) -> None:
    """Add the sentences of another package. Raises ValueError for a key that exists."""
    taken = SENTENCES.keys() & sentences.keys()
    if taken:
        raise ValueError(f"these keys of sentences exist: {', '.join(sorted(taken))}")
    SENTENCES.update(sentences)


def pick(pair: tuple[str, str]) -> str:
    """Return the text of the current language from (English, Chinese)."""
    return pair[LANGUAGE.get() == "zh"]


def sentence(key: str, **values: Any) -> str:
    """Return the sentence of a key with `values` filled in."""
    return pick(SENTENCES[key]).format(**values)


def named(name: str, text: str) -> str:
    """Return `name: text` in the current language."""
    return sentence("named", name=name, text=text)


def headings(key: str, **values: Any) -> list[str]:
    """Return the column names of a table."""
    return sentence(key, **values).split("|")


def figure(value: float) -> str:
    """Format a number with three digits; sizes and steps in full or with a unit."""
    size = abs(value)
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M")):
        if size >= limit:
            return f"{value / limit:.3g}{unit}"
    if size >= 1000:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def report_language(language: str, names: Iterable[str]) -> str:
    """Return en or zh. auto takes Chinese where a name in the data has Chinese characters, else the locale decides.

    The same files give the same language on one machine.
    """
    if language == "auto" and any(re.search("[\u3400-\u9fff]", name) for name in names):
        return "zh"
    return resolve_language(language)
