"""Train a model on its confirmed weak slices, and judge it on rows that no choice was made on (EMERGENCE.md 2.5, 2.6).

Pilot runs choose the share of the weak slices. The variant with that share is trained, and `more_of_same` as its control. The
guard accepts or refuses it. Where it refuses, a mean of old and new weights or more replay gets the same test. Where nothing
passes, the old model stays. Every variant is a run in <run>/improve that resumes from its checkpoints, so the same command
continues after a kill.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.config.explore_improve import ImproveConfig
from llmstage.errors import DataError, Interrupted
from llmstage.evaluation.scoring import headline_split
from llmstage.explore.candidates import Candidate, ImprovementResult
from llmstage.explore.comparison import Comparison, Metric
from llmstage.explore.findings import Findings
from llmstage.explore.guard import Mask, Scores, discordance_of, gain, judge, margin_for, rows_for
from llmstage.explore.hidden_states import GROUPS, Groups
from llmstage.explore.improve_report import findings_of
from llmstage.explore.improve_rows import check_task, confirming, final_comparison, prepare, read_weaknesses, weak_rows
from llmstage.explore.row_features import TOPIC, UNSEEN
from llmstage.explore.variants import VariantTrainer, promote, save_blend
from llmstage.explore.wording import sentence
from llmstage.training.components import RunComponents
from llmstage.training.machine import resolve_machine
from llmstage.training.session import StopFlag, session
from llmstage.training.setup import setup_run

WISE = (0.75, 0.5, 0.25)
"""Shares of the new weights that are tried where the guard refuses the new model."""


def improve(
    run: RunConfig, out_dir: Path, about: dict[str, str], components: RunComponents | None = None
) -> Findings | None:
    """Run the part `improvement`; write before_after.json and, where a model is promoted, improved/.

    `components`: those of the search for weak slices; None: they are set up here. Returns None where there is no confirmed
    weakness to train on.
    """
    assert isinstance(run.stage, Explore)
    keys = run.stage.improve
    path = Path(keys.weaknesses).expanduser() if keys.weaknesses else out_dir / "weaknesses.jsonl"
    weaknesses = read_weaknesses(path)
    if not weaknesses:
        console.note("no confirmed weak slice: there is nothing to improve on")
        return None
    folder = out_dir / "improve"
    machine = resolve_machine(run.trainer)
    with session(run.seed, machine.threads, deterministic=run.trainer.deterministic, handles_stop=True) as stop:
        components = components or setup_run(run, folder, training=False)
        check_task(components)
        metric, split = Metric(), headline_split(components.stores)
        # 1. The rows: those that choose pilots, those of the final comparison, and which of them are weak.
        comparison = Comparison.of(run, components, machine, split, metric)
        features = comparison.features(unseen=any(UNSEEN in weakness["slice"] for weakness in weaknesses))
        if any(TOPIC in weakness["slice"] for weakness in weaknesses):
            features.topics = comparison.topics(Groups.read(path.with_name(GROUPS)))
        comparison.use &= confirming(path.with_name("confirming.json"), comparison)
        final = final_comparison(comparison, keys, folder)
        result, pilot_masks = weak_rows(comparison, final, features, weaknesses, keys)
        # 2. The training data, without any compared row.
        trainer, notes = prepare(run, folder, about, components, features, result, (comparison, final))
        result.notes += notes
        # 3. Train, compare, and promote.
        Improvement(keys, trainer, comparison, final, pilot_masks, result, stop).run()
        if result.chosen is not None:
            promote(trainer, components, result.chosen, out_dir)
        return findings_of(keys, out_dir, result)


@dataclass(slots=True)
class Improvement:
    """The steps of an improvement: pilots, the variant and its control, the verdict, the fallbacks."""

    keys: ImproveConfig
    trainer: VariantTrainer
    comparison: Comparison
    """Rows on which pilots are compared."""
    final: Comparison
    pilot_masks: list[Mask]
    result: ImprovementResult
    stop: StopFlag
    needed: dict[str, int] = field(default_factory=dict)
    """Number of rows with which each row group could be judged."""

    def run(self) -> None:
        """Train the variants, test the candidates, and fill in the result."""
        result, old = self.result, self.trainer.run.model.path
        result.before = self.final.score(str(old))
        self.drop_unpredicted(result.before)
        share = self.choose_share(str(old))
        margins = self.train_controls()
        path = self.train("targeted", share)
        self.test_candidate("targeted", path, share, margins)
        for name in self.keys.guard.fallback:
            if result.candidates[-1].guard.passed or result.chosen is not None:
                break
            console.note(f"the guard refused {result.candidates[-1].name}; trying {name.replace('_', '-')}")
            self.fall_back(name, path, share, margins)
        if len(result.candidates) > 1:
            tried = len(result.candidates)
            result.notes.append(sentence("several_candidates", num=tried))

    def train(self, name: str, share: float, steps: int | None = None, seed: int | None = None) -> Path:
        """Train a variant and return its model folder; raise Interrupted after a signal."""
        if self.stop.name:
            raise Interrupted(
                f"stopped by {self.stop.name}; the same command with hydra.run.dir=<this folder> resumes it."
            )
        return self.trainer.train(name, share, steps or self.keys.steps, seed=seed)

    def drop_unpredicted(self, before: Scores) -> None:
        """Leave out rows without a prediction."""
        known, result = np.isfinite(before.errors), self.result
        if not known[result.weak].any():
            raise DataError("The model predicts nothing for any row of the weak slices; there is nothing to compare.")
        result.weak &= known
        result.masks = [mask & known for mask in result.masks]
        result.families = {name: mask & known for name, mask in result.families.items()}

    def choose_share(self, old: str) -> float:
        """Return the share whose pilot gains most on the weak rows, among pilots that lose no more than `delta` elsewhere."""
        shares = sorted(set(self.keys.target_share))
        if len(shares) == 1:
            return shares[0]
        before = self.comparison.score(old).errors
        known = self.comparison.use & np.isfinite(before)
        weak = np.logical_or.reduce(self.pilot_masks) & known
        rest = known & ~weak
        if not weak.any():
            self.result.notes.append(sentence("no_pilot_rows"))
            return shares[len(shares) // 2]
        ranked = []
        for share in shares:
            name = f"pilot_{share * 100:g}"
            after = self.comparison.score(self.train(name, share, max(1, self.keys.steps // 3))).errors
            lost = float((after[rest] - before[rest]).mean()) if rest.any() else 0.0
            won = float((before[weak] - after[weak]).mean())
            fits = lost <= self.delta
            ranked.append((fits, won if fits else -lost, -share, share))
            pilot = {"share": share, "n_weak": int(weak.sum()), "n_rest": int(rest.sum()), "gain": won, "lost": lost}
            self.result.pilots.append({**pilot, "admissible": fits})
        best = max(ranked)[-1]
        for pilot in self.result.pilots:
            pilot["chosen"] = pilot["share"] == best
        return best

    @property
    def delta(self) -> float:
        """Return the loss elsewhere that is allowed, in the unit of the metric."""
        return self.keys.guard.delta if self.result.metric.share else self.keys.guard.lm_loss

    def train_controls(self) -> dict[str, float]:
        """Train more_of_same twice with two seeds; return the margin of each row group from the difference of the two."""
        result = self.result
        if not self.keys.control:
            result.notes.append(sentence("no_control"))
            return self.margins(dict.fromkeys(result.families, 0.0))
        result.control = self.final.score(self.train("more_of_same", 0.0))
        twin = self.final.score(self.train("more_of_same_again", 0.0, seed=self.trainer.run.seed + 1))
        return self.margins(
            {name: discordance_of(result.control.errors, twin.errors, rows) for name, rows in result.families.items()}
        )

    def margins(self, discordance: dict[str, float]) -> dict[str, float]:
        """Return the margin of each row group; store the number of rows with which each could be judged."""
        share, families = self.result.metric.share, self.result.families
        self.needed = {name: rows_for(value, self.delta, share=share) for name, value in discordance.items()}
        return {
            name: margin_for(int(families[name].sum()), value, self.delta, share=share)
            for name, value in discordance.items()
        }

    def test_candidate(self, name: str, path: Path, share: float, margins: dict[str, float]) -> None:
        """Score a model on the final rows, judge it, and choose it where nothing speaks against it."""
        result, suite = self.result, self.keys.guard.suite
        scores = self.final.score(path)
        guard = judge(
            result.before, scores, result.families if "rest" in suite else {}, margins, delta=self.delta,
            lm_loss=self.keys.guard.lm_loss if "lm_loss" in suite else None,
            rest=np.logical_or.reduce(list(result.families.values())), needed=self.needed, seed=self.trainer.run.seed,
        )  # fmt: skip
        over = gain(result.control.errors, scores.errors, result.weak) if result.control is not None else None
        won = gain(result.before.errors, scores.errors, result.weak)
        candidate = Candidate(name, path, share, scores, guard, won, over)
        result.candidates.append(candidate)
        if not candidate.why_not:
            result.chosen = candidate

    def fall_back(self, name: str, path: Path, share: float, margins: dict[str, float]) -> None:
        """Try a fallback: a run with more replay, or means of the old and the new weights."""
        if name == "more_replay":
            less = share / (share + 2 * (1 - share))
            if less == share:  # target_share=1 replays nothing, and twice nothing is nothing.
                self.result.notes.append(sentence("no_more_replay"))
                return
            self.test_candidate("more_replay", self.train("more_replay", less), less, margins)
            return
        for part in WISE:
            folder = self.trainer.folder / f"wise_ft_{part * 100:g}"
            old, new = self.final.model(self.trainer.start), self.final.model(path)
            blended = save_blend(old, new, part, self.final.components.processor, folder)
            self.test_candidate(f"wise_ft {part:g}", blended, share, margins)
            if self.result.candidates[-1].guard.passed:
                return
