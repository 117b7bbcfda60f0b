"""Train the variants of an improvement. Each is an ordinary run in a folder of its own, and resumes from its checkpoints."""

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
from llmstage.explore.mix import JoinedSource, KLPenaltyTask, MixedOrder, check_kl_penalty
from llmstage.explore.wording import sentence
from llmstage.models.build import save_model
from llmstage.models.depth_expansion import deepen
from llmstage.paths import locate_model, read_run_yaml
from llmstage.report.files import write_json
from llmstage.tasks.base import Task
from llmstage.training.components import RunComponents, Variant
from llmstage.training.fit import fit
from llmstage.training.machine import Machine, resolve_machine
from llmstage.training.run_folder import write_run_yaml

ADDED = "added_blocks.json"
TAKEN = ("batch_size", "batch_tokens")
"""Options of the trainer that are taken from the run that made the model: a variant sees batches of the same size."""


@dataclass(slots=True)
class VariantTrainer:
    """Trains variants; holds what all of them share."""

    run: RunConfig
    """The run of stage=explore."""
    folder: Path
    about: dict[str, str]
    start: Path
    """The model that every variant starts from."""
    rows: JoinedSource
    target: NDArray[np.bool_]
    """[rows] rows that fill the share of the weak slices."""
    new: NDArray[np.bool_]
    """[rows] new examples, which are not in the replay."""
    weak: NDArray[np.bool_]
    """[rows] all rows of the weak slices; the KL term leaves them out."""

    def config(self, steps: int, seed: int) -> RunConfig:
        """Return the config of a variant: batches and optimizer of the run that made the model, steps and rate of stage.improve."""
        stage = self.run.stage
        assert isinstance(stage, Explore)
        source = locate_model(str(self.run.model.path))
        before: Mapping[str, Any] = read_run_yaml(source.run_dir) if source.run_dir is not None else {}
        given = before.get("trainer") or {}
        trainer = replace(
            self.run.trainer, max_steps=steps, epochs=None, max_tokens=None, resume="auto", eval_every=0,
            save_every=max(1, -(-steps // 3)), train_rows_scored=0, baselines=False, patience=None,
            **({key: given[key] for key in TAKEN} if all(key in given for key in TAKEN) else {}),
        )  # fmt: skip
        optim_before = {
            key: value for key, value in (before.get("optim") or {}).items() if hasattr(self.run.optim, key)
        }
        optim = replace(self.run.optim, **{**optim_before, "lr": stage.improve.lr or "auto"})
        task = replace(self.run.task, control="off") if hasattr(self.run.task, "control") else self.run.task  # type: ignore[call-arg]
        dropout = float((before.get("model") or {}).get("dropout") or self.run.model.dropout)
        return replace(
            self.run, stage=StageConfig("finetune"), model=replace(self.run.model, path=str(self.start), dropout=dropout),
            trainer=trainer, optim=optim, task=task, seed=seed,
        )  # fmt: skip

    def train(self, name: str, share: float, steps: int, *, seed: int | None = None) -> Path:
        """Train a variant and return its model folder; a finished one is not trained again."""
        folder = self.folder / name
        run = self.config(steps, self.run.seed if seed is None else seed)
        check_settings(folder, {"share": share, "steps": steps, "seed": run.seed, **self.settings()})
        report, model = folder / "report.json", folder / "model"
        done = report.is_file() and json.loads(report.read_text(encoding="utf-8")).get("status") == "completed"
        if done and (model / "config.json").is_file():
            console.note(f"variant {name}: already trained, in {folder}")
            return model
        mix = "the pool as it is" if share == 0 else f"{share:.0%} of the rows from the weak slices"
        console.note(f"variant {name}: {steps} steps, {mix}, in {folder}")
        variant = Variant({"train": self.rows}, self.order(share), self.objective(run), updates_latest=False)
        fit(run, folder, self.about, variant)
        return model

    def settings(self) -> dict[str, Any]:
        """Return all other settings that decide the weights, so that the folder of another command is not reused."""
        stage = self.run.stage
        assert isinstance(stage, Explore)
        where = np.packbits(np.concatenate([self.target, self.new, self.weak])).tobytes().hex()
        return {"kl": stage.improve.kl, "lr": stage.improve.lr, "rows": self.rows.digest(), "where": hash_of(where)}

    def order(self, share: float) -> Any:
        """Return a function that replaces the default order of a run by one with `share` of the weak slices."""

        def mixed_order(default: BatchOrder, store: ExampleStore) -> BatchOrder:
            rows = np.asarray(store.rows)
            return MixedOrder(
                default.lengths, default.seed, default.context, default.packing, default.batch_rows, default.batch_tokens,
                by_length=default.by_length, target=np.flatnonzero(self.target[rows]),
                replay=np.flatnonzero(~self.new[rows]), share=share,
            )  # fmt: skip

        return mixed_order

    def objective(self, run: RunConfig) -> Any:
        """Return a function that gives the task to train: with the KL term where stage.improve.kl is above 0."""
        stage = self.run.stage
        assert isinstance(stage, Explore)
        beta = stage.improve.kl

        def task_of(components: RunComponents, machine: Machine) -> Task:
            if not beta:
                return components.task
            old = components.build(run, machine.device, training=False)
            check_kl_penalty(components.task, old)
            task: Any = KLPenaltyTask(components.task, old, beta, self.weak.tolist())
            return task  # type: ignore[no-any-return]

        return task_of


def hash_of(text: str) -> str:
    """Return the first 16 hex digits of the sha256 of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def check_settings(folder: Path, settings: dict[str, Any]) -> None:
    """Write the settings of a variant; raise ModelError where its folder has others."""
    path = folder / "arm.json"
    if path.is_file():
        then = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in settings if then.get(key) != settings[key]]
        if changed:
            raise ModelError(
                f"{folder} was trained with other settings ({', '.join(changed)}). Repeat the old command to resume it, "
                f"or take another run folder: hydra.run.dir=<folder>."
            )
        return
    write_json(path, settings)


@torch.no_grad()
def blend(old: Any, new: Any, share: float) -> Any:
    """Set the weights of `new` to (1 - share) * old + share * new (WiSE-FT: Wortsman 2022, arXiv 2109.01903)."""
    before = dict(old.named_parameters())
    for name, value in new.named_parameters():
        value.lerp_(before[name], 1 - share)
    return new


def save_blend(old: Any, new: Any, share: float, processor: Any, folder: Path) -> Path:
    """Save the blended model in `folder`/model; the folder appears under its name when it is complete."""
    draft = folder / ".tmp-model"
    save_model(blend(old, new, share), processor, draft)
    if (folder / "model").exists():
        shutil.rmtree(folder / "model")
    draft.rename(folder / "model")
    return folder / "model"


def starting_model(
    run: RunConfig, components: RunComponents, folder: Path, slices: list[dict[str, Any]]
) -> tuple[Path, str]:
    """Return the model that all variants start from, and a sentence on its size where a weakness needs a larger model.

    stage.improve.structure=apply adds blocks that do not change the output at first.
    """
    assert isinstance(run.stage, Explore) and components.model_source is not None and run.model.path is not None
    start, how = Path(run.model.path).expanduser(), run.stage.improve.structure
    asked = [weakness for weakness in slices if str(weakness.get("action", "")).startswith("structure")]
    if how == "off" or not asked:
        return start, ""
    named = "; ".join(words_of(weakness["slice"]) for weakness in asked)
    if how == "suggest":
        return start, sentence("structure_suggested", slices=named)
    grown = folder / "grown"
    if not (grown / "config.json").is_file():
        model = components.build(run, resolve_machine(run.trainer).device, training=False)
        where = deepen(model)
        draft = folder / ".tmp-grown"
        shutil.rmtree(draft, ignore_errors=True)
        save_model(model, components.processor, draft)
        write_json(draft / ADDED, {"blocks": where})  # A resumed run reports it again.
        draft.rename(grown)
    layers = json.loads((grown / "config.json").read_text(encoding="utf-8"))["num_hidden_layers"]
    where = json.loads((grown / ADDED).read_text(encoding="utf-8"))["blocks"]
    return grown, sentence("structure_grown", slices=named, layers=layers, where=sentence(f"blocks_{where}"))


def promote(trainer: VariantTrainer, components: RunComponents, chosen: Candidate, out_dir: Path) -> None:
    """Write improved/: the files of the model, and a run.yaml so that stage=evaluate knows task and rows; published complete."""
    run, stage = trainer.run, trainer.run.stage
    assert isinstance(stage, Explore)
    final, draft = out_dir / "improved", out_dir / ".tmp-improved"
    shutil.rmtree(draft, ignore_errors=True)
    shutil.copytree(chosen.path, draft)
    resolved = {"context": components.context, "packing": components.packing, "improved_from": str(run.model.path)}
    write_run_yaml(draft, trainer.config(stage.improve.steps, run.seed), resolved)
    shutil.rmtree(final, ignore_errors=True)
    draft.rename(final)
    write_json(final / "improved.json", {"candidate": chosen.name, "share": chosen.share, "from": str(run.model.path)})
