"""Formats numbers, times and names for the report page, the model card and the console."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

NOTHING = "–"
LONG_WORD = 20
"""A list element with more characters is a text, not a word or a tag. Chinese texts have no spaces to tell."""

CAPITALS = {
    "f1": "F1", "mcc": "MCC", "ece": "ECE", "chrf": "chrF", "rouge": "ROUGE", "l": "L", "auc": "AUC", "bleu": "BLEU",
    "ter": "TER", "mrr": "MRR", "ndcg": "NDCG", "brier": "Brier", "lm": "LM", "cider": "CIDEr", "bleu4": "BLEU-4",
    "clip": "CLIP", "vlm": "VLM",
}  # fmt: skip
"""Usual spelling of parts of metric and task names."""
PHRASES = {
    "image_to_text": "image → text", "text_to_image": "text → image", "zero_shot": "zero-shot", "rouge_l": "ROUGE-L",
    "image_gain": "gain from the image", "_unseen": ", unseen pairs", "_seen": ", seen pairs",
    "_gap": ", seen minus unseen pairs",
}  # fmt: skip
"""Parts of names that are replaced by plainer text."""


def number(value: Any) -> str:
    """Format a number with four significant digits: `0.8731`, `12.35`, `1,204`, `3.2e-05`; a dash for None. Integers keep all digits."""
    if value is None or value == "" or (isinstance(value, float) and not math.isfinite(value)):
        return NOTHING
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return str(value)
    size = abs(value)
    if isinstance(value, int) or size >= 1000:
        return f"{value:,.0f}"
    if size == 0:
        return "0"
    if size < 0.001:
        return f"{value:.2e}".replace("e-0", "e-")
    return f"{value:.{4 if size < 1 else 3 - math.floor(math.log10(size))}f}"


def short(value: float | None) -> str:
    """Format a large count: `66.4 M`, `12.0 k`; small numbers as number() does."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return number(value)


def interval(score: Mapping[str, Any]) -> str:
    """Return `0.8012 to 0.8945`, or an empty string where there is no interval."""
    low, high = score.get("low"), score.get("high")
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def change(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> tuple[str, str]:
    """Return the signed difference and `better`, `worse` or, where nothing changed, an empty string."""
    if not before or before.get("value") is None or after.get("value") is None:
        return "", ""
    step = after["value"] - before["value"]
    if step == 0:
        return "±0", ""
    better = (step > 0) == after.get("higher_is_better", True)
    return f"{'+' if step > 0 else '−'}{number(abs(step))}", "better" if better else "worse"


def seconds(value: float | None) -> str:
    """Format a duration: `0.8 s`, `42 s`, `3 min 12 s`, `2 h 05 min`, `3 d 4 h`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    total = round(value)
    if total < 60:
        return f"{total} s"
    if total < 3600:
        return f"{total // 60} min {total % 60:02d} s"
    if total < 48 * 3600:
        return f"{total // 3600} h {total % 3600 // 60:02d} min"
    return f"{total // 86400} d {total % 86400 // 3600} h"


def memory(value: float | None) -> str:
    """Format bytes in binary units: `512 MiB`, `1.42 GiB`."""
    if value is None:
        return NOTHING
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 1000 else f"{value / size:.0f} {unit}"
    return f"{value:.0f} B"


def share(value: float | None) -> str:
    """Format a fraction as a percentage with two decimals; a very small one with two significant digits."""
    if value is None:
        return NOTHING
    return f"{100 * value:.2g} %" if 0 < abs(value) < 0.001 else f"{100 * value:.2f} %"


def label(name: str) -> str:
    """Return a readable name: `macro_f1` becomes `macro F1`, `token_accuracy` becomes `token accuracy`."""
    # PHRASES has longer names first, since `_unseen` ends in `seen`. A phrase matches whole words only.
    for part, phrase in PHRASES.items():
        name = re.sub(rf"{'' if part.startswith('_') else '(?<![a-z0-9])'}{part}(?![a-z0-9])", phrase, name)
    return re.sub(r"[a-z0-9]+", lambda match: CAPITALS.get(match.group(), match.group()), name.replace("_", " "))


def moment(value: Any) -> str:
    """Format an ISO time as `2026-11-23 19:24`; return anything else unchanged."""
    try:
        return f"{datetime.fromisoformat(str(value)):%Y-%m-%d %H:%M}"
    except ValueError:
        return str(value)


def text(value: Any) -> str:
    """Return a prediction, reference or cell as text.

    Strings stay unchanged, words of a list are joined by spaces, texts of a list (several references) by slashes; everything
    else becomes JSON.
    """
    if value is None:
        return NOTHING
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float)):
        return str(value) if isinstance(value, bool) else number(value)
    if isinstance(value, Sequence) and all(isinstance(part, str) for part in value):
        return (" / " if any(" " in part or len(part) > LONG_WORD for part in value) else " ").join(value)
    return json.dumps(value, ensure_ascii=False, default=str)


def language(value: Any) -> str:
    """Return `zh` or `ja` where the text has such characters, else an empty string. The browser chooses glyphs by it."""
    sample = text(value)
    if re.search("[\u3040-\u30ff]", sample):
        return "ja"
    return "zh" if re.search("[\u3400-\u9fff]", sample) else ""
