"""What all tests share: a place of their own, and small tasks with small models."""

from __future__ import annotations

import copy
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from omegaconf import OmegaConf

sys.path.insert(0, str(Path(__file__).parent))  # the tests are no package

from filelock import FileLock
from processes import fork_server, start_command  # noqa: F401  # fixtures

from llmstage.cli.hydra_runs import compose_overrides
from llmstage.cli.overrides import read_words
from llmstage.config import RunConfig, build_run, task_config
from llmstage.config.checks import choices_for_family
from llmstage.naming import load_module
from llmstage.paths import conf_dir


@pytest.fixture(scope="session", autouse=True)
def own_place(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """No test and no fixture reads or fills the user's caches, and none asks a hub."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("HF_HUB_OFFLINE", "1")
        patch.setenv("LLMSTAGE_ENTRY", "test")  # no second start with another allocator
        yield


@pytest.fixture(autouse=True)
def short_errors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever the last run in this process left set."""
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> None:
    """Models here are so small that threads mostly wait, and on a busy machine they wait long."""
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def capture_stays_open() -> None:
    """rouge-score imports absl, whose log handler closes the stream it was made with when Hydra sets up logging again;
    that stream would be pytest's own capture file. It leaves the process's true standard error alone."""
    from absl import logging

    logging.get_absl_handler().python_handler.stream = sys.__stderr__


@pytest.fixture(scope="session", autouse=True)
def no_waiting_for_disks() -> Iterator[None]:
    """No test cuts the power: what is written need not have reached the disk before a run goes on."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", lambda descriptor: None)
        yield


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[], object]], Path]:
    """`shared_folder("runs/dialogue", train)`: a folder that `train()` has filled, run inside it, once for all workers.

    Tests read it and write elsewhere.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent

    def fill(name: str, make: Callable[[], object]) -> Path:
        folder = root / "shared" / name
        done = folder.with_name(f".{folder.name}.done")
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_name(f".{folder.name}.lock")):
            if not done.exists():
                shutil.rmtree(folder, ignore_errors=True)
                folder.mkdir()
                with pytest.MonkeyPatch.context() as patch:
                    patch.chdir(folder)
                    make()
                done.touch()
        return folder

    return fill


@pytest.fixture
def workplace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty folder as the working directory, for tests that write outputs."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def composed(words: list[str]) -> RunConfig:
    read = read_words(words)
    assert not read.wrong, read.wrong
    wrong: list[str] = []
    run = build_run(copy.deepcopy(composed_data(tuple(read.for_hydra))), wrong)
    assert not wrong, wrong
    return run


@cache
def composed_data(overrides: tuple[str, ...]) -> dict[str, Any]:
    """Hydra takes a quarter of a second; many tests begin with the same words."""
    return compose_overrides([*overrides])


@pytest.fixture(scope="session")
def compose_run() -> Callable[[list[str]], RunConfig]:
    """`compose_run(["stage=finetune", "task=dialogue"])`: the typed config of a command line."""
    return composed


@dataclass
class TinyTask:
    """A task bound to a tokenizer trained on its own demo rows, and a model small enough to learn in seconds."""

    run: RunConfig
    task: Any
    processor: Any
    rows: list[dict[str, Any]]
    features: list[Any]
    context: int
    options: dict[str, Any] = field(default_factory=dict)

    def model(self, seed: int = 0, **changes: Any) -> Any:
        import torch

        from llmstage.models.build import build_model

        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            return build_model(
                replace(self.run.model, **changes),
                self.task.auto_model,
                self.processor,
                self.context,
                self.task.model_options(),
                None,
                offline=True,
                extra=self.task.extra_module,
            )

    def merged(self, predictions: list[Any], refs: list[Any]) -> tuple[list[Any], list[Any]]:
        """As the engine does it: the windows of a row, or the captions of an image, brought together."""
        from llmstage.tasks.base import UNSCORED

        scored = [[item for item in self.task.encode(row) if item.ref != UNSCORED] for row in self.rows]
        rows = [number for number, own in enumerate(scored) for _ in own][: len(refs)]
        predictions, refs, _ = self.task.merge(predictions, refs, rows)
        return predictions, refs

    def scores(self, predictions: list[Any], refs: list[Any]) -> Any:
        return self.task.score(*self.merged(predictions, refs))

    def batch(self, features: list[Any] | None = None) -> Any:
        return self.task.collate([[item] for item in (self.features if features is None else features)])


