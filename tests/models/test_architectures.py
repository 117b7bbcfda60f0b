"""The table of architectures: a short form of the command that writes it, and the page in step with transformers."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import transformers

sys.path.insert(0, str(Path(__file__).parent))
import architectures

CELLS = [
    # One type for each behaviour: (type, task, cell of the table).
    ("llama", "causal_lm", "packed"),
    ("mistral", "causal_lm", "packed: positions"),
    ("gemma2", "causal_lm", "packed: layers, additive"),
    ("mamba2", "causal_lm", "unpacked"),
    ("deepseek_v32", "causal_lm", "as transformers"),
    ("xlnet", "causal_lm", "refused"),
    ("convbert", "token_classification", "one length"),
    ("roberta", "masked_lm", "packed: block, positions + 1"),
    ("modernbert", "token_classification", "packed: layers"),
    ("mistral", "token_classification", "packed: positions, causal"),
    ("xlnet", "classification", "one length"),
    ("deberta-v2", "question_answering", "exact"),
    ("mbart", "translation", "exact"),
]


KNOWN_FAULTS = {("prophetnet", "translation")}


@pytest.fixture(scope="module")
def workshop() -> architectures.Workshop:
    return architectures.Workshop()


@pytest.mark.parametrize(("model_type", "task", "expected"), CELLS, ids=lambda value: value[:24])
def test_a_cell_of_the_table(model_type: str, task: str, expected: str, workshop: Any, tmp_path: Path) -> None:
    if model_type not in architectures.mapped_types()[task]:
        pytest.skip(f"transformers {transformers.__version__} has no {model_type} for {task}")
    line = {"task": task, **workshop.cell(model_type, task, tmp_path)}
    text = architectures.cell_text(line, {})
    assert text.partition(" +")[0].partition(" (")[0] == expected.partition(" + ")[0] or text == expected, line


def test_the_page_has_the_types_and_tasks_of_the_command() -> None:
    page = architectures.PAGE.read_text(encoding="utf-8")
    if f"transformers {transformers.__version__}," not in page:
        pytest.skip(f"docs/models.md was written with another transformers than {transformers.__version__}")
    rows = [line.split("|")[1:-1] for line in page.splitlines() if line.startswith("| ")]
    start = next(number for number, row in enumerate(rows) if row[0].strip() == "type")
    assert [heading.strip() for heading in rows[start][1:]] == list(architectures.HEADINGS.values())
    table = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows[start + 1 :] if set(row[0]) != {"-"}}
    types = architectures.mapped_types()
    assert sorted(table) == sorted({name for mapped in types.values() for name in mapped})
    for name, cells in table.items():
        for task, cell in zip(architectures.TASKS, cells, strict=True):
            assert bool(cell) == (name in types[task]), (name, task)
            assert not cell.startswith("differs") or (name, task) in KNOWN_FAULTS


def test_a_reason_has_one_note() -> None:
    reasons: dict[str, int] = {}
    lines = [
        {"task": "causal_lm", "status": "refused", "reason": reason}
        for reason in ("model.path=/a cannot", "model.path=/b cannot", "x")
    ]
    assert [architectures.cell_text(line, reasons) for line in lines] == ["refused (1)", "refused (1)", "refused (2)"]
    assert list(reasons) == ["the model cannot", "x"]
