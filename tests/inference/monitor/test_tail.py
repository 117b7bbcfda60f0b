"""The input as it grows: whole lines only, places that are known again, files that change or are replaced."""

from __future__ import annotations

import os
from datetime import UTC
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from llmstage.config.data import DataConfig
from llmstage.data.columns import Columns
from llmstage.data.row_times import TimeError
from llmstage.data.rows import BadRows
from llmstage.errors import DataError, UserError
from llmstage.inference.monitor.records import InputState, RecordReader, seconds_of
from llmstage.inference.monitor.tail import LineTail, Position


def feed(path: Path, position: Position | None = None, *, follow: bool = False, max_bytes: int = 1000) -> LineTail:
    return LineTail(str(path), position or Position(), follow=follow, poll=0.01, max_bytes=max_bytes)


def items(source: LineTail, reading: InputState | None = None, zone=UTC, form=None, **keys) -> RecordReader:
    policy = keys.pop("on_bad_row", "error")
    cfg = DataConfig(on_bad_row=policy, **keys)
    bad = BadRows(policy, source.path.parent if source.path else None)
    return RecordReader(source, reading or InputState(), cfg, Columns(("text", "time")), form, zone, bad)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "in.jsonl"


def test_half_a_line_waits_for_its_end_where_more_may_come(path: Path) -> None:
    path.write_bytes(b"one\ntwo\nthr")
    followed, finished = feed(path, follow=True), feed(path)
    assert followed.take(10) == [b"one\n", b"two\n"] and not followed.ended
    with path.open("ab") as file:
        file.write(b"ee\nfour")
    assert followed.take(10) == [b"three\n"] and followed.position.line == 3
    assert finished.take(1) == [b"one\n"] and not finished.ended
    assert finished.take(10) == [b"two\n", b"three\n", b"four"] and finished.ended


def test_a_place_is_gone_on_from_and_not_taken_for_that_of_another_file(path: Path) -> None:
    path.write_bytes(b"one\ntwo\nthree\n")
    first = feed(path)
    first.take(2)
    again = feed(path, first.position)
    assert again.take(9) == [b"three\n"] and again.position.line == 3
    path.write_bytes(b"one\nTWO\nthree\n")
    with pytest.raises(DataError, match="is not the file that was read before"):
        feed(path, first.position)
    path.write_bytes(b"one\n")
    with pytest.raises(DataError, match="is not the file"):
        feed(path, first.position)


def test_a_file_that_is_replaced_is_read_to_its_end_and_then_from_its_beginning(path: Path) -> None:
    path.write_bytes(b"old 1\nold 2\n")
    source = feed(path, follow=True)
    assert source.take(1) == [b"old 1\n"]
    path.rename(path.with_suffix(".1"))
    with path.with_suffix(".1").open("ab") as file:
        file.write(b"old 3, cut off")
    path.write_bytes(b"new 1\n")
    found = []
    for _ in range(5):
        found += source.take(10)
    assert found == [b"old 2\n", b"old 3, cut off", b"new 1\n"]
    assert (source.position.line, source.position.offset) == (1, 6)


def test_a_file_that_is_moved_away_is_waited_for(path: Path) -> None:
    path.write_bytes(b"old\n")
    source = feed(path, follow=True)
    assert source.take(5) == [b"old\n"]
    path.unlink()
    assert source.take(5) == [] and not source.ended
    path.write_bytes(b"new\n")
    assert source.take(5) == [b"new\n"]


@pytest.mark.parametrize("follow", [True, False])
@pytest.mark.parametrize("content", [b"one\n", b"other\nlines\nand more\n"])
def test_what_was_read_must_not_change_below_the_reader(path: Path, content: bytes, follow: bool) -> None:
    path.write_bytes(b"one\ntwo\n")
    source = feed(path, follow=follow)
    assert len(source.take(2)) == 2 and (not follow or source.take(5) == [])
    with path.open("r+b") as file:  # the same file, cut and written anew
        file.truncate(0)
        file.write(content)
    with pytest.raises(DataError, match="was changed where it had been read"):
        source.take(5)


def test_a_line_that_is_too_large_is_a_bad_row_and_the_place_behind_it_is_right(path: Path) -> None:
    good = '{"text": "a", "time": "2026-03-02"}\n'
    path.write_text(good + '{"text": "' + "x" * 5_000_000 + '"}\n' + good, encoding="utf-8")
    source = feed(path, max_bytes=1 << 10)
    made = items(source, on_bad_row="quarantine", max_row_mb=1 / (1 << 10))
    assert [item.line for item in made.take(9)] == [1, 3] and made.num_bad == 1
    assert source.position.offset == path.stat().st_size
    assert "MB in one record" in (path.parent / "quarantine.jsonl").read_text()


def test_paths_that_lead_nowhere_are_told(path: Path, tmp_path: Path) -> None:
    path.write_text("")
    with pytest.raises(DataError, match=r"no such file.*Did you mean 'in.jsonl'"):
        feed(tmp_path / "in.json")
    with pytest.raises(DataError, match="is not a file"):
        feed(tmp_path)


def test_a_csv_record_with_line_ends_in_it_comes_whole_however_it_is_cut(path: Path) -> None:
    path = path.with_suffix(".csv")
    whole = 'time,text\n2026-03-02 10:00,"two\nlines"\n2026-03-02 11:00,"said ""no"" 中文"\n2026-03-02 12:00,plain\n'
    texts = ["two\nlines", 'said "no" 中文', "plain"]
    path.write_text(whole, encoding="utf-8")
    for most in (1, 2, 3, 100):
        made = items(feed(path))
        found = []
        while not made.ended:
            found += made.take(most)
        assert [item.row["text"] for item in found] == texts and [item.line for item in found] == [2, 4, 5]
    path.write_bytes(b"")
    made, found, data = items(feed(path, follow=True)), [], whole.encode()
    for cut in range(0, len(data), 7):  # as it grows
        with path.open("ab") as file:
            file.write(data[cut : cut + 7])
        found += made.take(100)
    assert [item.row["text"] for item in found] == texts


