"""The door: what a command line answers before, and instead of, a run."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from llmstage import __version__
from llmstage.cli.command import main
from llmstage.paths import options

ROOT = Path(__file__).resolve().parents[1]
GOOD = ["stage=finetune", "task=dialogue"]
Answer = tuple[int, str, str]


@pytest.fixture
def cli(workplace, capsys) -> Callable[..., Answer]:
    """`cli("stage=finetune", ...)` -> (exit status, standard output, standard error), in this process."""

    def call(*words: str) -> Answer:
        status = main(list(words))
        out, err = capsys.readouterr()
        return status, out, err

    return call


def python(code: str, cwd: Path, **extra: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(ROOT), **extra}
    return subprocess.run([sys.executable, "-c", code], cwd=cwd, env=env, capture_output=True, text=True, check=False)


def test_the_bare_command_is_an_overview(cli):
    status, out, err = cli()
    assert status == 0 and err == ""
    for group in ("stage", "task", "model"):
        assert all(name in out for name in options(group))
    assert len(re.findall(r"^  llmstage ", out, re.M)) == 3


def test_help_tells_every_key_of_the_schema(cli):
    from llmstage.config import FACTS, RunConfig
    from llmstage.config.typed import walk_fields

    status, out, err = cli("--help")
    assert status == 0 and err == ""
    for key, _ in walk_fields(RunConfig):
        if not key.startswith(("stage.", "task.")):
            assert (f"  {key}=" in out) is (key not in FACTS), key
    assert (
        "task.generate_rows" in out and "task.class_weights" in out and "stage.kill_at" in out and "task.select" in out
    )


def test_help_of_one_stage_and_task_shows_their_own_keys(cli):
    _, out, _ = cli("stage=finetune", "task=classification", "--help")
    assert "task.class_weights" in out and "task.generate_rows" not in out and "stage.kill_at" not in out


def test_help_of_a_wrong_word_says_so(cli):
    status, _, err = cli("task=dialog", "--help")
    assert status == 2 and "Did you mean 'dialogue'?" in err


def test_version(cli):
    assert cli("--version") == (0, f"llmstage {__version__}\n", "")


def test_all_complaints_are_told_at_once(cli):
    wrong = [
        "optim.lr=-1",
        "trainer.max_step=5",
        "model.num_attention_heads=0",
        "data.on_bad_row=skip",
        "task.class_weights=balanced",
    ]
    status, out, err = cli(*GOOD, *wrong)
    assert status == 2 and out == ""
    for word in wrong:
        assert word.partition("=")[0] in err, word
    assert "Did you mean 'trainer.max_steps'?" in err
    assert "task=classification" in err  # whose key it is
    assert "Traceback" not in err
    assert not list(Path.cwd().iterdir())  # nothing was started


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        (["stage=finetun", "task=dialogue"], "Did you mean 'finetune'?"),
        (["stage=chatter", "task=dialogue"], "Unknown stage 'chatter'"),
        (["stage=finetune", "task=clasification"], "Did you mean 'classification'?"),
        ([*GOOD, "model=gpt_tinny"], "Did you mean 'gpt_tiny'?"),
        ([*GOOD, "lr=1e-3"], "Did you mean 'optim.lr'?"),
        ([*GOOD, "trainer.batchsize=4"], "Did you mean 'trainer.batch_size'?"),
        ([*GOOD, "trainer.precision=bf61"], "Did you mean 'bf16'?"),
        ([*GOOD, "+trainer.foo=1"], "Unknown key 'trainer.foo'"),
        ([*GOOD, "optim.schedule=cosin"], "Did you mean 'cosine'?"),
        ([*GOOD, "trainer=smok"], "Did you mean 'smoke'?"),
        ([*GOOD, "trainer.max_steps"], "key=value"),
        ([*GOOD, "data.split=3"], "group of keys"),
        ([*GOOD, "~trainer.save_total_limit"], "cannot be deleted"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_wrong_word_answers_with_the_right_one(cli, words, hint):
    status, out, err = cli(*words)
    assert status == 2 and out == "" and hint in err, err


@pytest.mark.parametrize(
    "word",
    [
        "optim.lr=-1",
        "optim.lr=0",
        "optim.lr=nan",
        "optim.lr=inf",
        "optim.lr=abc",
        "trainer.save_total_limit=1",
        "trainer.max_steps=0",
        "trainer.max_steps=1.5",
        "trainer.max_steps=true",
        "trainer.epochs=0",
        "trainer.batch_size=0",
        "trainer.micro_batch_size=0",
        "trainer.eval_every=-1",
        "trainer.threads=0",
        "trainer.deterministic=maybe",
        "model.dropout=1",
        "model.vocab_size=10",
        "optim.beta2=1",
        "generation.top_p=0",
        "generation.temperature=-0.1",
        "data.max_lost=2",
        "data.context=4",
        "data.limit=0",
        "seed=-1",
        "offline=perhaps",
    ],
)
def test_values_out_of_range_are_refused_by_key(cli, word):
    status, _, err = cli(*GOOD, word)
    key = word.partition("=")[0]
    assert status == 2 and f"- {key}=" in err, err


@pytest.mark.parametrize(
    "word",
    [
        "optim.lr=1e-3",
        "optim.lr=auto",
        "trainer.max_tokens=1e6",
        "trainer.threads=2",
        "data.context=64",
        "data.limit=null",
    ],
)
def test_values_in_range_are_taken(cli, word):
    status, out, err = cli(*GOOD, word, "--cfg", "job")
    assert status == 0, err
    group, key = word.partition("=")[0].split(".")
    assert str(yaml.safe_load(out)[group][key]) == str(
        yaml.safe_load(word.partition("=")[2].replace("1e6", "1000000.0").replace("1e-3", "0.001"))
    )


@pytest.mark.parametrize(
    "pair", [("trainer.max_steps=5", "trainer.epochs=1"), ("trainer.batch_size=4", "trainer.batch_tokens=512")]
)
def test_two_budgets_cannot_hold(cli, pair):
    status, _, err = cli(*GOOD, *pair)
    first, second = (word.partition("=")[0] for word in pair)
    assert status == 2 and f"{first} and {second}" in err


def test_no_budget_cannot_hold_either(cli):
    status, _, err = cli(*GOOD, "trainer.max_steps=null")
    assert status == 2 and "Exactly one of trainer.max_steps, epochs, max_tokens" in err


def test_a_typed_budget_switches_the_default_off(cli):
    status, out, _ = cli(*GOOD, "trainer.epochs=2", "--cfg", "job")
    trainer = yaml.safe_load(out)["trainer"]
    assert status == 0 and (trainer["max_steps"], trainer["epochs"], trainer["max_tokens"]) == (None, 2, None)


@pytest.mark.parametrize(
    ("words", "reason"),
    [
        (["stage=finetune", "task=classification", "generation.num_beams=2"], "generates no text"),
        ([*GOOD, "data.columns.messages=talk"], "data=demo"),
        ([*GOOD, "data.train=a.jsonl", "data.demo_rows=30"], "demo world is off"),
        (["stage=evaluate", "task=dialogue", "model.path=somewhere", "optim.lr=1e-3"], "does not train"),
        (["stage=evaluate", "task=dialogue", "model.path=somewhere", "trainer.max_steps=3"], "does not train"),
        ([*GOOD, "model.path=somewhere", "model.hidden_size=64"], "no preset is built"),
    ],
    ids=lambda value: value[-1] if isinstance(value, list) else "",
)
def test_a_key_that_this_run_does_not_read_is_an_error(cli, words, reason):
    status, _, err = cli(*words)
    assert status == 2 and f"{words[-1].partition('=')[0]} is not read here" in err and reason in err, err


def test_misfits_between_groups_are_complaints(cli):
    _, _, err = cli("stage=pretrain", "task=dialogue")
    assert "does not go with stage=pretrain" in err
    _, _, err = cli(*GOOD, "model=bert_tiny")
    assert "does not fit model=bert_tiny" in err and "model=gpt_tiny" in err
    _, _, err = cli("stage=evaluate", "task=dialogue")
    assert "model.path=" in err
    _, _, err = cli(*GOOD, "model.num_attention_heads=3")
    assert "model.num_attention_heads=3" in err


def test_a_model_folder_of_the_wrong_family_is_told_from_its_config(cli):
    Path("enc").mkdir()
    Path("enc/config.json").write_text(json.dumps({"model_type": "bert"}))
    status, _, err = cli(*GOOD, "model.path=enc")
    assert status == 2 and "does not fit model.path=enc" in err


DOOR = [
    ([], 0),
    (["--help"], 0),
    ([*GOOD, "model=bert_tiny", "optim.lr=-1"], 2),
    ([*GOOD, "--cfg", "job"], 0),
    (["stage=evaluate", "task=dialogue"], 2),
    (["stage=finetune", "task=classification", "model.path=missing_config", "task.foo=1"], 2),
]


def test_answers_of_the_door_import_no_torch(tmp_path):
    """One process for all: what an earlier answer imported, it was not to import either."""
    code = f"""
