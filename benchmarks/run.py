"""Measure every row of the speed table: llmstage and its peers run in turn, with the same model, rows, steps and threads.

python benchmarks/run.py                          # all rows, three times; about an hour and a half on two cores
python benchmarks/run.py --only dialogue generate # some rows; the others keep their earlier figures
python benchmarks/run.py --quick                  # a smoke test with tiny models; its speed means nothing

The script writes benchmarks/results/<machine>.json after every row, so a killed run loses at most one row. The peers come from
../shared/peers, if this folder exists, and from benchmarks/peers. Their packages are installed once, each set in an environment of
its own in the cache folder. If a peer cannot be installed or run, the output gives the reason.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from environments import environment
from figures import long_table, machine_line
from machine import about, cores, file_name, load, peaks
from race import PEERS, Settings, Side, run_race
from results import FOLDER, judged, load_results, raced, save_results
from rows import ROWS, Row
from works import REPOSITORY, WORKS

NAMES = [row.name for row in ROWS]


def main() -> int:
    args = arguments()
    path = args.out or (
        Path(tempfile.gettempdir()) / "llmstage-quick.json" if args.quick else FOLDER / f"{file_name()}.json"
    )
    results = {"machine": {}, "rows": {}} if args.quick else load_results(path)
    results["machine"] = about(args.threads)
    for record in results["rows"].values():  # of older files, in which rows have no peaks
        record.setdefault("peaks", results.get("peaks", {}))
    results["peaks"] = peaks(args.threads, 256 if args.quick else 2048)
    print(f"{machine_line(results)} Load {load()}. Figures: {path}", flush=True)
    started, broken = time.monotonic(), []
    for row in ROWS:
        if row.name not in args.only:
            continue
        if args.budget_minutes and time.monotonic() - started > 60 * args.budget_minutes:
            print(f"{row.name}: left out, because the {args.budget_minutes:g} minutes are over", flush=True)
            continue
        print(f"\n== {row.name}: {row.title}", flush=True)
        clock = time.monotonic()
        rates = peaks(args.threads, 256 if args.quick else 2048)  # the speed of a shared machine changes
        record = race_row(row, args) if row.sides else program_row(row, args)
        record = judged(row, {**record, "peaks": rates}, rates["bf16"])
        record |= {"when": time.strftime("%Y-%m-%d %H:%M"), "load": load(), "commit": commit(), "runs": args.runs}
        results["rows"][row.name] = record
        results["rows"] = {name: results["rows"][name] for name in NAMES if name in results["rows"]}
        save_results(path, results)
        broken += [f"{row.name}, {name}: {why}" for name, why in record["failed"].items()]
        print(f"{row.name} took {time.monotonic() - clock:.0f} s", flush=True)
    print(f"\n{machine_line(results)}\n\n{long_table(results)}")
    if args.quick:
        print("\nThis was a smoke test: its rates and marks mean nothing. Failed rows, if any, follow.")
    for line in broken:
        print(f"\nnot run: {line}")
    return conclude(results, args)


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=NAMES, default=NAMES, metavar="ROW", help=f"rows to run, of {', '.join(NAMES)}"
    )
    parser.add_argument("--runs", type=int, default=3, help="runs of every side, in turn")
    parser.add_argument(
        "--steps", type=int, help="steps of every training race; default: those of the row, see rows.py"
    )
    parser.add_argument("--budget-minutes", type=float, help="start no row after this time")
    parser.add_argument("--threads", type=int, default=cores())
    parser.add_argument("--peers", type=Path, default=PEERS, help="a folder with further peers")
    parser.add_argument(
        "--peer-python", help="an interpreter with the peers' packages; the script then installs nothing"
    )
    parser.add_argument("--out", type=Path, help="the results file; default: benchmarks/results/<machine>.json")
    parser.add_argument("--quick", action="store_true", help="a smoke test: tiny models, four steps, one run")
    args = parser.parse_args()
    args.runs = 1 if args.quick else args.runs
    return args


def race_row(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    work = WORKS[row.work]
    settings = Settings(
        row.work,
        row.size,
        row.length or work.length,
        row.batch or work.batch,
        args.steps or row.steps,
        work.lr,
        args.threads,
    )
    if args.quick:
        length = min(64, settings.length) if work.is_text else settings.length
        settings = Settings(row.work, "tiny", length, 2, 4, work.lr, args.threads, warmup=1)
    sides = [quick_side(side) for side in row.sides] if args.quick else row.sides
    pythons, missing = interpreters({side.packages for side in sides if side.script}, args)
    result = run_race(settings, sides, args.runs, pythons=pythons, peers=args.peers, report=print_line)
    for side in row.sides:  # a missing environment explains more than the failed run
        if side.script and side.packages in missing:
            result.failed[side.name] = missing[side.packages]
    return raced(row, result, work.unit, asdict(settings))


def quick_side(side: Side) -> Side:
    """Return the side without --compile, which takes a minute and is not needed in a smoke test."""
    return replace(side, words=tuple(word for word in side.words if word != "--compile"))


def program_row(row: Row, args: argparse.Namespace) -> dict[str, Any]:
    """Run a script of this folder that writes {"unit", "sides": {name: {"rates", ...}}, "note"} to --json. Return its record."""
    record: dict[str, Any] = {"title": row.title, "title_zh": row.title_zh, "unit": "", "sides": {}, "failed": {}}
    script = Path(__file__).with_name(row.program[0])
    if not script.is_file():
        record["failed"] = {row.program[0]: "the script does not exist"}
        return record
    pythons, missing = interpreters(set(row.packages), args)
    with tempfile.TemporaryDirectory(prefix="llmstage-bench-") as name:
        out = Path(name) / "figures.json"
        words = [sys.executable, str(script), *row.program[1:], *(row.quick if args.quick else ()), "--json", str(out)]
        words += [word for python in pythons.values() for word in ("--peer-python", python)]
        threads = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), str(args.threads))
        done = subprocess.run(
            words, cwd=REPOSITORY, env={**os.environ, **threads}, stderr=subprocess.PIPE, text=True, stdout=sys.stderr
        )
        if not out.is_file():
            record["failed"] = {
                row.program[0]: f"{shlex.join(words)} ended with {done.returncode}:\n{done.stderr[-1500:]}"
            }
            return record
        record |= json.loads(out.read_text("utf-8"))
    record["failed"] |= missing
    return record


def interpreters(names: set[str], args: argparse.Namespace) -> tuple[dict[str, str], dict[str, str]]:
    """Return the interpreter of each set of packages, and the reason for each set without one."""
    if args.peer_python:
        return dict.fromkeys(names, args.peer_python), {}
    interpreters_by_name = {name: environment(name) for name in sorted(names)}
    return {name: python for name, (python, _) in interpreters_by_name.items() if python}, {
        name: why for name, (_, why) in interpreters_by_name.items() if why
    }


def print_line(line: str) -> None:
    print(line, flush=True)


def commit() -> str:
    done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=REPOSITORY, capture_output=True, text=True)
    return done.stdout.strip() or "unknown"


def conclude(results: dict[str, Any], args: argparse.Namespace) -> int:
    """Return 1 if losses differ too much to compare rates, or, in a smoke test, if a row has no figures of llmstage."""
    records = [(name, record) for name, record in results["rows"].items() if name in args.only]
    if args.quick:
        return 1 if any(not record["sides"] for _, record in records) else 0
    unfair = [
        f"{name}, {mark['against']}"
        for name, record in records
        for mark in record["marks"]
        if mark.get("fair") is False
    ]
    missed = [
        f"{name}, {mark['against']}" for name, record in records for mark in record["marks"] if mark["met"] is False
    ]
    if missed:
        print(f"\nbelow the mark: {'; '.join(missed)}")
    if unfair:
        print(f"\n!!! LOSSES DIFFER BY MORE THAN 2 %, SO THE RATES ARE NOT COMPARABLE: {'; '.join(unfair)} !!!")
    return 1 if unfair else 0


if __name__ == "__main__":
    sys.exit(main())
