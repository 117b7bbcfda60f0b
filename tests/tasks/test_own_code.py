"""A mistake in a task or a reader of the user's own is told with the module and the method, never as a bug of llmstage."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from llmstage.cli.command import main
from llmstage.config.run import task_config
from llmstage.errors import OwnCodeError, UserError
from llmstage.naming import load_module
from llmstage.tasks import base_contract as contract

EXTEND = Path(__file__).parents[2] / "docs" / "extend.md"
RETURNED_BATCH = "return Batch(inputs, labels, [example.ref for example in examples], num_tokens=int(mask.sum()))"
EXAMPLE = 'Example({"input_ids": ids, "count": [float(row["count"])]}, ref=row["count"], cut=cut)'
LOSS = "LossSum(((values - batch.labels) ** 2).sum(), len(values))"


def example_of(title: str) -> str:
    """Return the file of docs/extend.md with this title."""
    match = re.search(rf'```\w+ title="{title}"\n(.*?)```', EXTEND.read_text(encoding="utf-8"), re.DOTALL)
    assert match is not None
    return match[1]


@pytest.fixture
def outside(workplace: Path, monkeypatch: pytest.MonkeyPatch):
    """Write a module of the user's own: the example of docs/extend.md with one text replaced by another."""
    monkeypatch.syspath_prepend(str(workplace))

    def write(package: str, title: str, old: str, new: str) -> str:
        text = example_of(title)
        assert old in text
        (workplace / package).mkdir(exist_ok=True)
        (workplace / package / "wrong.py").write_text(text.replace(old, new), encoding="utf-8")
        for name in (package, f"{package}.wrong"):
            monkeypatch.delitem(sys.modules, name, raising=False)
        return f"{package}.wrong"

    yield write
    for name in [name for name in sys.modules if name.partition(".")[0] in ("my_tasks", "my_readers")]:
        del sys.modules[name]


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("\nTASK = Shouting\n", "\n", r"my_tasks.wrong has no TASK: its last line must be TASK = <the class>"),
        ("TASK = Shouting\n", "TASK = 3\n", r"my_tasks.wrong has TASK = 3: "),
        ("def score(", "def scores(", r"my_tasks.wrong.Shouting does not implement score\(\)"),
        ("    columns = Columns", "    names = Columns", r"my_tasks.wrong.Shouting has no `columns`"),
        ("    auto_model =", "    model_class =", r"my_tasks.wrong.Shouting has no `auto_model`"),
        ('"AutoModelForSequenceClassification"', '"AutoModelForSquares"', "auto_model = 'AutoModelForSquares', which is unknown"),
    ],
)  # fmt: skip
def test_a_module_that_defines_no_task_is_told_before_the_run(outside, old, new, message):
    name = outside("my_tasks", "my_tasks/shouting.py", old, new)
    cfg = task_config(name)(name=name)
    with pytest.raises(UserError, match=message) as error:
        contract.create_task(cfg, None)
    assert error.value.status == 2


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("@dataclass(slots=True)\n", "", r"my_tasks.wrong.Config is no dataclass: write @dataclass"),
        ("class Config(TaskConfig)", "class Config", r"my_tasks.wrong.Config must be a dataclass that inherits from TaskConfig"),
    ],
)  # fmt: skip
def test_a_config_that_would_lose_its_keys_is_told(outside, old, new, message):
    with pytest.raises(UserError, match=message):
        task_config(outside("my_tasks", "my_tasks/shouting.py", old, new))


