"""Numbers and values as a reader wants to see them; the same words on the page, on the card and on the console."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

NOTHING = "–"
LONG_WORD = 20
"""Letters above which a part of a list is no word or tag but a text, also in Chinese, which has no spaces."""

CAPITALS = {
    "f1": "F1", "mcc": "MCC", "ece": "ECE", "chrf": "chrF", "rouge": "ROUGE", "l": "L", "auc": "AUC", "bleu": "BLEU",
    "ter": "TER", "mrr": "MRR", "ndcg": "NDCG", "brier": "Brier", "lm": "LM", "cider": "CIDEr", "bleu4": "BLEU-4",
    "clip": "CLIP", "vlm": "VLM",
}  # fmt: skip
"""How the field writes parts of metric and task names."""
PHRASES = {
    "image_to_text": "image → text", "text_to_image": "text → image", "zero_shot": "zero-shot", "rouge_l": "ROUGE-L",
    "image_gain": "gain from the image", "_unseen": ", unseen pairs", "_seen": ", seen pairs",
    "_gap": ", seen minus unseen pairs",
}  # fmt: skip
"""Parts that a reader understands better in other words."""


def number(value: Any) -> str:
    """Four significant digits: `0.8731`, `12.35`, `1,204`, `3.2e-05`; a dash for nothing. Whole numbers stay whole."""
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
    """For big counts: `66.4 M`, `12.0 k`; small ones as they are."""
    if value is None:
        return NOTHING
    for limit, unit in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.3g} {unit}"
    return number(value)


def interval(score: Mapping[str, Any]) -> str:
    """`0.8012 to 0.8945`, or an empty string where there is no interval."""
    low, high = score.get("low"), score.get("high")
    return "" if low is None or high is None else f"{number(low)} to {number(high)}"


def change(before: Mapping[str, Any] | None, after: Mapping[str, Any]) -> tuple[str, str]:
    """The signed difference and whether it is `better`, `worse` or nothing to speak of (an empty word)."""
    if not before or before.get("value") is None or after.get("value") is None:
        return "", ""
    step = after["value"] - before["value"]
    if step == 0:
        return "±0", ""
    better = (step > 0) == after.get("higher_is_better", True)
    return f"{'+' if step > 0 else '−'}{number(abs(step))}", "better" if better else "worse"


def seconds(value: float | None) -> str:
    """`0.8 s`, `42 s`, `3 min 12 s`, `2 h 05 min`, `3 d 4 h`."""
    if value is None or not math.isfinite(value):
        return NOTHING
    if value < 10:
        return f"{value:.1f} s"
    whole = round(value)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    if whole < 48 * 3600:
        return f"{whole // 3600} h {whole % 3600 // 60:02d} min"
    return f"{whole // 86400} d {whole % 86400 // 3600} h"


def memory(value: float | None) -> str:
    """Bytes in binary units: `512 MiB`, `1.42 GiB`."""
    if value is None:
        return NOTHING
    for unit, size in (("TiB", 2**40), ("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10)):
        if value >= size:
            return f"{value / size:.3g} {unit}" if value / size < 1000 else f"{value / size:.0f} {unit}"
    return f"{value:.0f} B"


def share(value: float | None) -> str:
    """A fraction as a percentage: two decimals, or two digits where these would hide a small share."""
    if value is None:
        return NOTHING
    return f"{100 * value:.2g} %" if 0 < abs(value) < 0.001 else f"{100 * value:.2f} %"


def label(name: str) -> str:
    """`macro_f1` as `macro F1`, `token_accuracy` as `token accuracy`; names the field writes in capitals get them."""
    # Longer names first: `_unseen` ends in `seen`, and a phrase stands at a border between words.
    for part, said in PHRASES.items():
        name = re.sub(rf"{'' if part.startswith('_') else '(?<![a-z0-9])'}{part}(?![a-z0-9])", said, name)
    return re.sub(r"[a-z0-9]+", lambda found: CAPITALS.get(found.group(), found.group()), name.replace("_", " "))


def moment(value: Any) -> str:
    """An ISO time as `2026-11-23 19:24`, or as it came."""
    try:
        return f"{datetime.fromisoformat(str(value)):%Y-%m-%d %H:%M}"
    except ValueError:
        return str(value)


def text(value: Any) -> str:
    """A prediction, reference or cell as text: strings as they are, lists of words with spaces, lists of texts (several
    references) with slashes, the rest as JSON."""
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
    """`zh` or `ja` where the text has such characters, so that the browser picks the right glyphs; else empty."""
    sample = text(value)
    if re.search("[\u3040-\u30ff]", sample):
        return "ja"
    return "zh" if re.search("[\u3400-\u9fff]", sample) else ""
