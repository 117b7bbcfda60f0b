"""The picture of growth holds every point that was measured, and a point that failed is left out."""

from __future__ import annotations

import argparse
import xml.etree.ElementTree as tree
from pathlib import Path

import growth

MACHINE = {"cpu": "A processor", "bf16": "AMX", "threads": 2, "torch": "2.13"}


def point(rate: float, **more: object) -> dict[str, object]:
    return {"tokens_per_second": rate, "peak_mb": 900, "seconds": 12.0, "load": "0.1", **more}


def test_the_picture_has_a_dot_for_each_point_and_figure() -> None:
    found = {
        "machine": MACHINE,
        "context": {"256": point(7000), "1024": point(6000), "4096": {"failed": "memory"}},
        "jobs": {"1": point(10), "2": point(11, seconds=9.0)},
    }
    drawn = growth.picture(found)
    root = tree.fromstring(drawn)
    dots = [one for one in root.iter() if one.tag.endswith("circle")]
    assert len(dots) == 8 and "tokens a second" in drawn and "seconds a job" in drawn and "A processor" in drawn
    assert "4096" not in drawn


def test_every_axis_gives_points_that_differ(tmp_path: Path) -> None:
    args = argparse.Namespace(quick=True)
    for axis, points in growth.AXES.items():
        made = list(points(args, tmp_path))
        assert made and len({label for label, _ in made}) == len({tuple(words) for _, words in made}) == len(made), axis
        assert all(any(word.startswith("data.train=") for word in words) for _, words in made)
