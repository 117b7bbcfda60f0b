"""Arms of an improvement: each an ordinary run in a folder of its own, with checkpoints, that goes on where it was killed."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from llmstage import console
from llmstage.config import RunConfig
from llmstage.config.explore import Explore
from llmstage.config.stage import StageConfig
from llmstage.data.encoding.order import BatchOrder
from llmstage.data.encoding.store import ExampleStore
from llmstage.errors import ModelError
from llmstage.explore.candidates import Candidate
from llmstage.explore.matching import words_of
from llmstage.explore.mix import JoinedSource, KeepClose, MixedOrder, check_keeps_close
from llmstage.explore.wording import say
from llmstage.models.build import save_model
from llmstage.models.depth_expansion import deepen
from llmstage.paths import locate_model, read_run_yaml
from llmstage.report.files import write_json
from llmstage.tasks.base import Task
from llmstage.training.fit import fit_one
from llmstage.training.machine import Machine, resolve_machine
from llmstage.training.run_folder import write_run_yaml
from llmstage.training.setup import RunComponents
from llmstage.training.variant import Arm

ADDED = "added_blocks.json"
TAKEN = ("batch_size", "batch_tokens")
"""Of the trainer of the run that made the model: an arm sees batches of the same size."""


@dataclass(slots=True)
class Arms:
    """What all arms share."""

    run: RunConfig
    """Of stage=explore."""
    folder: Path
    about: dict[str, str]
    start: Path
    """The model from which every arm starts."""
    rows: JoinedSource
    target: NDArray[np.bool_]
    """[rows] those that are drawn for the share of the weak slices."""
    new: NDArray[np.bool_]
    """[rows] new examples, which are in no replay."""
    weak: NDArray[np.bool_]
    """[rows] all rows of the weak slices; KL leaves them alone."""

    def config(self, steps: int, seed: int) -> RunConfig:
        """An arm as a run: the model's own batches and optimizer, the steps and rate of stage.improve."""
        stage = self.run.stage
        assert isinstance(stage, Explore)
        place = locate_model(str(self.run.model.path))
        before: Mapping[str, Any] = read_run_yaml(place.run_dir) if place.run_dir is not None else {}
        given = before.get("trainer") or {}
        trainer = replace(
            self.run.trainer, max_steps=steps, epochs=None, max_tokens=None, resume="auto", eval_every=0,
            save_every=max(1, -(-steps // 3)), train_rows_scored=0, baselines=False, patience=None,
            **({key: given[key] for key in TAKEN} if all(key in given for key in TAKEN) else {}),
        )  # fmt: skip
        kept = {key: value for key, value in (before.get("optim") or {}).items() if hasattr(self.run.optim, key)}
        optim = replace(self.run.optim, **{**kept, "lr": stage.improve.lr or "auto"})
        task = replace(self.run.task, control="off") if hasattr(self.run.task, "control") else self.run.task  # type: ignore[call-arg]
        dropout = float((before.get("model") or {}).get("dropout") or self.run.model.dropout)
        return replace(
            self.run, stage=StageConfig("finetune"), model=replace(self.run.model, path=str(self.start), dropout=dropout),
            trainer=trainer, optim=optim, task=task, seed=seed,
        )  # fmt: skip

    def train(self, name: str, share: float, steps: int, *, seed: int | None = None) -> Path:
        """The model folder of an arm; one that was finished before is taken as it is."""
        folder = self.folder / name
        run = self.config(steps, self.run.seed if seed is None else seed)
        check_settings(folder, {"share": share, "steps": steps, "seed": run.seed, **self.settings()})
        report, model = folder / "report.json", folder / "model"
        done = report.is_file() and json.loads(report.read_text(encoding="utf-8")).get("status") == "completed"
        if done and (model / "config.json").is_file():
            console.note(f"arm {name}: already trained, in {folder}")
            return model
        told = "the pool as it is" if share == 0 else f"{share:.0%} of the rows from the weak slices"
        console.note(f"arm {name}: {steps} steps, {told}, in {folder}")
        fit_one(run, folder, self.about, arm=Arm({"train": self.rows}, self.order(share), self.objective(run)))
        return model

    def settings(self) -> dict[str, Any]:
        """What else decides an arm's weights, so that a folder of another command is not taken for this one's."""
        stage = self.run.stage
        assert isinstance(stage, Explore)
        where = np.packbits(np.concatenate([self.target, self.new, self.weak])).tobytes().hex()
        return {"kl": stage.improve.kl, "lr": stage.improve.lr, "rows": self.rows.digest(), "where": hash_of(where)}

    def order(self, share: float) -> Any:
        def make(own: BatchOrder, store: ExampleStore) -> BatchOrder:
            rows = np.asarray(store.rows)
            return MixedOrder(
                own.lengths, own.seed, own.context, own.packing, own.batch_rows, own.batch_tokens, by_length=own.by_length,
                target=np.flatnonzero(self.target[rows]), replay=np.flatnonzero(~self.new[rows]), share=share,
            )  # fmt: skip

        return make

    def objective(self, run: RunConfig) -> Any:
        stage = self.run.stage
        assert isinstance(stage, Explore)
        beta = stage.improve.kl

        def make(pieces: RunComponents, machine: Machine) -> Task:
            if not beta:
                return pieces.task
            old = pieces.build(run, machine.device, training=False)
            check_keeps_close(pieces.task, old)
            kept: Any = KeepClose(pieces.task, old, beta, self.weak.tolist())
            return kept  # type: ignore[no-any-return]

        return make


def hash_of(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    path = folder / "arm.json"
    if path.is_file():
        then = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in settings if then.get(key) != settings[key]]
        if changed:
            raise ModelError(
                f"{folder} was trained under other settings ({', '.join(changed)}). Repeat the old command to go on with it, "
                f"or take another run folder: hydra.run.dir=<folder>."
            )
        return
    write_json(path, settings)


@torch.no_grad()
def blend(old: Any, new: Any, share: float) -> Any:
    """(1 - share) * old + share * new of all weights, in `new` (WiSE-FT: Wortsman 2022, arXiv 2109.01903)."""
    before = dict(old.named_parameters())
    for name, value in new.named_parameters():
        value.lerp_(before[name], 1 - share)
    return new


def save_blend(old: Any, new: Any, share: float, processor: Any, folder: Path) -> Path:
    """The blended model in `folder`/model, published whole."""
    draft = folder / ".tmp-model"
    save_model(blend(old, new, share), processor, draft)
    if (folder / "model").exists():
        shutil.rmtree(folder / "model")
    draft.rename(folder / "model")
    return folder / "model"


def starting_model(
    run: RunConfig, pieces: RunComponents, folder: Path, slices: list[dict[str, Any]]
) -> tuple[Path, str]:
    """The model from which all arms start, and what is said of its size where a weakness asks for another."""
    assert isinstance(run.stage, Explore) and pieces.place is not None and run.model.path is not None
    start, how = Path(run.model.path).expanduser(), run.stage.improve.structure
    asked = [one for one in slices if str(one.get("action", "")).startswith("structure")]
    if how == "off" or not asked:
        return start, ""
    named = "; ".join(words_of(one["slice"]) for one in asked)
    if how == "suggest":
        return start, say("structure_suggested", slices=named)
    grown = folder / "grown"
    if not (grown / "config.json").is_file():
        model = pieces.build(run, resolve_machine(run.trainer).device, training=False)
        where = deepen(model)
        draft = folder / ".tmp-grown"
        shutil.rmtree(draft, ignore_errors=True)
        save_model(model, pieces.processor, draft)
        write_json(draft / ADDED, {"blocks": where})  # a resumed run says it again
        draft.rename(grown)
    layers = json.loads((grown / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    where = json.loads((grown / ADDED).read_text(encoding="utf-8"))["blocks"]
    return grown, say("structure_grown", slices=named, layers=layers, where=say(f"blocks_{where}"))


def promote(arms: Arms, pieces: RunComponents, chosen: Candidate, out_dir: Path) -> None:
    """improved/: the model's files and the run.yaml by which stage=evaluate knows task and rows; published whole."""
    run, stage = arms.run, arms.run.stage
    assert isinstance(stage, Explore)
    final, draft = out_dir / "improved", out_dir / ".tmp-improved"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(chosen.path, draft)
    resolved = {"context": pieces.context, "packing": pieces.packing, "improved_from": str(run.model.path)}
    write_run_yaml(draft, arms.config(stage.improve.steps, run.seed), resolved)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    write_json(final / "improved.json", {"candidate": chosen.name, "share": chosen.share, "from": str(run.model.path)})
