"""Axes that map data to pixels, round numbers for ticks, thinning of curves, and the width of labels."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

MAX_POINTS = 400


@dataclass(slots=True, frozen=True)
class Axis:
    """Maps a range of numbers to a range of pixels."""

    low: float
    high: float
    start: float
    """Pixel of `low`; below `end` for x, above it for y."""
    end: float
    log: bool = False

    def pixel(self, value: float) -> float:
        """Return the pixel of a value."""
        low, high = self.low, self.high
        if self.log:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)

    def ticks(self, about: int = 6) -> list[float]:
        """Return about `about` round numbers inside the axis."""
        if self.log:
            ticks = log_ticks(self.low, self.high)
            return ticks if len(ticks) > 2 else nice_ticks(self.low, self.high, about)
        return nice_ticks(self.low, self.high, about)


def fit(values: Sequence[float], start: float, end: float, *, log: bool = False, margin: float = 0.05) -> Axis:
    """Return an axis around the values with a margin on both sides, also around a single value."""
    low, high = (min(values), max(values)) if values else (0.0, 1.0)
    if log:
        air = (high / low) ** margin if high > low else 1.5
        return Axis(low / air, high * air, start, end, True)
    if high == low:
        air = abs(high) * 0.1 or 1.0
        return Axis(low - air, high + air, start, end)
    air = (high - low) * margin
    # An axis of values that are never negative does not go below zero.
    return Axis(max(low - air, 0.0) if low >= 0 else low - air, high + air, start, end)


def nice_ticks(low: float, high: float, about: int) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 times a power of ten (Heckbert 1990, Graphics Gems, with 2.5 added)."""
    rough = (high - low) / max(about, 1)
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(nice * power for nice in (1, 2, 2.5, 5, 10) if nice * power >= rough * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [round(k * step, 12 - math.floor(math.log10(step))) for k in range(first, last + 1)]


def log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times each power of ten, or powers of ten alone where there are more than four."""
    decades = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    every = max(1, round(len(decades) / 6))
    digits = (1, 2, 5) if len(decades) <= 4 else (1,)
    return [d * 10.0**k for k in decades if k % every == 0 for d in digits if low <= d * 10.0**k <= high]


def tick_label(value: float, ticks: Sequence[float]) -> str:
    """Return a tick with as few digits as distinguish the ticks; thousands as `12k`, very small numbers as `2e-7`."""
    top = max((abs(tick) for tick in ticks), default=0.0)
    for limit, unit in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if top >= limit:
            return f"{value / (1e3 if unit == 'k' else limit):.10g}{unit}" if value else "0"
    if top and top < 0.001:
        return f"{value:.10g}".replace("e-0", "e-")
    decimals = max((len(f"{tick:.6f}".rstrip("0").split(".")[1]) for tick in ticks), default=0)
    return f"{value:.{decimals}f}"


def wants_log(values: Sequence[float]) -> bool:
    """Return whether a linear axis would hide most of a curve: values are positive and span more than a factor of 20."""
    return bool(values) and min(values) > 0 and max(values) > 20 * min(values)


def thin(xs: Sequence[float], ys: Sequence[float], limit: int = MAX_POINTS) -> list[int]:
    """Return the indices of at most `limit` points: the lowest and the highest of each bucket, and the first and the last."""
    num = len(xs)
    if num <= limit:
        return list(range(num))
    buckets = max(1, (limit - 2) // 2)
    retained = {0, num - 1}
    for bucket in range(buckets):
        inside = range(bucket * num // buckets, (bucket + 1) * num // buckets)
        retained |= {min(inside, key=ys.__getitem__), max(inside, key=ys.__getitem__)}
    return sorted(retained)


def width(label: str, size: float = 12) -> float:
    """Return the approximate width of a label in pixels. A Chinese character is as wide as it is high."""
    return sum(size if ord(char) > 0x2E7F else size * 0.56 for char in label)


def cut(label: str, max_width: float, size: float = 12) -> str:
    """Return a label, shortened with an ellipsis where it is wider than `max_width` pixels."""
    if width(label, size) <= max_width:
        return label
    while label and width(label + "…", size) > max_width:
        label = label[:-1]
    return label + "…"