def test_layout_and_columns_are_kept_for_the_next_part_of_a_run(path: Path) -> None:
    path = path.with_suffix(".csv")
    path.write_text("正文;时间\n涨;2026-03-02\n跌;2026-03-03\n", encoding="gb18030")
    source = feed(path)
    made = items(source, encoding="gb18030", delimiter=";", columns={"text": "正文", "time": "时间"})
    assert [item.row for item in made.take(2)] == [{"text": "涨"}]
    kept = InputState.from_dict(made.state.as_dict())
    again = items(feed(path, kept.position), kept, encoding="gb18030", columns={"text": "正文", "time": "时间"})
    assert [item.row for item in again.take(5)] == [{"text": "跌"}]


def test_columns_are_found_by_their_names_or_listed(path: Path) -> None:
    path.write_text('{"headline": "a", "published": "2026-03-02"}\n')
    with pytest.raises(DataError, match=r"no column fits 'text', 'time'(.|\n)*headline: 'a'"):
        items(feed(path)).take(5)
    named = {"text": "headline", "time": "published"}
    assert items(feed(path), columns=named).take(5)[0].row == {"text": "a"}
    path.write_text('{"title": "a", "created_at": 1772409600}\n')
    assert items(feed(path)).take(5)[0].time == 1772409600


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"text": "a"}', "'time' is missing"),
        ('{"text": "a", "time": null}', "'time' is null"),
        ('{"text": "a", "time": "yesterday"}', "'time': 'yesterday' is no time that is known.*stage.time_format"),
        ('{"text": "a", "time": true}', "'time': True is no time"),
        ('{"text": "a", "time": 17}', "'time': '?17'? is no time"),
        ('{"text": "a", "time": "2199-01-01"}', "'time' lies [0-9,]+ days in the future"),
        ('{"text": "a", "time": ', "not JSON"),
        ("[1]", "a JSON array"),
    ],
)
def test_a_bad_row_is_named_or_left_out(path: Path, line: str, reason: str) -> None:
    good = '{"text": "好", "time": "2026-03-02"}'
    path.write_text(f"{good}\n{line}\n{good}\n", encoding="utf-8")
    with pytest.raises(DataError, match=rf"in\.jsonl:2: {reason}"):
        items(feed(path)).take(5)
    made = items(feed(path), on_bad_row="quarantine")
    assert [item.line for item in made.take(5)] == [1, 3] and made.num_bad == 1


def test_inputs_that_cannot_grow_by_lines_are_refused(path: Path) -> None:
    path.write_text('[{"text": "a"}]')
    with pytest.raises(DataError, match="JSON array"):
        items(feed(path)).take(5)
    path.write_bytes(b"\x1f\x8b\x08\x00 \n")
    with pytest.raises(DataError, match="zcat"):
        items(feed(path)).take(5)
    path.write_bytes("a\n".encode("utf-16"))
    with pytest.raises(DataError, match="UTF-16"):
        items(feed(path)).take(5)
    with pytest.raises(UserError, match="iconv"):
        items(feed(path), encoding="utf-16-le")


def test_formats_are_told_by_ending_and_content_or_named(path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "in"
    plain.write_text("time\ttext\n2026-03-02\ta, b\n")
    assert items(feed(plain)).take(5)[0].row == {"text": "a, b"}
    assert items(feed(plain), format="tsv").take(5)[0].row == {"text": "a, b"}
    with pytest.raises(DataError, match="not JSON"):
        items(feed(plain), format="jsonl").take(5)
    plain.write_bytes(b"\xef\xbb\xbf" + '{"text": "中", "time": "2026-03-02"}\n'.encode())
    assert items(feed(plain)).take(5)[0].row == {"text": "中"}


def test_times_are_read_as_people_write_them() -> None:
    shanghai = ZoneInfo("Asia/Shanghai")
    ten = 1772416800.0  # 2026-03-02T10:00:00+08:00, worked out with `date -d`
    for value in (
        "2026-03-02 10:00",
        "2026年3月2日 10:00",
        "2026/3/2 10:00",
        "2026-03-02T02:00:00Z",
        ten,
        str(int(ten)),
        ten * 1000,
    ):
        assert seconds_of(value, None, shanghai) == ten, value
    assert seconds_of("2026-03-02 10:00", None, UTC) == ten + 8 * 3600
    assert seconds_of(20260302, None, UTC) == seconds_of("2026-03-02", None, UTC)
    assert seconds_of("02/03/2026 10h", "%d/%m/%Y %Hh", shanghai) == ten
    with pytest.raises(TimeError):
        seconds_of("2026-03-02", "%d/%m/%Y", UTC)


def test_standard_input_is_read_as_it_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    monkeypatch.setattr("sys.stdin", os.fdopen(reader, "r"))
    source = LineTail("-", Position(), follow=False, poll=0.01, max_bytes=1000)
    made = items(source)
    assert made.take(5) == [] and not made.ended
    os.write(writer, b'{"text": "a", "time": "2026-03-02"}\n{"text": "b"')
    assert [item.row["text"] for item in made.take(5)] == ["a"]
    source.wait()
    os.write(writer, b', "time": "2026-03-02"}')
    os.close(writer)
    assert [item.row["text"] for item in made.take(5)] == ["b"] and made.ended