def tiny(
    name: str,
    kind: str = "gpt",
    *,
    num_rows: int = 8,
    context: int = 128,
    vocab_size: int = 600,
    words: tuple[str, ...] = (),
) -> TinyTask:
    from llmstage.tasks.base import UNSCORED
    from llmstage.tokenization.tokenizer import train_processor

    stage = composed_task(name)["stages"][0]
    words = (*words_to_take(name, kind), *words)
    small = [
        "model.num_hidden_layers=2",
        "model.hidden_size=32",
        "model.num_attention_heads=2",
        "model.intermediate_size=64",
        f"model.vocab_size={vocab_size}",
    ]
    if kind in ("clip", "vlm"):
        tower = {
            "size": 32,
            "patch": 8,
            "num_hidden_layers": 2,
            "hidden_size": 32,
            "num_attention_heads": 2,
            "intermediate_size": 64,
        }
        small += [f"model.vision.{key}={value}" for key, value in tower.items()]
    run = composed([f"stage={stage}", f"task={name}", f"model={kind}_tiny", *small, *words])
    task = load_module("tasks", run.task.name, trusted=True).TASK(run.task, run.generation)
    task.set_model_family(kind)
    rows = task.demo_rows(num_rows, 0)
    task.fit_labels(rows)
    texts = (text for row in task.demo_rows(64, 1) for text in task.texts(row))
    processor = train_processor(texts, vocab_size, kind, context, by_character=task.by_character)
    if run.task.reads_images:
        see(run, task, processor, [*rows, *task.demo_rows(64, 1)])
    task.attach_tokenizer(processor, context)
    features = [item for row in rows for item in task.encode(row) if item.ref != UNSCORED]
    return TinyTask(run, task, processor, rows, features, context)


def see(run: RunConfig, task: Any, processor: Any, rows: list[dict[str, Any]]) -> None:
    """The pictures of the rows, as the engine reads them."""
    from llmstage.data.image_store import ImageStore
    from llmstage.models.presets import preset_vision_spec
    from llmstage.tokenization.vision import tower_image_processor

    processor.images = tower_image_processor(run.model.vision)
    processor.vision = preset_vision_spec(run.model) if run.model.family == "vlm" else None
    task.image_store = ImageStore(processor.images)
    task.image_store.read(place for row in rows for place in task.images(row))


def composed_task(name: str) -> dict[str, Any]:
    """The keys of conf/task/<name>.yaml, wherever its package puts them."""
    loaded = OmegaConf.to_container(OmegaConf.load(conf_dir() / "task" / f"{name}.yaml"))
    assert isinstance(loaded, dict)
    return dict(loaded.get("task") or loaded)


def words_to_take(name: str, kind: str) -> list[str]:
    """What must be typed beside `task=<name>` for it to take this family: nothing, or one choice of a key."""
    keys = composed_task(name)
    cfg = task_config(name)(**keys)
    if kind in cfg.takes():
        return []
    key, value = choices_for_family(cfg, kind)[0]
    return [f"task.{key}={value}"]


@pytest.fixture(scope="session")
def tiny_task() -> Iterator[Callable[..., TinyTask]]:
    """`tiny_task("dialogue", "gpt")`: task, processor, features and a way to make a small model."""
    yield tiny


CHINESE = re.compile("[\u3400-\u9fff]")
ENGLISH = re.compile(r"[A-Za-z]{2,}(?: [A-Za-z]{2,}){2,}")
"""Three words in a row are a sentence; two may be a name."""


def texts_of(report: dict[str, Any], own: tuple[str, ...]) -> Iterator[str]:
    """All that a report says, without the cells of tables that hold rows of the user's (`own`: how their titles begin)."""
    yield from report["sentences"]
    yield from report["limits"]
    for one in report["exhibits"]:
        yield from [one["title"], *one.get("columns", []), one.get("note") or "", one.get("y_label") or ""]
        yield from [
            *one.get("row_labels", []),
            *one.get("column_labels", []),
            *(s["name"] for s in one.get("series", [])),
        ]
        if not one["title"].startswith(own):
            yield from (cell for row in one.get("rows", []) for cell in row if isinstance(cell, str))


@pytest.fixture(scope="session")
def speaks() -> Callable[..., None]:
    """`speaks(report, "zh")`: a report of stage=explore is in this language, sentences, limits, tables and charts."""

    def check(
        report: dict[str, Any], language: str, own: tuple[str, ...] = ("Examples:", "样例：", "New texts", "新文本")
    ) -> None:
        assert report["language"] == language
        told = list(texts_of(report, own))
        assert report["sentences"] or report["limits"]
        if language == "en":
            assert not [text for text in told if CHINESE.search(text)]
            return
        bare = [
            re.sub(r"llmstage |\S+=\S+", "", text) for text in told
        ]  # commands and keys are the same in all languages
        assert not [text for text in bare if ENGLISH.search(text)]
        assert all(CHINESE.search(line) for line in [*report["sentences"], *report["limits"]])

    return check


