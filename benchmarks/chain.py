"""Does pretraining help? Compare visual reasoning with a contrastively pretrained tower and from scratch, at equal steps.

python benchmarks/chain.py run --seeds 0 1 2              # pretrain, then train both arms for each seed, in outputs/chain
python benchmarks/chain.py run -- trainer.threads=1       # words after -- go to the arms
python benchmarks/chain.py table                          # score them, write the page docs/recipes/shapes_reasoning.md

Both arms have the same rows, seed, steps and model. They differ only in the initial weights of the vision tower. The test split of
a run has 200 rows, too few to distinguish the arms. The script therefore scores every model on the same 2,000 rows, which no run
uses. The difference is paired by seed and by row, and the bootstrap resamples both: the interval shows how much other seeds and
other rows might change it.
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

import numpy as np

REPOSITORY = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(REPOSITORY))

from llmstage.demo.scene_questions import question_rows  # noqa: E402
from llmstage.evaluation.metrics.score import RESAMPLES  # noqa: E402

PAGE = REPOSITORY / "docs" / "recipes" / "shapes_reasoning.md"
RESULTS = REPOSITORY / "docs" / "recipes" / "chain.json"
BEGIN, END = "<!-- chain: written by benchmarks/chain.py -->", "<!-- end of chain -->"
ARMS = ("pretrained", "scratch")
ROWS, ROWS_SEED = 2000, 1234
"""Number of rows for the comparison of the arms, and the seed that generates them."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["run", "table"])
    parser.add_argument("--runs", type=Path, default=REPOSITORY / "outputs" / "chain")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--tower", type=Path, help="a finished contrastive run; without it, the script pretrains one")
    run_words, _, extra = " ".join(sys.argv[1:]).partition(" -- ")
    args = parser.parse_args(run_words.split())
    if args.what == "table":
        return table(args.runs)
    tower = args.tower or args.runs / "tower"
    if args.tower is None and not (tower / "model").is_dir():
        start(["experiment=shapes_contrastive", f"hydra.run.dir={tower}"])
    for seed in args.seeds:
        for arm in ARMS if seed % 2 == 0 else ARMS[::-1]:
            words = [
                "experiment=shapes_reasoning",
                f"seed={seed}",
                "task.control=off",
                "trainer.baselines=false",
                *extra.split(),
            ]
            words += [f"model.vision.path={tower}"] if arm == "pretrained" else []
            start([*words, f"hydra.run.dir={args.runs / f'{arm}_{seed}'}"])
    return 0


def start(words: list[str]) -> None:
    started = time.perf_counter()
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(REPOSITORY), os.environ.get("PYTHONPATH", "")])}
    subprocess.run([sys.executable, "-m", "llmstage", *words], env=env, check=True)
    print(f"{words[-1]}: {time.perf_counter() - started:.0f} s", flush=True)


def scored(run: Path) -> list[dict[str, Any]]:
    """Return the predictions of a run's model on the common rows, in their order. Evaluates each run once."""
    folder = run.parent / "scores" / run.name
    if not (folder / "report.json").is_file():
        rows = folder.parent / "rows.jsonl"
        rows.parent.mkdir(parents=True, exist_ok=True)
        generated_rows = question_rows(ROWS, ROWS_SEED, "both")
        rows.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in generated_rows), "utf-8")
        start(["stage=evaluate", f"model.path={run}", f"data.test={rows}", f"hydra.run.dir={folder}"])
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text("utf-8").splitlines()]
    return sorted(lines, key=lambda line: int(line["row"]))