def test_what_the_methods_return_is_checked(outside):
    """Each method of the example in docs/extend.md, with a result that its contract does not allow."""
    import torch

    name = outside("my_tasks", "my_tasks/shouting.py", "TASK =", "TASK =")
    task = contract.create_task(task_config(name)(name=name), None)
    module = load_module("tasks", name, trusted=True)
    good = module.Batch({"input_ids": torch.zeros(2, 3, dtype=torch.long)})
    example = module.Example({"input_ids": [1]})
    score = module.Score(1.0)
    loss = module.LossSum(torch.zeros(()), 2)
    assert contract.check_batch(task, good, 2) is good and contract.check_loss(task, loss) is loss
    assert contract.check_examples(task, [{}], [[example]]) == [[example]]
    assert contract.check_scores(task, {"error": score}) == {"error": score}
    assert contract.check_predictions(task, [1, 2], 2) == [1, 2] and contract.check_texts(task, ["a"]) == ["a"]
    checks = {
        "collate() returned tuple; it must return a Batch": lambda: contract.check_batch(task, (good, None), 2),
        "collate() returned None": lambda: contract.check_batch(task, None, 2),
        "collate() returned input_ids of shape [2, 3]; it must return a row for each of the 3 rows": lambda: (
            contract.check_batch(task, good, 3)
        ),
        "loss() returned Tensor; it must return LossSum": lambda: contract.check_loss(task, torch.zeros(())),
        "loss() returned a total of shape [2]": lambda: contract.check_loss(task, module.LossSum(torch.zeros(2), 2)),
        "encode() returned Example; it must return a list of Example": lambda: contract.check_examples(
            task, [{}], [example]
        ),
        "encode() returned an Example with ids": lambda: contract.check_examples(
            task, [{}], [[module.Example({"ids": [1]})]]
        ),
        "encode() returned list of dict": lambda: contract.check_examples(task, [{}], [[{}]]),
        "encode_many() returned list of 1": lambda: contract.check_examples(task, [{}, {}], [[example]]),
        "predict() returned 1 items; it must return a list with a prediction for each of the 2": lambda: (
            contract.check_predictions(task, [1], 2)
        ),
        "score() returned float for 'error'; it must return Score": lambda: contract.check_scores(task, {"error": 0.5}),
        "score() returned float": lambda: contract.check_scores(task, 0.5),
        "texts() returned str": lambda: contract.check_texts(task, "one text"),
    }
    for message, check in checks.items():
        with pytest.raises(OwnCodeError) as error:
            check()
        assert str(error.value).startswith(f"my_tasks.wrong.Shouting.{message}"), message
        assert error.value.status == 1


READER = ["stage=finetune", "task=classification", "trainer=smoke", "data.cache=off", "data.train=rows.pipe"]


@pytest.mark.parametrize(
    ("old", "new", "status", "message"),
    [
        ('ENDINGS = (".pipe",)\n', "", 2, "The reader my_readers.wrong has no ENDINGS"),
        ('(".pipe",)', '".pipe"', 2, "The reader my_readers.wrong has ENDINGS = '.pipe'"),
        ("def read(", "def reads(", 2, "The reader my_readers.wrong has no read(file, options)"),
        ('yield number, {"text"', 'yield {"text"', 1, "my_readers.wrong.read() yielded {'text': 'text 0'"),
        ('{"text": text, "label": label}', "[text, label]", 1, "my_readers.wrong.read() yielded (1, ['text 0', "),
        ("    for number, line in", "    return\n    for number, line in", 3, "no row in rows.pipe (my_readers.wrong"),
        ("text, bar, label =", "text, bar, label = None +", 1, "(module my_readers.wrong): unsupported operand"),
    ],
)
def test_a_mistake_in_a_reader_is_told_with_its_module(outside, workplace, capsys, old, new, status, message):
    Path("rows.pipe").write_text("".join(f"text {number} | {'ab'[number % 2]}\n" for number in range(40)))
    name = outside("my_readers", "my_readers/pipes.py", old, new)
    assert main([*READER, f"data.format={name}", "hydra.run.dir=run"]) == status
    err = capsys.readouterr().err
    assert message in err.replace("\n", " ") and "bug of llmstage, not" not in err, err[-600:]


def test_a_syntax_error_in_a_task_is_told_as_the_users(outside, workplace, capsys):
    outside("my_tasks", "my_tasks/shouting.py", "def loss(self", "def loss(self,,")
    (workplace / "conf" / "task").mkdir(parents=True)
    yaml_text = example_of("my_conf/task/shouting.yaml").replace("my_tasks.shouting", "my_tasks.wrong")
    (workplace / "conf" / "task" / "wrong.yaml").write_text(yaml_text)
    assert main(["--config-dir", "conf", "stage=finetune", "task=wrong", "model=bert_tiny", "trainer=smoke"]) == 1
    err = capsys.readouterr().err.replace("\n", " ")
    assert "error: SyntaxError in wrong.py:71: invalid syntax; this is your own module" in err


def test_check_row_must_give_a_reason(outside, workplace, capsys):
    Path("rows.jsonl").write_text('{"text": "STOP a", "count": 1}\n' * 20)
    outside("my_tasks", "my_tasks/shouting.py", "        return None\n", "        return True\n")
    (workplace / "conf" / "task").mkdir(parents=True)
    yaml_text = example_of("my_conf/task/shouting.yaml").replace("my_tasks.shouting", "my_tasks.wrong")
    (workplace / "conf" / "task" / "wrong.yaml").write_text(yaml_text)
    words = [
        "--config-dir",
        "conf",
        "stage=finetune",
        "task=wrong",
        "model=bert_tiny",
        "data.train=rows.jsonl",
        "data.cache=off",
    ]
    assert main([*words, "hydra.run.dir=run"]) == 1
    assert "my_tasks.wrong.check_row() returned True; it must return None for a good row" in capsys.readouterr().err
