"""Targeted training on confirmed weak slices, judged on rows that nothing was chosen on (EMERGENCE.md 2.5, 2.6).

Pilots choose the share of the weak slices; the arm of that share is trained beside `more_of_same`; the guard lets it pass or
not; where not, a mean of old and new weights or more replay is put to the same test; where nothing passes, the old model
stays. Every arm is a run in <run>/improve that goes on from its checkpoints, so the same command goes on after a kill.
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
from llmstage.explore.candidates import Candidate, Outcome
from llmstage.explore.comparison import Metric, Trial
from llmstage.explore.findings import Findings
from llmstage.explore.guard import Mask, Scores, discordance_of, gain, judge, margin_for, rows_for
from llmstage.explore.hidden_states import GROUPS, Groups
from llmstage.explore.improve_report import findings_of
from llmstage.explore.improve_rows import check_task, confirming, final_trial, prepare, read_weaknesses, weak_rows
from llmstage.explore.row_features import TOPIC, UNSEEN
from llmstage.explore.variants import Arms, promote, save_blend
from llmstage.explore.wording import say
from llmstage.training.machine import resolve_machine
from llmstage.training.session import StopFlag, session
from llmstage.training.setup import RunComponents, setup_run

WISE = (0.75, 0.5, 0.25)
"""Shares of the new weights that are tried where the guard refuses the new model as it is."""


def improve(
    run: RunConfig, out_dir: Path, about: dict[str, str], pieces: RunComponents | None = None
) -> Findings | None:
    """The part `improvement`; writes before_after.json and, where a model is promoted, improved/.

    `pieces`: what was opened to look for weaknesses; None: it is opened here. None is returned where there is no confirmed
    weakness to work on.
    """
    assert isinstance(run.stage, Explore)
    keys = run.stage.improve
    path = Path(keys.weaknesses).expanduser() if keys.weaknesses else out_dir / "weaknesses.jsonl"
    found = read_weaknesses(path)
    if not found:
        console.note("no confirmed weak slice: there is nothing to improve on")
        return None
    folder = out_dir / "improve"
    machine = resolve_machine(run.trainer)
    with session(run.seed, machine.threads, deterministic=run.trainer.deterministic, heeded=True) as stop:
        pieces = pieces or setup_run(run, folder, training=False, fixed={}, resume_from=None)
        check_task(pieces)
        metric, split = Metric(), headline_split(pieces.stores)
        trial = Trial.of(run, pieces, machine, split, metric)
        features = trial.features(unseen=any(UNSEEN in one["slice"] for one in found))
        if any(TOPIC in one["slice"] for one in found):
            features.topics = trial.topics(Groups.read(path.with_name(GROUPS)))
        trial.use &= confirming(path.with_name("confirming.json"), trial)
        final = final_trial(trial, keys, folder)
        outcome, pilot_masks = weak_rows(trial, final, features, found, keys)
        arms, told = prepare(run, folder, about, pieces, features, outcome, (trial, final))
        outcome.notes += told
        Improvement(keys, arms, trial, final, pilot_masks, outcome, stop).go()
        if outcome.chosen is not None:
            promote(arms, pieces, outcome.chosen, out_dir)
        return findings_of(keys, out_dir, outcome)


@dataclass(slots=True)
class Improvement:
    """The course of it: pilots, the arm and its control, the verdict, the fallbacks."""

    keys: ImproveConfig
    arms: Arms
    trial: Trial
    """Rows on which pilots are compared."""
    final: Trial
    pilot_masks: list[Mask]
    outcome: Outcome
    stop: StopFlag
    needed: dict[str, int] = field(default_factory=dict)
    """Rows with which each family could be judged."""

    def go(self) -> None:
        outcome, old = self.outcome, self.arms.run.model.path
        outcome.before = self.final.score(str(old))
        self.forget_silent(outcome.before)
        share = self.choose_share(str(old))
        margins = self.train_controls()
        path = self.train("targeted", share)
        self.put_to_test("targeted", path, share, margins)
        for name in self.keys.guard.fallback:
            if outcome.candidates[-1].guard.passed or outcome.chosen is not None:
                break
            console.note(f"the guard refused {outcome.candidates[-1].name}; trying {name.replace('_', '-')}")
            self.fall_back(name, path, share, margins)
        if len(outcome.candidates) > 1:
            tried = len(outcome.candidates)
            outcome.notes.append(say("several_candidates", num=tried))

    def train(self, name: str, share: float, steps: int | None = None, seed: int | None = None) -> Path:
        if self.stop.name:
            raise Interrupted(
                f"stopped by {self.stop.name}; the same command with hydra.run.dir=<this folder> goes on."
            )
        return self.arms.train(name, share, steps or self.keys.steps, seed=seed)

    def forget_silent(self, before: Scores) -> None:
        """Rows without a prediction are compared on by nobody."""
        known, outcome = np.isfinite(before.errors), self.outcome
        if not known[outcome.weak].any():
            raise DataError("The model predicts nothing for any row of the weak slices; there is nothing to compare.")
        outcome.weak &= known
        outcome.masks = [mask & known for mask in outcome.masks]
        outcome.families = {name: mask & known for name, mask in outcome.families.items()}

    def choose_share(self, old: str) -> float:
        """The share whose pilot gains most on the weak rows among those that lose nothing to speak of elsewhere."""
        shares = sorted(set(self.keys.target_share))
        if len(shares) == 1:
            return shares[0]
        before = self.trial.score(old).errors
        known = self.trial.use & np.isfinite(before)
        weak = np.logical_or.reduce(self.pilot_masks) & known
        rest = known & ~weak
        if not weak.any():
            self.outcome.notes.append(say("no_pilot_rows"))
            return shares[len(shares) // 2]
        ranked = []
        for share in shares:
            name = f"pilot_{share * 100:g}"
            after = self.trial.score(self.train(name, share, max(1, self.keys.steps // 3))).errors
            lost = float((after[rest] - before[rest]).mean()) if rest.any() else 0.0
            won = float((before[weak] - after[weak]).mean())
            fits = lost <= self.delta
            ranked.append((fits, won if fits else -lost, -share, share))
            told = {"share": share, "n_weak": int(weak.sum()), "n_rest": int(rest.sum()), "gain": won, "lost": lost}
            self.outcome.pilots.append({**told, "admissible": fits})
        best = max(ranked)[-1]
        for pilot in self.outcome.pilots:
            pilot["chosen"] = pilot["share"] == best
        return best

    @property
    def delta(self) -> float:
        """What may be lost elsewhere, in the metric's own unit."""
        return self.keys.guard.delta if self.outcome.metric.share else self.keys.guard.lm_loss

    def train_controls(self) -> dict[str, float]:
        """more_of_same and its twin; the margin that each family resolves, from how much the two differ."""
        outcome = self.outcome
        if not self.keys.control:
            outcome.notes.append(say("no_control"))
            return self.margins(dict.fromkeys(outcome.families, 0.0))
        outcome.control = self.final.score(self.train("more_of_same", 0.0))
        twin = self.final.score(self.train("more_of_same_again", 0.0, seed=self.arms.run.seed + 1))
        return self.margins(
            {name: discordance_of(outcome.control.errors, twin.errors, rows) for name, rows in outcome.families.items()}
        )

    def margins(self, discordance: dict[str, float]) -> dict[str, float]:
        """Of each family; with how many rows it could be judged is kept for the guard to say."""
        share, families = self.outcome.metric.share, self.outcome.families
        self.needed = {name: rows_for(one, self.delta, share=share) for name, one in discordance.items()}
        return {
            name: margin_for(int(families[name].sum()), one, self.delta, share=share)
            for name, one in discordance.items()
        }

    def put_to_test(self, name: str, path: Path, share: float, margins: dict[str, float]) -> None:
        outcome, suite = self.outcome, self.keys.guard.suite
        scores = self.final.score(path)
        guard = judge(
            outcome.before, scores, outcome.families if "rest" in suite else {}, margins, delta=self.delta,
            lm_loss=self.keys.guard.lm_loss if "lm_loss" in suite else None,
            rest=np.logical_or.reduce(list(outcome.families.values())), needed=self.needed, seed=self.arms.run.seed,
        )  # fmt: skip
        over = gain(outcome.control.errors, scores.errors, outcome.weak) if outcome.control is not None else None
        won = gain(outcome.before.errors, scores.errors, outcome.weak)
        candidate = Candidate(name, path, share, scores, guard, won, over)
        outcome.candidates.append(candidate)
        if not candidate.why_not:
            outcome.chosen = candidate

    def fall_back(self, name: str, path: Path, share: float, margins: dict[str, float]) -> None:
        if name == "more_replay":
            less = share / (share + 2 * (1 - share))
            if less == share:  # nothing is replayed, and twice nothing is nothing
                self.outcome.notes.append(say("no_more_replay"))
                return
            self.put_to_test("more_replay", self.train("more_replay", less), less, margins)
            return
        for part in WISE:
            folder = self.arms.folder / f"wise_ft_{part * 100:g}"
            old, new = self.final.model(self.arms.start), self.final.model(path)
            blended = save_blend(old, new, part, self.final.pieces.processor, folder)
            self.put_to_test(f"wise_ft {part:g}", blended, share, margins)
            if self.outcome.candidates[-1].guard.passed:
                return
