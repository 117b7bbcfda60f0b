"""Windows: where they begin, when they close, what comes too late, which surge is one alert."""

from __future__ import annotations

from datetime import UTC, datetime
from zoneinfo import ZoneInfo

import numpy as np
import pytest
from streams import DAY, HOUR, counts

from llmstage.inference.monitor.aggregation import WindowCounts


def made(zone=UTC, width=HOUR, late=0, quiet=6 * HOUR, alpha=0.01, min_items=10, history=28 * DAY) -> WindowCounts:
    return WindowCounts(1, width, late, history, quiet, alpha, min_items, zone)


def judge_all(windows: WindowCounts, items: np.ndarray, negative: np.ndarray) -> list:
    found = []
    for hour, both in enumerate(np.stack([items, negative], axis=2)):
        windows.open[hour * HOUR] = both
        found += windows.close(end_of_input=True)
    return found


def moment(text: str, zone) -> float:
    return datetime.fromisoformat(text).replace(tzinfo=zone).timestamp()


def test_days_begin_at_the_zones_midnight_and_hours_are_local() -> None:
    shanghai = ZoneInfo("Asia/Shanghai")
    days, hours = made(shanghai, DAY), made(shanghai)
    assert days.start_of(moment("2026-03-02T00:30:00", shanghai)) == moment("2026-03-02T00:00:00", shanghai)
    assert days.start_of(moment("2026-03-01T23:30:00", shanghai)) == moment("2026-03-01T00:00:00", shanghai)
    assert hours.hour_of(hours.start_of(moment("2026-03-02T09:59:00", shanghai))) == 9
    assert made().hour_of(made().start_of(moment("2026-03-02T09:59:00", shanghai))) == 1
    kathmandu = ZoneInfo("Asia/Kathmandu")  # a quarter of an hour off
    assert made(kathmandu).start_of(moment("2026-03-02T09:59:00", kathmandu)) == moment(
        "2026-03-02T09:00:00", kathmandu
    )


def test_the_hour_of_a_day_stays_the_hour_when_clocks_change() -> None:
    berlin = ZoneInfo("Europe/Berlin")
    windows = made(berlin)
    for day in ("2026-03-27", "2026-03-30"):  # before and after summer time begins
        assert windows.hour_of(windows.start_of(moment(f"{day}T09:10:00", berlin))) == 9


def test_a_window_closes_when_it_has_waited_for_late_items() -> None:
    windows = made(late=600)
    windows.add(100.0, [0], negative=True)
    windows.add(3700.0, [0], negative=False)
    windows.add(50.0, [0], negative=False)  # time goes backwards, into a window that is still open
    assert not list(windows.close())
    windows.add(4200.0, [0], negative=False)
    closed = list(windows.close())
    assert [(one.start, one.items, one.negative) for one in closed] == [(0, 2, 1)]
    assert windows.is_late(3599.0) and not windows.is_late(3600.0)
    assert [one.start for one in windows.close(end_of_input=True)] == [HOUR]


def test_an_item_of_two_topics_counts_in_both() -> None:
    windows = WindowCounts(3, HOUR, 0, DAY, HOUR, 0.01, 1, UTC)
    windows.add(5.0, [0, 2], negative=True)
    assert windows.open[0].tolist() == [[1, 1], [0, 0], [1, 1]]


def surging(hours: list[int], days: int = 16) -> tuple[np.ndarray, np.ndarray]:
    items, negative = counts(0, days, topics=1, volume=40)
    for hour in hours:
        items[hour], negative[hour] = 60, 48
    return items, negative


@pytest.mark.parametrize(("quiet", "starts"), [(6, [303, 326]), (24, [303]), (0, [303, 306, 326])])
def test_a_surge_is_one_alert_until_it_was_quiet_for_long_enough(quiet: int, starts: list[int]) -> None:
    found = judge_all(made(quiet=quiet * HOUR), *surging([303, 304, 306, 326]))
    assert [one.start // HOUR for one in found if one.above] == [303, 304, 306, 326]
    assert [one.start // HOUR for one in found if one.raises_alert] == starts


def test_alpha_min_items_and_history_each_decide() -> None:
    items, negative = counts(0, 16, topics=1, volume=40)
    items[303], negative[303] = 60, 45
    usual, strict = judge_all(made(), items, negative), judge_all(made(alpha=1e-7), items, negative)
    assert [one.start // HOUR for one in usual if one.above] == [303]
    assert not [one for one in strict if one.above]
    assert not [one for one in judge_all(made(min_items=61), items, negative) if one.above]
    assert made(alpha=0.03).level == pytest.approx(0.03 / 720) and made(width=30 * DAY).level == 0.01
    # A new level counts as the past after a while: two days of history forget the old one, four weeks do not.
    negative[200:] = np.minimum(items[200:], negative[200:] + items[200:] // 8)
    late_on = {days: judge_all(made(history=days * DAY), items, negative)[-24:] for days in (2, 28)}
    expected = {days: np.mean([one.expected for one in found if one.expected]) for days, found in late_on.items()}
    assert expected[2] > expected[28] + 0.05


def test_a_surge_is_no_part_of_the_past_that_the_next_one_is_compared_with() -> None:
    windows = made()
    judge_all(windows, *surging([303, 327, 351]))
    assert windows.last_above[0] == 352 * HOUR
    assert [int(windows.past[0, 0, hour]) for hour in (303, 327, 351)] == [0, 0, 0] and windows.past[0, 0, 302] > 0


def test_a_gap_of_a_year_forgets_the_past_and_is_no_surge() -> None:
    windows = made()
    items, negative = counts(0, 10, topics=1)
    judge_all(windows, items, negative)
    later = 370 * 24 * HOUR
    windows.open[later] = np.array([[40, 40]])
    (one,) = windows.close(end_of_input=True)
    assert one.start == later and one.p_value is None and not one.above
