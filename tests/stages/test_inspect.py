"""stage=inspect from the command line, as a user types it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from llmstage.cli.command import main
from llmstage.paths import options

SMALL = [
    "stage=inspect", "model.num_hidden_layers=2", "model.hidden_size=32", "model.num_attention_heads=2", "model.intermediate_size=48", "model.vocab_size=400",
    "trainer.batch_size=8", "trainer.threads=1", "hydra.run.dir=out",
]  # fmt: skip
TEXT = ["task=classification", "data.columns.text=text", "data.columns.label=label"]
pytestmark = pytest.mark.usefixtures("workplace")


def inspect_run(folder: str = "out") -> dict[str, Any]:
    return dict(json.loads((Path(folder) / "report.json").read_text(encoding="utf-8")))


def finding(check: str, split: str = "train") -> dict[str, Any]:
    return next(
        item for item in inspect_run()["inspect"]["findings"] if (item["check"], item["split"]) == (check, split)
    )


def write(name: str, rows: list[dict[str, Any]]) -> str:
    Path(name).write_text("\n".join(json.dumps(row, ensure_ascii=False) for row in rows), encoding="utf-8")
    return name


def reviews(num: int = 60) -> list[dict[str, Any]]:
    return [
        {
            "text": f"{'good' if number % 2 else 'bad'} thing number {number} of {num * number}",
            "label": "ab"[number % 2],
        }
        for number in range(num)
    ]


@pytest.mark.parametrize("task", options("task"))
def test_every_task_is_inspected(task, capsys):
    measured = "true" if task in ("dialogue", "contrastive") else "false"
    assert main([*SMALL, f"task={task}", "data.demo_rows=40", "stage.show=1", f"stage.measure={measured}"]) == 0
    report, out = inspect_run(), capsys.readouterr().out
    assert report["status"] == "completed" and report["stage"] == "inspect"
    plan = report["inspect"]["plan"]
    assert plan["memory"]["peak"] > plan["memory"]["weights"] > 0
    assert plan["flops_longest_batch"] > 0 and plan["seconds"] > 0
    assert not report["limits"], report["limits"]
    assert len(report["inspect"]["shown"]) == 1 and report["inspect"]["shown"][0]["same"] is not False
    assert "target tokens" in out and "FLOPs" in out
    assert all(item["sentence"] for item in report["inspect"]["findings"])
    assert not list(Path("out").glob("model*")) and not list(Path("out").glob("checkpoints*"))


def test_the_ledger_is_the_one_that_training_reports():
    words = [
        "data.demo_rows=40",
        "model.vocab_size=400",
        "data.context=128",
        "trainer.threads=1",
        "model.num_hidden_layers=2",
        "model.hidden_size=32",
        "model.num_attention_heads=2",
        "model.intermediate_size=48",
    ]
    train = [
        "stage=finetune",
        "task=dialogue",
        *words,
        "trainer.max_steps=1",
        "trainer.baselines=false",
        "task.generate_rows=1",
        "generation.max_new_tokens=2",
        "hydra.run.dir=trained",
    ]
    assert main(train) == 0
    assert (
        main(
            [
                "stage=inspect",
                "task=dialogue",
                *words,
                "trainer.max_steps=1",
                "stage.measure=false",
                "hydra.run.dir=out",
            ]
        )
        == 0
    )
    assert inspect_run()["data"]["splits"] == inspect_run("trained")["data"]["splits"]
    assert inspect_run()["inspect"]["plan"]["parameters"] == inspect_run("trained")["model"]["parameters"]
    assert inspect_run()["inspect"]["plan"]["steps"] == inspect_run("trained")["train"]["steps"]
    # A model by path, in another language, with nothing shown.
    words = [
        "task=dialogue",
        "data.demo_rows=40",
        "stage.measure=false",
        "stage.show=0",
        "stage.language=zh",
        "trainer.threads=1",
    ]
    assert main(["stage=inspect", *words, "model.path=trained", "hydra.run.dir=out"]) == 0
    report = inspect_run()
    assert report["inspect"]["shown"] == []
    assert report["language"] == "zh" and report["sentences"][0].startswith("检查")
    assert report["model"]["path"].endswith("trained")


def test_learned_tokens_stand_in_brackets_and_in_colour(capsys):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"问题 {number}？"},
                {"role": "assistant", "content": f"答案 {number}。"},
            ]
        }
        for number in range(30)
    ]
    assert (
        main(
            [*SMALL, "task=dialogue", f"data.train={write('chat.jsonl', rows)}", "stage.show=2", "stage.measure=false"]
        )
        == 0
    )
    out = capsys.readouterr().out
    assert "⟦答案 0。<|end|>⟧" in out or "⟦答案 1。<|end|>⟧" in out
    assert "the end token among them; decoding restores the text" in out
    assert "chat.jsonl:1" in out or "chat.jsonl:2" in out
    page = (Path("out") / "report.html").read_text(encoding="utf-8")
    assert '<span class="learned"' in page and 'class="special"' in page and "答案" in page


def test_keys_that_are_not_read_and_rows_left_out_are_named(capsys):
    rows = [
        {
            "messages": [
                {"role": "user", "content": f"question {number}", "mood": "glad"},
                {"role": "assistant", "content": f"first answer {number}", "weight": 0},
                {"role": "user", "content": "and then?"},
                {"role": "assistant", "content": f"second answer {number}"},
            ],
            "context": "some",
            "label": number % 3 > 0,
            "answers": 7,
            "tags": "x",
        }
        for number in range(60)
    ]
    words = [*SMALL, "task=dialogue", f"data.train={write('chat.jsonl', rows)}", "stage.show=1", "stage.measure=false"]
    assert main([*words, "stage.language=en"]) == 0
    printed = capsys.readouterr()
    report = inspect_run()
    assert report["data"]["unread"] == {"answers": 40, "context": 40, "messages[].mood": 40, "tags": 40}
    assert list(report["data"]["left_out"].values()) == [20]
    assert finding("unread", "")["level"] == "minor" and "messages[].mood (40)" in finding("unread", "")["sentence"]
    assert finding("left_out", "")["count"] == 20
    assert "Columns not read: answers (40), context (40), messages[].mood (40), tags (40)." in printed.err
    assert "20 rows are left out" in printed.err
    # The first answer is read and the second one is learned.
    assert "⟦second answer" in printed.out and "⟦first answer" not in printed.out
    assert "answers that are context only: 1" in printed.out and "token ids: 1 " in printed.out
    page = (Path("out") / "report.html").read_text(encoding="utf-8")
    assert '<span class="learned">learned</span>' in page and "messages[].mood (40)" in page


def test_a_conversation_with_a_further_column_context_is_inspected():
    path = Path(__file__).resolve().parents[2].parent / "shared" / "cases" / "inspect" / "context.jsonl"
    if not path.is_file():
        pytest.skip(f"{path} is not here")
    assert main([*SMALL, "task=dialogue", f"data.train={path}", "stage.show=0", "stage.measure=false"]) == 0
    assert inspect_run()["data"]["unread"] == {"context": 40}


def test_no_color_means_no_colour(monkeypatch):
    """https://no-color.org: where NO_COLOR is set, a terminal gets brackets only."""
    from rich.console import Console

    from llmstage.inspect.token_view import TokenSpan, TokenView

    spans = [TokenSpan("q", [1], "read"), TokenSpan("a", [2], "learned")]
    view = TokenView("f:1", spans, 2, 1, True, True, "qa")
    for value, coloured in (("1", False), ("", True)):
        monkeypatch.setenv("NO_COLOR", value)
        monkeypatch.setenv("TERM", "xterm")
        console = Console(force_terminal=True, color_system="standard")
        with console.capture() as capture:
            console.print(view.rich())
        assert ("\x1b[1;32m" in capture.get()) is coloured and "⟦" in capture.get()