ALONE = """
import json, sys
sys.modules["llmstage"] = None  # an import of it fails
import torch, transformers
for line in sys.stdin:
    told = {"torch": torch, "transformers": transformers, **json.loads(line)}
    exec(told["code"], told)
    print(json.dumps(told["out"]), flush=True)
"""


@pytest.fixture(scope="session")
def without_us() -> Iterator[Callable[..., Any]]:
    """`without_us("out = ...", folder="x")`: what the code says where llmstage is not installed, with `torch`, `transformers` and
    the given names. One process for all who ask: importing transformers takes longer than what they ask."""
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", ALONE], env=environment, **pipes) as asked:
        assert asked.stdin and asked.stdout

        def ask(code: str, **names: Any) -> Any:
            asked.stdin.write(json.dumps({"code": code, **names}) + "\n")
            asked.stdin.flush()
            said = asked.stdout.readline()
            assert said, "its error stands on standard error"
            return json.loads(said)

        yield ask
        asked.kill()  # a data worker forked meanwhile may hold the other end of its pipe, so that it would wait for ever


@pytest.fixture
def children_here(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """`children_here()`: what stage=prove_resume would start runs in this process, but for what is killed;
    `children_here(killed=True)`: that too, and unwinds instead. Importing torch takes longer than what they do."""
    from llmstage.cli.command import main
    from llmstage.stages import prove_resume
    from llmstage.training import fault_injection

    def replace(*, killed: bool = False) -> None:
        def run(command: list[str], *, env: dict[str, str], **how: Any) -> Any:
            if "LLMSTAGE_FAULT" in env and not killed:
                return subprocess.run(command, env=env, **how)
            with pytest.MonkeyPatch.context() as patch:
                for key, value in env.items():
                    patch.setenv(key, value.replace(":kill", ":die") if key == "LLMSTAGE_FAULT" else value)
                fault_injection.reset_faults()
                try:
                    status = main(command[3:])
                except fault_injection.Killed:
                    status = -signal.SIGKILL
            return SimpleNamespace(returncode=status, stderr="")

        started = SimpleNamespace(run=run, DEVNULL=subprocess.DEVNULL, PIPE=subprocess.PIPE)
        monkeypatch.setattr(prove_resume, "subprocess", started)

    return replace


SMALL_CLASSIFIER = [
    "trainer=smoke", "trainer.max_steps=40", "model.num_hidden_layers=1", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48",
    "model.vocab_size=400", "data.demo_rows=200", "data.max_lost=1", "data.context=48", "trainer.threads=1",
    "trainer.baselines=false", "optim.lr=0.01",
]  # fmt: skip


@pytest.fixture(scope="session")
def stream_of_moods(shared_folder: Callable[..., Path]) -> Path:
    """A folder with a run `cls`, what it says of some texts (`said.json`), and a stream `in.jsonl` with a planted surge."""

    def make() -> None:
        from llmstage.cli.command import main

        assert main(["stage=finetune", "task=classification", *SMALL_CLASSIFIER, "hydra.run.dir=cls"]) == 0
        lines = [json.loads(line) for line in Path("cls/predictions.jsonl").read_text(encoding="utf-8").splitlines()]
        said = {line["text"]: line["prediction"] for line in lines}
        labels = sorted(set(said.values()), key=lambda label: -list(said.values()).count(label))
        assert len(labels) >= 2, "the model has learned to tell something from something"
        Path("said.json").write_text(json.dumps({"said": said, "negative": labels[1]}), encoding="utf-8")
        write_moods(Path("in.jsonl"), said, labels[1])

    return shared_folder("moods", make)


def write_moods(path: Path, said: dict[str, str], negative: str) -> None:
    """Eight days of 15 to 25 items an hour, a tenth of them negative; at 15 o'clock of the last day nine in ten."""
    import numpy as np

    rng, begin = np.random.default_rng(0), datetime(2026, 3, 2, tzinfo=UTC)
    bad = [text for text, label in said.items() if label == negative]
    good = [text for text, label in said.items() if label != negative]
    with path.open("w", encoding="utf-8") as file:
        for hour in range(8 * 24):
            surge = hour == 7 * 24 + 15
            for number in range(count := 60 if surge else int(rng.integers(15, 26))):
                text = str(rng.choice(bad if rng.random() < (0.9 if surge else 0.1) else good))
                when = begin + timedelta(hours=hour, seconds=3600 * number / count)
                file.write(json.dumps({"time": when.isoformat(), "text": text}, ensure_ascii=False) + "\n")
