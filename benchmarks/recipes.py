"""Run the recipes one after another, and write their results from report.json into the tables of docs/recipes.

python benchmarks/recipes.py run --data-root ../shared/data              # every recipe, into outputs/recipes/<name>
python benchmarks/recipes.py run banking77 sgd -- trainer.threads=1      # some of them, with words for llmstage
python benchmarks/recipes.py table                                       # read the reports, write the table
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))  # import llmstage from this checkout, whether it is installed or not

from llmstage.paths import conf_dir, options  # noqa: E402
from llmstage.report import formatting  # noqa: E402

PAGES = REPOSITORY / "docs" / "recipes"
RESULTS = PAGES / "results.json"
BEGIN, END = "<!-- results: written by benchmarks/recipes.py -->", "<!-- end of results -->"
HEADS = ["recipe", "task", "data (rows)", "model", "score on test (95 %)", "best simple method", "beaten", "training"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("names", nargs="*", help="recipes; all of them if none is named")
    parser.add_argument(
        "--runs", type=Path, default=REPOSITORY / "outputs" / "recipes", help="folder of the run folders"
    )
    parser.add_argument("--data-root", default=str(REPOSITORY.parent / "shared" / "data"))
    run_words, _, extra = " ".join(sys.argv[1:]).partition(" -- ")
    args = parser.parse_args(run_words.split())
    unknown = set(args.names) - set(options("experiment"))
    if unknown:
        parser.error(f"unknown recipe: {', '.join(sorted(unknown))}. Known: {', '.join(options('experiment'))}")
    if args.what == "table":
        return table(args.runs)
    return run(args.names or options("experiment"), args.runs, args.data_root, extra.split())


def run(names: list[str], runs: Path, data_root: str, extra: list[str]) -> int:
    """Run each recipe in a process of its own. A failed recipe does not stop the others; the end of the output names it."""
    failed = []
    for name in names:
        started = time.perf_counter()
        command = [f"experiment={name}", f"hydra.run.dir={runs / name}", *extra]
        command += [f"data_root={data_root}"] if reads_data(name) else []
        env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
        status = subprocess.run([sys.executable, "-m", "llmstage", *command], env=env).returncode
        print(f"{name}: status {status}, {time.perf_counter() - started:.0f} s", flush=True)
        failed += [name] if status else []
    if failed:
        print(f"failed: {', '.join(failed)}")
    return 1 if failed else 0


def reads_data(name: str) -> bool:
    """Return whether a recipe reads files. False for a recipe on generated rows."""
    return "${data_root}" in (conf_dir() / "experiment" / f"{name}.yaml").read_text("utf-8")


def table(runs: Path) -> int:
    """Write all tables. Results in the folder of runs replace those with the same key; the other rows stay as they are."""
    known = json.loads(RESULTS.read_text("utf-8")) if RESULTS.is_file() else {}
    for path in sorted(runs.rglob("report.json")):
        report = json.loads(path.read_text("utf-8"))
        if report.get("experiment") in options("experiment") and report.get("status") == "completed":
            row = row_of(report)
            known[row.pop("key")] = row
    known = {key: row for key, row in sorted(known.items()) if row["experiment"] in options("experiment")}
    RESULTS.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n", "utf-8")
    fill(PAGES / "README.md", render(known))
    for name in {row["experiment"] for row in known.values()}:
        fill(PAGES / f"{name}.md", render({key: row for key, row in known.items() if row["experiment"] == name}))
    print(render(known))
    return 0


def fill(page: Path, text: str) -> None:
    """Replace the part of a page between the two markers."""
    before, marker, rest = page.read_text("utf-8").partition(BEGIN)
    _, closed, after = rest.partition(END)
    if not (marker and closed):
        sys.exit(f"{page} needs the lines '{BEGIN}' and '{END}' around the result.")
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")


def row_of(report: dict[str, Any]) -> dict[str, Any]:
    """Return the row of the table for one report."""
    baselines = report.get("baselines")
    split = (
        baselines["split"] if baselines else next(s for s in ("test", "validation", "train") if s in report["scores"])
    )
    scores = report["scores"][split]
    metric = baselines["metric"] if baselines else next(iter(scores))
    start = report["model"].get("path")
    counts = {name: part["rows"] for name, part in report["data"]["splits"].items()}
    return {
        "key": report["experiment"] + (" (pretrained)" if start else ""),
        "experiment": report["experiment"],
        "pretrained": bool(start),
        "task": report["task"],
        "rows": counts,
        "model": report["model"]["architecture"],
        "parameters": report["model"]["parameters"],
        "split": split,
        "metric": metric,
        "score": {key: scores[metric][key] for key in ("value", "low", "high", "count")},
        "simple": {"name": baselines["best"], "value": baselines["methods"][baselines["best"]][metric]["value"]}
        if baselines
        else None,
        "beaten": baselines["beaten"] if baselines else None,
        "clearly": baselines["clearly"] if baselines else None,
        "train_seconds": report["train"]["seconds"] if report.get("train") else None,
        "seconds": report["seconds"],
        "machine": f"{report['machine']['cpu']} ({report['machine']['bf16'] or 'no fast bf16'})",
        "threads": report["train"]["threads"] if report.get("train") else None,
    }


def render(results: dict[str, Any]) -> str:
    """Return the table in Markdown."""
    lines = [f"| {' | '.join(HEADS)} |", f"|{'---|' * len(HEADS)}"]
    for row in results.values():
        score, simple = row["score"], row["simple"]
        name = f"[`experiment={row['experiment']}`]({row['experiment']}.md)"
        score_text = f"{formatting.label(row['metric'])} **{formatting.number(score['value'])}**"
        score_text += f" ({formatting.interval(score)})" if formatting.interval(score) else ""
        verdict = (
            "–"
            if simple is None
            else "yes"
            if row["clearly"]
            else "yes, intervals overlap"
            if row["beaten"]
            else "**no**"
        )
        cells = [
            name + (", after pretraining" if row["pretrained"] else ""),
            row["task"],
            " / ".join(f"{count:,}" for count in row["rows"].values()),
            f"{row['model'].partition('For')[0].removesuffix('Model')}, {formatting.short(row['parameters'])}",
            score_text if row["split"] == "test" else f"{score_text} on {row['split']}",
            f"{formatting.number(simple['value'])} ({simple['name']})" if simple else "–",
            verdict,
            f"{formatting.seconds(row['train_seconds'])}, {row['threads']} thread{'s' if row['threads'] != 1 else ''}"
            if row["train_seconds"]
            else "–",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    machines = ", ".join(dict.fromkeys(row["machine"] for row in results.values()))
    return "\n".join(
        [
            *lines,
            "",
            f"Machine: {machines}. One run each, seed 0. The interval shows how much another sample of test rows might differ. Training is wall time. Runs with one thread shared the two cores with other runs.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