def test_bad_rows_are_all_named_and_the_status_is_the_data_s(capsys):
    rows = reviews()
    rows[4]["label"] = None  # type: ignore[assignment]
    rows[9]["text"] = 7  # type: ignore[assignment]
    rows[20]["label"] = None  # type: ignore[assignment]
    assert main([*SMALL, *TEXT, f"data.train={write('r.jsonl', rows)}", "stage.measure=false"]) == 3
    report, error = inspect_run(), capsys.readouterr().err
    bad = [item for item in report["inspect"]["findings"] if item["check"] == "bad_rows"]
    assert sorted(location for item in bad for location in item["places"]) == ["r.jsonl:10", "r.jsonl:21", "r.jsonl:5"]
    assert report["status"] == "failed" and "r.jsonl:5" in report["error"]
    assert "Training would stop here" in error and "data.on_bad_row=quarantine" in error
    # With the key that mends it, training would go on, and so the status is 0.
    assert main([*SMALL, *TEXT, "data.train=r.jsonl", "stage.measure=false", "data.on_bad_row=quarantine"]) == 0
    assert any(item["check"] == "bad_rows" for item in inspect_run()["inspect"]["findings"])


def test_answers_that_would_be_cut_stop_it_as_they_stop_training(capsys):
    rows = [
        {"messages": [{"role": "user", "content": "go"}, {"role": "assistant", "content": f"word{number} " * 80}]}
        for number in range(30)
    ]
    words = [
        *SMALL,
        "task=dialogue",
        f"data.train={write('long.jsonl', rows)}",
        "data.context=64",
        "stage.measure=false",
    ]
    assert main(words) == 3
    assert finding("lost_targets")["level"] == "major"
    assert finding("no_end")["level"] == "major"
    assert main([*words, "data.max_lost=1"]) == 0


