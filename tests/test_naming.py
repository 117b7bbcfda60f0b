"""Words typed by people, and the modules they name."""

from __future__ import annotations

import pytest

from llmstage.errors import Refused, UserError
from llmstage.naming import did_you_mean, load_module, unknown


def test_the_nearest_word_is_offered_and_nothing_where_none_is_near():
    assert did_you_mean("dialog", ["dialogue", "causal_lm"]) == " Did you mean 'dialogue'?"
    assert did_you_mean("lr", ["optim.lr", "seed"]) == " Did you mean 'optim.lr'?"
    assert did_you_mean("xyz", ["dialogue"]) == "" == did_you_mean("a", [])


def test_a_sentence_names_the_wrong_the_near_and_all_words():
    assert unknown("task", "b", ["c", "a"]) == "Unknown task 'b'. Known: a, c."


def test_a_plain_name_is_a_file_of_ours():
    assert load_module("stages", "finetune", trusted=False).__name__ == "llmstage.stages.finetune"


def test_a_missing_module_is_the_users_mistake_and_a_broken_one_is_not(tmp_path, monkeypatch):
    with pytest.raises(UserError, match=r"llmstage\.stages\.chatt"):
        load_module("stages", "chatt", trusted=True)
    with pytest.raises(UserError, match=r"nowhere_outside\.task"):
        load_module("tasks", "nowhere_outside.task", trusted=True)
    (tmp_path / "broken_outside.py").write_text("import a_library_that_is_not_there")
    (tmp_path / "pack_outside").mkdir()
    (tmp_path / "pack_outside" / "broken.py").write_text("import a_library_that_is_not_there")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ModuleNotFoundError, match="a_library_that_is_not_there"):
        load_module("tasks", "pack_outside.broken", trusted=True)


def test_code_outside_is_refused_where_the_name_came_from_a_file():
    with pytest.raises(Refused, match="command line") as refused:
        load_module("tasks", "os.path", trusted=False)
    assert refused.value.status == 8
    assert load_module("tasks", "os.path", trusted=True).__name__ in ("posixpath", "ntpath")
