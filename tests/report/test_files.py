"""Files of a run folder: whole, valid JSON, and readable after a crash."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest

from llmstage.errors import DiskError
from llmstage.evaluation.metrics.score import Score
from llmstage.report.files import append_line, read_lines, write_json


def test_what_is_written_is_read_and_what_json_lacks_becomes_null(tmp_path: Path) -> None:
    path = tmp_path / "new" / "report.json"
    write_json(
        path, {"中文": [1, math.nan, -math.inf, np.float32(0.5), np.arange(2)], "score": Score(math.nan), "at": path}
    )
    text = path.read_text(encoding="utf-8")
    found = json.loads(text, parse_constant=lambda word: pytest.fail(f"{word} is not JSON"))
    assert (
        found["中文"] == [1, None, None, 0.5, [0, 1]] and found["score"]["value"] is None and found["at"] == str(path)
    )
    assert "中文" in text
    assert [file.name for file in path.parent.iterdir()] == ["report.json"]
    umask = os.umask(0)
    os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o666 & ~umask


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "report.json"
    write_json(path, 1)

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DiskError, match="No space left") as error:
        write_json(path, 2)
    assert error.value.status == 7 and str(path) in str(error.value)
    assert path.read_text() == "1\n" and len(list(tmp_path.iterdir())) == 1


def test_an_unknown_object_is_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(TypeError, match="object"):
        write_json(tmp_path / "x.json", {"a": object()})
    assert not list(tmp_path.iterdir())


def test_lines_survive_a_line_cut_short_by_a_kill(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    append_line(path, {"step": 1, "loss": math.nan})
    with path.open("a") as file:
        file.write('{"step": 2, "lo')
    append_line(path, {"step": 3, "text": "第三\n行"})
    with pytest.warns(UserWarning, match=r"metrics\.jsonl:2"):
        assert read_lines(path) == [{"step": 1, "loss": None}, {"step": 3, "text": "第三\n行"}]
