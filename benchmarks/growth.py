"""Measure how rate and memory depend on the size of a run: bytes of text, context, size of the model, jobs of a sweep.

python benchmarks/growth.py                       # all points, two hours on two cores; --only context measures one of the four
python benchmarks/growth.py --quick --out /tmp/g  # tiny points: a smoke test

Each point is one command of llmstage in a process of its own. After each point the script updates
benchmarks/results/growth-<machine>.json. At the end it writes docs/concepts/growth.svg. It measures an existing point again only
with --anew.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from machine import about, cores, file_name, load
from race import Failed, child
from results import FOLDER, save_results
from tokenize_corpus import corpus
from works import REPOSITORY, text_documents

PICTURE = REPOSITORY / "docs" / "concepts" / "growth.svg"
STYLE = (
    "text{font:12px system-ui,sans-serif;fill:#555}.head{font-weight:600;fill:#222}.grid{stroke:#e3e3e3}"
    ".axis{stroke:#888}.line{fill:none;stroke:#2a6fb0;stroke-width:2}.dot{fill:#2a6fb0}svg{background:#fff}"
)
WIDE, HIGH = 460, 220
SIZES = {
    "1 M": ["model=gpt_tiny"],
    "14 M": ["model=gpt_small"],
    "45 M": [
        "model=gpt_small",
        "model.num_hidden_layers=12",
        "model.hidden_size=512",
        "model.num_attention_heads=8",
        "model.intermediate_size=1408",
    ],
    "110 M": ["model=gpt_base"],
    "300 M": [
        "model=gpt_base",
        "model.num_hidden_layers=20",
        "model.hidden_size=1024",
        "model.num_attention_heads=16",
        "model.intermediate_size=2816",
    ],
}
Point = tuple[str, list[str]]
"""(label on the axis, words of the command)"""


def main() -> int:
    args = arguments()
    path = args.out / "growth.json" if args.out else FOLDER / f"growth-{file_name()}.json"
    results: dict[str, Any] = json.loads(path.read_text("utf-8")) if path.is_file() and not args.anew else {}
    results["machine"] = about(args.threads)
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        folder = Path(name)
        for axis in args.only:
            points, labels = results.setdefault(axis, {}), []
            for label, words in AXES[axis](args, folder):
                labels.append(label)
                if label in points:
                    continue
                print(f"{axis} {label}: load {load()}", flush=True)
                try:
                    points[label] = measured(args, axis, words, folder)
                except Failed as error:
                    points[label] = {"failed": str(error)[-400:]}
                print(f"{axis} {label}: {points[label]}", flush=True)
                save_results(path, results)
            results[axis] = {
                label: points[label] for label in labels
            }  # keep the order of the axis; a repeated point would come last
    save_results(path, results)
    (args.out / "growth.svg" if args.out else PICTURE).write_text(picture(results), "utf-8")
    return 0


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(AXES), default=list(AXES))
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--steps", type=int, default=20, help="steps of each run")
    parser.add_argument("--anew", action="store_true", help="measure points again")
    parser.add_argument("--out", type=Path, help="a folder for results and picture, instead of the repository")
    parser.add_argument("--quick", action="store_true", help="two tiny points an axis, six steps")
    args = parser.parse_args()
    args.steps = 6 if args.quick else args.steps
    if args.out:
        args.out.mkdir(parents=True, exist_ok=True)
    return args


# Axes


def data_points(args: argparse.Namespace, folder: Path) -> Iterator[Point]:
    for size in (1, 2) if args.quick else (10, 100, 1000):
        run_dir = folder / f"{size}"
        run_dir.mkdir()
        corpus(argparse.Namespace(folder=run_dir, mb=size))
        yield f"{size} MB", [f"data.train={run_dir / 'corpus.txt'}", *model(args)]
        (run_dir / "corpus.txt").unlink()


def context_points(args: argparse.Namespace, folder: Path) -> Iterator[Point]:
    for length in (64, 128) if args.quick else (256, 512, 1024, 2048, 4096):
        yield str(length), [*documents(folder), f"data.context={length}", *model(args), "trainer.batch_tokens=4096"]


def model_points(args: argparse.Namespace, folder: Path) -> Iterator[Point]:
    for label, words in list(SIZES.items())[: 1 if args.quick else None]:
        yield label, [*documents(folder), *words]


def job_points(args: argparse.Namespace, folder: Path) -> Iterator[Point]:
    for count in (1, 2) if args.quick else (1, 2, 4, 8):
        seeds = ",".join(map(str, range(count)))
        yield str(count), ["-m", *documents(folder), *model(args), f"seed={seeds}"]


AXES: dict[str, Callable[[argparse.Namespace, Path], Iterator[Point]]] = {
    "data": data_points, "context": context_points, "model": model_points, "jobs": job_points,
}  # fmt: skip
NAMES = {"data": "text", "context": "tokens of context", "model": "parameters", "jobs": "jobs of a sweep"}


def model(args: argparse.Namespace) -> list[str]:
    return ["model=gpt_tiny" if args.quick else "model=gpt_small"]


def documents(folder: Path) -> list[str]:
    """Return the keys that train on the real text of the races, one document in each line."""
    path = folder / "documents"
    if not path.is_file():
        path.write_text("".join(f"{row['text']}\n" for row in text_documents()[0]), "utf-8")
    return [f"data.train={path}", "data.format=text", "data.text_rows=line", "data.max_lost=1"]


def measured(args: argparse.Namespace, axis: str, words: list[str], folder: Path) -> dict[str, Any]:
    """Run one point. Return tokens a second, peak memory and seconds of the command; for a sweep, seconds for each job."""
    out = folder / f"run-{time.monotonic_ns()}"
    fixed = [
        "stage=pretrain", "task=causal_lm", f"trainer.max_steps={args.steps}", f"trainer.threads={args.threads}",
        "trainer.eval_every=0", "trainer.train_rows_scored=0", "trainer.eval_rows=20", "trainer.baselines=false",
        f"data.cache={folder / 'cache' / out.name}", "data.split.max_rows=20",
        f"hydra.sweep.dir={out}" if "-m" in words else f"hydra.run.dir={out}",
    ]  # fmt: skip
    _, peak, wall = child([sys.executable, "-m", "llmstage", *words, *fixed], dict(os.environ), REPOSITORY)
    runs = sorted(out.rglob("report.json"))
    trained = [json.loads(run.read_text("utf-8"))["train"] for run in runs]
    rate = sum(result["tokens_per_second"] or 0.0 for result in trained) / len(trained)
    return {
        "tokens_per_second": round(rate, 1), "peak_mb": round(peak), "seconds": round(wall / len(runs), 2), "load": load(),
    }  # fmt: skip


# Picture


def picture(results: dict[str, Any]) -> str:
    """Return an SVG with two charts for each axis: rate and memory; for jobs, seconds a job and memory."""
    from llmstage.report.charts import line_chart, svg_text

    parts: list[str] = []
    row = 0
    for axis in AXES:
        points = {label: point for label, point in results.get(axis, {}).items() if "failed" not in point}
        if not points:
            continue
        first = ("seconds", "seconds a job") if axis == "jobs" else ("tokens_per_second", "tokens a second")
        for column, (name, title) in enumerate((first, ("peak_mb", "peak memory, MB"))):
            series = {"name": title, "x": list(points), "y": [point[name] for point in points.values()]}
            top = max(series["y"]) * 1.15
            chart = {
                "series": [series],
                "x_label": NAMES[axis],
                "y_range": (0, top),
                "title": f"{title} by {NAMES[axis]}",
            }
            drawn = line_chart(chart, (WIDE, HIGH))
            x, y = column * (WIDE + 10), row * (HIGH + 30) + 24
            parts.append(svg_text(x + WIDE / 2, y - 6, title, "head"))
            parts.append(
                drawn.replace("<svg ", f'<svg x="{x}" y="{y}" overflow="visible" width="{WIDE}" height="{HIGH}" ', 1)
            )
        row += 1
    machine = results["machine"]
    wide, high = 2 * WIDE + 34, row * (HIGH + 30) + 24  # the last label of an axis extends beyond the chart
    machine_line = f"{machine['cpu']} ({machine['bf16']}), {machine['threads']} threads, torch {machine['torch']}"
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {wide} {high}" role="img" aria-label="growth">'
    return "".join([head, f"<style>{STYLE}</style>", *parts, svg_text(wide / 2, high - 6, machine_line), "</svg>\n"])


if __name__ == "__main__":
    sys.exit(main())