def table(runs: Path) -> int:
    """Compare the two arms, and write the table and their difference into the page."""
    seeds = sorted(
        int(path.name.rpartition("_")[2]) for path in runs.glob("scratch_*") if (path / "report.json").is_file()
    )
    scores_by_arm = {arm: [scored(runs / f"{arm}_{seed}") for seed in seeds] for arm in ARMS}
    correct = {
        arm: np.array([[float(line["correct"]) for line in lines] for lines in scores_by_arm[arm]]) for arm in ARMS
    }  # [seeds, rows]
    unseen = np.array([line["composition"] == "unseen" for line in scores_by_arm["scratch"][0]])
    report = json.loads((runs / f"scratch_{seeds[0]}" / "report.json").read_text("utf-8"))
    tower = json.loads((runs / "tower" / "report.json").read_text("utf-8")) if (runs / "tower").is_dir() else None
    curves = {arm: mean_curve([runs / f"{arm}_{seed}" for seed in seeds]) for arm in ARMS}
    RESULTS.write_text(
        json.dumps(
            {
                "seeds": seeds,
                "steps": report["train"]["steps"],
                "rows": correct["scratch"].shape[1],
                "accuracy": {arm: values.mean(1).tolist() for arm, values in correct.items()},
                "difference": difference(correct["pretrained"] - correct["scratch"]),
                "by_composition": {
                    name: {arm: float(correct[arm][:, chosen].mean()) for arm in ARMS}
                    | {"difference": difference((correct["pretrained"] - correct["scratch"])[:, chosen])}
                    for name, chosen in (("seen", ~unseen), ("unseen", unseen))
                },
                "curves": curves,
                "pretraining": tower and {"steps": tower["train"]["steps"], "seconds": tower["train"]["seconds"]},
                "machine": f"{report['machine']['cpu']} ({report['machine']['bf16'] or 'no fast bf16'})",
            },
            indent=1,
        )
        + "\n",
        "utf-8",
    )
    before, _, rest = PAGE.read_text("utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    text = render(json.loads(RESULTS.read_text("utf-8")))
    PAGE.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", "utf-8")
    print(text)
    return 0


def difference(paired: np.ndarray, seed: int = 0) -> dict[str, float]:
    """Return the mean of [seeds, rows] differences in {-1, 0, 1}. The 95 % interval resamples seeds and rows, since both are samples."""
    rng = np.random.default_rng(seed)
    many, rows = paired.shape
    means = []
    for _ in range(RESAMPLES):
        chosen = paired[rng.integers(many, size=many)]
        means.append(chosen[:, rng.integers(rows, size=rows)].mean())
    low, high = np.quantile(means, [0.025, 0.975])
    return {"value": float(paired.mean()), "low": float(low), "high": float(high)}


def mean_curve(folders: list[Path]) -> dict[str, list[float]]:
    """Return the validation accuracy over steps, averaged over the seeds."""
    by_step: dict[int, list[float]] = {}
    for folder in folders:
        for line in (folder / "metrics.jsonl").read_text("utf-8").splitlines():
            item = json.loads(line)
            if item.get("kind") == "eval" and "accuracy" in item:
                by_step.setdefault(item["step"], []).append(item["accuracy"])
    steps = sorted(step for step, values in by_step.items() if len(values) == len(folders))
    return {"steps": [float(step) for step in steps], "accuracy": [sum(by_step[step]) / len(folders) for step in steps]}


def render(results: dict[str, Any]) -> str:
    """Return table, curve and verdict in Markdown."""
    seeds = results["seeds"]
    lines = ["| vision tower starts | " + " | ".join(f"seed {seed}" for seed in seeds) + " | mean |"]
    lines.append("|---|" + "---|" * (len(seeds) + 1))
    for arm in ARMS:
        values = results["accuracy"][arm]
        name = "from the contrastive model" if arm == "pretrained" else "from scratch"
        lines.append(
            f"| {name} | "
            + " | ".join(f"{value:.3f}" for value in values)
            + f" | **{sum(values) / len(values):.3f}** |"
        )
    gap = results["difference"]
    if gap["low"] > 0:
        verdict = "**The pretrained tower is better**"
    elif gap["high"] < 0:
        verdict = "**From scratch is better**"
    else:
        verdict = "**These runs show no clear difference**"
    lines += [
        "",
        f"{verdict}: accuracy {gap['value']:+.3f} (95 % {gap['low']:+.3f} to {gap['high']:+.3f}, seeds and {results['rows']:,} test rows "
        f"resampled together) after {results['steps']} steps each.",
        "",
        "| pairs of shape and colour | pretrained | scratch | difference (95 %) |",
        "|---|---|---|---|",
        *(
            f"| {name} in training | {scores['pretrained']:.3f} | {scores['scratch']:.3f} | {scores['difference']['value']:+.3f} "
            f"({scores['difference']['low']:+.3f} to {scores['difference']['high']:+.3f}) |"
            for name, scores in results["by_composition"].items()
        ),
        "",
        "Validation accuracy during training (mean of the seeds):",
        "",
        "| step | " + " | ".join(f"{step:.0f}" for step in results["curves"]["scratch"]["steps"]) + " |",
        "|---|" + "---|" * len(results["curves"]["scratch"]["steps"]),
    ]
    for arm in ARMS:
        lines.append(f"| {arm} | " + " | ".join(f"{value:.2f}" for value in results["curves"][arm]["accuracy"]) + " |")
    spent = results["pretraining"]
    if spent:
        lines += [
            "",
            f"The first arm also needs the steps of pretraining ({spent['steps']}, {spent['seconds'] / 60:.0f} min). All seeds share one tower. Machine: {results['machine']}.",
        ]
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main())
