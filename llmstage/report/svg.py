"""The few SVG elements the charts are made of."""

from __future__ import annotations

import re
from html import escape


def xml(value: object) -> str:
    """Text safe inside SVG: escaped, without the control characters and lone surrogates XML forbids."""
    return escape(re.sub("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]", "�", str(value)))


def open_svg(wide: float, tall: float, title: str, attributes: str = "") -> str:
    """The opening tag, with a name for screen readers."""
    told = f'role="img" aria-label="{xml(title)}"' if title else 'aria-hidden="true"'
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide:.0f} {tall:.0f}" {told} {attributes}>'


def text(
    x: float, y: float, word: object, kind: str = "tick", anchor: str = "middle", *,
    turn: int = 0, size: float | None = None, told: object = None,
) -> str:  # fmt: skip
    """A word at a place; `turn` in degrees, `size` in pixels where not the page's 12, `told` a tooltip."""
    spot = f'transform="translate({x:.1f} {y:.1f}) rotate({turn})"' if turn else f'x="{x:.1f}" y="{y:.1f}"'
    style = f' style="font-size:{size:.1f}px"' if size is not None else ""
    tip = f"<title>{xml(told)}</title>" if told is not None else ""
    return f'<text class="{kind}" {spot} text-anchor="{anchor}"{style}>{xml(word)}{tip}</text>'


def path(kind: str, steps: str) -> str:
    """A line of a class."""
    return f'<path class="{kind}" d="{steps}"/>'


def empty(wide: int, tall: int) -> str:
    """A chart without a finite number says so."""
    return f"{open_svg(wide, tall, 'no finite values')}{text(wide / 2, tall / 2, 'no finite values', 'label')}</svg>"