def test_a_file_that_is_not_there_is_an_error_and_no_traceback(capsys):
    assert main([*SMALL, *TEXT, "data.train=none.csv"]) == 3
    error = capsys.readouterr().err
    assert "none.csv" in error and "Traceback" not in error


def test_test_rows_alone_need_a_model(capsys):
    assert main([*SMALL, *TEXT, f"data.test={write('t.jsonl', reviews())}"]) == 2
    assert "model.path" in capsys.readouterr().err


def test_rows_bounds_what_lint_reads():
    words = [
        *SMALL,
        *TEXT,
        f"data.train={write('r.jsonl', reviews())}",
        "data.split.validation=0",
        "data.split.test=0",
        "stage.measure=false",
    ]
    assert main([*words, "stage.rows=15"]) == 0
    assert finding("duplicates")["whole"] == 15
    assert inspect_run()["data"]["splits"]["train"]["rows"] == 60


def test_one_step_is_measured_remembered_and_compared(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    words = [*SMALL, *TEXT, f"data.train={write('r.jsonl', reviews())}", "stage.show=0"]
    assert main(words) == 0
    first = inspect_run()["inspect"]["plan"]
    assert first["learned"]["plans"] == 0
    assert first["foreseen"]["measured_seconds"] > 0
    if first["foreseen"]["measured_bytes"] is None:
        pytest.skip("this system does not tell the peak of the resident set")
    assert first["foreseen"]["measured_bytes"] > 0.5 * first["memory"]["peak"]
    assert main(words) == 0
    again = inspect_run()["inspect"]["plan"]
    assert again["learned"]["plans"] == 1 and again["learned"]["bytes_error"] is not None
    assert "1 earlier plans" in capsys.readouterr().out
    assert len((tmp_path / "cache" / "llmstage" / "plans.jsonl").read_text().splitlines()) == 2


def test_bytes_that_are_no_table_are_the_data_s_fault(capsys):
    Path("junk.csv").write_bytes(b'text,label\x0b\r"x\n' + bytes(range(128, 256)) * 4)
    assert main([*SMALL, "task=classification", "data.train=junk.csv"]) == 3
    error = capsys.readouterr().err
    assert "junk.csv" in error and "Traceback" not in error
