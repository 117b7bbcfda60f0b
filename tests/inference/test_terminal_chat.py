"""stage=chat: turns from a file or a pipe, commands, and what is kept of a conversation."""

from __future__ import annotations

import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from processes import Running

from llmstage.cli.command import main
from llmstage.errors import UserError
from llmstage.inference.terminal_chat import typed_lines

ROOT = Path(__file__).resolve().parents[2]


def said(capsys: pytest.CaptureFixture[str]) -> list[str]:
    return capsys.readouterr().out.splitlines()


def test_a_script_of_turns_is_answered_with_its_history(
    run_of: Callable[[str], Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.txt").write_text(
        "Hello, I am Anna.\n\n你好，退款要等多久？\n/reset\nHello, I am Anna.\n", encoding="utf-8"
    )
    words = ["stage=chat", f"model.path={run_of('dialogue')}", "stage.script=turns.txt"]
    capsys.readouterr()
    assert main([*words, "generation.max_new_tokens=12", "stage.save=kept.jsonl"]) == 0
    first = said(capsys)
    assert len(first) == 3 and first[0] == first[2], "after /reset the same words get the same reply"
    kept = json.loads(Path("kept.jsonl").read_text(encoding="utf-8"))
    assert [message["role"] for message in kept["messages"]] == ["user", "assistant"]
    assert re.sub(r"[\x00-\x1f]", "", kept["messages"][1]["content"]).strip() == first[2].strip()
    assert main([*words, "generation.max_new_tokens=2"]) == 0
    assert len(said(capsys)[0]) < len(first[0])
    hot = [*words, "generation.temperature=2", "generation.max_new_tokens=12"]
    texts = []
    for seed in (1, 1, 2):
        assert main([*hot, f"seed={seed}"]) == 0
        texts.append(said(capsys))
    assert texts[0] == texts[1] != texts[2]


def test_the_first_ctrl_c_ends_a_reply_and_not_the_conversation(
    run_of: Callable[[str], Path], workplace: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Cutting:
        """In the place of the pattern that takes control characters out of what is shown."""

        shown = 0

        def sub(self, _: str, text: str) -> str:
            self.shown += 1
            if self.shown == 1:
                os.kill(os.getpid(), signal.SIGINT)
            return text

    Path("turns.txt").write_text("Hello\nHello again\n")
    words = ["stage=chat", f"model.path={run_of('dialogue')}", "stage.script=turns.txt", "generation.max_new_tokens=12"]
    assert main([*words, "stage.save=whole.jsonl"]) == 0
    monkeypatch.setattr("llmstage.inference.terminal_chat.CONTROL", Cutting())
    assert main([*words, "stage.save=cut.jsonl"]) == 0
    whole, cut = (json.loads(Path(name).read_text())["messages"] for name in ("whole.jsonl", "cut.jsonl"))
    assert [turn["role"] for turn in cut] == ["user", "assistant"] * 2
    assert len(cut[1]["content"]) < len(whole[1]["content"]) and cut[3]["content"]


def test_commands_change_what_is_said(
    run_of: Callable[[str], Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.txt").write_text("Hello\n/system You sell lamps.\nHello\n/save one.jsonl\n/what\n/quit\nnever said\n")
    words = ["stage=chat", f"model.path={run_of('dialogue')}", "stage.script=turns.txt"]
    capsys.readouterr()
    assert main(words) == 0
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == 2 and "/save <file>" in told.err and "> never said" not in told.err
    assert json.loads(Path("one.jsonl").read_text())["messages"][0] == {"role": "system", "content": "You sell lamps."}
    assert main([*words, "stage.system=Be brief.", "stage.save=two.jsonl"]) == 0
    Path("turns.txt").write_text("Hello\n")
    assert main([*words, "stage.system=Be brief.", "stage.save=three.jsonl"]) == 0
    assert json.loads(Path("three.jsonl").read_text())["messages"][0]["content"] == "Be brief."


def test_a_conversation_longer_than_the_context_goes_on(
    run_of: Callable[[str], Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.txt").write_text("tell me about my order please " * 9 + "\nand the next one\n" + "word " * 900 + "\n")
    words = [f"model.path={run_of('dialogue')}", "stage.script=turns.txt", "generation.max_new_tokens=4"]
    capsys.readouterr()
    assert main(["stage=chat", *words]) == 0
    assert len(said(capsys)) == 3


def test_what_cannot_converse_is_said(
    run_of: Callable[[str], Path], workplace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("turns.txt").write_text("Hello\n")
    shutil.copytree(run_of("classification"), "copy")
    next(Path("copy/model").glob("*.safetensors")).unlink()  # the answer comes before the weights are loaded
    assert main(["stage=chat", "model.path=copy", "stage.script=turns.txt"]) == 4
    assert "does not converse" in capsys.readouterr().err
    assert main(["stage=chat", f"model.path={run_of('dialogue')}", "stage.script=none.txt"]) == 2
    assert "stage.script=none.txt" in capsys.readouterr().err


def test_turns_come_from_a_pipe(
    run_of: Callable[[str], Path], workplace: Path, start_command: Callable[..., Running]
) -> None:
    words = ["stage=chat", f"model.path={run_of('dialogue')}", "generation.max_new_tokens=4"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    running = start_command(words, env={**os.environ, "OMP_NUM_THREADS": "1"}, **pipes)
    output, errors = running.communicate("Hello\n退款\n")
    assert running.returncode == 0 and len(output.splitlines()) == 2, errors


@pytest.mark.parametrize("errors", ["strict", "surrogateescape"])
def test_bytes_that_are_no_text_are_said(errors: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Python reads standard input in the first way in a locale of UTF-8, and in the second in C or POSIX."""
    given = io.BytesIO("你好\n".encode() + b"caf\xe9\n")
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(given, encoding="utf-8", errors=errors))
    turns = typed_lines()
    with pytest.raises(UserError, match=r"Standard input is not text in (utf-8|UTF-8: a lone surrogate)"):
        assert next(turns) == "你好"
        next(turns)
