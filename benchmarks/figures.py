"""Write the tables of docs/benchmarks.md and benchmarks/README.md from benchmarks/results/*.json.

python benchmarks/figures.py          # write them
python benchmarks/figures.py --check  # status 1 if a page differs from the results
"""

from __future__ import annotations

import argparse
import statistics
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEGIN, END = "<!-- figures.py writes from here -->", "<!-- figures.py writes to here -->"
OURS = "llmstage"
HEAD = ("work", "against", "times as fast (pairs)", "goal", "where the goal is missed")
SLOW_PRODUCTS = (
    "bf16 products ran at 3 times the rate of fp32 products when this row was measured; the goal was set at 6 times"
)
MISSED = {
    "causal LM, 14 M, context 256 / HF Trainer": SLOW_PRODUCTS,
    "causal LM, 14 M, context 256 / HF Trainer, bf16": "the step runs at 44 % of the machine's bf16 peak; the rest is memory traffic",
    "causal LM, 14 M, context 256 / litgpt": "the step runs at 44 % of the machine's bf16 peak; the pairs differ by a third",
    "causal LM, 14 M, context 256 / HF Trainer, tuned by hand": "the peer runs bf16, torch.compile and tcmalloc; its fused norms equal what our kernels save",
    "causal LM, 14 M, context 1,024 / HF Trainer": SLOW_PRODUCTS,
    "causal LM, 14 M, context 1,024 / HF Trainer, bf16": "the step runs at 44 % of the machine's bf16 peak",
    "causal LM, 110 M, context 256 / HF Trainer": SLOW_PRODUCTS,
    "dialogue, 14 M, context 512 / TRL SFTTrainer, packed": "6 % below the goal; not investigated",
    "classification, SST-2 lengths / HF Trainer, padded to the longest": "6 % below the goal; not investigated",
    "masked LM, 12 M, context 128 / HF Trainer": "full rows have no padding to save; the only difference is bf16 against fp32",
    "tokenising to disk / run_clm's map, then group": "the tokenizer itself takes 8 of 16 seconds of processor time, and reading the file takes 3",
    "generation, 14 M, batches of 16 / generate(), fp32": "memory bandwidth limits products of 16 rows",
    "generation, 14 M, batches of 16 / generate(), bf16": "memory bandwidth limits products of 16 rows",
    "start-up to the first step / –": "importing torch and transformers takes 8 seconds of processor time on this machine",
}
"""`work / against` -> why the row misses its goal."""
LONG = (
    "work", "sides", "llmstage", "peer", "ratio (pairs)", "mark", "", "loss", "share of bf16 peak", "bf16 peak then, TFLOP/s", "peak MB", "first step, s",
)  # fmt: skip
NONE_YET = "There are no results yet: run `python benchmarks/run.py`."


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--check", action="store_true", help="write nothing; exit status 1 if a page is out of date")
    args = parser.parse_args()
    stale = [path for path, text in pages() if path.read_text("utf-8") != text]
    if args.check:
        for path in stale:
            print(f"{path} differs from benchmarks/results. Update it: python benchmarks/figures.py")
        return 1 if stale else 0
    for path, text in pages():
        path.write_text(text, "utf-8")
    return 0


def pages(root: Path = HERE.parent) -> Iterator[tuple[Path, str]]:
    """Yield each page with its up-to-date text."""
    from results import load_results

    files = sorted((root / "benchmarks" / "results").glob("*.json"))
    all_results = [
        load_results(path) for path in files if not path.name.startswith("growth-")
    ]  # those belong to the picture of growth
    fullest = max(all_results, key=lambda page: len(page["rows"]), default=None)
    yield root / "docs" / "benchmarks.md", placed(root / "docs" / "benchmarks.md", short_table(fullest))
    tables = "\n\n".join(f"{machine_line(page)}\n\n{long_table(page)}" for page in all_results) or NONE_YET
    yield root / "benchmarks" / "README.md", placed(root / "benchmarks" / "README.md", tables)


def placed(path: Path, table: str) -> str:
    """Return the page with `table` between its markers."""
    text = path.read_text("utf-8")
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not begin or not end:
        raise SystemExit(f"{path} lacks the lines\n{BEGIN}\n{END}")
    return f"{before}{BEGIN}\n\n{table}\n\n{END}{after}"


def machine_line(results: dict[str, Any]) -> str:
    """Return one sentence about the machine."""
    about = results["machine"]
    rates = ", ".join(f"{tflops} TFLOP/s in {name}" for name, tflops in peaks_of(results).items())
    return (
        f"**{about['cpu']} ({about['bf16']}), {about['threads']} threads**, {about['memory_gib']:.0f} GiB, torch "
        f"{about['torch']}, transformers {about['transformers']}; matrix product of 2048 x 2048: {rates}."
    )


