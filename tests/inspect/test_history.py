"""What was measured is remembered, told, and learned from."""

from __future__ import annotations

from dataclasses import replace

import pytest

from llmstage.inspect.history import PRIOR_MEMORY, Entry, Line, append_entry, fit_line, history_path, load_history

ENTRY = Entry("2026-01-01", "this one", "t", "m", 1000, 1.0, 1.0, 2.0, 100, 100, 130)


def test_a_line_with_an_outlier_is_found():
    pairs = [(float(x), 50 + 1.5 * x) for x in range(10, 100, 10)] + [(55.0, 900.0)]
    line = fit_line(pairs, Line(0, 1), 3.0, scales=False)
    assert line.factor == pytest.approx(1.5, abs=0.05)
    assert line.base == pytest.approx(50, abs=4)


def test_few_plans_teach_the_base_alone_or_the_factor_alone():
    assert fit_line([(100.0, 180.0), (200.0, 280.0)], Line(0, 1.0), 3.0, scales=False) == Line(80.0, 1.0)
    assert fit_line([(1.0, 5.0), (2.0, 10.0)], Line(0, 1.0), 50.0, scales=True) == Line(0.0, 5.0)


def test_the_factor_stays_within_its_bounds():
    pairs = [(float(x), 40.0 * x) for x in range(1, 9)]
    assert fit_line(pairs, Line(0, 1), 3.0, scales=False).factor == 3.0


def test_errors_are_of_what_was_told_and_of_this_machine(tmp_path):
    for estimated, measured in ((100, 130), (100, 110), (200, 100)):
        append_entry(tmp_path, replace(ENTRY, estimated_bytes=estimated, measured_bytes=measured))
    append_entry(tmp_path, replace(ENTRY, machine="another", estimated_bytes=1, measured_bytes=1000))
    known = load_history(tmp_path, "this one")
    assert len(known.entries) == 3
    assert known.bytes_error == pytest.approx(0.3)  # of 0.3, 0.1, 0.5
    assert known.seconds_error == pytest.approx(1.0)


def test_what_was_learned_makes_the_next_plan_right(tmp_path):
    for raw in (100, 200, 300, 400, 500, 600):
        append_entry(tmp_path, replace(ENTRY, raw_bytes=raw, measured_bytes=70 + 2 * raw))
    assert load_history(tmp_path, "this one").bytes.at(1000) == pytest.approx(2070)


def test_without_a_history_or_a_cache_the_prior_holds(tmp_path):
    assert load_history(tmp_path, "x").bytes == load_history(None, "x").bytes == PRIOR_MEMORY
    append_entry(None, ENTRY)


def test_the_file_stays_small_and_a_torn_line_does_no_harm(tmp_path, monkeypatch):
    monkeypatch.setattr("llmstage.inspect.history.MAX_LINES", 5)
    for number in range(14):
        append_entry(tmp_path, replace(ENTRY, when=str(number)))
    lines = history_path(tmp_path).read_text().splitlines()
    assert len(lines) <= 10
    assert '"13"' in lines[-1]
    with history_path(tmp_path).open("a") as file:
        file.write('{"when": "torn')
    with pytest.warns(UserWarning, match="not JSON"):
        assert load_history(tmp_path, "this one").entries[-1].when == "13"
