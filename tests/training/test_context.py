"""data.context=auto of a pretrained model: by the rows, the positions of the model, and the memory of a step."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest

from llmstage.config import DataConfig, RunConfig
from llmstage.errors import ModelError
from llmstage.tasks.base import Example, RowError
from llmstage.training import context as module
from llmstage.training.context import SCORING_CONTEXT, default_context, measured_context, memory_context

RUN = replace(RunConfig(), data=DataConfig(train="rows.jsonl"))


class Lengths:
    """A task whose rows name their lengths."""

    model_family, learns_text = "gpt", True
    context = 0

    def attach_tokenizer(self, processor: Any, context: int) -> None:
        self.context = context

    def encode_many(self, rows: list[dict[str, Any]]) -> list[list[Example]]:
        if any("bad" in row for row in rows):
            raise RowError("bad")
        return [[Example({"input_ids": [0] * min(row["length"], self.context)})] for row in rows]

    def needed_context(self, example: Example) -> int:
        return len(example.arrays["input_ids"])


def config(positions: int | None = 8192, width: int = 64) -> Any:
    text = SimpleNamespace(max_position_embeddings=positions, hidden_size=width, num_hidden_layers=2, vocab_size=1000)
    return SimpleNamespace(get_text_config=lambda: text)


def processor(limit: float = 1e30) -> Any:
    return SimpleNamespace(tokenizer=SimpleNamespace(model_max_length=limit))


def measured(rows: list[dict[str, Any]] | None, positions: int | None = 8192, limit: float = 1e30) -> int:
    return measured_context(RUN, Lengths(), processor(limit), config(positions), rows, 256)


def test_it_holds_99_of_100_rows_and_never_less_than_the_default() -> None:
    rows = [{"length": 700}] * 990 + [{"length": 5000}] * 9 + [{"bad": True}]
    assert measured(rows) == 704, "700 in multiples of 32; 9 rows of 1,000 are longer"
    assert measured([{"length": 700}] * 980 + [{"length": 5000}] * 20) == 5024
    assert measured([{"length": 20}] * 50) == 256
    assert measured([{"bad": True}]) == 256, "encoding the split names the row"


def test_model_and_tokenizer_limit_it() -> None:
    rows = [{"length": 3000}] * 10
    assert measured(rows, positions=1024) == 1024
    assert measured(rows, positions=514, limit=512) == 512, "RoBERTa has 514 positions and takes 512 tokens"
    assert measured(rows, positions=None) == 3008
    assert measured(None) == SCORING_CONTEXT and measured(None, positions=512) == 512, "no rows: as long as it may be"


def test_a_sample_is_drawn_from_all_of_the_first_rows() -> None:
    """Of rows in the order of their length the first thousand would say nothing of the rest."""
    rows = [{"length": 10 + number // 10} for number in range(10_000)]
    assert 928 <= measured(rows) <= 1024


def test_memory_limits_it_with_a_warning(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "total_memory", lambda device: 1 << 30)
    limit = memory_context(RUN, Lengths(), config())  # type: ignore[arg-type]
    token_bytes = 40 * 2 * 64
    assert limit * token_bytes < 0.7 * (1 << 30) < limit * token_bytes + (1 << 30)
    assert memory_context(RUN, Lengths(), config(width=8192)) == 0  # type: ignore[arg-type]
    wide = measured_context(RUN, Lengths(), processor(), config(width=8192), [{"length": 700}] * 10, 256)  # type: ignore[arg-type]
    assert wide == 256 and "99 % of the rows would need 704" in capsys.readouterr().err


def test_a_context_that_is_typed_stays_and_positions_are_never_exceeded() -> None:
    typed = replace(RUN, data=replace(RUN.data, context=640))
    assert default_context(typed, "gpt", config()) == 640 and default_context(RUN, "bert", None) == 128
    assert default_context(RUN, "gpt", config(100)) == 100
    with pytest.raises(ModelError, match=r"data\.context=640 is more than the 512 positions"):
        default_context(typed, "gpt", config(512))