import sys
from llmstage.cli.command import main
for words, wanted in {DOOR!r}:
    status = main(words)
    heavy = {{"torch", "transformers", "datasets"}} & set(sys.modules)
    if heavy or status != wanted:
        sys.exit(f"{{words}}: status {{status}}, imported {{heavy}}")
"""
    done = python(code, tmp_path)
    assert done.returncode == 0, done.stderr


def test_the_overview_and_help_import_no_hydra(tmp_path):
    code = """
import sys
from llmstage.cli.help import quick_answer
assert all(quick_answer(words) for words in ([], ["--help"], ["--version"]))
sys.exit(bool({"hydra", "omegaconf", "rich"} & set(sys.modules)))
"""
    assert python(code, tmp_path).returncode == 0


def test_help_shows_the_keys_of_groups_inside_a_stage_and_a_task(cli):
    _, out, _ = cli("--help")
    assert "  stage.slices.max_order=3" in out and "  task.features.ngrams=false" in out
    _, out, _ = cli("stage=explore", "--help")
    assert "  stage.improve.guard.delta=0.01" in out


def test_a_closed_pipe_ends_help_quietly(tmp_path):
    command = f"{sys.executable} -m llmstage --help | head -1"
    env = {**os.environ, "PYTHONPATH": str(ROOT), "LLMSTAGE_ENTRY": "console"}
    done = subprocess.run(command, shell=True, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.startswith("llmstage ") and done.stderr == ""


def test_keys_are_checked_even_when_stage_and_task_are_missing(cli):
    status, _, err = cli("optim.lr=-1", "trainer.save_total_limt=2")
    assert status == 2
    assert "stage= is missing" in err and "task= is missing" in err
    assert "optim.lr=-1" in err and "Did you mean 'trainer.save_total_limit'?" in err


def test_a_missing_model_is_told_and_not_a_missing_task(cli):
    Path("outputs/finetune/latest").mkdir(parents=True)
    status, _, err = cli("stage=evaluate", "model.path=outputs/finetune/latset")
    assert status == 2 and "there is no such folder. Did you mean 'latest'?" in err and "task= is missing" not in err
    status, _, err = cli("stage=chat")
    assert status == 2 and "stage=chat needs a model" in err and len(err.splitlines()) == 2
    assert "task= is missing" in cli("stage=chat", "model.path=an/id")[2], "it may be a hub id"


@pytest.mark.parametrize(
    "word",
    [
        "model._target_=os.system",
        "+model._target_=os.system",
        "data.columns={_target_: os.system}",
        "++hydra.launcher._target_=os.system",
    ],
)
def test_a_config_cannot_name_code(cli, word):
    status, out, err = cli(*GOOD, word)
    assert status == 8 and out == "" and "name code" in err


@pytest.mark.parametrize(
    "word",
    [
        "hydra.job.chdir=true",
        "hydra.searchpath=[file:///tmp]",
        "+hydra.callbacks.x.y=1",
        "hydra.output_subdir=x",
        "hydra.runtime.output_dir=/tmp",
    ],
)
def test_hydras_own_config_is_mostly_closed(cli, word):
    status, _, err = cli(*GOOD, word)
    assert status == 2 and "Hydra's own config cannot be set" in err


def test_the_folder_of_a_run_is_open(cli):
    status, out, err = cli(*GOOD, "hydra.run.dir=here", "--cfg", "hydra")
    assert status == 0, err
    assert yaml.safe_load(out)["hydra"]["run"]["dir"] == "here"


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ([*GOOD, "optim.lr=-1"], 2),
        ([*GOOD, "model._target_=x"], 8),
        ([*GOOD, "model.path=nowhere/at/all"], 4),
        ([*GOOD, "data.train=missing.jsonl"], 3),
    ],
)
@pytest.mark.parametrize("full", ["", "1"])
def test_the_status_is_the_same_under_full_error(cli, monkeypatch, words, expected, full):
    if full:
        monkeypatch.setenv("HYDRA_FULL_ERROR", full)
    status, out, err = cli(*words)
    assert (status, out) == (expected, "")
    assert ("Traceback" in err) is bool(full)


def test_cfg_job_prints_the_composed_config(cli):
    status, out, err = cli("stage=finetune", "task=classification", "trainer=smoke", "--cfg", "job")
    composed = yaml.safe_load(out)
    assert status == 0 and err == ""
    assert composed["model"]["name"] == "bert_tiny"  # the task's own default
    assert composed["trainer"]["max_steps"] == 6 and composed["data"]["limit"] == 64
    assert not list(Path.cwd().glob("outputs/*/*/report.json"))


def test_a_model_that_was_typed_beats_the_one_a_task_prefers(cli):
    _, out, _ = cli("stage=finetune", "task=classification", "model=gpt_small", "--cfg", "job")
    assert yaml.safe_load(out)["model"]["name"] == "gpt_small"


def test_a_column_is_named_by_a_key_of_its_own(cli):
    status, out, err = cli(
        "stage=finetune",
        "task=classification",
        "data.train=a.csv",
        "data.columns.text=评论",
        "data.columns.label=3",
        "--cfg",
        "job",
    )
    assert status == 0, err
    columns = yaml.safe_load(out)["data"]["columns"]
    assert {key: str(value) for key, value in columns.items()} == {"text": "评论", "label": "3"}


@pytest.mark.parametrize(
    ("word", "value"),
    [
        ("data.train=语料.txt", "语料.txt"),
        ("data.train=[甲.txt, 我的 文件.txt]", ["甲.txt", "我的 文件.txt"]),
        ("data.train=a(1).txt", "a(1).txt"),
        ("data.train='语料,二.txt'", "语料,二.txt"),
        ("data.train=run=3/part#1.txt", "run=3/part#1.txt"),
    ],
)
def test_a_path_may_hold_any_text(cli, word, value):
    status, out, err = cli(*GOOD, word, "--cfg", "job")
    assert status == 0, err
    assert yaml.safe_load(out)["data"]["train"] == value


def test_own_yaml_adds_options(cli):
    Path("mine/data").mkdir(parents=True)
    Path("mine/data/shop.yaml").write_text("defaults:\n  - demo\nname: shop\ndemo_rows: 77\n")
    status, out, err = cli(*GOOD, "--config-dir", "mine", "data=shop", "--cfg", "job")
    assert status == 0, err
    assert yaml.safe_load(out)["data"]["demo_rows"] == 77
    status, _, err = cli("--config-dir", "mine", *GOOD, "data=shopp", "--cfg", "job")
    assert status == 2 and "Did you mean 'shop'?" in err


def test_own_yaml_with_a_wrong_key_is_refused(cli):
    Path("mine/data").mkdir(parents=True)
    Path("mine/data/shop.yaml").write_text("defaults:\n  - demo\nname: shop\ndemo_row: 77\n")
    status, _, err = cli("--config-dir", "mine", *GOOD, "data=shop")
    assert status == 2 and "Unknown key 'data.demo_row'" in err


def test_own_yaml_does_not_choose_hydras_mode(cli):
    Path("mine/data").mkdir(parents=True)
    Path("mine/data/shop.yaml").write_text("# @package _global_\nhydra:\n  mode: MULTIRUN\n")
    status, _, err = cli("--config-dir", "mine", *GOOD, "data=shop")
    assert status == 2 and "sets hydra.mode" in err


def test_python_m_from_another_directory_and_a_pipe(tmp_path):
    env = {
        **os.environ,
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "40",
        "TERM": "xterm-256color",
        "LLMSTAGE_ENTRY": "console",
    }
    command = [sys.executable, "-m", "llmstage", *GOOD, "optim.lr=-1", "data.contxt=12"]
    done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 2 and done.stdout == ""
    assert "\x1b" not in done.stderr
    lines = done.stderr.splitlines()
    assert len(lines) == 3 and any(len(line) > 40 for line in lines)  # one line a complaint, however narrow the pipe


def test_a_sweep_checks_every_value_of_a_list(cli):
    status, _, err = cli("-m", *GOOD, "optim.lr=1e-3,-1")
    assert status == 2 and "optim.lr=-1" in err
    assert not list(Path.cwd().glob("outputs/sweeps/*/*"))


def test_what_an_option_says_of_itself_is_not_typed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["stage=finetune", "task=dialogue", "task.model_families=[bert]", "model.name=mine"]) == 2
    told = capsys.readouterr().err
    assert (
        "Unknown key 'task.model_families'. It is set by choosing task=." in told and "Unknown key 'model.name'" in told
    )
