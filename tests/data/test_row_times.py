"""A time is read as it is meant, or refused with the key that says how it is written."""

from __future__ import annotations

from datetime import UTC, date, datetime
from typing import Any

import pytest

from llmstage.data.row_times import Clock, TimeError, check_time_format
from llmstage.errors import UserError

DAY = datetime(2015, 7, 1, tzinfo=UTC).timestamp() * 1e6
NOON = DAY + 12 * 3600 * 1e6


@pytest.mark.parametrize(
    ("value", "time"),
    [
        ("2015-07-01", DAY),
        (" 2015-7-1 ", DAY),
        ("2015/07/01", DAY),
        ("2015.7.1", DAY),
        ("1.7.2015", DAY),
        ("2015年7月1日", DAY),
        (date(2015, 7, 1), DAY),
        (datetime(2015, 7, 1, 12), NOON),
        ("2015-07-01T12:00:00Z", NOON),
        ("2015-07-01 14:00:00+02:00", NOON),
        ("01.07.2015 12:00", NOON),
        ("2015/7/1 12:00:00", NOON),
        ("Wed Jul 01 12:00:00 +0000 2015", NOON),
        ("Wed, 01 Jul 2015 14:00:00 +0200", NOON),
    ],
)
def test_dates_become_microseconds_in_utc(value: Any, time: float) -> None:
    clock = Clock()
    assert clock.read(value) == time
    assert clock.show(time) == ("2015-07-01" if time == DAY else "2015-07-01 12:00:00")


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (1435708800, "2015-07-01"),
        ("1435708800", "2015-07-01"),
        ("1435708800000", "2015-07-01"),
        (1435708800000000, "2015-07-01"),
        (1435752000.0, "2015-07-01 12:00:00"),
        ("20150701", "2015-07-01"),
        ("2015", "2015"),
        (17, "17"),
    ],
)
def test_numbers_sort_as_they_are_and_are_told_as_dates_where_they_look_like_it(value: Any, told: str) -> None:
    clock = Clock()
    assert clock.read(value) == float(value) and clock.show(float(value)) == told


@pytest.mark.parametrize("value", ["01/07/2015", "1-7-2015", "31/12/15"])
def test_day_or_month_first_is_asked_for_and_the_key_decides(value: str) -> None:
    with pytest.raises(TimeError, match=r"data\.split\.time_format=%d/%m/%Y or .*%m/%d/%Y"):
        Clock().read(value)


def test_a_format_decides() -> None:
    assert Clock("%d/%m/%Y").read("01/07/2015") == DAY
    assert Clock("%m/%d/%Y").read("07/01/2015") == DAY
    with pytest.raises(TimeError, match=r"does not fit data\.split\.time_format=%d/%m/%Y"):
        Clock("%d/%m/%Y").read("2015-07-01")


@pytest.mark.parametrize("value", ["", "soon", "2015-13-01", "31.02.2015", None, True, float("nan"), [2015], "NA"])
def test_what_is_no_time_is_said_so(value: Any) -> None:
    with pytest.raises(TimeError, match="no time"):
        Clock().read(value)


def test_numbers_and_dates_do_not_mix() -> None:
    for first, then in ((2015, "2015-07-01"), ("2015-07-01", 1435708800)):
        clock = Clock()
        clock.read(first)
        with pytest.raises(TimeError, match="write all times one way"):
            clock.read(then)


@pytest.mark.parametrize("form", ["dd/mm/yyyy", "%Q"])
def test_a_format_that_is_none(form: str) -> None:
    with pytest.raises(UserError, match=r"data\.split\.time_format=.*For example"):
        check_time_format(form)
    check_time_format("%d/%m/%Y")