def peaks_of(results: dict[str, Any]) -> dict[str, str]:
    """Return TFLOP/s for each precision, as measured before each row: one number, or lowest to highest."""
    rows = [record.get("peaks") or results.get("peaks", {}) for record in results["rows"].values()]
    out = {}
    for name in results.get("peaks", {}):
        rates = [row[name] / 1e12 for row in rows if name in row] or [results["peaks"][name] / 1e12]
        low, high = f"{min(rates):.2f}", f"{max(rates):.2f}"
        out[name] = low if max(rates) < 1.1 * min(rates) else f"{low} to {high}"
    return out


def short_table(results: dict[str, Any] | None) -> str:
    """Return the table of docs/benchmarks.md: for each comparison the speed-up, the goal, and the reason if the goal is missed."""
    if results is None or not results["rows"]:
        return NONE_YET
    lines = [HEAD]
    for record in results["rows"].values():
        for mark in record["marks"]:
            against = mark["against"] if mark["ours"] == OURS else f"{mark['against']} ({mark['ours']})"
            lines.append(
                (record["title"], against, ratio(mark), f"{mark['least']:g}", reason(record["title"], against, mark))
            )
        if "least" in record.get("share", {}):
            share, against = record["share"], "bf16 matrix-product peak"
            row = (record["title"], against, f"{share['value']:.0%}", f"{share['least']:.0%}")
            lines.append((*row, reason(record["title"], against, share)))
        if "limit" in record:
            limit = record["limit"]
            row = (record["title"], "–", f"{limit['value']:.1f} s", f"≤ {limit['most']:g} s")
            lines.append((*row, reason(record["title"], "–", limit)))
    return f"{machine_line(results)}\n\n{markdown(lines)}"


def reason(title: str, against: str, mark: dict[str, Any]) -> str:
    """Return why a row misses its goal; empty if it meets it."""
    if mark["met"] is None or mark["met"]:
        return ""
    return MISSED.get(f"{title} / {against}", "not investigated")


def long_table(results: dict[str, Any]) -> str:
    lines: list[tuple[str, ...]] = [LONG]
    for record in results["rows"].values():
        sides, share = record["sides"], record.get("share", {})
        peak = (record.get("peaks") or results.get("peaks", {})).get("bf16")
        then = f"{peak / 1e12:.2f}" if peak else ""
        of_peak = (
            f"{share['value']:.0%}" + (f" (mark {share['least']:.0%})" if "least" in share else "") if share else ""
        )
        for mark in record["marks"]:
            mine, theirs = sides.get(mark["ours"], {}), sides.get(mark["against"], {})
            lines.append((
                record["title"], f"{mark['ours']} / {mark['against']}", rate(mine, record["unit"]), rate(theirs, record["unit"]),
                ratio(mark), f"{mark['least']:g}" + (f" (aim {mark['aim']:g})" if mark["aim"] else ""), verdict(mark),
                apart(mark), of_peak if mark["ours"] == OURS else "", then, both(mine, theirs, "peak_mb", "{:,.0f}"),
                both(mine, theirs, "first_step", "{:.1f}"),
            ))  # fmt: skip
        if "limit" in record:
            limit, mine = record["limit"], sides[OURS]
            cells = (
                record["title"],
                OURS,
                rate(mine, record["unit"]),
                "",
                "",
                f"≤ {limit['most']:g} s",
                verdict(limit),
            )
            lines.append((*cells, "", "", then, "", ""))
    notes = [f"- {record['title']}: {record['note']}" for record in results["rows"].values() if record.get("note")]
    notes += [
        f"- {record['title']}, {name}: not run. {why.strip().splitlines()[-1][:200]}"
        for record in results["rows"].values()
        for name, why in record["failed"].items()
    ]
    return "\n".join([markdown(lines), *([""] if notes else []), *notes])


def rate(side: dict[str, Any], unit: str) -> str:
    return f"{statistics.median(side['rates']):,.4g} {unit}".replace("e+0", "e") if side else "–"


def ratio(mark: dict[str, Any]) -> str:
    return "–" if mark["ratio"] is None else f"{mark['ratio']:.2f} ({mark['low']:.2f}–{mark['high']:.2f})"


def apart(mark: dict[str, Any]) -> str:
    if mark["ratio"] is None or mark["loss_apart"] is None:
        return "–"
    return f"{mark['loss_apart']:+.1%}" + ("" if mark["fair"] else " **too far apart**")


def verdict(mark: dict[str, Any]) -> str:
    return "–" if mark["met"] is None else "✓" if mark["met"] else "✗"


def both(mine: dict[str, Any], theirs: dict[str, Any], name: str, form: str) -> str:
    cells = [form.format(side[name]) if name in side else "–" for side in (mine, theirs)]
    return "" if cells == ["–", "–"] else " / ".join(cells)


def markdown(lines: list[tuple[str, ...]]) -> str:
    head, *rest = [f"| {' | '.join(line)} |" for line in lines]
    return "\n".join([head, "|" + "---|" * len(lines[0]), *rest])


if __name__ == "__main__":
    sys.exit(main())
